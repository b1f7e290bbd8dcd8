"""What stores promise to writers that sign each batch: one head, moved by one writer at a time or not at all."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable

import pytest

from klingai_audit.errors import HeadConflict
from klingai_audit.ledger.batches import BatchStore, SignedBatch, takes_batches
from klingai_audit.testing.batches import DAY, NEXT_DAY, BatchMaker, commit
from klingai_audit.testing.store_contract.common import OpenStore, StoreContract
from klingai_audit.tlog.checkpoint_text import parse_checkpoint
from klingai_audit.tlog.note import parse_note

__all__ = ["BatchStoreContract", "commit_somehow", "together"]

PATIENCE = 120.0
"""Seconds that a writer tries again while others are faster."""


def commit_somehow(store: BatchStore, count: int = 1) -> SignedBatch:
    """Commit `count` entries behind whatever is there, again while other writers are faster."""
    until, pause = time.monotonic() + PATIENCE, 0.002
    while True:
        try:
            with store.transaction() as txn:
                batch = BatchMaker.of(store, txn.head()).batch(count)
                txn.append(batch)
        except HeadConflict:
            assert time.monotonic() < until, "other writers were faster all the time"
        else:
            return batch
        time.sleep(random.uniform(0, pause))
        pause = min(2 * pause, 0.2)


class BatchStoreContract(StoreContract):
    """A store whose commits carry signed checkpoints: `BatchTransaction`. Several store objects reach the same log."""

    def test_it_is_known_as_one(self, store: BatchStore) -> None:
        """The rest of the package tells by this how to write to it."""
        assert takes_batches(store)
        assert store.publish_interval >= 0

    def test_the_head_is_that_of_the_last_commit(self, store: BatchStore, maker: BatchMaker, opened: OpenStore) -> None:
        """None at first; then note and last line, for every store object."""
        other = opened()
        for store_of in (store, other):
            with store_of.transaction() as txn:
                assert txn.head() is None
        for count, day in ((2, DAY), (1, NEXT_DAY)):
            maker.put(store, count, day)
            for store_of in (store, other):
                with store_of.transaction() as txn:
                    head = txn.head()
                    assert (maker.note, maker.lines[-1]) == (head and (head.note, head.last))
                    assert head == txn.head()

    def test_time_is_told_or_not(self, store: BatchStore) -> None:
        """The server's clock does not stand still or go back within a transaction."""
        with store.transaction() as txn:
            txn.head()
            first, second = txn.now_ns(), txn.now_ns()
        if first is not None:
            assert second is not None
            assert 10**18 < first <= second

    def test_a_transaction_that_is_given_up_changes_nothing(self, store: BatchStore, maker: BatchMaker) -> None:
        """Left without a commit, or by an exception; the next one goes on."""
        maker.put(store, 2)
        with store.transaction() as txn:
            txn.head()
        with pytest.raises(ZeroDivisionError), store.transaction() as txn:
            txn.head()
            raise ZeroDivisionError
        maker.put(store, 1)
        assert maker.lines == list(store.read_entries(0))

    def test_a_batch_on_an_old_head_is_refused(self, store: BatchStore, maker: BatchMaker, opened: OpenStore) -> None:
        """It does not begin where the log ends: nothing of it, and of what belongs to it, becomes visible."""
        maker.put(store, 2)
        late = maker.batch(3, NEXT_DAY, keep=True, once=1)
        maker.put(store, 1)
        for _ in range(2):
            with pytest.raises(HeadConflict), store.transaction() as txn:
                commit(txn, late)
        self.check(opened(), maker)
        assert store.read_kept(5) is None
        assert store.find_end(late.ends[0][0]) is None
        maker.put(store, 1)
        self.check(opened(), maker)

    def test_a_batch_behind_a_gap_is_refused(self, store: BatchStore, maker: BatchMaker) -> None:
        """Entries come one after another."""
        maker.put(store, 2)
        ahead = BatchMaker()
        ahead.accept(ahead.batch(5))
        with pytest.raises(HeadConflict), store.transaction() as txn:
            commit(txn, ahead.batch(1))
        self.check(store, maker)

    def test_a_batch_is_committed_once(self, store: BatchStore, maker: BatchMaker) -> None:
        """The same batch again does not follow itself."""
        batch = maker.put(store, 2)
        with pytest.raises(HeadConflict), store.transaction() as txn:
            commit(txn, batch)
        self.check(store, maker)

    def test_one_of_two_wins(self, store: BatchStore, maker: BatchMaker, opened: OpenStore) -> None:
        """Of two writers with the same head one commits; the other waits and is refused, or is refused at once."""
        maker.put(store, 1)
        ready = threading.Barrier(2, timeout=PATIENCE)
        outcomes: list[SignedBatch | None] = []

        def write() -> None:
            mine, batch = opened(), maker.batch(2)
            ready.wait()
            try:
                with mine.transaction() as txn:
                    commit(txn, batch)
                outcomes.append(batch)
            except HeadConflict:
                outcomes.append(None)
            finally:
                mine.close()

        together(write, write)
        (winner,) = [batch for batch in outcomes if batch is not None]
        assert 2 == len(outcomes)
        maker.accept(winner)
        self.check(store, maker)

    def test_many_writers_take_turns(self, store: BatchStore, opened: OpenStore) -> None:
        """Everything that was acknowledged is there once, each writer's in its order, linked through."""
        done: list[list[SignedBatch]] = [[] for _ in range(4)]

        def write(number: int) -> None:
            mine = opened()
            for count in (1, 3, 2, 1, 4, 1):
                done[number].append(commit_somehow(mine, count))
            mine.close()

        together(*(lambda number=number: write(number) for number in range(4)))
        maker = BatchMaker()
        maker.replay(batch for batches in done for batch in batches)
        self.check(store, maker)

    def test_ends_are_found_or_not_told(self, store: BatchStore, maker: BatchMaker) -> None:
        """A store that keeps them tells where; one that does not never names a wrong place."""
        maker.put(store, 3)
        batch = maker.batch(4, once=2)
        with store.transaction() as txn:
            commit(txn, batch)
        maker.accept(batch)
        assert [store.find_end(event_id) for event_id, _seq in batch.ends] in ([3, 4], [None, None])
        assert store.find_end(batch.entries[3][24:60].decode()) is None

    def test_a_batch_may_be_large(self, store: BatchStore, maker: BatchMaker, opened: OpenStore) -> None:
        """Thousands of entries at once, over many tiles and a checkpoint that is kept."""
        maker.put(store, 100)
        maker.put(store, 5_000, NEXT_DAY)
        self.check(opened(), maker)
        assert store.read_kept(4_096) is not None

    def check(self, store: BatchStore, maker: BatchMaker) -> None:
        """The log holds what the maker knows, by all ways of asking, and nothing else."""
        assert maker.lines == list(store.read_entries(0))
        leaves = BatchMaker.leaves(maker.lines)
        assert leaves == store.read_hashes(0, 0, len(maker.lines) + 9)
        assert len(maker.lines) // 256 * 32 == len(store.read_hashes(1, 0, len(maker.lines)))
        with store.transaction() as txn:
            head = txn.head()
        assert (maker.note, maker.lines[-1:]) == ((head.note, [head.last]) if head else (b"", []))
        assert not head or maker.root == parse_checkpoint(parse_note(head.note).text).root


def together(*acts: Callable[[], object]) -> None:
    """Run all at once, each in a thread; what one of them raises is raised here."""
    failed: list[BaseException] = []

    def run(act: Callable[[], object]) -> None:
        try:
            act()
        except BaseException as error:  # noqa: BLE001  it is raised again below
            failed.append(error)

    threads = [threading.Thread(target=run, args=(act,)) for act in acts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for error in failed:
        raise error
