"""Provider and network at their worst: the log ends right, nothing is charged twice, nothing is silent."""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time

import pytest

from klingai_audit import AuditLog, acting
from klingai_audit.capture.desk import UnrecordedWarning
from klingai_audit.errors import AuditUnavailable
from klingai_audit.kling import errors
from klingai_audit.kling.client import KlingAI
from klingai_audit.stores.directory_writer import DirectoryTransaction
from tests.unit.kling.world import FAST, KEY, PAIR, POLL, SAID, STARTED, make_world

NEW, OLD = "/text-to-video/*", "/v1/videos/text2video"
DOUBT = ("video_generation_started", "unknown")


@pytest.fixture
def world(tmp_path):
    """Give a log and a simulator, with someone acting."""
    with make_world(tmp_path, speed=0.01) as made, acting("tester"):
        yield made


def models(world):
    """Return a create path and a client call for both generations."""
    return {
        "new": (NEW, world.client, "kling-3.0-turbo"),
        "legacy": (OLD, lambda **more: world.client(**{**PAIR, **more}), "kling-v2-6"),
    }


def wait_until(happened):
    """Wait until something has happened elsewhere."""
    while not happened():
        time.sleep(0.01)


LOST = [
    {"drop": True, "after_accept": True},
    {"status": 500, "after_accept": True},
    {"status": 503, "after_accept": True},
    {"status": 504, "code": 5002, "after_accept": True},
    {"body": b"<html>oops</html>", "after_accept": True},
    {"body": b'{"code":0,"data":{}}', "after_accept": True},
    {"truncate": 20, "after_accept": True},
]


@pytest.mark.parametrize("fault", LOST, ids=lambda fault: "-".join(map(str, fault)))
@pytest.mark.parametrize("generation", ["new", "legacy"])
def test_a_reply_lost_after_acceptance(world, generation, fault):
    """The task is found again by its external id: one order at the provider, a story that says how it went."""
    path, client, model = models(world)[generation]
    world.sim.fail_next("POST", path, **fault)
    with client() as kling:
        task = kling.text_to_video("a lake", model=model)
    assert len(world.sim.tasks) == 1
    assert task.id == world.sim.tasks[0].task_id
    assert world.story() == [SAID, DOUBT, STARTED]
    entries = [entry for entry in world.entries() if entry["event_type"] == "video_generation_started"]
    assert entries[-1]["resource_id"] == task.id
    assert entries[-1]["metadata"]["found_by"] in ("query_task", "query_tasks")
    assert len({entry["correlation_id"] for entry in world.entries()}) == 1


@pytest.mark.parametrize("generation", ["new", "legacy"])
def test_a_request_lost_before_acceptance(world, generation):
    """Not found: the same order goes out again under the same external id, and once only at the provider."""
    path, client, model = models(world)[generation]
    world.sim.fail_next("POST", path, drop=True)
    with client() as kling:
        task = kling.text_to_video("a lake", model=model)
    assert [task.id] == [made.task_id for made in world.sim.tasks]
    assert [entry for entry in world.story() if entry[0] != "resource_read"] == [SAID, DOUBT, SAID, STARTED]
    intents = [entry for entry in world.entries() if entry["event_type"] == "prompt_submitted"]
    assert intents[1]["metadata"]["resend_of"] == intents[0]["event_id"]
    assert intents[0]["metadata"]["external_task_id"] == intents[1]["metadata"]["external_task_id"]


def test_a_service_that_never_answers_clearly(world):
    """When look-ups fail too, the caller gets the id to find the task later, and may do so."""
    world.sim.fail_next("POST", NEW, drop=True, after_accept=True)
    world.sim.fail_next("*", "*", drop=True, times=1000)
    with world.client() as kling:
        with pytest.raises(errors.KlingOutcomeUnknown) as caught:
            kling.text_to_video("a lake")
        world.sim.faults.clear()
        assert kling.find(caught.value.external_task_id).id == world.sim.tasks[0].task_id
    assert len(world.sim.tasks) == 1
    assert world.story()[-1] == STARTED


def test_a_slow_service(world):
    """A time-out after sending leaves the create unknown; it is not found, and sent again."""
    world.sim.fail_next("POST", NEW, hang=30)
    with world.client(timeout=0.5) as kling:
        kling.text_to_video("a lake")
    story = [entry for entry in world.story() if entry[0] != "resource_read"]
    assert story[:3] == [SAID, DOUBT, SAID]
    assert story[-1] == STARTED
    assert set(story[3:-1]) <= {SAID, DOUBT}  # a busy machine may be as slow once more
    assert world.entries()[1]["metadata"]["error"] == "ReadTimeout"


def test_polls_that_fail(world):
    """Trouble while polling is one entry however often it happens in a row, and the story goes on."""
    with world.client() as kling:
        task = kling.text_to_video("a lake")
        world.sim.fail_next("GET", "/tasks", status=503, times=3)
        task.refresh()
        world.sim.fail_next("GET", "/tasks", drop=True)
        task.refresh()
    story = world.story()[2:]
    assert story == [("resource_read", "failure"), ("resource_read", "unknown")]
    assert world.entries()[-1]["resource_id"] == task.id


def test_a_download_that_breaks_off(tmp_path):
    """Half a file is a failure with the bytes so far; the client fetches again from the start, whole or not at all."""
    with make_world(tmp_path) as world, acting("tester"), world.client() as kling:
        task = kling.text_to_video("a lake").wait(poll_interval=POLL)
        world.sim.fail_next("GET", "/media/*", truncate=1000)
        done = task.download(tmp_path / "lake.mp4")
        world.sim.fail_next("GET", "/media/*", truncate=1000, times=10)
        with pytest.raises(errors.KlingDownloadFailed):
            task.download(tmp_path / "again.mp4")
        downloads = [entry for entry in world.entries() if entry["event_type"] == "video_downloaded"]
        assert [entry["outcome"] for entry in downloads[:4]] == ["unknown", "failure", "unknown", "success"]
        assert (downloads[1]["metadata"]["bytes"], downloads[1]["metadata"]["complete"]) == (1000, False)
        assert downloads[3]["metadata"]["sha256"] == done.sha256
        assert sorted(path.name for path in tmp_path.iterdir() if path.suffix in (".mp4", ".part")) == ["lake.mp4"]


def test_an_expired_link(tmp_path):
    """A link that is refused is a failed download, not a refused key, and is not asked again."""
    with make_world(tmp_path) as world, acting("tester"), world.client() as kling:
        task = kling.text_to_video("a lake").wait(poll_interval=POLL)
        world.sim.fail_next("GET", "/media/*", status=403, body=b"expired")
        with pytest.raises(errors.KlingDownloadFailed) as caught:
            task.download(tmp_path / "lake.mp4")
        assert caught.value.http_status == 403
        assert world.story()[-1] == ("video_downloaded", "failure")


def test_nobody_listens(world):
    """A refused connection: not sent, a failure, no second try of the create."""
    with world.client(base_url="http://127.0.0.1:9") as kling, pytest.raises(errors.KlingConnectionError):
        kling.text_to_video("a lake")
    assert world.story() == [SAID, ("video_generation_failed", "failure")]
    assert world.entries()[-1]["metadata"]["sent"] is False


def test_a_cancelled_order(world):
    """A cancelled task leaves an unknown outcome that is in the log when it is closed."""
    world.sim.fail_next("POST", NEW, delay=30)

    async def run():
        async with world.async_client() as kling:
            task = asyncio.ensure_future(kling.text_to_video("a lake"))
            await asyncio.to_thread(wait_until, lambda: world.sim.requests)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    asyncio.run(run())
    assert world.story() == [SAID, DOUBT]
    assert world.entries()[-1]["metadata"]["error"] == "CancelledError"


def test_a_time_limit_around_an_order(world):
    """asyncio.timeout cancels inside: the same."""
    world.sim.fail_next("POST", NEW, delay=30)

    async def over(limit):
        await asyncio.to_thread(wait_until, lambda: world.sim.requests)
        limit.reschedule(asyncio.get_running_loop().time())

    async def run():
        async with world.async_client() as kling:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(None) as limit:
                    ending = asyncio.ensure_future(over(limit))
                    await kling.text_to_video("a lake")
            await ending

    asyncio.run(run())
    assert world.story() == [SAID, DOUBT]


def test_a_log_that_breaks_after_the_order(world, monkeypatch):
    """The task reaches the caller although its record is late; the next order is refused until it is written."""
    record = AuditLog.record

    def failing(self, draft, *, once=False):
        if draft.event_type == "video_generation_started":
            raise AuditUnavailable("no space left")
        return record(self, draft, once=once)

    with world.client() as kling:
        with monkeypatch.context() as broken:
            broken.setattr(AuditLog, "record", failing)
            with pytest.warns(UnrecordedWarning):
                task = kling.text_to_video("a lake")
            assert task.id == world.sim.tasks[0].task_id
            broken.setattr(
                AuditLog, "append", lambda *args, **more: (_ for _ in ()).throw(AuditUnavailable("no space"))
            )
            with pytest.raises(AuditUnavailable):
                kling.text_to_video("another")
        assert len(world.sim.tasks) == 1
        kling.text_to_video("another")
    assert world.story() == [SAID, STARTED, SAID, STARTED]
    gaps = [json.loads(line) for line in world.audit.entries() if b'"gap_closed"' in line]
    assert [gap["metadata"]["late"] for gap in gaps] == [1]


def test_the_writer_tells_of_an_outcome_that_the_disk_refuses(world, monkeypatch, caplog):
    """A call does not wait for its outcome: what then fails is told by who writes, and the next act is refused."""
    real = DirectoryTransaction.append
    outcome = (b'"api_key_used"', b'"video_generation_started"')  # in one batch or in two

    def full(txn, entries, begin, day):
        if any(word in entry for entry in entries for word in outcome):
            raise AuditUnavailable("no space")
        real(txn, entries, begin, day)

    with world.client() as kling:
        with monkeypatch.context() as broken:
            broken.setattr(DirectoryTransaction, "append", full)
            kling.text_to_video("a lake")
            wait_until(lambda: caplog.text.count(" happened and could not be recorded") == 2)
            assert world.audit.recorder.desk.late == 2
            assert "video_generation_started happened and could not be recorded" in caplog.text
            with pytest.raises(AuditUnavailable, match="not yet written: 2"):
                kling.text_to_video("another")
        kling.text_to_video("another")
    assert len(world.sim.tasks) == 2
    assert world.story() == [SAID, STARTED, SAID, STARTED]
    assert world.audit.recorder.outstanding == 0


def test_many_threads_share_a_client(world):
    """Orders from many threads do not mix their stories."""
    world.sim.concurrency["video"] = 50
    with world.client() as kling:

        def work(number):
            with acting(f"person-{number}"):
                kling.text_to_video(f"lake {number}")

        threads = [threading.Thread(target=work, args=(number,)) for number in range(12)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    stories = {}
    for entry in world.entries():
        if entry["event_type"] != "api_key_used":
            stories.setdefault(entry["correlation_id"], []).append((entry["event_type"], entry["actor_id"]))
    assert len(stories) == 12
    assert all(
        [name for name, _ in told] == ["prompt_submitted", "video_generation_started"] for told in stories.values()
    )
    assert all(len({actor for _, actor in told}) == 1 for told in stories.values())


CHILD = """
    import sys
    from klingai_audit import AuditLog, acting
    from klingai_audit.kling import KlingAI
    audit = AuditLog.open(sys.argv[1])
    with acting("tester"), KlingAI(api_key="sim-api-key", audit=audit, base_url=sys.argv[2]) as kling:
        kling.text_to_video("a lake")
"""


def test_killed_between_intent_and_outcome(world):
    """A process killed while it waits leaves its intent; the external id finds what became of it."""
    world.sim.fail_next("POST", NEW, delay=30)
    arguments = [str(world.folder / "audit"), world.server.base_url]
    child = subprocess.Popen([sys.executable, "-c", textwrap.dedent(CHILD), *arguments])
    wait_until(lambda: world.sim.requests or child.poll() is not None)
    assert child.poll() is None
    child.send_signal(signal.SIGKILL)
    child.wait()
    (intent,) = world.entries()
    assert (intent["event_type"], intent["metadata"]["phase"]) == ("prompt_submitted", "intent")
    with world.client() as kling:
        found = kling.find(intent["metadata"]["external_task_id"])
    assert found.id == world.sim.tasks[0].task_id
    assert world.entries()[-1]["correlation_id"] == intent["event_id"]


def _order_in_child(kling, path):
    with acting("child"):
        kling.text_to_video("from the child")
    os.write(path, b"done")


def test_forked_workers(world):
    """A client made before a fork works in the child, whose use of the key is its own."""
    with KlingAI(api_key=KEY, audit=world.audit, base_url=world.server.base_url, retries=FAST) as kling:
        kling.text_to_video("from the parent")
        reading, writing = os.pipe()
        child = multiprocessing.get_context("fork").Process(target=_order_in_child, args=(kling, writing))
        child.start()
        child.join(120)
        assert child.exitcode == 0
        assert os.read(reading, 10) == b"done"
        os.close(reading)
        os.close(writing)
        kling.text_to_video("from the parent again")
    assert world.story() == [SAID, STARTED] * 3
    assert [entry["event_type"] for entry in world.entries()].count("api_key_used") == 2
