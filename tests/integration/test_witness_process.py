"""`witness serve` in a process of its own: the walk of the specification, and what it tells of two histories."""

from __future__ import annotations

import contextlib
import hashlib
import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from klingai_audit.cli.run import run
from klingai_audit.config import Places, open_reader
from klingai_audit.ledger.keys import KeyFolder
from klingai_audit.log import AuditLog
from klingai_audit.standalone import klingai_audit_verify as alone
from klingai_audit.tlog.cosignature import verify_cosignature
from klingai_audit.tlog.keys import COSIGNATURE, SignerKey
from klingai_audit.tlog.note import SignatureLine, format_note, parse_note
from klingai_audit.tlog.policy import WitnessPolicy
from klingai_audit.tlog.submission import SIZE_TYPE
from klingai_audit.trust.verify import verify
from klingai_audit.upkeep.attacks import Eyes
from klingai_audit.upkeep.copy import LogCopy
from klingai_audit.upkeep.thefts import thefts
from klingai_audit.upkeep.witness_attacks import witness_attacks
from klingai_audit.upkeep.witnessing import read_policy, witness_now
from klingai_audit.witness.client import WitnessClient
from tests.unit.witness.test_server import LOG, OTHER, body, flipped, note

pytestmark = pytest.mark.slow

SIGNER = SignerKey("witness.example/process", b"\x31" * 32, COSIGNATURE)


@contextlib.contextmanager
def served(folder: Path, *vkeys: str) -> Iterator[str]:
    """Run the command in a process of its own; yields its address."""
    (folder / "key").write_text(f"{SIGNER.format()}\n")
    (folder / "key").chmod(0o600)
    (folder / "logs.txt").write_text("".join(f"{vkey}\n" for vkey in vkeys))
    options = ["--key", "key", "--logs", "logs.txt", "--database", "memory.sqlite", "--listen", "127.0.0.1:0"]
    process = subprocess.Popen(
        [sys.executable, "-m", "klingai_audit.cli", "witness", "serve", *options, "--json"],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    try:
        assert process.stdout is not None
        yield json.loads(process.stdout.readline())["url"]
    finally:
        process.send_signal(signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.communicate(timeout=20)
        process.kill()
        process.communicate()


def post(url: str, request: bytes) -> httpx2.Response:
    return httpx2.post(f"{url}/add-checkpoint", content=request, trust_env=False, timeout=20)


def test_the_walk_of_the_specification_over_http(tmp_path: Path) -> None:
    """Twelve requests to one process, the last three to its successor: it remembers, and its lines verify."""
    steps: list[tuple[bytes, int, bytes | None]] = [
        (body(0, 2, data=note(2, signer=OTHER)), 404, None),
        (body(0, 2, data=flipped(note(2))), 403, None),
        (body(0, 2, proof=(1, 2)), 422, None),
        (body(0, 2), 200, None),
        (body(0, 5), 409, b"2\n"),
        (body(2, 5), 200, None),
        (body(5, 8, proof=(4, 8)), 422, None),
        (body(8, 5), 400, None),
        (body(5, 5), 200, None),
        (body(5, 5, data=note(5, bytes(32))), 422, None),
        (body(5, 8), 200, None),
        (body(5, 8), 409, b"8\n"),
    ]
    for part in (steps[:9], steps[9:]):
        with served(tmp_path, LOG.verifier.format()) as url:
            for request, status, text in part:
                answer = post(url, request)
                assert (status, text or answer.content) == (answer.status_code, answer.content)
                assert (status == 409) == (answer.headers["content-type"] == SIZE_TYPE)
                if status == 200:
                    signed = request.partition(b"\n\n")[2]
                    line = SignatureLine.parse(answer.text)
                    assert verify_cosignature(parse_note(signed).text, line, SIGNER.verifier) > 1_700_000_000


class Told:
    """A log that a witness cosigned, and another history of it, signed with the same keys, without that."""

    def __init__(self, folder: Path, url: str) -> None:
        self.policy = f"witness one {SIGNER.verifier.format()} {url}\nquorum one\n".encode()
        with AuditLog.open(folder / "audit") as audit:
            for number in range(8):
                audit.log("x_note", "user@example.com", number=number)
            witness_now(audit, WitnessClient(WitnessPolicy.parse(self.policy)))
            self.vkey, self.origin = audit.vkey, audit.origin
        (folder / "audit.keys" / "witness.policy").write_bytes(self.policy)
        self.head = (folder / "audit" / "checkpoint").read_bytes()
        self.places = Places.resolve(folder / "audit", environ={})
        self.copy = LogCopy(folder / "audit", folder / "copy")
        here = Eyes(remembered=self.head, witnesses=read_policy(folder / "audit.keys"))
        keys = KeyFolder(folder / "audit.keys")
        self.attacks = {one.name: one for one in (*thefts(keys, here), *witness_attacks(keys, here))}

    def both(self, remembered: bytes | None, witnesses: bytes | None) -> list[tuple[set[str], dict[str, str]]]:
        """What package and single file say of the attacked copy: kinds of findings, states of threats."""
        policy = None if witnesses is None else WitnessPolicy.parse(witnesses)
        package = verify(
            self.copy.store, key=self.vkey, remembered=remembered, witnesses=policy, patience=0.0, processes=1
        )
        single = alone.verify_log(str(self.copy.log), self.vkey, None, remembered, witnesses=witnesses)
        return [
            ({one.kind for one in package.broken}, {one.threat: one.state for one in package.threats}),
            ({one.kind for one in single.broken}, {name: state for name, (state, *_) in single.threats.items()}),
        ]


def test_two_histories_for_two_readers(tmp_path: Path) -> None:
    """Each reader believes the first that they see; whoever compares with the other's checkpoint has the proof."""
    with served_log(tmp_path) as (told, _):
        told.attacks["thief_rewrites_present_unseen"].act(told.copy)
        theirs = told.copy.attacked("checkpoint")
        for kinds, states in told.both(None, None):
            assert (set(), "not_ruled_out") == (kinds, states["fork"])
        for kinds, states in told.both(theirs, None):
            assert (set(), "not_ruled_out") == (kinds, states["fork"])
        for kinds, states in told.both(told.head, None):
            assert ({"fork"}, "detected") == (kinds, states["fork"])
        for kinds, _states in told.both(None, told.policy):
            assert {"witness_disagrees"} == kinds
        told.copy.restore()
        for kinds, states in told.both(theirs, None):
            assert ({"fork"}, "detected") == (kinds, states["fork"])


@contextlib.contextmanager
def served_log(folder: Path) -> Iterator[tuple[Told, str]]:
    """A log, and a witness of it in a process of its own."""
    AuditLog.open(folder / "audit").close()
    vkey = (folder / "audit.keys" / "log.pub").read_text().strip()
    (folder / "witness").mkdir()
    with served(folder / "witness", vkey) as url:
        yield Told(folder, url), url


def test_a_rewrite_without_the_cosignatures_is_found_by_asking_the_witness(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """The lines are stripped, so the files alone leave it open; the witness's own checkpoint settles it."""
    with served_log(tmp_path) as (told, url):
        told.attacks["strip_cosignatures"].act(told.copy)
        for kinds, states in told.both(None, told.policy):
            assert (set(), {"not_ruled_out"}) == (kinds, {states["fork"], states["key_holder"]})
        name = hashlib.sha256(told.origin.encode()).hexdigest()
        held = httpx2.get(f"{url}/{name}/checkpoint", trust_env=False, timeout=20).content
        (tmp_path / "held").write_bytes(held)
        forged = ["--log", str(told.copy.log), "--key", str(tmp_path / "audit.keys" / "log.pub")]
        assert 4 == run(["consistency", str(tmp_path / "held"), *forged])
        true = ["--log", str(tmp_path / "audit"), "--key", str(tmp_path / "audit.keys" / "log.pub")]
        assert 0 == run(["consistency", str(tmp_path / "held"), *true])
        capfd.readouterr()

        # Whoever rewrote it is refused when they ask for a cosignature, and what they showed is kept.
        client = WitnessClient(WitnessPolicy.parse(told.policy))
        reader = open_reader(Places.resolve(told.copy.log, environ={}))
        asked = client.submit(reader.checkpoint_note(), reader.consistency)
        assert ["refused"] == [result.state for result in asked.results]
    code = run(["witness", "evidence", "--database", str(tmp_path / "witness" / "memory.sqlite"), "--json"])
    (exhibit,) = [json.loads(line) for line in capfd.readouterr().out.splitlines()]
    assert (4, told.origin) == (code, exhibit["origin"])


def test_a_cosigned_checkpoint_is_a_memory_like_any_other(tmp_path: Path) -> None:
    """Without the witness's line it is what the log published, and both verifiers take it for a remembered head."""
    with served_log(tmp_path) as (told, url):
        name = hashlib.sha256(told.origin.encode()).hexdigest()
        held = parse_note(httpx2.get(f"{url}/{name}/checkpoint", trust_env=False, timeout=20).content)
        bare = format_note(type(held)(held.text, held.signatures[:2]))
        for kinds, states in told.both(bare, None):
            assert (set(), "ruled_out") == (kinds, states["rollback"])
        told.attacks["strip_cosignatures"].act(told.copy)
        for kinds, states in told.both(bare, told.policy):
            assert ({"fork"}, "detected") == (kinds, states["fork"])
