"""When a writer adds the ML-DSA-44 line, and what it refuses to do without the key."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from klingai_audit.errors import LogDamaged, LogNotFound, Malformed, MissingExtra
from klingai_audit.ledger.keys import KeyFolder
from klingai_audit.ledger.state import OriginMemory
from klingai_audit.log import AuditLog
from klingai_audit.tlog import keys as tlog_keys
from klingai_audit.tlog.cosignature import verify_cosignature
from klingai_audit.tlog.keys import ML_DSA_44, SignerKey, VerifierKey
from klingai_audit.tlog.note import parse_note
from klingai_audit.trust.verify import verify
from tests.support.faulty import QuickOps
from tests.support.ledgers import HandClock


def opened(folder: Path, clock: HandClock | None = None, **options: object) -> AuditLog:
    options = {"post_quantum": True, "ops": QuickOps(), "clock": clock or HandClock()} | options
    return AuditLog.open(folder / "audit", **options)  # type: ignore[arg-type]


def lines(folder: Path, name: str = "checkpoint") -> int:
    return len(parse_note((folder / "audit" / name).read_bytes()).signatures)


def work(audit: AuditLog) -> None:
    audit.log("x_work", "user@example.com").wait("published")


def test_once_a_minute(tmp_path, clock):
    """On the first checkpoint of a writer, and on the one published next after a minute; it states the time."""
    with opened(tmp_path, clock) as audit:
        seen = [lines(tmp_path)]
        for seconds in (1, 58.9, 0.2, 30, 29.9, 0.2, 500):
            clock.advance(seconds)
            work(audit)
            seen.append(lines(tmp_path))
        key = VerifierKey.parse((tmp_path / "audit.keys" / "mldsa.pub").read_text().strip())
        note = parse_note((tmp_path / "audit" / "checkpoint").read_bytes())
        assert clock.now_ns() // 10**9 == verify_cosignature(note.text, note.signatures[2], key)
    assert [3, 2, 2, 3, 2, 2, 3, 3] == seen


def test_a_clock_set_back_makes_it_due(tmp_path, clock):
    """Else a wrong clock could keep the line away for ever."""
    with opened(tmp_path, clock) as audit:
        clock.step(-3600)
        work(audit)
        assert 3 == lines(tmp_path)


def test_on_every_kept_checkpoint(tmp_path, clock):
    """Handovers, closings, multiples of 4,096; and what lies between has none within the minute."""
    with opened(tmp_path, clock) as audit:
        audit.rotate_keys()
        work(audit)
        assert 2 == lines(tmp_path)
        for _ in range(4100):
            audit.log("x_work", "user@example.com")
        audit.flush("published")
        assert 2 == lines(tmp_path)
    kept = sorted((tmp_path / "audit" / "checkpoints").iterdir())
    assert (3, {3}) == (len(kept), {lines(tmp_path, f"checkpoints/{path.name}") for path in kept})
    assert f"{4096:020}" in {path.name for path in kept}
    assert (tmp_path / "audit" / "checkpoint").read_bytes() == kept[-1].read_bytes()


def test_two_writers_and_a_later_one(tmp_path):
    """Whoever closes or rotates, the line is there."""
    with opened(tmp_path) as first, opened(tmp_path) as second:
        work(first)
        second.rotate_keys()
        work(first)
    with opened(tmp_path, post_quantum=False) as audit:
        verdict = audit.verify()
        assert ((), "ruled_out") == (verdict.broken, verdict.threat("quantum").state)
    assert {3} == {
        lines(tmp_path, f"checkpoints/{path.name}") for path in (tmp_path / "audit" / "checkpoints").iterdir()
    }


def test_the_first_entry_names_the_key(tmp_path):
    """After the epoch's key, before the policy; the origin's memory keeps it."""
    with opened(tmp_path) as audit:
        created = json.loads(audit.reader.entry(0))["metadata"]
        vkey = created["mldsa_key"]
        assert ["format", "origin", "log_key", "epoch", "epoch_key", "mldsa_key", "policy"] == list(created)
        assert (audit.origin, ML_DSA_44) == (VerifierKey.parse(vkey).name, VerifierKey.parse(vkey).algorithm)
        assert vkey == OriginMemory().recall_mldsa(audit.origin)
        assert f"{vkey}\n" == (tmp_path / "audit.keys" / "mldsa.pub").read_text()
    assert 0o600 == (tmp_path / "audit.keys" / "mldsa.key").stat().st_mode & 0o777


def test_a_log_without_the_key(tmp_path):
    """Nothing is different, whatever lies in the keys folder."""
    with opened(tmp_path, post_quantum=False) as audit:
        work(audit)
    assert not (tmp_path / "audit.keys" / "mldsa.key").exists()
    assert (2, None) == (lines(tmp_path), OriginMemory().recall_mldsa(audit.origin))
    signer = SignerKey.generate(audit.origin, ML_DSA_44)
    (tmp_path / "audit.keys" / "mldsa.key").write_text(f"{signer.format()}\n")
    (tmp_path / "audit.keys" / "mldsa.key").chmod(0o600)
    with opened(tmp_path) as audit:
        work(audit)
        assert 2 == lines(tmp_path)
        assert () == verify(audit.reader.store, key=audit.vkey, patience=0).broken


@pytest.mark.parametrize("then", [True, False])
def test_an_init_that_was_cut_off_keeps_its_key(tmp_path, then):
    """The key that was made first is the one that the log names."""
    folder = KeyFolder(tmp_path / "audit.keys")
    with folder.locked():
        folder.create(f"log.example.com/cut-{then}", post_quantum=True)
    made = folder.mldsa_vkey
    with opened(tmp_path, post_quantum=then) as audit:
        assert made == json.loads(audit.reader.entry(0))["metadata"]["mldsa_key"]


def test_a_key_asked_for_too_late_is_not_made(tmp_path):
    """A log that exists names no key: one beside it would only confuse whoever verifies."""
    opened(tmp_path, post_quantum=False).close()
    opened(tmp_path).close()
    assert not (tmp_path / "audit.keys" / "mldsa.key").exists()


def test_nothing_is_signed_without_the_key(tmp_path):
    """Checkpoints without the line would be broken ones: better none."""
    opened(tmp_path).close()
    key = tmp_path / "audit.keys" / "mldsa.key"
    other = SignerKey.generate(KeyFolder(tmp_path / "audit.keys").origin, ML_DSA_44)
    shutil.move(key, tmp_path / "key")
    with pytest.raises(LogNotFound, match=r"mldsa\.key is missing"):
        opened(tmp_path)
    key.write_text(f"{other.format()}\n")
    key.chmod(0o600)
    with pytest.raises(LogDamaged, match="not the ML-DSA-44 key"):
        opened(tmp_path)
    key.write_text("PRIVATE+KEY+none\n")
    with pytest.raises(Malformed):
        opened(tmp_path)
    shutil.move(tmp_path / "key", key)
    with opened(tmp_path) as audit:
        work(audit)
        assert () == audit.verify().broken


def test_no_key_is_made_where_there_is_no_ml_dsa(tmp_path, monkeypatch):
    """Said at once, and nothing is left behind."""
    monkeypatch.setitem(__import__("sys").modules, "cryptography.hazmat.primitives.asymmetric.mldsa", None)
    tlog_keys._load_public.cache_clear()
    with pytest.raises(MissingExtra):
        opened(tmp_path)
    assert [] == list((tmp_path / "audit.keys").iterdir())
