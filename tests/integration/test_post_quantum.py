"""A log with ML-DSA-44 lines through everything that reads, copies, proves and republishes checkpoints."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from klingai_audit.bundle import build_bundle
from klingai_audit.bundle.attacks import BUNDLE_ATTACKS
from klingai_audit.bundle.check import check_bundle
from klingai_audit.cli.run import run
from klingai_audit.config import Places
from klingai_audit.errors import InvalidSignature
from klingai_audit.log import AuditLog
from klingai_audit.tlog.checkpoint import open_checkpoint
from klingai_audit.tlog.keys import ML_DSA_44, VerifierKey
from klingai_audit.tlog.note import format_note, parse_note
from klingai_audit.tlog.policy import WitnessPolicy
from klingai_audit.upkeep.backup import back_up, succeed
from klingai_audit.upkeep.recover import recover
from klingai_audit.upkeep.witnessing import witness_now
from klingai_audit.witness.book import Book
from klingai_audit.witness.client import WitnessClient
from klingai_audit.witness.server import Witness, witness_app
from tests.integration.test_bundle_page import Reader, browser, reader
from tests.integration.test_witness import SIGNERS, policy_of, serving
from tests.support.bundles import STRANGER, WITNESS, Made, changed, make
from tests.support.recipes import ChecksumWriter
from tests.support.tsa import need_openssl

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::DeprecationWarning")]
__all__ = ["browser", "reader"]
assert BUNDLE_ATTACKS


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A closed log with a handover, whose ML-DSA-44 key is in its keys folder."""
    with AuditLog.open(tmp_path / "audit", post_quantum=True) as audit:
        for number in range(5):
            audit.log("x_note", "user@example.com", metadata={"number": number})
        audit.rotate_keys()
        audit.log("x_note", "boss@example.org")
    return tmp_path


def lines_in(file: Path) -> int:
    return len(parse_note(file.read_bytes()).signatures)


def told(capfdbinary: pytest.CaptureFixture[bytes], *argv: str) -> tuple[int, Any]:
    """Run a command; returns (exit code, its object)."""
    code = run([*argv, "--json"])
    out, _ = capfdbinary.readouterr()
    return code, json.loads(out) if out else None


def test_init_and_verify(tmp_path, capfdbinary, monkeypatch):
    """The key is made, shown, remembered, and taken from this machine's memory, the option or the keys folder."""
    monkeypatch.chdir(tmp_path)
    _, made = told(capfdbinary, "init", "--post-quantum")
    vkey = (tmp_path / "audit.keys" / "mldsa.pub").read_text().strip()
    assert ["log", "epoch", "ML-DSA-44"] == [key["role"] for key in made["keys"]]
    assert (vkey, ML_DSA_44) == (made["keys"][2]["vkey"], VerifierKey.parse(vkey).algorithm)
    assert 0 == run(["init", "--post-quantum"])
    capfdbinary.readouterr()

    def quantum(*argv: str) -> tuple[int, str, str]:
        code, verdict = told(capfdbinary, "verify", *argv)
        (threat,) = (one for one in verdict["threats"] if one["threat"] == "quantum")
        return code, threat["state"], threat["by"]

    assert (0, "ruled_out", True) == (*quantum()[:2], "from remembered" in quantum()[2])
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "nobody"))
    assert (0, "ruled_out", True) == (*quantum()[:2], "from keys folder" in quantum()[2])
    shutil.move(tmp_path / "audit.keys", tmp_path / "elsewhere")
    pinned = ("--key", str(tmp_path / "elsewhere" / "log.pub"))
    assert (0, "not_ruled_out") == quantum(*pinned)[:2]
    assert (0, "ruled_out") == quantum(*pinned, "--mldsa-key", str(tmp_path / "elsewhere" / "mldsa.pub"))[:2]
    assert (0, "ruled_out") == quantum(*pinned, "--mldsa-key", vkey)[:2]


def test_a_log_cannot_have_the_key_later(tmp_path, capfdbinary, monkeypatch):
    """`log_created` names it or nothing does; a key of another kind is refused."""
    monkeypatch.chdir(tmp_path)
    assert 0 == run(["init"])
    assert 2 == run(["init", "--post-quantum"])
    assert b"without an ML-DSA-44 key" in capfdbinary.readouterr().err
    assert not (tmp_path / "audit.keys" / "mldsa.key").exists()
    assert 2 == run(["verify", "--mldsa-key", "audit.keys/log.pub"])


def test_proofs_and_tiles(place, capfdbinary):
    """A proof of an entry, and the folder for other software, hold the checkpoint with all its lines."""
    log = ("--log", str(place / "audit"))
    assert 0 == run(["prove", "3", "-o", str(place / "entry.tlog-proof"), *log])
    assert 0 == run(["check", str(place / "entry.tlog-proof"), "--key", str(place / "audit.keys" / "log.pub")])
    assert 0 == run(["export", "--format", "tiles", "-o", str(place / "tiles"), *log])
    assert (3, 3) == (lines_in(place / "tiles" / "checkpoint"), lines_in(place / "audit" / "checkpoint"))
    capfdbinary.readouterr()
    keys = [VerifierKey.parse((place / "audit.keys" / name).read_text().strip()) for name in ("log.pub", "mldsa.pub")]
    _, _, signed = open_checkpoint((place / "tiles" / "checkpoint").read_bytes(), keys[0].name, keys)
    assert keys == list(signed)
    assert [keys[0]] == list(open_checkpoint((place / "tiles" / "checkpoint").read_bytes(), keys[0].name, keys[:1])[2])


def test_a_witness_cosigns_it(place):
    """The witness passes over the line that it does not know; the entry keeps all of them."""
    with AuditLog.open(place / "audit") as audit:
        key = VerifierKey.parse(audit.vkey)
        with serving(witness_app(Witness(SIGNERS[0], [key], Book(place / "w.sqlite")))) as url:
            policy = WitnessPolicy.parse(policy_of(key, {0: url}, "all"))
            audit.log("x_note", "user@example.com").wait("published")
            audit.rotate_keys()
            done = witness_now(audit, WitnessClient(policy))
        assert done.submission is not None
        assert (True, "cosigned") == (done.submission.satisfied, done.submission.results[0].state)
        verdict = audit.verify(witnesses=policy)
        assert ((), "ruled_out") == (verdict.findings, verdict.threat("fork").state)
        entry = json.loads(audit.reader.entry(done.seq or 0))
        assert 4 == len(parse_note(entry["metadata"]["note"].encode()).signatures)


def test_backup_and_successor(place, capfdbinary):
    """The key is backed up; what follows a restored log has one of its own, and names the past with all lines."""
    places = Places.resolve(place / "audit", environ={})
    back_up(places, place / "backup", keys=True)
    assert {"mldsa.key", "mldsa.pub"} <= {path.name for path in (place / "backup" / "audit.keys").iterdir()}
    known = (place / "audit" / "checkpoint").read_bytes()
    restored = Places.resolve(place / "backup" / "audit", environ={})
    succeed(restored, Places.resolve(place / "new", environ={}), [known], "disk lost")
    with AuditLog.open(place / "new") as audit:
        (entry,) = audit.query(event_type="log_recovered")
        assert 3 == len(parse_note(entry.metadata["restored"]["checkpoint"].encode()).signatures)
        audit.rotate_keys()
        assert ("ruled_out", ()) == (audit.verify().threat("quantum").state, audit.verify().findings)


@pytest.mark.parametrize("gone", ["checkpoint", "kept"])
def test_a_lost_checkpoint_is_put_back_with_its_line(place, gone):
    """From what the state folder remembers; a kept one of this epoch is signed again, by all keys."""
    (kept,) = sorted((place / "audit" / "checkpoints").iterdir())[-1:]
    (place / "audit" / "checkpoint").unlink()
    if gone == "kept":
        kept.unlink()
    recover(Places.resolve(place / "audit", environ={}))
    assert (3, 3) == (lines_in(place / "audit" / "checkpoint"), lines_in(kept))
    with AuditLog.open(place / "audit") as audit:
        assert () == audit.verify().broken


def test_a_time_stamp_on_it(tmp_path):
    """The token is over the file as it lies there, all lines; the bundle holds both."""
    need_openssl()
    made = make(tmp_path, stamped=True, post_quantum=True)
    assert 1 == len(check_bundle(made.data, VerifierKey.parse(made.vkey)).stamped)
    with AuditLog.open(tmp_path / "audit") as audit:
        assert () == audit.verify().broken


@pytest.fixture
def bundled(tmp_path) -> Made:
    """A bundle of a log whose checkpoint has the line."""
    return make(tmp_path, post_quantum=True)


def test_a_bundle(bundled):
    """Our own check verifies the line; without it, or with another one, the bundle does not hold."""
    key = VerifierKey.parse(bundled.vkey)
    good = check_bundle(bundled.data, key)
    assert not [words for words in good.not_checked if "signature line" in words]

    def spoil(evidence: dict[str, Any]) -> None:
        note = parse_note(evidence["checkpoint"].encode())
        line = note.signatures[2]
        twisted = type(line)(line.name, line.key_id, line.blob[:-1] + bytes([line.blob[-1] ^ 1]))
        evidence["checkpoint"] = format_note(type(note)(note.text, (*note.signatures[:2], twisted))).decode()

    with pytest.raises(InvalidSignature):
        check_bundle(changed(bundled, spoil), key)
    assert build_bundle(bundled.evidence) == bundled.data


def test_the_page(reader: Reader, bundled: Made):
    """The page checks the rest, and says that it cannot check ML-DSA-44."""
    reader.give(bundled.data)
    assert ("good", "") == (reader.trust(bundled.vkey), reader.findings())
    shown = reader.threats()
    assert ("out", "cannot") == (shown["edit"], shown["quantum"])
    assert "good" == reader.trust(bundled.vkey, WITNESS, STRANGER)
    assert "did not enter" not in reader.page.inner_text("body")


def other_name(evidence: dict[str, Any]) -> None:
    note = parse_note(evidence["checkpoint"].encode())
    line = note.signatures[2]
    other = type(line)(line.name, b"\0\0\0\0", line.blob)
    evidence["checkpoint"] = format_note(type(note)(note.text, (*note.signatures[:2], other))).decode()


def test_the_page_and_a_line_by_another_key(reader: Reader, bundled: Made):
    """Red, at the threat that it is."""
    reader.give(changed(bundled, other_name))
    assert ("bad", "detected") == (reader.trust(bundled.vkey), reader.threats()["quantum"])


def test_import(place, capfdbinary):
    """Entries of an old log come in as into any log."""
    old = ChecksumWriter(place / "audit.json")
    old.log("rate_limit_exceeded", "user@example.com", "api", "rate_limit_hit", "blocked")
    assert 0 == run(["import", str(old.path), "--log", str(place / "audit")])
    capfdbinary.readouterr()
    code, verdict = told(capfdbinary, "verify", "--log", str(place / "audit"))
    assert (0, "ruled_out") == (code, verdict["threats"][-1]["state"])
