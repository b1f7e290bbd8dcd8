"""Verification of logs that lie on a server: everything is found as in a folder, and nothing stays behind."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from pathlib import Path

import pytest

from klingai_audit.errors import LogDamaged
from klingai_audit.ledger.store import LogFile
from klingai_audit.privacy.policy import Policy
from klingai_audit.trust.verdict import Verdict
from klingai_audit.trust.verify import verify
from tests.support.batches import BatchMemory
from tests.support.ledgers import HandClock, Ledger, event


class Server(BatchMemory):
    """The reference store with what a hostile or careless server may hold besides; what is read is counted."""

    def __init__(self) -> None:
        super().__init__()
        self.strays: list[str] = []
        self.read: list[int] = []

    def inspect(self) -> tuple[LogFile, ...]:
        more = tuple(LogFile(name, "stray", 5, None, (1,)) for name in self.strays)
        return (*super().inspect(), *more)

    def read_entries(self, begin: int, end: int | None = None) -> Iterator[bytes]:
        for seq, line in enumerate(super().read_entries(begin, end), begin):
            if line == b"gone":
                return
            self.read.append(seq)
            yield line


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Server, str]:
    """Some 1,300 entries on three days, with two epochs that ended."""
    clock, store = HandClock(), Server()
    with Ledger(tmp_path_factory.mktemp("server"), store=store, clock=clock) as ledger:
        for _ in range(3):
            for _ in range(9):
                for _ in range(47):
                    ledger.appender.append(event())
                ledger.appender.flush()
                clock.advance(1)
            clock.advance(24 * 3600)
    return store, ledger.vkey


@pytest.fixture
def log(written: tuple[Server, str]) -> tuple[Server, str]:
    """A copy to do harm to."""
    store, vkey = written
    again = Server()
    for name in ("entries", "days", "kept", "tokens", "checkpoint", "note", "ends", "batches"):
        kept = getattr(store, name)
        setattr(again, name, kept if isinstance(kept, bytes | None) else kept.copy())
    again.hashes = {level: bytearray(hashes) for level, hashes in store.hashes.items()}
    return again, vkey


def look(log: tuple[Server, str], tmp_path: Path, **options: object) -> Verdict:
    store, vkey = log
    verdict = verify(store, key=vkey, scratch=tmp_path / "scratch", patience=0.0, **options)  # type: ignore[arg-type]
    assert [] == list(tmp_path.rglob("*"))
    return verdict


def kinds(verdict: Verdict) -> set[str]:
    return {finding.kind for finding in verdict.broken}


def test_a_whole_log(log, tmp_path):
    """Nothing is broken; the threats are as for a folder, and what handovers do not protect here is said."""
    verdict = look(log, tmp_path)
    assert ((), len(log[0].entries), "memory-batches:") == (verdict.broken, verdict.size, verdict.log)
    states = {threat.threat: threat.state for threat in verdict.threats}
    assert {"ruled_out"} == {
        states[name] for name in ("edit", "insert", "delete", "reorder", "head_cut", "foreign_key")
    }
    assert "derive the keys of coming epochs" in verdict.threat("key_theft").by


def test_an_entry_changed(log, tmp_path):
    """It is found at its place in the day that it belongs to."""
    line = log[0].entries[900]
    log[0].entries[900] = line.replace(b'"n":1', b'"n":2')
    found = look(log, tmp_path).broken[0]
    assert ("entry_changed", 900, "audit-2026-11-23.jsonl") == (found.kind, found.seq, found.file)


def test_entries_gone_from_the_middle(log, tmp_path):
    """What follows a gap is still read, so that the gap alone is missed."""
    log[0].entries[500:503] = [b"gone"] * 3
    found = look(log, tmp_path).broken
    assert [("entry_missing", 500, 503)] == [(one.kind, one.seq, one.seq_end) for one in found]


def test_entries_gone_from_the_end(log, tmp_path):
    """The signed size tells."""
    del log[0].entries[1200:], log[0].days[1200:]
    assert {"tail_cut"} == kinds(look(log, tmp_path))


def test_a_hash_changed(log, tmp_path):
    """Stored hashes are compared on every level."""
    log[0].hashes[0][40] ^= 1
    log[0].hashes[1][40] ^= 1
    found = look(log, tmp_path).broken
    assert [("tree_changed", "tree/0"), ("tree_changed", "tree/1")] == [(one.kind, one.file) for one in found]


def test_hashes_beyond_the_entries(log, tmp_path):
    """More hashes than entries are no part of the log."""
    log[0].hashes[0] += bytes(32)
    log[0].hashes[3] = bytearray(32)
    found = look(log, tmp_path).broken
    assert [("tree_long", "tree/0"), ("tree_long", "tree/3")] == [(one.kind, one.file) for one in found]


def test_a_kept_checkpoint_gone(log, tmp_path):
    """Entries name which must be there."""
    del log[0].kept[max(log[0].kept)]
    assert {"kept_missing"} == kinds(look(log, tmp_path))


def test_set_back(log, tmp_path):
    """A published checkpoint that was set back leaves signed entries behind it; they are not lost from sight."""
    old = min(log[0].kept)
    log[0].checkpoint = log[0].kept[old]
    assert {"unsigned_tail", "checkpoint_behind"} == kinds(look(log, tmp_path))


def test_policy_may_tolerate_what_is_not_published(log, tmp_path):
    """Where a signer is away, entries wait for a checkpoint; they need no seal here to be a note."""
    old = sorted(log[0].kept)[1]
    log[0].checkpoint = log[0].kept[old]
    log[0].kept = {size: note for size, note in log[0].kept.items() if size <= old}
    assert {"unsigned_tail"} == kinds(look(log, tmp_path))
    assert "seal" not in look(log, tmp_path).broken[0].message
    text = Policy.DEFAULT_TEXT.replace("require_checkpoint = true", "require_checkpoint = false")
    verdict = look(log, tmp_path, policy=Policy.parse(text.encode()))
    assert ((), "unpublished") == (verdict.broken, verdict.notes[0].kind)


def test_set_back_with_its_entries(log, tmp_path):
    """Where the entries went too, checkpoints that were kept tell what was signed."""
    old = min(log[0].kept)
    later = log[0].kept
    set_back(log[0], old)
    log[0].kept = later
    assert {"rollback"} == kinds(look(log, tmp_path))


def test_what_does_not_belong(log, tmp_path):
    """Something else in the log's place is named, whatever it is called."""
    log[0].strays = ["notes/../../x", "audit-2026-11-21.jsonl.old", "tree/x", "tree/"]
    found = look(log, tmp_path).broken
    assert [("file_unexpected", name) for name in sorted(log[0].strays)] == [(one.kind, one.file) for one in found]


def test_an_entry_on_another_day(log, tmp_path):
    """A store that files an entry under another day than it was logged on is found out: retention goes by days."""
    log[0].days[500:502] = [dt.date(2026, 11, 21)] * 2
    log[0].days.sort()
    assert {"wrong_day"} == kinds(look(log, tmp_path))


def set_back(store: Server, size: int) -> None:
    """Make the store what it was at a size of which a checkpoint is kept."""
    store.checkpoint = store.kept[size]
    del store.entries[size:], store.days[size:]
    for level, hashes in store.hashes.items():
        del hashes[32 * (size >> 8 * level) :]
    store.kept = {kept: note for kept, note in store.kept.items() if kept <= size}


def test_quick(log, written, tmp_path):
    """Only what is new is read, and the verdict says from where."""
    old = sorted(log[0].kept)[1]
    set_back(log[0], old)
    memory = look(log, tmp_path).memory
    written[0].read.clear()
    verdict = look(written, tmp_path, quick_from=memory)
    assert ((), old, len(written[0].entries)) == (verdict.broken, verdict.quick_from, verdict.size)
    assert [0, old - 1] == sorted(set(written[0].read))[:2]


def test_quick_falls_back(log, tmp_path):
    """Where what was verified is not there any more, everything is read."""
    memory = look(log, tmp_path).memory
    log[0].hashes[0][40] ^= 1
    log[0].hashes[1][0] ^= 1
    verdict = look(log, tmp_path, quick_from=memory)
    assert (None, {"tree_changed"}) == (verdict.quick_from, kinds(verdict))


@pytest.mark.parametrize("quick", [False, True])
def test_a_store_that_cannot_read_what_it_holds(log, tmp_path, monkeypatch, quick):
    """That is a verdict, not an error: it names what is gone, and rules nothing out."""
    memory = look(log, tmp_path).memory if quick else None

    def inspect(_: Server) -> tuple[LogFile, ...]:
        raise LogDamaged("The object tile/entries/000 is gone.", kind_of_damage="entry_missing")

    monkeypatch.setattr(Server, "inspect", inspect)
    verdict = look(log, tmp_path, quick_from=memory)
    assert [("file_unreadable", "The object tile/entries/000 is gone.")] == [
        (one.kind, one.message) for one in verdict.broken
    ]
    assert {"not_ruled_out"} == {threat.state for threat in verdict.threats}


def test_nothing_there(tmp_path):
    """An empty place whose log is remembered is a finding."""
    verdict = verify(Server(), remembered=b"x", scratch=tmp_path / "scratch")
    assert {"log_missing"} == kinds(verdict)
