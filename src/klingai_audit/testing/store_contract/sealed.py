"""What stores promise to writers that seal their batches: pull, append, cut, take out."""

from __future__ import annotations

import threading

import pytest

from klingai_audit.errors import HeadConflict, LogDamaged
from klingai_audit.ledger.store import SealedStore
from klingai_audit.testing.batches import DAY, NEXT_DAY, BatchMaker, derive
from klingai_audit.testing.store_contract.common import StoreContract

__all__ = ["SealedStoreContract"]


class SealedStoreContract(StoreContract):
    """A store without its own commit of checkpoints: `Transaction` and `SealedPublication`."""

    def test_pull_gives_what_is_new(self, store: SealedStore, maker: BatchMaker) -> None:
        """Everything from a size on, the line before it, and nothing torn."""
        maker.put(store, 5)
        maker.put(store, 2, NEXT_DAY)
        for counted in (False, True):
            with store.transaction() as txn:
                pulled = txn.pull(4, counted=counted)
            assert maker.lines[4:] == pulled.entries
            assert b"" == pulled.torn
            assert maker.lines[3] == pulled.before

    def test_pull_from_the_beginning(self, store: SealedStore, maker: BatchMaker) -> None:
        """There is no line before the first."""
        maker.put(store, 2)
        with store.transaction() as txn:
            pulled = txn.pull(0)
        assert maker.lines == pulled.entries
        assert pulled.before is None

    def test_fewer_entries_than_known_is_damage(self, store: SealedStore, maker: BatchMaker) -> None:
        """A store that lost entries says so instead of answering with less."""
        maker.put(store, 2)
        with store.transaction() as txn, pytest.raises(LogDamaged) as caught:
            txn.pull(3, counted=True)
        assert "tail_cut" == caught.value.kind_of_damage

    def test_appending_elsewhere_than_at_the_end_is_refused(self, store: SealedStore, maker: BatchMaker) -> None:
        """The batch has to follow what is there; nothing of it is visible otherwise."""
        maker.put(store, 2)
        for begin in (1, 3):
            with store.transaction() as txn:
                txn.pull(0)
                with pytest.raises(HeadConflict):
                    txn.append(maker.batch().entries, begin, DAY)
        assert maker.lines == list(store.read_entries(0))

    def test_cut_removes_what_follows(self, store: SealedStore, maker: BatchMaker) -> None:
        """Lines beyond a size go, over day files, and appending goes on behind what is left."""
        maker.put(store, 4)
        maker.put(store, 3, NEXT_DAY)
        with store.transaction() as txn:
            txn.pull(0)
            txn.cut(2)
        assert maker.lines[:2] == list(store.read_entries(0))
        with store.transaction() as txn:
            txn.pull(2)
            txn.append(maker.lines[2:4], 2, NEXT_DAY)
        assert maker.lines[:4] == list(store.read_entries(0))

    def test_cut_to_nothing(self, store: SealedStore, maker: BatchMaker) -> None:
        """All lines may go."""
        maker.put(store, 3)
        with store.transaction() as txn:
            txn.pull(0)
            txn.cut(0)
        assert [] == list(store.read_entries(0))

    def test_foreign_bytes_are_taken_out(self, store: SealedStore, maker: BatchMaker) -> None:
        """Whole lines and beginnings of lines go, over day files; the rest stays as it is, and appending goes on."""
        maker.put(store, 4)
        maker.put(store, 3, NEXT_DAY)
        lines = maker.lines
        with store.transaction() as txn:
            txn.pull(1)
            txn.remove([(0, None), (2, 7), (3, None), (5, 2)])
        left = [lines[0], lines[2], lines[3][7:], lines[5], lines[6][2:]]
        assert left == list(store.read_entries(0))
        with store.transaction() as txn:
            assert left[2:] == txn.pull(2, counted=True).entries
        with store.transaction() as txn:
            txn.pull(0)
            txn.append(lines[5:6], 5, NEXT_DAY)
        assert [*left, lines[5]] == list(store.read_entries(0))

    def test_a_day_of_foreign_lines_alone_goes(self, store: SealedStore, maker: BatchMaker) -> None:
        """A day of which nothing is left has no file."""
        maker.put(store, 2)
        maker.put(store, 1, NEXT_DAY)
        with store.transaction() as txn:
            txn.pull(0)
            txn.remove([(2, None)])
        assert maker.lines[:2] == list(store.read_entries(0))
        assert [f"audit-{DAY}.jsonl"] == [file.name for file in store.inspect() if file.kind == "entries"]

    def test_transactions_exclude_each_other(self, store: SealedStore) -> None:
        """The second writer waits until the first is done."""
        order: list[str] = []
        inside = threading.Event()

        def second() -> None:
            inside.wait()
            with store.transaction():
                order.append("second")

        thread = threading.Thread(target=second)
        thread.start()
        with store.transaction():
            inside.set()
            thread.join(0.05)
            order.append("first")
        thread.join()
        assert ["first", "second"] == order

    def test_publishing_goes_on_inside_a_transaction(self, store: SealedStore, maker: BatchMaker) -> None:
        """Whoever holds the transaction may publish too."""
        batch = maker.batch(2)
        with store.transaction() as txn:
            txn.pull(0)
            txn.append(batch.entries, 0, DAY)
            with store.publication() as publication:
                derive(publication, batch)
        assert batch.note == store.read_checkpoint()

    def test_hashes_replace_what_follows(self, store: SealedStore) -> None:
        """Writing from an index on drops what stood behind it."""
        old, new = bytes(32) * 4, b"\1" * 32
        with store.publication() as publication:
            publication.put_hashes(0, 0, old)
            publication.put_hashes(0, 1, new)
            publication.sync_hashes()
        assert old[:32] + new == store.read_hashes(0, 0, 9)
