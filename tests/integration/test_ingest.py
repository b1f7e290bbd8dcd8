"""Ingest over real sockets: every answer as described, each event once, nothing of a refused request recorded."""

from __future__ import annotations

import errno
import gzip
import io
import json
import logging
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2
import pytest
import zstandard

from klingai_audit.exports.api import export
from klingai_audit.ingest import intake as intake_room
from klingai_audit.ingest import memory as memory_room
from klingai_audit.ingest import producers as producers_room
from klingai_audit.ingest.capacity import Limits
from klingai_audit.ingest.denials import PAUSE_S
from klingai_audit.ingest.endpoint import Endpoint, Served
from klingai_audit.ingest.openapi import EVENTS_PATH, document
from klingai_audit.ingest.wire import CLOUDEVENT, CLOUDEVENTS, JSON
from klingai_audit.ledger.reader import LogReader
from klingai_audit.log import AuditLog
from klingai_audit.privacy.unseal_key import create_unseal_keys
from klingai_audit.testing.faulty import FaultyOps, QuickOps
from klingai_audit.tlog.keys import VerifierKey
from klingai_audit.trust.proofs import check_entry_proof
from tests.support.ingesting import FARM, IDS, LOG, PRODUCERS, Client, endpoint_of, lines, validator_of

EVENT = {"event_type": "x_a", "actor_id": "someone@studio.example"}
PLANTED = ("wombat quarry at dawn", "sk-live-9f8e7d6c5b4a39281706f5e4d3c2b1a0", "someone@studio.example", "192.0.2.77")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[AuditLog, str]]:
    """One log behind one endpoint for all tests that need no other; each test has ids of its own."""
    folder = tmp_path_factory.mktemp("ingest")
    with AuditLog.open(folder / "audit", ops=QuickOps()) as audit, endpoint_of(audit, folder) as (_endpoint, url):
        yield audit, url


@pytest.fixture
def audit(place: tuple[AuditLog, str]) -> AuditLog:
    return place[0]


@pytest.fixture
def client(place: tuple[AuditLog, str]) -> Client:
    return Client(place[1])


def entries(audit: AuditLog) -> dict[str, dict[str, Any]]:
    """Return what the log holds of events from outside, by event id."""
    audit.flush("published")
    found = [json.loads(line) for line in audit.reader.entries()]
    told = [one for one in found if "producer" in one.get("metadata", {}) and one["event_type"] != "access_denied"]
    return {one["event_id"]: one for one in told}


# --- what is recorded ----------------------------------------------------------------------------------


def test_events_are_recorded_with_receipts(client: Client, audit: AuditLog) -> None:
    """In order, under the producer's name; receipts tell where; an event that names nobody is the producer's."""
    answer = client.send({**EVENT, "event_id": IDS[0]}, {"event_type": "generation_started", "resource_id": "831"})
    assert (audit.origin, "durable") == (answer["origin"], answer["state"])
    first, second = answer["receipts"]
    assert (IDS[0], first["seq"] + 1, False) == (first["event_id"], second["seq"], second["repeated"])
    assert "proof" not in first
    found = entries(audit)
    assert [first["seq"], second["seq"]] == [found[one["event_id"]]["seq"] for one in (first, second)]
    stored = found[second["event_id"]]
    assert ("video_generation_started", "service") == (stored["event_type"], stored["actor_type"])
    assert {"producer": "render-farm"} == stored["metadata"]
    assert ["render-farm"] == [audit.subjects.reveal(stored["actor_id"])]


def test_the_door_is_the_same(client: Client, audit: AuditLog, caplog: pytest.LogCaptureFixture) -> None:
    """Prompts, credentials, people and addresses are not kept, nor told in diagnostics or refusals."""
    caplog.set_level(logging.DEBUG, "klingai_audit")
    prompt, secret, actor, address = PLANTED
    event = {"event_type": "prompt_submitted", "event_id": IDS[1], "actor_id": actor, "ip_address": address,
             "metadata": {"prompt": prompt, "note": f"key {secret} of {actor}"}}  # fmt: skip
    client.send(event)
    refused = client.send({**event, "metadata": {"prompt": prompt, "note": secret}}, status=409)
    stored = entries(audit)[IDS[1]]
    assert {"commitment", "bytes"} == set(stored["metadata"]["prompt"])
    audit.flush("published")
    kept = b"\n".join(audit.reader.entries()).decode() + json.dumps(refused) + caplog.text
    assert [] == [one for one in PLANTED if one in kept]
    assert "p_" == stored["actor_id"][:2]


@pytest.mark.parametrize("kind", ["lines", "json", "cloudevent", "cloudevents"])
@pytest.mark.parametrize("encoding", [None, "gzip", "zstd"])
def test_all_kinds_of_bodies_do_the_same(client: Client, audit: AuditLog, kind: str, encoding: str | None) -> None:
    """JSON lines, JSON, CloudEvents one and many, packed or not: one entry, the same but for what says how it came."""
    event_id = IDS[
        10 + 3 * ["lines", "json", "cloudevent", "cloudevents"].index(kind) + [None, "gzip", "zstd"].index(encoding)
    ]
    event = {"event_type": "x_same", "event_id": event_id, "actor_id": "render-1", "metadata": {"frames": 240}}
    data = {name: event[name] for name in ("actor_id", "metadata")}
    cloudevent = {"specversion": "1.0", "id": event_id, "source": "/a", "type": "klingai-audit.x_same", "data": data}
    body, media = {
        "lines": (lines(event), "application/x-ndjson"),
        "json": (json.dumps(event).encode(), JSON),
        "cloudevent": (json.dumps(cloudevent).encode(), CLOUDEVENT),
        "cloudevents": (json.dumps([cloudevent]).encode(), CLOUDEVENTS),
    }[kind]
    told = {} if encoding is None else {"content_encoding": encoding}
    body = {None: bytes, "gzip": gzip.compress, "zstd": zstandard.compress}[encoding](body)
    response = client.post(body, media, **told)
    assert 200 == response.status_code, response.text
    stored = entries(audit)[event_id]
    assert ("x_same", 240, "render-farm") == (
        stored["event_type"], stored["metadata"]["frames"], stored["metadata"]["producer"],
    )  # fmt: skip
    assert kind.startswith("cloud") == ("cloudevent" in stored["metadata"])


def test_proofs_hold(client: Client, audit: AuditLog) -> None:
    """Each receipt's proof is checked with the log's key alone and holds the entry; a repetition has one, too."""
    events = [{**EVENT, "event_id": IDS[number]} for number in (30, 31, 32)]
    client.send(events[0])
    answer = client.send(*events, query="?wait=published")
    assert ("published", [True, False, False]) == (answer["state"], [one["repeated"] for one in answer["receipts"]])
    for receipt in answer["receipts"]:
        proven = check_entry_proof(receipt["proof"].encode(), [VerifierKey.parse(audit.vkey)])
        assert (receipt["seq"], receipt["event_id"]) == (proven.index, json.loads(proven.entry)["event_id"])
    assert "proof" in client.send(events[0], query="?wait=published")["receipts"][0]


# --- once ----------------------------------------------------------------------------------------------


def test_the_same_event_again_gets_its_receipt(client: Client, audit: AuditLog) -> None:
    """Also within one request, in other letters of the id, with and without a time."""
    event = {**EVENT, "event_id": IDS[40], "metadata": {"prompt": "a lake"}}
    timed = {**EVENT, "event_id": IDS[41], "timestamp": "2026-11-21T19:28:23.5+01:00"}
    first = client.send(event, timed, event)["receipts"]
    assert [False, False, True] == [one["repeated"] for one in first]
    assert first[0]["seq"] == first[2]["seq"]
    again = client.send({**event, "event_id": IDS[40].upper()}, {**timed, "timestamp": "2026-11-21T18:28:23.500Z"})
    assert [{**one, "repeated": True} for one in first[:2]] == again["receipts"]
    assert 2 == sum(event_id in IDS[40:42] for event_id in entries(audit))


@pytest.mark.parametrize(
    "change",
    [{"actor_id": "other@studio.example"}, {"metadata": {"prompt": "a sea"}}, {"outcome": "failure"}, {"team": "b"},
     {"timestamp": "2026-11-21T19:28:24Z"}, {"event_type": "x_b"}],
)  # fmt: skip
def test_another_event_with_its_id_is_refused(client: Client, audit: AuditLog, change: dict[str, Any]) -> None:
    """Whatever differs, also in a prompt of which only a commitment is kept; the place is told, nothing is recorded."""
    event = {**EVENT, "event_id": IDS[42], "timestamp": "2026-11-21T19:28:23Z", "metadata": {"prompt": "a lake"}}
    client.send(event)
    size = len(entries(audit))
    answer = client.send({**EVENT, "event_id": IDS[43]}, {**event, **change}, status=409)
    assert ("event_id_reused", 1, 1) == (answer["kind"], answer["faults"], answer["events"][0]["at"])
    answer = client.send({**EVENT, "event_id": IDS[43]}, {**EVENT, "event_id": IDS[43], "team": "b"}, status=409)
    assert 2 == answer["events"][0]["line"]
    assert size == len(entries(audit))


def test_many_at_once_record_one(client: Client, audit: AuditLog) -> None:
    """Sixteen clients that send the same two events in either order at the same moment."""
    events = [{**EVENT, "event_id": IDS[44]}, {**EVENT, "event_id": IDS[45]}]
    barrier = threading.Barrier(16)

    def send(number: int) -> list[dict[str, Any]]:
        own = Client(client.url)
        barrier.wait()
        receipts: list[dict[str, Any]] = own.send(*events[:: 1 if number % 2 else -1])["receipts"]
        return receipts

    with ThreadPoolExecutor(16) as pool:
        found = [receipt for receipts in pool.map(send, range(16)) for receipt in receipts]
    assert 2 == sum(not receipt["repeated"] for receipt in found)
    assert 2 == len({(receipt["event_id"], receipt["seq"]) for receipt in found})
    stored = [json.loads(line)["event_id"] for line in audit.reader.entries()]
    assert [1, 1] == [stored.count(event_id) for event_id in IDS[44:46]]


@pytest.mark.slow
@pytest.mark.parametrize("forgets", [False, True])
def test_a_new_start_remembers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, forgets: bool) -> None:
    """With its table or without it, and what the library logged with an id is known as well."""
    monkeypatch.setattr(memory_room, "FOLLOW_S", 0)
    event = {**EVENT, "event_id": IDS[0]}
    with AuditLog.open(tmp_path / "audit", ops=QuickOps()) as audit:
        with endpoint_of(audit, tmp_path) as (_endpoint, url):
            first = Client(url).send(event)["receipts"][0]
    if forgets:
        (tmp_path / "audit.state" / "ingest.sqlite").unlink()
    with AuditLog.open(tmp_path / "audit", ops=QuickOps()) as audit:
        audit.log("x_a", "someone@studio.example", event_id=IDS[1], metadata={"producer": "render-farm"}).wait(
            "published"
        )
        audit.log("x_a", "someone@studio.example", event_id=IDS[2]).wait("published")
        with endpoint_of(audit, tmp_path) as (_endpoint, url):
            again, library = Client(url).send(event, {**EVENT, "event_id": IDS[1]})["receipts"]
            assert [True, True] == [again["repeated"], library["repeated"]]
            assert {**first, "repeated": True} == again
            Client(url).send({**EVENT, "event_id": IDS[2]}, status=409)


def test_a_refused_event_seals_nothing(tmp_path: Path) -> None:
    """Where prompts are kept sealed, one of an event that is another's is not; that of a repetition is there once."""
    AuditLog.open(tmp_path / "audit", ops=QuickOps()).close()
    create_unseal_keys(tmp_path / "audit.keys")
    (tmp_path / "audit.keys" / "policy.toml").write_text("[vault]\nseal = ['prompt']\n")
    event = {"event_type": "prompt_submitted", "actor_id": "render-1", "event_id": IDS[0]}
    with AuditLog.open(tmp_path / "audit", ops=QuickOps()) as audit:
        with endpoint_of(audit, tmp_path) as (_endpoint, url):
            for prompt, status in (("a lake", 200), ("a sea", 409), ("a lake", 200)):
                Client(url).send({**event, "metadata": {"prompt": prompt}}, status=status)
            good = {**event, "event_id": IDS[1], "metadata": {"prompt": "a hill"}}
            Client(url).send(good, {**event, "event_id": IDS[2], "metadata": {"n": 2**60}}, status=422)
            assert 1 == audit.vault.usage().contents
            Client(url).send(good, {**good, "event_id": None})
        assert 3 == audit.vault.usage().contents


# --- what is refused -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("events", "status", "kind", "words"),
    [
        ([{**EVENT, "actor_id": "boss@other.example"}], 403, "claim_not_allowed", "/actor_id"),
        ([{**EVENT, "event_type": "user_added"}], 403, "claim_not_allowed", "/event_type"),
        ([{**EVENT, "event_type": "subject_erased"}], 403, "claim_not_allowed", "/event_type"),
        ([{**EVENT, "on_behalf_of": "boss@other.example"}], 403, "claim_not_allowed", "/on_behalf_of"),
        ([{**EVENT, "event_type": "x_A"}], 422, "invalid_event", "/event_type: not a registered name"),
        ([{**EVENT, "event_type": "resource_created"}], 422, "invalid_event", "no value for resource_type"),
        ([{**EVENT, "event_id": IDS[0].replace("-7", "-8")}], 422, "invalid_event", "/event_id"),
        ([{**EVENT, "metadata": {"n": 2**60}}], 422, "invalid_event", "/metadata/n: an int beyond"),
        ([{**EVENT, "metadata": {"long": ["a b" * 300] * 80}}], 422, "invalid_event", "the limit is 65,338"),
        ([{**EVENT, "actor_id": "render-" + "a" * 600}], 422, "invalid_event", ""),
        ([{**EVENT, "timestamp": "1822-01-01T00:00:00Z"}], 422, "invalid_event", "/timestamp"),
    ],
)  # fmt: skip
def test_one_bad_event_refuses_all(
    client: Client, audit: AuditLog, events: list[dict[str, Any]], status: int, kind: str, words: str
) -> None:
    """The good ones around it are not recorded; index, line and reason are told."""
    before = len(entries(audit))
    answer = client.send(EVENT, *events, EVENT, status=status)
    assert (kind, 1, 1, 2) == (answer["kind"], answer["faults"], answer["events"][0]["at"], answer["events"][0]["line"])
    assert words in answer["events"][0]["message"]
    assert (kind == "claim_not_allowed") == ("the file of producers" in answer["do"])
    assert before == len(entries(audit))


@pytest.mark.parametrize(
    "event_type",
    ["log_opened", "subject_erased", "legal_hold_set", "retention_applied", "approval_used", "log_verified"],
)
def test_nobody_speaks_for_the_log(place: tuple[AuditLog, str], event_type: str) -> None:
    """Not even a producer that may claim everything: what has effects is written by the act itself."""
    event = {"event_type": event_type, "actor_id": "boss", "resource_id": "r", "action": "a"}
    answer = Client(place[1], LOG).send(event, status=422)
    assert answer["events"][0]["message"].startswith("/event_type: ")
    actor = Client(place[1], LOG).send({"event_type": "x_a", "actor_id": "klingai-audit"}, status=422)
    assert "is the log itself" in actor["detail"]
    nobody = Client(place[1], LOG).send({"event_type": "x_a"}, status=422)
    assert "/actor_id: nobody is named" in nobody["detail"]


@pytest.mark.parametrize("header", [None, "", "Bearer", f"Basic {FARM}", "Bearer wrong", f"Bearer {FARM}x", FARM])
def test_tokens_are_demanded(client: Client, header: str | None) -> None:
    """401 before the body is read, whatever it is."""
    told = {} if header is None else {"authorization": header}
    response = Client(client.url, None).post(b"\xff" * 100, "text/plain", **told)
    assert (401, "token_unknown") == (response.status_code, response.json()["kind"])
    assert response.headers["www-authenticate"].startswith("Bearer")
    assert 200 == Client(client.url, None).post(lines(EVENT), authorization=f"bearer  {FARM}").status_code


@pytest.mark.parametrize(
    ("body", "kind", "headers", "path", "status", "reason"),
    [
        (b"{}", "text/plain", {}, "", 415, "media_type_unknown"),
        (b"{}", None, {}, "", 415, "media_type_unknown"),
        (b"{}", JSON, {"ce-specversion": "1.0"}, "", 415, "media_type_unknown"),
        (b"{}", JSON, {"content-encoding": "br"}, "", 415, "encoding_unknown"),
        (b"{}", JSON, {"content-encoding": "gzip"}, "", 400, "malformed"),
        (b"{", JSON, {}, "", 400, "malformed"),
        (b"", JSON, {}, "", 400, "malformed"),
        (b"{}", JSON, {}, "?wait=witnessed", 400, "malformed"),
        (b"{}", JSON, {}, "?wait=durable&wait=published", 400, "malformed"),
        (gzip.compress(bytes(5 << 20)), JSON, {"content-encoding": "gzip"}, "", 413, "too_large"),
        (bytes(5 << 20), JSON, {}, "", 413, "too_large"),
        (b'{"event_type":"x_a"}\n' * 1001, "application/x-ndjson", {}, "", 413, "too_many_events"),
    ],
)  # fmt: skip
def test_bodies_that_are_refused(
    client: Client, body: bytes, kind: str | None, headers: dict[str, str], path: str, status: int, reason: str
) -> None:
    """By status and by one word."""
    response = client.post(body, kind, path=EVENTS_PATH + path, **headers)
    assert (status, reason) == (response.status_code, response.json()["kind"])


def test_a_body_without_a_length_is_bounded(client: Client) -> None:
    """Chunks that go on and on are cut off at the limit."""

    def chunks() -> Iterator[bytes]:
        for _ in range(5 << 4):
            yield bytes(1 << 16)

    response = client.http.post(
        EVENTS_PATH, content=chunks(), headers={"authorization": f"Bearer {FARM}", "content-type": JSON}
    )
    client.check(response)
    assert 413 == response.status_code


def test_other_paths(client: Client) -> None:
    """404 and 405 are problems as well; health and description are as described."""
    for path, status in (("/", 404), ("/v1/events/", 404), (EVENTS_PATH, 405)):
        response = client.http.get(path)
        assert (status, "application/problem+json") == (response.status_code, response.headers["content-type"])
        validator_of({"$ref": "#/components/schemas/Problem"}).validate(response.json())
    assert document() == client.http.get("/openapi.json").json()
    assert (200, "alive\n") == (client.http.get("/healthz").status_code, client.http.get("/healthz").text)
    ready = client.http.get("/readyz")
    schema = document()["paths"]["/readyz"]["get"]["responses"]["200"]["content"][JSON]["schema"]
    validator_of(schema).validate(ready.json())
    assert (200, True) == (ready.status_code, ready.json()["ready"])


# --- when it is full, slow, or out of order ------------------------------------------------------------


def open_request(url: str, length: int, token: str = FARM) -> socket.socket:
    """Begin a request and send half of its body."""
    made = httpx2.URL(url)
    connection = socket.create_connection((made.host, made.port), 20)
    head = f"POST {EVENTS_PATH} HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {token}\r\nContent-Type: {JSON}\r\n"
    connection.sendall(f"{head}Content-Length: {length}\r\n\r\n".encode() + b" " * (length // 2))
    return connection


def until(condition: Any, seconds: float = 20) -> bool:
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.005)
    return bool(condition())


@pytest.mark.parametrize("limits", [Limits(requests=1), Limits(waiting_bytes=550), Limits(waiting_events=1)])
def test_when_full_it_says_when_to_come_back(tmp_path: Path, limits: Limits) -> None:
    """429 with Retry-After while a slow request holds what there is; then the same request is taken."""
    with AuditLog.open("memory:") as audit, endpoint_of(audit, tmp_path, limits=limits) as (endpoint, url):
        client, event = Client(url), {**EVENT, "event_id": IDS[0]}
        if limits.waiting_events == 1:
            client.send(event, event, status=429)
        else:
            slow = open_request(url, 1000 if limits.requests > 1 else 10)
            assert until(lambda: endpoint.capacity.bytes)
            client.send(event, status=429)
            slow.close()
            assert until(lambda: not endpoint.capacity.requests)
        client.send(event)
        assert (0, 0, 0) == (endpoint.capacity.requests, endpoint.capacity.bytes, endpoint.capacity.events)


def test_what_is_packed_counts_with_what_it_holds(tmp_path: Path) -> None:
    """Not with what it might hold: small packed bodies do not fill the place of large ones, and large ones do."""
    limits = Limits(body_bytes=5_000, waiting_bytes=6_000)
    small = lines({**EVENT, "event_id": IDS[0]})
    large = lines({**EVENT, "event_id": IDS[1]}) + b" " * 4_700
    with AuditLog.open("memory:") as audit, endpoint_of(audit, tmp_path, limits=limits) as (endpoint, url):
        client = Client(url)
        with open_request(url, 3_000):
            assert until(lambda: endpoint.capacity.bytes >= 1_500)
            assert 200 == client.post(gzip.compress(small), content_encoding="gzip").status_code
            assert 429 == client.post(gzip.compress(large), content_encoding="gzip").status_code
        assert until(lambda: not endpoint.capacity.requests)
        assert 200 == client.post(gzip.compress(large), content_encoding="gzip").status_code
        assert until(lambda: not endpoint.capacity.bytes)


@pytest.mark.slow
def test_slow_bodies_are_cut_off(tmp_path: Path) -> None:
    """408 and the end of the connection; other requests go on meanwhile."""
    seen: list[Served] = []
    limits = Limits(body_seconds=3)
    with AuditLog.open("memory:") as audit, endpoint_of(audit, tmp_path, limits=limits, told=seen) as (_endpoint, url):
        client = Client(url)
        with open_request(url, 100) as slow:
            client.send(EVENT)
            answer = b""
            while piece := slow.recv(4096):
                answer += piece
        assert answer.startswith(b"HTTP/1.1 408")
        assert [(200, ""), (408, "too_slow")] == [(one.status, one.kind) for one in seen]
        assert [("render-farm", 1), ("render-farm", 0)] == [(one.producer, one.events) for one in seen]


def test_when_the_disk_is_full_nothing_is_acknowledged(tmp_path: Path) -> None:
    """503 with Retry-After; when there is room again the same request is recorded, once."""
    ops = FaultyOps(code=errno.ENOSPC)
    event = {**EVENT, "event_id": IDS[0]}
    with AuditLog.open(tmp_path / "audit", ops=ops) as audit, endpoint_of(audit, tmp_path) as (_endpoint, url):
        client = Client(url)
        ops.fails = lambda call: call.name.startswith("write") and call.about.endswith(".jsonl")
        assert "log_unavailable" == client.send(event, status=503)["kind"]
        assert 200 == client.http.get("/healthz").status_code
        ops.fails = None
        assert [False, True] == [client.send(event)["receipts"][0]["repeated"] for _ in range(2)]
        stored = [json.loads(line)["event_id"] for line in audit.reader.entries()]
        assert 1 == stored.count(IDS[0])


def test_when_the_log_has_stopped_it_wants_a_new_start(tmp_path: Path) -> None:
    """After a failed sync nobody knows what is durable: 503 for events, for readiness and for health."""
    ops = FaultyOps()
    with pytest.raises(Exception, match="Syncing"), AuditLog.open(tmp_path / "audit", ops=ops) as audit:
        with endpoint_of(audit, tmp_path) as (_endpoint, url):
            client = Client(url)
            ops.fails = lambda call: call.name == "sync" and call.about.endswith(".jsonl")
            told = json.dumps(client.send({**EVENT, "event_id": IDS[0]}, status=503))
            answers = [client.http.get(path) for path in ("/healthz", "/readyz")]
            assert [503, 503] == [one.status_code for one in answers]
            assert str(tmp_path) not in told + answers[0].text + answers[1].text


class Hanging(QuickOps):
    """A disk that does not answer while `free` is not set."""

    def __init__(self) -> None:
        self.free = threading.Event()
        self.free.set()

    def sync(self, fd: int) -> None:
        self.free.wait(20)
        super().sync(fd)


@pytest.mark.slow
def test_events_that_hang_stay_counted(tmp_path: Path) -> None:
    """503 in time; their places in the queue are free again when the disk answers; sent again they are there."""
    ops, limits = Hanging(), Limits(wait_seconds=0.2)
    with AuditLog.open(tmp_path / "audit", ops=ops) as audit:
        with endpoint_of(audit, tmp_path, limits=limits) as (endpoint, url):
            client, event = Client(url), {**EVENT, "event_id": IDS[0]}
            ops.free.clear()
            client.send(event, status=503)
            assert 1 == endpoint.capacity.events
            ops.free.set()
            assert until(lambda: not endpoint.capacity.events)
            endpoint.capacity.limits = Limits()
            assert client.send(event)["receipts"][0]["repeated"]


# --- producers and other logs --------------------------------------------------------------------------


@pytest.mark.slow
def test_who_may_send_is_in_the_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each file by its digest, before it is in force; the same file again is no news; a withdrawn token is unknown."""
    monkeypatch.setattr(producers_room, "LOOK_S", 0)
    path = tmp_path / "producers.toml"

    def told(audit: AuditLog) -> list[list[str]]:
        audit.flush("published")
        found = [json.loads(line) for line in audit.reader.entries()]
        return [one["metadata"]["producers"] for one in found if one["event_type"] == "settings_changed"]

    with AuditLog.open(tmp_path / "audit", ops=QuickOps()) as audit:
        for _ in range(2):
            with endpoint_of(audit, tmp_path) as (_endpoint, url):
                Client(url, LOG).send(EVENT)
        assert [["other-log", "render-farm"]] == told(audit)
        with endpoint_of(audit, tmp_path) as (_endpoint, url):
            path.write_text(PRODUCERS.partition("[producers.other-log]")[0])
            Client(url).send(EVENT)
            assert 401 == Client(url, LOG).post(lines(EVENT)).status_code
        assert [["other-log", "render-farm"], ["render-farm"]] == told(audit)


def test_claims_that_are_refused_are_entries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who tried, and with which members, without the names that were claimed; at most one a minute."""
    with AuditLog.open("memory:") as audit, endpoint_of(audit, tmp_path) as (endpoint, url):
        client = Client(url)
        for _ in range(3):
            client.send({**EVENT, "actor_id": "boss@other.example"}, {**EVENT, "event_type": "user_added"}, status=403)
        monkeypatch.setattr(endpoint.intake._denials, "_clock", lambda: time.monotonic() + PAUSE_S)
        client.send({**EVENT, "on_behalf_of": "boss@other.example"}, status=403)
        audit.flush("published")
        found = [json.loads(line) for line in audit.reader.entries() if b"access_denied" in line]
    assert [(["actor_id", "event_type"], 0), (["on_behalf_of"], 2)] == [
        (one["metadata"]["members"], one["metadata"]["since_last"]) for one in found
    ]
    assert {("render-farm", "ingest", "blocked")} == {
        (one["metadata"]["producer"], one["action"], one["outcome"]) for one in found
    }
    assert "other.example" not in json.dumps(found)


def test_without_a_signer_events_are_known_all_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is durable and not published goes to the table, so that waiting for a signer takes no memory."""
    monkeypatch.setattr(intake_room, "_MOST_UNDER_WAY", 0)
    monkeypatch.setattr(LogReader, "size", 0)
    with AuditLog.open(tmp_path / "audit", ops=QuickOps()) as audit, endpoint_of(audit, tmp_path) as (endpoint, url):
        events = [{**EVENT, "event_id": IDS[number]} for number in range(3)]
        first = Client(url).send(*events[:2])["receipts"]
        assert first[0] == {**Client(url).send(events[0])["receipts"][0], "repeated": False}
        again = Client(url).send(events[1], events[2])["receipts"]
        assert [{**first[1], "repeated": True}, False] == [again[0], again[1]["repeated"]]
        assert {IDS[2]} == set(endpoint.intake._book.under_way)


def test_another_log_can_be_sent_whole(place: tuple[AuditLog, str], tmp_path: Path) -> None:
    """What `export` wrote as CloudEvents is taken line by line, ends of tasks and its own entries included, once."""
    audit, url = place
    with AuditLog.open(tmp_path / "far", ops=QuickOps()) as far:
        far.log("prompt_submitted", "someone@far.example", metadata={"prompt": "a lake"})
        far.log("video_generation_completed", "someone@far.example", resource_id="831").wait("published")
        written = io.BytesIO()
        export(far.reader, "cloudevents", file=written)
    exported = written.getvalue().splitlines()
    body = b"[" + b",".join(exported) + b"]"
    answers = [Client(url, LOG).post(body, CLOUDEVENTS) for _ in range(2)]
    assert [200, 200] == [one.status_code for one in answers]
    receipts = answers[0].json()["receipts"]
    assert [{**one, "repeated": True} for one in receipts] == answers[1].json()["receipts"]
    found = [entries(audit)[one["event_id"]] for one in receipts]
    assert list(range(len(exported))) == [one["metadata"]["cloudevent"]["entry"]["seq"] for one in found]
    assert all(one["metadata"]["cloudevent"]["entry"]["unchanged"] for one in found)
    kinds = ["x_forwarded_log_created", "x_forwarded_log_opened", "prompt_submitted", "video_generation_completed"]
    assert kinds == [one["event_type"] for one in found]
    assert 0 == audit.verify().exit_code


def test_faults_of_ours_are_told_without_content(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """500 for the program, class and place for the operator, and nothing of what was sent."""

    async def fail(_self: Endpoint, _request: object) -> object:
        raise RuntimeError(PLANTED[0])

    monkeypatch.setattr(Endpoint, "answer", fail)
    with AuditLog.open("memory:") as audit, endpoint_of(audit, tmp_path) as (_endpoint, url):
        assert "internal" == Client(url).send(EVENT, status=500)["kind"]
    assert "RuntimeError in test_ingest.py" in caplog.text
    assert PLANTED[0] not in caplog.text
