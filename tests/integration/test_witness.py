"""Being witnessed: real witnesses over HTTP, hostile ones, and what the verdict says then."""

from __future__ import annotations

import contextlib
import gzip
import json
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import uvicorn

from klingai_audit.cli.run import run
from klingai_audit.errors import InconsistentCheckpoints
from klingai_audit.log import AuditLog
from klingai_audit.publish.server import bind
from klingai_audit.tlog.cosignature import cosign
from klingai_audit.tlog.keys import COSIGNATURE, SignerKey, VerifierKey
from klingai_audit.tlog.policy import WitnessPolicy
from klingai_audit.tlog.submission import AddCheckpoint
from klingai_audit.trust.verdict import Verdict
from klingai_audit.trust.verify import verify
from klingai_audit.upkeep.witnessing import Witnessing, read_policy, witness_now
from klingai_audit.witness.book import Book
from klingai_audit.witness.client import Submission, WitnessClient
from klingai_audit.witness.server import Witness, witness_app

SIGNERS = [SignerKey(f"w{number}.example", bytes([number]) * 32, COSIGNATURE) for number in range(4)]


@contextlib.contextmanager
def serving(app: Any) -> Iterator[str]:
    """Serve an ASGI application on a real socket; yields its address."""
    listening = bind("127.0.0.1:0")
    server = uvicorn.Server(uvicorn.Config(app, log_level="error", lifespan="off"))
    thread = threading.Thread(target=lambda: server.run(sockets=[listening]))
    thread.start()
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()
        listening.close()


def policy_of(log: VerifierKey, urls: dict[int, str], quorum: str) -> bytes:
    lines = [f"witness w{n} {SIGNERS[n].verifier.format()} {url}" for n, url in urls.items()]
    group = [] if quorum == "none" else [f"group g {quorum} {' '.join(f'w{n}' for n in urls)}"]
    return "\n".join((f"log {log.format()}", *lines, *group, f"quorum {'g' if group else 'none'}", "")).encode()


@dataclass
class Watched:
    """A log with two real witnesses, both of whom are asked for."""

    audit: AuditLog
    client: WitnessClient
    policy: WitnessPolicy
    witnesses: list[Witness]
    place: Path

    def verdict(self, **more: Any) -> Verdict:
        return self.audit.verify(witnesses=self.policy, remembered=None, **more)


@pytest.fixture
def watched(tmp_path: Path) -> Iterator[Watched]:
    with contextlib.ExitStack() as stack:
        audit = stack.enter_context(AuditLog.open(tmp_path / "audit"))
        key = VerifierKey.parse(audit.vkey)
        witnesses = [Witness(SIGNERS[n], [key], Book(tmp_path / f"w{n}.sqlite")) for n in range(2)]
        urls = {n: stack.enter_context(serving(witness_app(one))) for n, one in enumerate(witnesses)}
        data = policy_of(key, urls, "all")
        (audit.places.keys / "witness.policy").write_bytes(data)
        policy = WitnessPolicy.parse(data)
        yield Watched(audit, WitnessClient(policy), policy, witnesses, tmp_path)


def states(verdict: Verdict) -> dict[str, str]:
    return {threat.threat: threat.state for threat in verdict.threats}


def note(audit: AuditLog, number: int) -> None:
    audit.log("x_note", "user@example.com", metadata={"number": number}).wait()


def test_two_witnesses_rule_out_what_one_hand_could_do(watched: Watched) -> None:
    """Fork, rewriting by the holder of all keys, theft: ruled out, until something new is unseen."""
    assert {"not_ruled_out"} == {states(watched.verdict())[name] for name in ("fork", "key_holder", "key_theft")}
    note(watched.audit, 1)
    done = witness_now(watched.audit, watched.client)
    assert done.submission is not None
    assert (True, ["cosigned"] * 2) == (done.submission.satisfied, [r.state for r in done.submission.results])
    assert {"ruled_out"} == {states(watched.verdict())[name] for name in ("fork", "key_holder", "key_theft")}
    note(watched.audit, 2)
    threat = next(t for t in watched.verdict().threats if t.threat == "fork")
    assert ("not_ruled_out", True) == (threat.state, "nobody else has seen the 2 entries after it" in threat.by)


def test_witnessing_does_not_feed_on_itself(watched: Watched) -> None:
    """With nothing new but its own entry, nobody is asked; with news, from where it was."""
    note(watched.audit, 1)
    first = witness_now(watched.audit, watched.client)
    assert None is witness_now(watched.audit, watched.client).submission
    note(watched.audit, 2)
    again = witness_now(watched.audit, watched.client)
    assert first.seq is not None
    assert again.seq is not None
    assert again.seq > first.seq


def test_a_policy_that_is_not_fulfilled_is_told(watched: Watched, tmp_path: Path) -> None:
    """One of two is down: what it cosigned is kept, and does not count; demanded, it is broken."""
    watched.policy = WitnessPolicy.parse(
        policy_of(
            VerifierKey.parse(watched.audit.vkey),
            {0: watched.policy.witnesses[0].url or "", 2: "http://127.0.0.1:9"},
            "all",
        )
    )
    done = witness_now(watched.audit, WitnessClient(watched.policy))
    assert done.submission is not None
    assert (False, ["cosigned", "unreachable"]) == (
        done.submission.satisfied, [r.state for r in done.submission.results],
    )  # fmt: skip
    assert ("not_ruled_out", 0) == (states(watched.verdict())["fork"], watched.verdict().exit_code)
    demanded = watched.verdict(require_witness=True)
    assert (4, ["quorum_missing"]) == (demanded.exit_code, [f.kind for f in demanded.findings])


def test_a_key_outside_the_policy_counts_nothing(watched: Watched) -> None:
    """Lines of strangers stand in the entry and rule nothing out."""
    witness_now(watched.audit, watched.client)
    strangers = policy_of(VerifierKey.parse(watched.audit.vkey), {2: "http://w2.example", 3: "http://w3.example"}, "1")
    watched.policy = WitnessPolicy.parse(strangers)
    assert ("not_ruled_out", True) == (states(watched.verdict())["fork"], watched.verdict().integrity_ok)


def test_a_rewrite_with_all_keys_is_found_by_what_was_cosigned(watched: Watched) -> None:
    """Whoever holds every key of the log can sign another past, but not what witnesses signed of the first."""
    place = watched.place
    note(watched.audit, 1)
    watched.audit.flush("published")  # nothing is written while it is copied
    shutil.copytree(place / "audit", place / "before")
    shutil.copytree(place / "audit.keys", place / "before.keys")
    shutil.copytree(place / "audit.state", place / "before.state")
    note(watched.audit, 2)
    witness_now(watched.audit, watched.client)
    theirs = watched.audit.reader.checkpoint_note()
    with AuditLog.open(place / "before") as forged:
        for number in range(20):
            note(forged, 100 + number)
        done = witness_now(forged, watched.client)
        assert done.submission is not None
        assert ["refused", "refused"] == [result.state for result in done.submission.alarming]
        told = verify(forged.reader.store, key=forged.vkey, remembered=theirs, witnesses=watched.policy)
        assert "fork" in {finding.kind for finding in told.findings}
    (exhibit,) = watched.witnesses[0].book.exhibits()
    assert watched.audit.origin == exhibit.origin


def test_a_log_that_was_put_back_is_behind_its_witness(watched: Watched) -> None:
    """The witness holds more than the log has: that is told with both sizes."""
    place = watched.place
    watched.audit.flush("published")
    for name in ("audit", "audit.keys", "audit.state"):
        shutil.copytree(place / name, place / name.replace("audit", "old"))
    for number in range(9):
        note(watched.audit, number)
    witness_now(watched.audit, watched.client)
    with AuditLog.open(place / "old") as old, pytest.raises(InconsistentCheckpoints, match=r"cosigned 11 entries"):
        witness_now(old, watched.client)


def test_an_interval_asks_when_there_is_news(watched: Watched) -> None:
    """In a thread of its own, until it is closed."""
    watching = Witnessing(watched.audit, watched.client, every=0.05)
    note(watched.audit, 1)
    deadline = time.monotonic() + 120
    while states(watched.verdict())["fork"] != "ruled_out" and time.monotonic() < deadline:
        time.sleep(0.05)
    watching.close()
    assert (None, "ruled_out") == (watching.error, states(watched.verdict())["fork"])


# --- hostile witnesses ---------------------------------------------------------------------------------

FOR_EVER = 60
"""Seconds."""


@contextlib.contextmanager
def hostile(answer: Callable[[BaseHTTPRequestHandler, AddCheckpoint], None]) -> Iterator[str]:
    """A server that answers as a test likes."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            with contextlib.suppress(OSError):
                answer(self, AddCheckpoint.parse(body))

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.over = threading.Event()  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.over.set()  # type: ignore[attr-defined]
        server.shutdown()
        server.server_close()
        thread.join()


def reply(handler: BaseHTTPRequestHandler, status: int, body: bytes, kind: str = "text/plain") -> None:
    handler.send_response(status)
    handler.send_header("Content-Type", kind)
    handler.send_header("Content-Length", str(len(body)))
    handler.end_headers()
    handler.wfile.write(body)


def signed(request: AddCheckpoint, signer: SignerKey, at: float) -> bytes:
    return cosign(request.note.text, signer, int(at)).format().encode()


def over(handler: BaseHTTPRequestHandler, seconds: float) -> bool:
    """Wait, and tell whether the test is over."""
    return handler.server.over.wait(seconds)  # type: ignore[attr-defined,no-any-return]


def hang(handler: BaseHTTPRequestHandler, _request: AddCheckpoint) -> None:
    over(handler, FOR_EVER)


def drip(handler: BaseHTTPRequestHandler, _request: AddCheckpoint) -> None:
    handler.send_response(200)
    handler.send_header("Content-Length", "1000000")
    handler.end_headers()
    for _ in range(FOR_EVER * 10):
        handler.wfile.write(b"x")
        if over(handler, 0.1):
            break


def drip_headers(handler: BaseHTTPRequestHandler, _request: AddCheckpoint) -> None:
    """Never so slow that a read would time out, never done."""
    handler.wfile.write(b"HTTP/1.1 200 OK\r\nX-Padding: ")
    for _ in range(FOR_EVER * 10):
        handler.wfile.write(b"x")
        if over(handler, 0.1):
            break


def continue_for_ever(handler: BaseHTTPRequestHandler, _request: AddCheckpoint) -> None:
    for _ in range(FOR_EVER * 10):
        handler.wfile.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        if over(handler, 0.1):
            break


def behind_then_hanging(handler: BaseHTTPRequestHandler, request: AddCheckpoint) -> None:
    """Nearly all the time for the first answer, and then none."""
    over(handler, 0.6)
    if request.old == 0:
        reply(handler, 409, b"1\n", "text/x.tlog.size")
    else:
        over(handler, FOR_EVER)


def bomb(handler: BaseHTTPRequestHandler, _request: AddCheckpoint) -> None:
    """60 kB that unpack to 60 MiB."""
    packed = gzip.compress(bytes(1 << 20)) * 60
    handler.send_response(200)
    handler.send_header("Content-Encoding", "gzip")
    handler.send_header("Content-Length", str(len(packed)))
    handler.end_headers()
    handler.wfile.write(packed)


PATIENCE = 30.0
"""How long whoever answers at all is waited for, in seconds: a loaded machine is no failure."""

OTHER_TREE = f"log.example\n1\n{'A' * 43}=\n"
WRONG = SignerKey("w0.example", b"\x77" * 32, COSIGNATURE)
ANSWERS: dict[str, tuple[Callable[[BaseHTTPRequestHandler, AddCheckpoint], None], str]] = {
    "wrong key": (lambda h, r: reply(h, 200, signed(r, WRONG, time.time())), "invalid"),
    "old time": (lambda h, r: reply(h, 200, signed(r, SIGNERS[0], time.time() - 3600)), "invalid"),
    "future": (lambda h, r: reply(h, 200, signed(r, SIGNERS[0], time.time() + 3600)), "invalid"),
    "another tree": (
        lambda h, r: reply(h, 200, cosign(OTHER_TREE, SIGNERS[0], int(time.time())).format().encode()),
        "invalid",
    ),
    "nothing": (lambda h, r: reply(h, 200, b""), "invalid"),
    "garbage": (lambda h, r: reply(h, 200, b"\xff\xfe\n\x00 \xe2\x80\x94 x y\n"), "invalid"),
    "5xx": (lambda h, r: reply(h, 503, b"down"), "unreachable"),
    "404": (lambda h, r: reply(h, 404, b"who?"), "invalid"),
    "redirect": (lambda h, r: reply(h, 307, b""), "invalid"),
    "422": (lambda h, r: reply(h, 422, b""), "refused"),
    "409 without a size": (lambda h, r: reply(h, 409, b"x\n", "text/x.tlog.size"), "invalid"),
    "409 with our size": (lambda h, r: reply(h, 409, f"{r.old}\n".encode(), "text/x.tlog.size"), "invalid"),
    "409 far ahead": (lambda h, r: reply(h, 409, b"999999\n", "text/x.tlog.size"), "ahead"),
    "409 for ever": (lambda h, r: reply(h, 409, f"{1 - r.old % 2}\n".encode(), "text/x.tlog.size"), "invalid"),
    "oversize": (lambda h, r: reply(h, 200, b"x" * 200_000), "invalid"),
    "hanging": (hang, "unreachable"),
    "dripping": (drip, "unreachable"),
    "dripping headers": (drip_headers, "unreachable"),
    "continue for ever": (continue_for_ever, "unreachable"),
    "behind, then hanging": (behind_then_hanging, "unreachable"),
    "not HTTP": (lambda h, r: h.wfile.write(b"SSH-2.0-x\r\n"), "unreachable"),
    "half an answer": (lambda h, r: h.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\nx"), "unreachable"),
    "oversize headers": (lambda h, r: h.wfile.write(b"HTTP/1.1 200 OK\r\nX: " + b"x" * 2_000_000), "unreachable"),
    "oversize 409": (lambda h, r: reply(h, 409, b"1" * 200_000, "text/x.tlog.size"), "invalid"),
    "a size of a million digits": (lambda h, r: reply(h, 409, b"9" * 60_000 + b"\n", "text/x.tlog.size"), "invalid"),
    "a bomb": (bomb, "invalid"),
    "a line of another type": (lambda h, r: reply(h, 200, signed(r, SIGNERS[1], time.time())), "invalid"),
    "a changed signature": (lambda h, r: reply(h, 200, signed(r, SIGNERS[0], time.time())[:-6] + b"AAA=\n"), "invalid"),
    "500": (lambda h, r: reply(h, 500, signed(r, SIGNERS[0], time.time())), "unreachable"),
    "201": (lambda h, r: reply(h, 201, signed(r, SIGNERS[0], time.time())), "invalid"),
}  # fmt: skip


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AuditLog]:
    with AuditLog.open(tmp_path_factory.mktemp("hostile") / "audit") as audit:
        note(audit, 1)
        audit.flush("published")
        yield audit


def submit(audit: AuditLog, url: str, **more: Any) -> Submission:
    policy = WitnessPolicy.parse(policy_of(VerifierKey.parse(audit.vkey), {0: url}, "all"))
    client = WitnessClient(policy, **{"timeout": PATIENCE, **more})
    return client.submit(audit.reader.checkpoint_note(), audit.reader.consistency)


@pytest.mark.slow
@pytest.mark.parametrize("name", ANSWERS)
def test_a_hostile_witness_is_worth_nothing(log: AuditLog, name: str) -> None:
    """Whatever it answers, no line of it is kept, it takes no longer than allowed, and the client lives on."""
    answer, state = ANSWERS[name]
    timeout = 1.0 if state == "unreachable" else PATIENCE
    with hostile(answer) as url:
        begun = time.monotonic()
        found = submit(log, url, timeout=timeout)
        assert time.monotonic() - begun < timeout + 15 < FOR_EVER
    assert (state, None, False) == (found.results[0].state, found.results[0].line, found.satisfied)
    assert found.note == log.reader.checkpoint_note()


def test_an_unknown_line_beside_a_good_one_is_left_out(log: AuditLog) -> None:
    """Only the line of the policy's key is kept."""
    now = time.time()
    with hostile(lambda h, r: reply(h, 200, signed(r, WRONG, now) + signed(r, SIGNERS[0], now))) as url:
        found = submit(log, url)
    assert ("cosigned", True) == (found.results[0].state, found.satisfied)
    assert found.note.count(b"w0.example") == 1


def test_nobody_listens(log: AuditLog) -> None:
    """A refused connection and a name that is none."""
    with socket.socket() as taken:  # held and not listened at: nobody else gets it
        taken.bind(("127.0.0.1", 0))
        for url in (f"http://127.0.0.1:{taken.getsockname()[1]}", "http://witness.invalid", "nonsense"):
            assert "unreachable" == submit(log, url, timeout=1.0).results[0].state


# --- the command line ----------------------------------------------------------------------------------


def test_the_commands(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """From a new witness to a verdict, as the how-to has it; a second submission begins where the first ended."""
    log = ["--log", str(tmp_path / "audit"), "--json"]
    AuditLog.open(tmp_path / "audit").close()

    def ask(*argv: str) -> tuple[int, Any]:
        code = run([*argv, *log])
        out = capfd.readouterr().out
        return code, json.loads(out) if out.count("\n") == 1 else out

    assert 2 == ask("witness", "submit")[0]
    code, made = ask("witness", "keygen", "w.example/one", "--key", str(tmp_path / "w" / "key"))
    assert (0, 0o600) == (code, (tmp_path / "w" / "key").stat().st_mode & 0o777)
    assert 2 == ask("witness", "keygen", "w.example/one", "--key", str(tmp_path / "w" / "key"))[0]
    signer = SignerKey.parse((tmp_path / "w" / "key").read_text().strip())
    key = VerifierKey.parse((tmp_path / "audit.keys" / "log.pub").read_text().strip())
    with serving(witness_app(Witness(signer, [key], Book(tmp_path / "w" / "db.sqlite")))) as url:
        text = f"log {key.format()}\nwitness one {made['vkey']} {url}\nquorum one\n"
        (tmp_path / "audit.keys" / "witness.policy").write_text(text)
        assert 1 == ask("witness", "status")[0]
        for _ in range(2):
            code, told = ask("witness", "submit")
            assert (0, True, ["cosigned"]) == (code, told["satisfied"], [r["state"] for r in told["results"]])
    assert 0 == ask("witness", "status")[0]
    assert 0 == ask("verify", "--require-witness")[0]
    (tmp_path / "audit.keys" / "witness.policy").rename(tmp_path / "policy")
    assert 4 == ask("verify", "--require-witness")[0]
    assert 0 == ask("verify", "--require-witness", "--witnesses", str(tmp_path / "policy"))[0]
    assert 0 == ask("witness", "evidence", "--database", str(tmp_path / "w" / "db.sqlite"))[0]
    assert read_policy(tmp_path / "audit.keys") is None
