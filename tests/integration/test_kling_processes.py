"""One story by many processes: pollers that did not order, callbacks, lost replies, killed writers. Real processes."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import signal
import subprocess
import sys
import threading
import time
from decimal import Decimal
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx2
import pytest

from klingai_audit import AuditLog, acting
from klingai_audit.capture import recorder
from klingai_audit.kling import KlingAI, errors
from tests.unit.kling.world import KEY, POLL, make_world

PREAMBLE = """
import sys, json, time
from klingai_audit import AuditLog, acting
from klingai_audit.kling import KlingAI
from klingai_audit.kling.flows import Retries
folder, base_url, task_id, actor = sys.argv[1:5]
audit = AuditLog.open(folder + "/audit", create=False)
kling = KlingAI(audit=audit, api_key="sim-api-key", base_url=base_url, retries=Retries(attempts=2, first=0.01))
"""
POLLER = (
    PREAMBLE
    + """
print("ready", flush=True)
sys.stdin.readline()
with acting(actor):
    kling.task(task_id).wait(poll_interval=0.05, timeout=60)
audit.close()
"""
)
RECEIVER = (
    PREAMBLE
    + """
print("ready", flush=True)
with acting(actor):
    for line in sys.stdin:
        headers, body = json.loads(line)
        print(audit.webhook(headers, body.encode(), client=kling).verdict, flush=True)
audit.close()
"""
)
ORDERER = (
    PREAMBLE
    + """
with acting(actor):
    print("ready", flush=True)
    print(kling.text_to_video("a serene lake").id, flush=True)
audit.close()
"""
)
ENDS = ("video_generation_completed", "video_generation_failed", "task_completed")


@pytest.fixture
def world(tmp_path):
    """Give a log and a simulator whose tasks take some seconds."""
    with make_world(tmp_path, speed=15) as made:
        yield made


class Process:
    """A child that runs a script on the world's log."""

    def __init__(self, world, script, task_id="", actor="bob@example.com"):
        self._child = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", script, str(world.folder), world.server.base_url, task_id, actor],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def read(self) -> str:
        """Read a line that it prints."""
        return self._child.stdout.readline().strip()

    def say(self, text: str = "") -> None:
        """Write a line to it."""
        self._child.stdin.write(text + "\n")
        self._child.stdin.flush()

    def end(self) -> int:
        """Wait until it has ended."""
        self._child.stdin.close()
        code = self._child.wait(120)
        self._child.stdout.close()
        return code

    def kill(self) -> None:
        """Kill it without warning."""
        self._child.send_signal(signal.SIGKILL)
        self._child.wait(30)
        self._child.stdout.close()
        self._child.stdin.close()


@pytest.mark.slow
def test_four_pollers_and_a_callback_see_one_end(world):
    """One end, one charge, one correlation; all in the name of who ordered; every poll is counted."""
    with acting("alice@example.com", team="studio-a"), world.client() as kling:
        task = kling.text_to_video("a serene lake")
    world.audit.flush("published")
    pollers = [Process(world, POLLER, task.id, f"poller-{number}@example.com") for number in range(4)]
    receiver = Process(world, RECEIVER, task.id, "gate@example.com")
    assert [process.read() for process in (*pollers, receiver)] == ["ready"] * 5
    for process in pollers:
        process.say()
    assert [process.end() for process in pollers] == [0] * 4
    record = {"id": task.id, "status": "succeeded", "external_id": task.external_task_id}
    receiver.say(json.dumps([{}, json.dumps(record)]))
    assert receiver.read() == "confirmed"
    assert receiver.end() == 0
    entries = [entry for entry in world.entries() if entry["event_type"] != "api_key_used"]
    ends = [entry for entry in entries if entry["event_type"] in ENDS]
    assert [entry["event_type"] for entry in ends] == ["video_generation_completed"]
    charges = [charge for entry in entries for charge in entry["metadata"].get("charge", ())]
    assert [Decimal(charge["amount"]) for charge in charges] == [world.sim.task(task.id).charge]
    told = [entry for entry in entries if not entry["metadata"].get("claim")]
    assert {entry["correlation_id"] for entry in entries} == {task.external_task_id}
    assert {entry["actor_id"] for entry in told} == {entries[0]["actor_id"]}
    assert {entry.get("team") for entry in told} == {"studio-a"}
    changes = [entry["metadata"]["status"] for entry in told if entry["event_type"] == "task_status_changed"]
    assert len(changes) <= 4
    assert set(changes) <= {"submitted", "processing"}
    polls = len(world.sim.calls("GET", "/tasks"))
    counted = sum(entry["metadata"].get("polls", 0) for entry in entries)
    assert polls - 12 <= counted + len(changes) + len(ends) <= polls
    verdict = world.audit.verify()
    assert [finding.kind for finding in verdict.findings if finding.severity == "broken"] == []


@pytest.mark.slow
def test_a_reply_that_is_lost_and_found_by_another_process(world):
    """The start that nobody saw is told by who finds the task, in the name of who ordered it."""
    world.sim.fail_next("POST", "/text-to-video/*", drop=True, after_accept=True)
    world.sim.fail_next("GET", "/tasks", code=5000)
    with acting("alice@example.com"), world.client(retries=1) as kling, pytest.raises(errors.KlingOutcomeUnknown):
        kling.text_to_video("a serene lake")
    (made,) = world.sim.tasks
    poller = Process(world, POLLER, made.task_id)
    assert poller.read() == "ready"
    poller.say()
    assert poller.end() == 0
    entries = [entry for entry in world.entries() if entry.get("resource_id") == made.task_id]
    assert [entry["event_type"] for entry in entries][:1] == ["video_generation_started"]
    assert entries[0]["metadata"]["found_by"] == "query_tasks"
    assert [entry["event_type"] for entry in entries if entry["event_type"] in ENDS] == ["video_generation_completed"]
    assert {entry["actor_id"] for entry in entries} == {world.entries()[0]["actor_id"]}


@pytest.mark.slow
def test_a_process_killed_between_intent_and_outcome(world):
    """Its intent stands; who sees the task later joins it, and nothing is charged twice."""
    world.sim.fail_next("POST", "/text-to-video/*", hang=30, after_accept=True)
    orderer = Process(world, ORDERER, actor="alice@example.com")
    assert orderer.read() == "ready"
    while not world.sim.tasks:
        time.sleep(0.001)
    orderer.kill()
    (made,) = world.sim.tasks
    poller = Process(world, POLLER, made.task_id)
    assert poller.read() == "ready"
    poller.say()
    assert poller.end() == 0
    entries = [entry for entry in world.entries() if entry["event_type"] != "api_key_used"]
    assert entries[0]["event_type"] == "prompt_submitted"
    assert {entry["correlation_id"] for entry in entries} == {entries[0]["event_id"]}
    assert {entry["actor_id"] for entry in entries} == {entries[0]["actor_id"]}
    assert len([entry for entry in entries if entry["event_type"] in ENDS]) == 1


@pytest.mark.slow
def test_signed_callbacks_of_the_simulator(world):
    """What the simulated provider signs is accepted; the story needs no poll."""
    verdicts = []
    secret = "whsec_dGVzdHNlY3JldHRlc3RzZWNyZXR0ZXN0c2VjcmV0MTI="
    world.sim.callbacks.use_secret(secret)

    class Hook(BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["content-length"]))
            done = world.audit.webhook(self.headers, body, secret=secret)
            verdicts.append(done.verdict)
            self.send_response(done.http_status)
            self.end_headers()

        def log_message(self, *arguments):
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Hook)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        with acting("alice@example.com"), world.client() as kling:
            kling.text_to_video("a serene lake", callback_url=f"http://127.0.0.1:{server.server_port}/kling")
        while len(verdicts) < 3:
            time.sleep(0.001)
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
    assert verdicts == ["verified"] * 3


def plain(world, audit) -> httpx2.Client:
    """Return an audited client that gives its orders no ids of their own."""
    client = httpx2.Client(base_url=world.server.base_url, headers={"Authorization": f"Bearer {KEY}"})
    audit.attach(client)
    return client


@pytest.mark.parametrize("seen", ["polled", "called back"])
def test_what_comes_before_the_reply_to_the_order(world, seen, monkeypatch):
    """Only the reply tells whose task it is, and it is late: who sees the task before that waits for it."""
    monkeypatch.setattr(recorder, "ORDER_SECONDS", 60.0)
    secret = "whsec_dGVzdHNlY3JldHRlc3RzZWNyZXR0ZXN0c2VjcmV0MTI="
    world.sim.fail_next("POST", "/v1/videos/text2video", delay=0.2)

    def order() -> None:
        with acting("alice@example.com", team="studio-a"), plain(world, world.audit) as client:
            client.post("/v1/videos/text2video", json={"prompt": "a serene lake", "duration": "5"}).raise_for_status()

    thread = threading.Thread(target=order)
    with AuditLog.open(world.folder / "audit") as other, plain(world, other) as client:
        thread.start()
        while not world.sim.tasks:
            time.sleep(0.001)
        (made,) = world.sim.tasks
        if seen == "polled":
            with acting("bob@example.com"):
                client.get(f"/v1/videos/text2video/{made.task_id}").raise_for_status()
        else:
            body = json.dumps({"id": made.task_id, "status": "processing"})
            assert other.webhook(signed_now(secret, body, "d"), body.encode(), secret=secret).verdict == "verified"
        thread.join()
    entries = world.entries()
    told = [entry for entry in entries if entry.get("resource_id") == made.task_id]
    assert told[0]["event_type"] == "video_generation_started"
    assert {(entry["actor_id"], entry["correlation_id"]) for entry in told} == {
        (entries[0]["actor_id"], entries[0]["correlation_id"])
    }
    assert seen == "polled" or [entry["metadata"].get("via") for entry in told] == [None, "callback"]


REPLAYED = """
import json, sys, time
from klingai_audit import AuditLog
folder, _, secret, body = sys.argv[1:5]
with AuditLog.open(folder + "/audit") as audit:
    for line in sys.stdin:
        headers = json.loads(line)
        print(audit.webhook(headers, body.encode(), secret=secret).verdict, flush=True)
"""


def test_a_callback_replayed_to_another_process(world):
    """What one process handled is a repetition to others, also after the task table was deleted and made anew."""
    secret = "whsec_dGVzdHNlY3JldHRlc3RzZWNyZXR0ZXN0c2VjcmV0MTI="
    body = json.dumps({"id": "700000000000000001", "status": "succeeded", "outputs": []})
    first, second = (signed_now(secret, body, f"delivery-{number}") for number in (1, 2))
    assert world.audit.webhook(first, body.encode(), secret=secret).verdict == "verified"
    size = len(world.entries())
    other = Process(world, REPLAYED, secret, body)
    try:
        other.say(json.dumps(first))
        assert other.read() == "repeated"
        other.say(json.dumps(second))
        assert other.read() == "verified"
    finally:
        assert other.end() == 0
    assert world.audit.webhook(second, body.encode(), secret=secret).verdict == "repeated"
    later = [entry["event_type"] for entry in world.entries()[size:]]
    assert {kind for kind in later if not kind.startswith("log_")} == set()
    world.audit.close()
    for path in (world.folder / "audit.state").glob("tasks.sqlite*"):
        path.unlink()
    with AuditLog.open(world.folder / "audit") as audit:
        assert audit.webhook(first, body.encode(), secret=secret).verdict == "repeated"


def signed_now(secret: str, body: str, delivery: str) -> dict[str, str]:
    """Sign a callback as Kling does, now."""
    moment = str(int(time.time()))
    key = base64.b64decode(secret.removeprefix("whsec_"))
    mac = hmac.new(key, f"{delivery}.{moment}.{body}".encode(), hashlib.sha256).digest()
    signature = f"v1,{base64.b64encode(mac).decode()}"
    return {"webhook-id": delivery, "webhook-timestamp": moment, "webhook-signature": signature}


@pytest.mark.slow
def test_polls_are_not_lost_between_processes(world):
    """A process that polls and leaves hands its count to the one that sees the end."""
    world.sim.render_seconds = 6000  # it ends when it is to, not while they poll
    with world.client() as mine, AuditLog.open(world.folder / "audit") as other:
        with acting("alice@example.com"):
            task = mine.text_to_video("a serene lake")
        with KlingAI(audit=other, api_key=KEY, base_url=world.server.base_url) as kling, acting("bob@example.com"):
            for _ in range(5):
                kling.task(task.id)
        with acting("alice@example.com"):
            task.refresh()
            world.sim.clock_offset_seconds = 6000
            task.wait(poll_interval=POLL)
    entries = world.entries()
    polls = len(world.sim.calls("GET", "/tasks"))
    counted = sum(entry["metadata"].get("polls", 0) for entry in entries)
    news = [entry for entry in entries if entry["event_type"] in ("task_status_changed", *ENDS)]
    assert counted + len(news) == polls
