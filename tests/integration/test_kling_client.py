"""The client against the simulator, into a real log: whole stories, in threads and coroutines."""

from __future__ import annotations

import asyncio
import hashlib
import json
from decimal import Decimal

import pytest

from klingai_audit import AuditUnavailable, acting
from klingai_audit.errors import UsageError
from klingai_audit.kling import errors
from klingai_audit.kling.client import AsyncKlingAI, KlingAI
from tests.unit.kling.world import LIVES, PAIR, POLL, SEEN, make_world

ways = pytest.mark.parametrize("way", ["sync", "async"])
kinds = pytest.mark.parametrize(
    "model,credentials",
    [("kling-3.0-turbo", {}), ("kling-v2-6", {}), ("kling-v2-6", PAIR)],
    ids=["new", "legacy", "legacy with key pair"],
)


@pytest.fixture
def world(tmp_path):
    """Give a log and a simulator, with someone acting."""
    with make_world(tmp_path) as made, acting("tester"):
        yield made


def generate(world, way, path, *, credentials, **options):
    """Order, wait, download; returns task and download."""
    if way == "sync":
        with world.client(**credentials) as kling:
            task = kling.text_to_video("a serene lake", **options).wait(poll_interval=POLL)
            return task, task.download(path)

    async def run():
        async with world.async_client(**credentials) as kling:
            task = await kling.text_to_video("a serene lake", **options)
            await task.wait(poll_interval=POLL)
            return task, await task.download(path)

    return asyncio.run(run())


@ways
@kinds
def test_the_life_of_one_generation(world, way, model, credentials):
    """Prompt, start, status, end, download: one story, one correlation, the file's own digest, the charge."""
    path = world.folder / "lake.mp4"
    world.sim.render_seconds = 150
    with acting("user@example.com", ip="192.168.1.100", team="studio-a"):
        task, done = generate(world, way, path, credentials=credentials, model=model, duration=5, aspect_ratio="1:1")
    assert world.story() in LIVES
    entries = world.entries()
    intent, end, download = entries[0], entries[-3], entries[-1]
    assert {entry["correlation_id"] for entry in entries} == {intent["event_id"]}
    assert {entry["team"] for entry in entries} == {"studio-a"}
    assert len({entry["actor_id"] for entry in entries}) == 1
    assert task.external_task_id == intent["event_id"] == world.sim.task(task.id).order.external_id
    assert download["metadata"]["sha256"] == done.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert download["metadata"]["bytes"] == done.size == path.stat().st_size
    assert Decimal(end["metadata"]["charge"][0]["amount"]) == world.sim.task(task.id).charge
    assert sum(charge.amount for charge in task.charge) == world.sim.task(task.id).charge
    assert end["metadata"]["results"][0]["id"] == task.videos[0].id
    polls = len(world.sim.calls("GET", "/tasks")) + len(world.sim.calls("GET", "/v1/videos/text2video/*"))
    news = [entry for entry in entries if entry["event_type"] in ("task_status_changed", end["event_type"])]
    assert polls == len(news) + sum(entry["metadata"].get("polls", 0) for entry in entries)


def test_downloads_ask_without_credentials(world):
    """The link is fetched as anyone would, without Authorization and without compression."""
    world.sim.media_redirects = 2
    generate(world, "sync", world.folder / "x.mp4", credentials={})
    (first, *_) = fetched = world.sim.calls("GET", "/media/*")
    assert len(fetched) == 3
    assert not any("authorization" in seen.headers for seen in fetched)
    assert first.headers["accept-encoding"] == "identity"
    assert world.entries()[-1]["metadata"]["redirects"] == 2


def test_a_marked_version(world):
    """With watermark=True both versions can be fetched, and a missing one is said."""
    with world.client() as kling:
        task = kling.text_to_video("a lake", watermark=True).wait(poll_interval=POLL)
        assert task.download(world.folder / "a.mp4").size > 0
        assert task.download(world.folder / "b.mp4", watermark=True).size > 0
        plain = kling.text_to_video("a lake").wait(poll_interval=POLL)
        with pytest.raises(UsageError):
            plain.download(world.folder / "c.mp4", watermark=True)
        with pytest.raises(UsageError):
            plain.download(world.folder / "c.mp4", index=1)


REFUSALS = [
    ("forbidden", {}, errors.KlingPolicyViolation, ("policy_violation", "blocked")),
    ("ok", {"duration": 99}, errors.KlingRequestError, ("video_generation_failed", "failure")),
    ("ok", {"model": "kling-9"}, errors.KlingRequestError, ("video_generation_failed", "failure")),
]


@ways
@pytest.mark.parametrize("prompt,options,error,outcome", REFUSALS)
def test_refusals(world, way, prompt, options, error, outcome):
    """A refusal is one entry after the intent, and an exception that does not echo the prompt."""
    with pytest.raises(error) as caught:
        if way == "sync":
            with world.client() as kling:
                kling.text_to_video(prompt, **options)
        else:

            async def run():
                async with world.async_client() as kling:
                    await kling.text_to_video(prompt, **options)

            asyncio.run(run())
    assert world.story() == [("prompt_submitted", "success"), outcome]
    assert caught.value.request_id == world.entries()[-1]["request_id"]
    assert prompt not in str(caught.value) + repr(caught.value) or prompt == "ok"


def test_a_rejected_key(world):
    """access_denied, no use of the key, and an exception that says what to check."""
    with world.client(api_key="wrong-key-1") as kling, pytest.raises(errors.KlingAuthenticationError) as caught:
        kling.text_to_video("a lake")
    assert caught.value.code == 1002
    assert [entry["event_type"] for entry in world.entries()] == ["prompt_submitted", "access_denied"]
    assert "KLINGAI_API_KEY" in caught.value.do


def test_a_rate_limit_is_waited_out(world):
    """Each sending leaves its intent and its outcome; the second succeeds."""
    world.sim.fail_next("POST", "/text-to-video/*", code=1303)
    with world.client() as kling:
        kling.text_to_video("a lake")
    assert world.story() == [
        ("prompt_submitted", "success"),
        ("rate_limit_exceeded", "blocked"),
        ("prompt_submitted", "success"),
        ("video_generation_started", "success"),
    ]
    entries = world.entries()
    assert len({entry["event_id"] for entry in entries}) == len(entries)
    assert len({entry["correlation_id"] for entry in entries}) == 1


def test_a_failed_task(world):
    """The end is a failure with the provider's text committed; wait raises."""
    with world.client() as kling:
        task = kling.text_to_video("doomed")
        with pytest.raises(errors.KlingTaskFailed) as caught:
            task.wait(poll_interval=POLL)
    assert world.story()[-1] == ("video_generation_failed", "failure")
    assert "doomed" in caught.value.provider_message
    assert "doomed" not in str(caught.value)
    assert task.done


@ways
def test_nothing_is_sent_that_cannot_be_recorded(world, way):
    """With the log's folder gone the provider sees nothing, the caller gets AuditUnavailable with what to do."""

    async def run():
        async with world.async_client() as kling:
            await kling.text_to_video("a lake")

    (world.folder / "audit").rename(world.folder / "elsewhere")
    with pytest.raises(AuditUnavailable) as caught:
        if way == "async":
            asyncio.run(run())
        else:
            world.client().text_to_video("a lake")
    (world.folder / "elsewhere").rename(world.folder / "audit")
    assert caught.value.do
    assert world.sim.requests == []


def test_lists(world):
    """Both generations' lists, paged, as iterators; the list itself is an entry once, its tasks' ends too."""
    with world.client() as kling:
        ids = {kling.text_to_video("a lake", model=model).id for model in ("kling-3.0-turbo", "kling-v2-6")}
        assert {task.id for task in kling.tasks(page_size=1)} == ids
        for task in kling.tasks():
            task.wait(poll_interval=POLL)
        assert {task.id for task in kling.tasks(status="succeeded")} == ids
        assert [task.id for task in kling.tasks(legacy=True, page_size=1)] == [
            task.task_id for task in world.sim.tasks if task.order.model == "kling-v2-6"
        ]
    ends = [entry for entry in world.entries() if entry["event_type"] == "video_generation_completed"]
    assert {entry["resource_id"] for entry in ends} == ids
    assert len(ends) == 2


def test_one_end_for_many_watchers(world):
    """Several clients and threads that see one end write it once, in the name of who ordered."""
    with acting("alice"), world.client() as kling:
        task = kling.text_to_video("a lake")

        async def watch():
            async with world.async_client() as first, world.async_client() as second:
                watchers = [await client.task(task.id) for client in (first, second)] * 4
                await asyncio.gather(*(watcher.wait(poll_interval=POLL) for watcher in watchers))

        with acting("bob"):
            asyncio.run(watch())
        task.wait(poll_interval=POLL)
    entries = [entry for entry in world.entries() if entry["event_type"] == "video_generation_completed"]
    assert len(entries) == 1
    assert entries[0]["actor_id"] == world.entries()[0]["actor_id"]


def test_refresh_and_task(world):
    """A task is read again by id, by either route."""
    with world.client() as kling:
        task = kling.text_to_video("a lake", model="kling-v2-6").wait(poll_interval=POLL)
        assert task.refresh().status == "succeeded"
        assert kling.task(task.id).videos[0].id == task.videos[0].id
        assert kling.task(task.id, legacy=True).charge[0].amount == task.charge[0].amount
        assert kling.find(task.external_task_id).id == task.id
        assert kling.find("01a20014-3398-77f1-87a9-48d02febd02d") is None
        with pytest.raises(errors.KlingRequestError):
            kling.task("1")


def test_progress(world, capsys):
    """A function sees every record; True shows nothing where nobody watches."""
    seen = []
    with world.client() as kling:
        kling.text_to_video("a lake").wait(progress=lambda task: seen.append(task.status), poll_interval=POLL)
        kling.text_to_video("a lake").wait(progress=True, poll_interval=POLL)
    assert seen[0] == "submitted"
    assert seen[-1] == "succeeded"
    assert capsys.readouterr() == ("", "")


def test_progress_on_a_terminal(world, monkeypatch, capsys):
    """On a terminal one line tells the task and its status."""
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    with world.client() as kling:
        task = kling.text_to_video("a lake").wait(progress=True, poll_interval=POLL)
    out, err = capsys.readouterr()
    assert out == ""
    assert task.id in err


def test_the_environment_names_credentials_and_host(world, monkeypatch):
    """KLINGAI_API_KEY and KLINGAI_BASE_URL are enough."""
    monkeypatch.setenv("KLINGAI_API_KEY", "sim-api-key")
    monkeypatch.setenv("KLINGAI_BASE_URL", world.server.base_url)
    with KlingAI(audit=world.audit) as kling:
        assert kling.text_to_video("a lake").status == "submitted"
        assert "sim-api-key" not in repr(kling)


@pytest.mark.parametrize("cls", [KlingAI, AsyncKlingAI])
def test_a_client_needs_a_log(cls):
    """Without a log there is no client, and unknown options are refused."""
    with pytest.raises(UsageError):
        cls(audit=None, api_key="k")
    with pytest.raises(UsageError):
        cls(audit=object(), api_key="k")


def test_unknown_options_are_refused(world):
    """A misspelt option is an error, not a default."""
    with pytest.raises(UsageError):
        world.client(time_out=3)
    with world.client() as kling, pytest.raises(UsageError):
        kling.text_to_video("a lake", colour="red")
    with world.client() as kling, pytest.raises(UsageError):
        next(kling.tasks(page_size=0))


def test_a_base_url_with_a_prefix(tmp_path):
    """Resellers mount the API under a path; that changes nothing in the log."""
    with make_world(tmp_path, speed=SEEN, prefix="/kling/api") as world, acting("tester"):
        generate(world, "sync", tmp_path / "x.mp4", credentials={}, model="kling-v2-6")
        assert world.story() in LIVES


def test_nothing_private_is_stored(world):
    """Prompts, keys, tokens, e-mail addresses, IP addresses and links are in no byte of log and state."""
    words = [
        "serene",
        "blurry",
        "forbidden",
        "doomed",
        "sim-api-key",
        "sim-access-key",
        "sim-secret",
        "user@example.com",
        "192.168.1.100",
        "token=",
    ]
    with acting("user@example.com", ip="192.168.1.100"):
        generate(world, "sync", world.folder / "x.mp4", credentials={}, model="kling-v2-6", negative_prompt="blurry")
        with world.client(**PAIR) as kling:
            for prompt in ("forbidden", "doomed"):
                with pytest.raises(errors.KlingError):
                    kling.text_to_video(prompt).wait(poll_interval=POLL)
    tokens = [
        seen.headers["authorization"].removeprefix("Bearer ")
        for seen in world.sim.requests
        if "authorization" in seen.headers
    ]
    world.audit.close()
    stored = b"".join(
        path.read_bytes()
        for name in ("audit", "audit.state")
        for path in (world.folder / name).rglob("*")
        if path.is_file()
    )
    assert [word for word in [*words, *tokens] if word.encode() in stored] == []
    assert b"prompt_submitted" in stored


def test_entries_read_as_json(world):
    """What a story's entries hold is plain JSON with the registered members only."""
    generate(world, "sync", world.folder / "x.mp4", credentials={})
    intent = world.entries()[0]
    assert sorted(intent["metadata"]) == [
        "deadline_s",
        "external_task_id",
        "generation",
        "host",
        "key_fingerprint",
        "key_kind",
        "model",
        "phase",
        "prompt",
    ]
    assert sorted(intent["metadata"]["prompt"]) == ["bytes", "commitment"]
    assert json.dumps(intent)
