"""Callbacks as a receiver sees them: bodies, signatures, order, retries and scripted trouble."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import hmac
import json
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPException
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from klingai_audit.errors import UsageError
from klingai_audit.kling.simulator import Simulator, serve
from klingai_audit.kling.simulator.signing import sign
from tests.unit.kling.simulator.golden import check, fill, load

VECTORS = load("callbacks")
CREATE = "/text-to-video/kling-3.0"
SECRET = VECTORS["signature"]["secret"]
OTHER = "whsec_" + base64.b64encode(b"another secret of the account").decode()


@dataclass
class Receiver:
    """A web server that keeps what it is sent and answers as it is told."""

    url: str = ""
    seen: list[tuple[dict[str, str], bytes]] = field(default_factory=list)
    statuses: list[int] = field(default_factory=list)
    """Replies to give, in order; 200 when none is left."""

    @property
    def states(self) -> list[str]:
        """The status of each body that arrived."""
        return [json.loads(body).get("status") or json.loads(body)["task_status"] for _, body in self.seen]


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    """A receiver on a free loopback port."""
    kept = Receiver()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            kept.seen.append(({name.lower(): value for name, value in self.headers.items()}, body))
            self.send_response(kept.statuses.pop(0) if kept.statuses else 200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *args: Any) -> None:
            """Silence."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        thread = threading.Thread(target=http.serve_forever, args=(0.01,))
        thread.start()
        kept.url = f"http://localhost:{http.server_port}/hooks/kling?who=me"
        yield kept
        http.shutdown()
        thread.join()


def _create(ask, receiver: Receiver, prompt: str = "a") -> str:
    return ask("POST", CREATE, {"prompt": prompt, "options": {"callback_url": receiver.url}}).data["id"]


def _signatures(headers: dict[str, str], body: bytes, secret: str) -> bool:
    """Whether any of the signatures is that of the secret: the recipe of the sheet, written out here."""
    key = base64.b64decode(secret.removeprefix("whsec_"))
    signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
    wanted = "v1," + base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()
    return wanted in headers["webhook-signature"].split(" ")


def test_the_vendors_vector() -> None:
    """Secret, id, time and body of the sheet give the signature of the sheet."""
    vector = VECTORS["signature"]
    signature = sign(vector["secret"], vector["id"], vector["timestamp"], vector["body"].encode())
    assert signature == vector["signature"]


@pytest.mark.parametrize("name", VECTORS["bodies"])
def test_bodies_are_bare_records(name: str, ask, sim, clock, receiver) -> None:
    """Each change of a task is told once, in order, in the shape of the path it was created on."""
    case, names = VECTORS["bodies"][name], {"receiver": receiver.url}
    method, path, body = case["call"]
    assert ask(method, path, fill(body, names)).status == 200
    for step in (0, 2, 28, 100):
        clock.advance(step)
        sim.callbacks.deliver()
    assert len(receiver.seen) == len(case["told"])
    for (headers, told), expected in zip(receiver.seen, case["told"], strict=True):
        check(expected, json.loads(told), names)
        assert [header for header in headers if header.startswith("webhook-")] == []
        assert headers["content-type"] == "application/json"


def test_every_callback_is_signed_once_there_is_a_secret(ask, sim, clock, receiver) -> None:
    """Id, time in seconds and signature; the ids differ from change to change."""
    sim.callbacks.use_secret(SECRET)
    _create(ask, receiver)
    ask("POST", "/v1/videos/text2video", {"prompt": "a", "callback_url": receiver.url})
    sim.callbacks.deliver()
    clock.advance(2)
    sim.callbacks.deliver()
    assert [_signatures(headers, body, SECRET) for headers, body in receiver.seen] == [True] * 4
    assert {headers["webhook-timestamp"] for headers, _ in receiver.seen} == {"1781080778", "1781080780"}
    assert len({headers["webhook-id"] for headers, _ in receiver.seen}) == 4


def test_legacy_callbacks_may_be_unsigned(ask, sim, receiver) -> None:
    """Whether they are signed is unknown, so it can be chosen."""
    sim.callbacks.use_secret(SECRET)
    sim.callbacks.sign_legacy = False
    _create(ask, receiver)
    ask("POST", "/v1/videos/text2video", {"prompt": "a", "callback_url": receiver.url})
    sim.callbacks.deliver()
    assert ["webhook-signature" in headers for headers, _ in receiver.seen] == [True, False]


def test_a_rotation_signs_twice_for_seven_days(ask, sim, clock, receiver) -> None:
    """Both secrets during the grace period, then only the new one."""
    sim.callbacks.use_secret(SECRET)
    assert sim.callbacks.rotate_secret(OTHER) == OTHER
    seen = []
    for step in (0, 7 * 86400 - 1, 1):
        clock.advance(step)
        _create(ask, receiver)
        sim.callbacks.deliver()
        headers, body = receiver.seen[-1]
        seen.append((_signatures(headers, body, OTHER), _signatures(headers, body, SECRET)))
        clock.advance(0)
    assert seen == [(True, True), (True, True), (True, False)]


def test_an_emergency_drops_the_old_secret_at_once(ask, sim, receiver) -> None:
    """The fresh secret alone signs; removing it ends signing."""
    sim.callbacks.use_secret(SECRET)
    fresh = sim.callbacks.rotate_secret(emergency=True)
    _create(ask, receiver)
    sim.callbacks.deliver()
    headers, body = receiver.seen[0]
    assert (_signatures(headers, body, fresh), _signatures(headers, body, SECRET)) == (True, False)
    sim.callbacks.secrets.remove()
    _create(ask, receiver)
    sim.callbacks.deliver()
    assert "webhook-id" not in receiver.seen[1][0]


@pytest.mark.parametrize("secret", ["", "whsec_", "whsec_!", "dGVzdA=="])
def test_a_malformed_secret_is_refused(secret: str, sim) -> None:
    """A secret is `whsec_` and base64; without one there is nothing to rotate."""
    with pytest.raises(UsageError):
        sim.callbacks.use_secret(secret)
    with pytest.raises(UsageError):
        sim.callbacks.rotate_secret(OTHER)
    assert sim.callbacks.secrets.valid(0) == ()


def test_no_secret_shows_in_a_repr(sim) -> None:
    """A failing test does not print the webhook secret."""
    sim.callbacks.use_secret(SECRET)
    assert SECRET not in repr(sim.callbacks.secrets)


def test_a_failed_delivery_is_tried_three_times(ask, sim, receiver) -> None:
    """Anything but 200 is repeated after its pause with the same id; then it is given up."""
    sim.callbacks.use_secret(SECRET)
    sim.callbacks.retry_after = (0.0, 0.0)
    receiver.statuses = [500, 302, 503]
    _create(ask, receiver)
    for _ in range(5):
        sim.callbacks.deliver()
    assert [(sent.attempt, sent.status) for sent in sim.callbacks.sent] == [(1, 500), (2, 302), (3, 503)]
    assert len({headers["webhook-id"] for headers, _ in receiver.seen}) == 1
    assert len({body for _, body in receiver.seen}) == 1


def test_a_retry_waits_for_its_time(ask, sim, receiver) -> None:
    """Before the pause is over nothing is sent again."""
    sim.callbacks.retry_after = (0.2,)
    receiver.statuses = [500]
    _create(ask, receiver)
    begun = time.monotonic()
    sim.callbacks.deliver()
    while not (again := sim.callbacks.deliver()):
        time.sleep(0.01)
    assert time.monotonic() - begun >= 0.2
    assert [sent.status for sent in again] == [200]


@pytest.mark.parametrize(
    "url",
    ["http://localhost:9/", "ftp://localhost/", "http://[", "not an address", "http://localhost:99999/", "http:///"],
)
def test_nobody_answers(url: str, ask, sim) -> None:
    """A receiver that is not there costs its attempts and nothing else."""
    sim.callbacks.retry_after = ()
    ask("POST", CREATE, {"prompt": "a", "options": {"callback_url": url}})
    assert [sent.status for sent in sim.callbacks.deliver()] == [None]
    assert sim.callbacks.deliver() == []


def test_a_duplicate_is_the_same_callback_twice(ask, sim, clock, receiver) -> None:
    """Same id, same time, same bytes."""
    sim.callbacks.use_secret(SECRET)
    sim.callbacks.script("duplicate", state="succeeded")
    _create(ask, receiver)
    clock.advance(30)
    sim.callbacks.deliver()
    assert receiver.states == ["submitted", "processing", "succeeded", "succeeded"]
    ids = [headers["webhook-id"] for headers, _ in receiver.seen]
    assert (ids[2] == ids[3], receiver.seen[2][1] == receiver.seen[3][1], len(set(ids))) == (True, True, 3)


def test_callbacks_can_arrive_out_of_order(ask, sim, clock, receiver) -> None:
    """One is put behind the task's next; the last of a task cannot be."""
    sim.callbacks.script("reorder", state="processing")
    sim.callbacks.script("reorder", state="succeeded")
    _create(ask, receiver)
    clock.advance(30)
    sim.callbacks.deliver()
    assert receiver.states == ["submitted", "succeeded", "processing"]


def test_callbacks_can_be_lost(ask, sim, clock, receiver) -> None:
    """A dropped callback never comes, whatever is tried; other paths are not touched."""
    sim.callbacks.script("drop", path_pattern="/text-to-video/*", times=3)
    _create(ask, receiver)
    ask("POST", "/v1/videos/text2video", {"prompt": "a", "callback_url": receiver.url})
    clock.advance(30)
    sim.callbacks.deliver()
    assert receiver.states == ["submitted", "processing", "succeed"]


@pytest.mark.parametrize("fault", ["unsigned", "forged", "tampered", "stale"])
def test_callbacks_can_be_doubtful(fault: str, ask, sim, clock, receiver) -> None:
    """No signature, a stranger's, one that does not fit the body, and one that fits an old time."""
    sim.callbacks.use_secret(SECRET)
    sim.callbacks.script(fault, state="succeeded")
    _create(ask, receiver)
    clock.advance(30)
    sim.callbacks.deliver()
    headers, body = receiver.seen[-1]
    good = [_signatures(headers, body, SECRET) for headers, body in receiver.seen[:2]]
    assert (receiver.states[-1], good, sim.callbacks.sent[-1].fault) == ("succeeded", [True, True], fault)
    signed = "webhook-signature" in headers
    fits = signed and _signatures(headers, body, SECRET)
    age = clock.now_ms() // 1000 - int(headers["webhook-timestamp"]) if signed else None
    expected = {"unsigned": (False, False, None), "forged": (True, False, 0), "tampered": (True, False, 0)}
    assert (signed, fits, age) == expected.get(fault, (True, True, 600))


def test_a_stranger_can_send_anything(sim, receiver) -> None:
    """A made-up end of a task arrives, unsigned or under the stranger's own secret."""
    record = {"id": "123456789012345678", "status": "succeeded", "outputs": []}
    sim.callbacks.use_secret(SECRET)
    sim.callbacks.forge(receiver.url, record)
    sim.callbacks.forge(receiver.url, record, secret=OTHER)
    assert [json.loads(body) for _, body in receiver.seen] == [record, record]
    assert "webhook-signature" not in receiver.seen[0][0]
    assert _signatures(*receiver.seen[1], OTHER)
    assert [sent.fault for sent in sim.callbacks.sent] == ["forged", "forged"]


def test_the_console_can_send_a_test(sim, clock, receiver) -> None:
    """Submitted, no outputs, no message, signed, and at most once in six seconds."""
    sim.callbacks.use_secret(SECRET)
    sim.callbacks.send_test(receiver.url)
    with pytest.raises(UsageError):
        sim.callbacks.send_test(receiver.url)
    clock.advance(6)
    sim.callbacks.send_test(receiver.url)
    told = json.loads(receiver.seen[1][1])
    assert (told["status"], told["outputs"], told["message"]) == ("submitted", [], "")
    assert _signatures(*receiver.seen[1], SECRET)


def test_the_providers_clock_signs(ask, sim, clock, receiver) -> None:
    """A provider that is ten minutes ahead signs with its own time."""
    sim.clock_offset_seconds = 600
    sim.callbacks.use_secret(SECRET)
    _create(ask, receiver)
    sim.callbacks.deliver()
    assert int(receiver.seen[0][0]["webhook-timestamp"]) - clock.now_ms() // 1000 == 600


@pytest.mark.parametrize("script", [("echo", 1), ("drop", 0)], ids=str)
def test_an_impossible_script_is_refused(script: tuple[str, int], sim) -> None:
    """Unknown faults and no times are mistakes of the test."""
    with pytest.raises(UsageError):
        sim.callbacks.script(script[0], times=script[1])


def _post(server, body: object) -> int:
    client = HTTPConnection("localhost", server.port, timeout=60)
    client.request("POST", CREATE, json.dumps(body), {"Authorization": "Bearer sim-api-key"})
    status = client.getresponse().status
    client.close()
    return status


@contextlib.contextmanager
def _asking(server, receiver: Receiver) -> Iterator[threading.Thread]:
    """Let somebody else order a task; the server may end before it answers."""

    def ask() -> None:
        with contextlib.suppress(OSError, HTTPException):
            _post(server, {"prompt": "a", "options": {"callback_url": receiver.url}})

    caller = threading.Thread(target=ask)
    caller.start()
    yield caller
    server.stop()
    caller.join()


def test_a_server_delivers_by_itself(sim: Simulator, clock, receiver) -> None:
    """In the background, after the create reply, with addresses that lead back to the server."""
    with serve(sim) as server:
        assert _post(server, {"prompt": "a", "options": {"callback_url": receiver.url}}) == 200
        sim.callbacks.wait(1)
        clock.advance(30)
        sim.callbacks.wait(3)
        told = json.loads(receiver.seen[2][1])
        assert told["outputs"][0]["url"].startswith(server.origin + "/media/")
    assert receiver.states == ["submitted", "processing", "succeeded"]
    with pytest.raises(UsageError):
        sim.callbacks.wait(4, timeout=0.05)


def test_a_callback_does_not_overtake_the_create_reply(sim: Simulator, receiver) -> None:
    """While the reply is late the callback waits."""
    sim.fail_next("POST", CREATE, delay=0.4)
    begun = time.monotonic()
    with serve(sim) as server, _asking(server, receiver):
        sim.callbacks.wait(1)
        assert time.monotonic() - begun >= 0.4


def test_a_callback_can_overtake_the_create_reply(sim: Simulator, receiver) -> None:
    """Scripted as early it comes first."""
    sim.callbacks.script("early", state="submitted")
    sim.fail_next("POST", CREATE, delay=60)
    with serve(sim) as server, _asking(server, receiver) as caller:
        sim.callbacks.wait(1)
        assert caller.is_alive()
    assert receiver.states == ["submitted"]


def test_a_lost_create_reply_does_not_lose_callbacks(sim: Simulator, receiver) -> None:
    """The task exists, so its changes are told."""
    sim.fail_next("POST", CREATE, after_accept=True, status=504)
    with serve(sim) as server:
        assert _post(server, {"prompt": "a", "options": {"callback_url": receiver.url}}) == 504
        sim.callbacks.wait(1)
    assert receiver.states == ["submitted"]


def test_the_end_can_come_before_the_create_reply(sim: Simulator, receiver) -> None:
    """A task that takes no time tells only its end, and that early if scripted."""
    sim.queue_seconds = sim.render_seconds = 0
    sim.callbacks.script("early")
    sim.fail_next("POST", CREATE, delay=60)
    with serve(sim) as server, _asking(server, receiver) as caller:
        sim.callbacks.wait(1)
        assert caller.is_alive()
    assert receiver.states == ["succeeded"]
