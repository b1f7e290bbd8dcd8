"""What stores promise that write files through `durable.FileOps`: whatever operation fails, the answer is true."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from klingai_audit.durable import FileOps
from klingai_audit.errors import AuditUnavailable
from klingai_audit.ledger.store import SealedStore, SyncFailed
from klingai_audit.testing.batches import DAY, BatchMaker, derive
from klingai_audit.testing.faulty import FaultyOps, How, QuickOps
from klingai_audit.testing.store_contract.common import OpenStore, StoreFixtures, closing_all, purged, purging
from klingai_audit.testing.store_contract.forked import in_child

__all__ = ["FileFaultsContract", "OpenWith"]

OpenWith = Callable[[FileOps], Any]
"""Gives a new store object for the place of one test that uses these file operations."""

HOW: Final[tuple[How, ...]] = ("lost", "done", "short")
TOO_MANY: Final = 500


class FileFaultsContract(StoreFixtures):
    """Every operation of a commit, a publication and a sealing fails once. Give the fixture `open_with` too.

    `open_with(ops)` opens the place of `open_store` with other file operations.
    """

    @pytest.fixture
    def opened_with(self, open_with: OpenWith) -> Iterator[OpenWith]:
        """`open_with`; what it gives is closed after the test."""
        with closing_all(open_with) as opened:
            yield opened

    @pytest.fixture
    def open_store(self, open_with: OpenWith) -> OpenStore:
        """Open it with operations that work."""
        return lambda: open_with(QuickOps())

    @pytest.mark.parametrize("new_day", [False, True])
    @pytest.mark.parametrize("how", HOW)
    def test_appending_with_every_fault(
        self,
        opened_with: OpenWith,
        maker: BatchMaker,
        how: How,
        new_day: bool,
    ) -> None:
        """A refused batch is not there and never will be; after a failed sync nothing more is taken, and none lost."""
        opened_with(QuickOps()).create()
        maker.put(opened_with(QuickOps()), 3)
        for fault in range(TOO_MANY):
            batch = maker.batch(2, DAY + dt.timedelta(fault + 1) if new_day else DAY)
            ops = FaultyOps(None, how)
            store = opened_with(ops)
            ops.calls.clear()
            ops.fail_at = fault
            outcome = _append(store, batch.entries, maker, batch.day)
            failed = bool(ops.failed)
            ops.fail_at = None
            if outcome == "refused":
                assert maker.lines == list(opened_with(QuickOps()).read_entries(0))
                assert "done" == _append(store, batch.entries, maker, batch.day), "a store that refused stays usable"
            elif outcome == "unknown":
                with pytest.raises(SyncFailed), opened_with(QuickOps()).transaction():
                    pass
                healed = opened_with(QuickOps())
                healed.recover_sync(lambda _name, _data: None)
                left = list(healed.read_entries(0))
                assert left[: len(maker.lines)] == maker.lines
                assert left[len(maker.lines) :] == batch.entries[: len(left) - len(maker.lines)]
                rest = batch.entries[len(left) - len(maker.lines) :]
                with healed.transaction() as txn:
                    if txn.pull(len(left)).torn:
                        txn.cut(len(left))
                    if rest:
                        txn.append(rest, len(left), batch.day)
            maker.accept(batch)
            assert maker.lines == list(opened_with(QuickOps()).read_entries(0)), f"{outcome} after {ops.failed}"
            store.close()
            if not failed:
                return
        pytest.fail(f"one append of {TOO_MANY} operations")

    @pytest.mark.parametrize("how", HOW)
    def test_publishing_with_every_fault(self, opened_with: OpenWith, maker: BatchMaker, how: How) -> None:
        """The published checkpoint is the old one or the new one, and what was kept stays."""
        opened_with(QuickOps()).create()
        maker.put(opened_with(QuickOps()), 300, keep=True)
        kept, first = maker.size, maker.note
        for fault in range(TOO_MANY):
            batch, ops = maker.batch(2, keep=True), FaultyOps(None, how)
            store, good = opened_with(ops), opened_with(QuickOps())
            assert "done" == _append(store, batch.entries, maker, DAY)
            ops.calls.clear()
            ops.fail_at = fault
            done = True
            try:
                with store.publication() as publication:
                    derive(publication, batch)
            except AuditUnavailable:
                done = False
            failed, ops.fail_at = bool(ops.failed), None
            assert good.read_checkpoint() in ([batch.note] if done else [batch.note, maker.note])
            assert first == good.read_kept(kept)
            assert good.read_kept(maker.size + 2) in ([batch.note] if done else [batch.note, None])
            _recover(good)
            with good.publication() as publication:
                derive(publication, batch)
            maker.accept(batch)
            assert BatchMaker.leaves(maker.lines) == good.read_hashes(0, 0, maker.size)
            store.close()
            if not failed:
                return
        pytest.fail(f"one publication of {TOO_MANY} operations")

    @pytest.mark.parametrize("how", HOW)
    def test_keeping_with_every_fault(
        self, opened_with: OpenWith, store: SealedStore, four_days: list[bytes], tmp_path: Path, how: How
    ) -> None:
        """Each line is read as it was or as it is to be, and putting again completes it."""
        expected = list(four_days)
        for fault in range(TOO_MANY):
            purge = fault % len(four_days[:15])
            ops = FaultyOps(None, how)
            faulty = opened_with(ops)
            with faulty.keeper(tmp_path / "scratch") as keeper:
                day = next(day for day in faulty.old_days() if day.begin <= purge < day.end)
                prepared = keeper.prepare(day, purging(purge))
                ops.calls.clear()
                ops.fail_at = fault
                try:
                    keeper.put(prepared)
                except AuditUnavailable:
                    ops.fail_at = None
                    both = zip(store.read_entries(0), expected, purged(expected, purge), strict=True)
                    assert all(line in (old, new) for line, old, new in both)
                    keeper.put(prepared)
            expected = purged(expected, purge)
            assert expected == list(store.read_entries(0))
            faulty.close()
            if not ops.failed:
                return
        pytest.fail(f"one day of {TOO_MANY} operations")

    def test_a_forked_child_writes_too(self, store: SealedStore, maker: BatchMaker) -> None:
        """After `after_fork` it shares nothing with its parent but the log."""
        maker.put(store, 2)

        def act() -> None:
            store.after_fork()
            maker.put(store, 2)

        assert 0 == in_child(act)
        with store.transaction() as txn:
            assert 2 == len(txn.pull(2).entries)
        assert 4 == len(list(store.read_entries(0)))


def _append(store: SealedStore, entries: Any, maker: BatchMaker, day: Any) -> str:
    """Append behind what the maker knows: `done`, `refused` or `unknown`."""
    try:
        with store.transaction() as txn:
            txn.pull(maker.size)
            txn.append(entries, maker.size, day)
    except SyncFailed:
        return "unknown"
    except AuditUnavailable:
        return "refused"
    return "done"


def _recover(store: SealedStore) -> None:
    try:
        with store.transaction():
            pass
    except SyncFailed:
        store.recover_sync(lambda _name, _data: None)
