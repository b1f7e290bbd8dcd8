"""Copying a log into another kind of store: byte for byte, in pieces, and again after it was stopped."""

from __future__ import annotations

import datetime as dt
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from klingai_audit.errors import AuditUnavailable, HeadConflict, LogDamaged, UsageError
from klingai_audit.ledger.batches import SignedBatch
from klingai_audit.ledger.purged import purged_line
from klingai_audit.ledger.reader import LogReader
from klingai_audit.ledger.store import Store
from klingai_audit.ledger.transfer import transfer
from klingai_audit.stores.directory import DirectoryStore
from klingai_audit.stores.memory import MemoryStore
from klingai_audit.tlog.merkle import leaf_hash
from klingai_audit.tlog.proof import parse_proof
from klingai_audit.trust.verify import verify
from tests.support.batches import BatchMemory
from tests.support.logsmith import Smith, write_files
from tests.support.retained import RETAINED

TARGETS: dict[str, Callable[[Path], Store]] = {
    "batches": lambda _folder: BatchMemory(),
    "batches, published later": lambda _folder: BatchMemory(publishes=False),
    "memory": lambda _folder: MemoryStore(),
    "directory": lambda folder: DirectoryStore(folder / "target", folder / "mark"),
}


@pytest.fixture(params=TARGETS)
def target(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    return TARGETS[request.param](tmp_path)


def source_of(smith: Smith, folder: Path) -> DirectoryStore:
    return DirectoryStore(smith.write(folder / "source"), folder / "no-mark")


def some_days() -> Smith:
    """Three days, two epochs, closings, a task's end, kept checkpoints."""
    smith = Smith().create().work(40).closed().next_day().rotate().opened("w2").work(30).closed("w2")
    return smith.next_day().opened("w3").work(12).closed("w3")


def check_same(source: Store, target: Store) -> None:
    """Compare everything that a store can be asked for."""
    assert source.read_checkpoint() == target.read_checkpoint()
    assert list(source.read_entries(0)) == list(target.read_entries(0))
    count = LogReader(source).size
    assert source.read_hashes(0, 0, count) == target.read_hashes(0, 0, count)
    kept = [file.name for file in source.inspect() if file.kind in ("kept", "token")]
    assert kept == [file.name for file in target.inspect() if file.kind in ("kept", "token")]
    for name in kept:
        with source.view(name) as one, target.view(name) as other:
            assert bytes(one) == bytes(other)


def kinds(store: Store, smith: Smith) -> list[str]:
    found = verify(store, key=smith.log_key.vkey, now=smith.now, patience=0)
    return [finding.kind for finding in found.findings]


def test_everything_is_copied(tmp_path, target):
    """Entries, tree, checkpoints: the copy verifies, and proofs of before hold against it."""
    smith = some_days()
    source = source_of(smith, tmp_path)
    note = smith.checkpoint()
    before = [LogReader(source).prove(seq).format() for seq in (0, 41, len(smith.entries) - 1)]
    seen: list[tuple[int, int]] = []
    assert len(smith.entries) == transfer(source, target, note, final=True, progress=lambda *at: seen.append(at))
    check_same(source, target)
    assert before == [LogReader(target).prove(seq).format() for seq in (0, 41, len(smith.entries) - 1)]
    assert (len(smith.entries), len(smith.entries)) == seen[-1]
    if isinstance(target, DirectoryStore):
        assert [] == kinds(target, smith)
    assert 0 == transfer(source, target, note, final=True)


def test_a_beginning_is_taken_up_by_nobody(tmp_path):
    """While writers go on in the source, the target has a head that no key of the log signed, and no checkpoint."""
    smith = some_days()
    source, target = source_of(smith, tmp_path), BatchMemory()
    copied = transfer(source, target, smith.checkpoint(), final=False)
    assert 0 < copied < len(smith.entries)
    assert target.read_checkpoint() is None
    assert target.note is not None
    assert smith.log_key.name.encode() + b" " not in target.note
    smith.work(20).closed()
    assert len(smith.entries) - copied == transfer(
        source_of(smith, tmp_path / "more"), target, smith.checkpoint(), final=True
    )
    check_same(source_of(smith, tmp_path / "again"), target)


@pytest.mark.parametrize("when", range(6))
@pytest.mark.parametrize("lost", [True, False])
def test_stopped_and_done_again(tmp_path, when, lost):
    """Whether or not the batch at which it was stopped was committed, the second run copies the rest."""
    smith = some_days()
    source, target = source_of(smith, tmp_path), BatchMemory()
    count = itertools.count()

    def stop(batch: SignedBatch) -> None:
        if next(count) == when:
            if not lost:
                target.before = lambda batch: None
                with target.transaction() as txn:
                    txn.append(batch)
            raise AuditUnavailable("the server is gone")

    target.before = stop
    try:
        transfer(source, target, smith.checkpoint(), final=True)
    except AuditUnavailable:
        target.before = lambda batch: None
        transfer(source, target, smith.checkpoint(), final=True)
    check_same(source, target)


def test_a_torn_line_in_the_target_goes(tmp_path):
    """A folder may hold half a line when the first run was killed."""
    smith = some_days()
    source = source_of(smith, tmp_path)
    target = DirectoryStore(tmp_path / "target", tmp_path / "mark")
    transfer(source, target, smith.checkpoint(), final=True)
    name = max(file.name for file in target.inspect() if file.kind == "entries")
    (tmp_path / "target" / "checkpoint").unlink()
    whole = (tmp_path / "target" / name).read_bytes()
    (tmp_path / "target" / name).write_bytes(whole[: len(whole) // 2])
    again = DirectoryStore(tmp_path / "target", tmp_path / "mark")
    transfer(source, again, smith.checkpoint(), final=True)
    check_same(source, again)
    assert [] == kinds(again, smith)


def other_logs(smith: Smith) -> Iterator[Smith]:
    """Logs that are no beginning of this one: another, a longer one, one that went another way."""
    yield Smith(origin="log.example.com/other").create().work(4).closed()
    yield some_days().work(4).closed()
    yield Smith().create().work(10).closed()


@pytest.mark.parametrize("kind", TARGETS)
@pytest.mark.parametrize("which", range(3))
def test_another_log_is_not_touched(tmp_path, kind, which):
    """What is in the target and no beginning of this log stays as it is."""
    smith = some_days()
    other = list(other_logs(smith))[which]
    target = TARGETS[kind](tmp_path)
    transfer(source_of(other, tmp_path / "other"), target, other.checkpoint(), final=True)
    before = list(target.read_entries(0))
    with pytest.raises(UsageError, match="something else"):
        transfer(source_of(smith, tmp_path), target, smith.checkpoint(), final=True)
    assert before == list(target.read_entries(0))


def test_two_at_a_time(tmp_path):
    """The one that was slower stops; done again it finds nothing to do."""
    smith = some_days()
    source, target = source_of(smith, tmp_path), BatchMemory()

    def race(batch: SignedBatch) -> None:
        target.before = lambda batch: None
        transfer(source, target, smith.checkpoint(), final=True)

    target.before = race
    with pytest.raises(HeadConflict):
        transfer(source, target, smith.checkpoint(), final=True)
    assert 0 == transfer(source, target, smith.checkpoint(), final=True)
    check_same(source, target)


@pytest.mark.parametrize("damage", ["entry", "hash", "root", "short"])
def test_damage_is_not_copied_over(tmp_path, target, damage):
    """A source that does not lead to the signed root gives no target that anybody takes up."""
    smith = some_days()
    note = smith.checkpoint()
    source = MemoryStore()
    transfer(source_of(smith, tmp_path), source, note, final=True)
    if damage == "entry":
        source.entries[20] = source.entries[20].replace(b"user", b"usor")
    elif damage == "hash":
        source.hashes[0][5] ^= 1
    elif damage == "root":
        note = Smith().create().work(200).checkpoint(len(smith.entries))
    else:
        del source.entries[-2:]
    with pytest.raises(LogDamaged):
        transfer(source, target, note, final=True)
    assert target.read_checkpoint() is None


def purge(store: MemoryStore, begin: int, end: int) -> None:
    for seq in range(begin, end):
        store.entries[seq] = purged_line(leaf_hash(store.entries[seq]), 70)


def test_purged_entries(tmp_path, target):
    """A purged line is copied as such, with the leaf hash it stands for, on the day it was logged."""
    smith = some_days()
    source = MemoryStore()
    transfer(source_of(smith, tmp_path), source, smith.checkpoint(), final=True)
    purge(source, 3, 20)
    purge(source, 42, 50)
    transfer(source, target, smith.checkpoint(), final=True)
    check_same(source, target)
    assert [(day.day, day.begin, day.end) for day in source.old_days()] == [
        (day.day, day.begin, day.end) for day in target.old_days()
    ]


def test_purged_since_it_was_copied(tmp_path):
    """What was copied before it was purged would live on in the target: that is refused."""
    smith = some_days()
    source, target = MemoryStore(), BatchMemory()
    transfer(source_of(smith, tmp_path), source, smith.checkpoint(), final=True)
    transfer(source, target, smith.checkpoint(), final=False)
    purge(source, 3, 5)
    with pytest.raises(UsageError, match="Entry 3 was purged"):
        transfer(source, target, smith.checkpoint(), final=True)


steps = st.lists(st.sampled_from(["work", "day", "rotate", "close", "wait"]), max_size=8)


@settings(max_examples=25, deadline=None)
@given(steps=steps, begin=st.integers(0, 40), seq=st.integers(0))
def test_any_log(tmp_path_factory, steps, begin, seq):
    """The root is equal at every size, and whatever could be proved before is proved by the copy in the same bytes."""
    smith = Smith().create()
    for step in steps:
        if step == "work":
            smith.work(7)
        elif step == "day":
            smith.next_day()
        elif step == "rotate":
            smith.rotate()
        elif step == "close":
            smith.closed()
        else:
            smith.now += dt.timedelta(minutes=9)
    folder = tmp_path_factory.mktemp("log")
    source, target = source_of(smith, folder), BatchMemory()
    seq %= len(smith.entries)
    old = parse_proof(LogReader(source).prove(seq).format())
    transfer(source, target, smith.checkpoint(), final=False)
    transfer(source, target, smith.checkpoint(), final=True)
    check_same(source, target)
    assert old == LogReader(target).prove(seq)
    size = 1 + begin % len(smith.entries)
    assert LogReader(source).consistency(size, len(smith.entries)) == LogReader(target).consistency(
        size, len(smith.entries)
    )


@pytest.mark.parametrize("name", RETAINED)
def test_sealed_and_purged_logs(tmp_path, name):
    """Whatever was purged and sealed, the copy verifies to the same findings, in files and in batches."""
    made = RETAINED[name]()
    source = DirectoryStore(write_files(tmp_path / "source", made.files()), tmp_path / "mark")
    for target in (BatchMemory(), DirectoryStore(tmp_path / "target", tmp_path / "no-mark")):
        transfer(source, target, made.smith.checkpoint(), final=True)
        assert kinds(source, made.smith) == kinds(target, made.smith)
        assert list(source.read_entries(0)) == list(target.read_entries(0))
