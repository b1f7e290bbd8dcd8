"""One contract, every store: what `klingai_audit.ledger.store` promises, over directory and memory."""

from __future__ import annotations

import datetime as dt
import hashlib
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from klingai_audit.errors import HeadConflict, LogDamaged
from klingai_audit.ledger.store import Store
from klingai_audit.stores.directory import DirectoryStore
from klingai_audit.stores.memory import MemoryStore
from tests.support.ledgers import unsealed_entries

DAY = dt.date(2026, 11, 21)
NEXT = dt.date(2026, 11, 22)


@pytest.fixture(params=["directory", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    """An empty store of each kind."""
    made: Store = (
        DirectoryStore(tmp_path / "audit", tmp_path / "mark") if request.param == "directory" else MemoryStore()
    )
    made.create()
    yield made
    made.close()


def fill(store: Store, count: int, *, begin: int = 0, day: dt.date = DAY) -> list[bytes]:
    """Append `count` entries as one batch and return them."""
    lines = unsealed_entries(begin, count, day)
    with store.transaction() as txn:
        txn.pull(begin)
        txn.append(lines, begin, day)
    return lines


class TestEntries:
    def test_an_empty_store_does_not_exist(self, store: Store) -> None:
        """Preparing a place makes no log."""
        assert not store.exists()
        assert [] == list(store.read_entries(0))

    def test_creating_twice_changes_nothing(self, store: Store) -> None:
        """`create` is idempotent, with entries there too."""
        lines = fill(store, 3)
        store.create()
        assert lines == list(store.read_entries(0))

    def test_what_was_appended_is_read(self, store: Store) -> None:
        """Bytes come back as they went in, in order, by half-open ranges."""
        lines = fill(store, 5) + fill(store, 4, begin=5) + fill(store, 3, begin=9, day=NEXT)
        assert store.exists()
        assert lines == list(store.read_entries(0))
        for begin, end in ((0, 0), (0, 1), (4, 6), (8, 10), (9, 12), (11, 12), (12, 20), (3, None)):
            assert lines[begin:end] == list(store.read_entries(begin, end))

    def test_pull_gives_what_is_new(self, store: Store) -> None:
        """Everything from a size on, the line before it, and nothing torn."""
        lines = fill(store, 5) + fill(store, 2, begin=5, day=NEXT)
        for counted in (False, True):
            with store.transaction() as txn:
                pulled = txn.pull(4, counted=counted)
            assert lines[4:] == pulled.entries
            assert b"" == pulled.torn
            assert lines[3] == pulled.before

    def test_pull_from_the_beginning(self, store: Store) -> None:
        """There is no line before the first."""
        lines = fill(store, 2)
        with store.transaction() as txn:
            pulled = txn.pull(0)
        assert lines == pulled.entries
        assert pulled.before is None

    def test_fewer_entries_than_known_is_damage(self, store: Store) -> None:
        """A store that lost entries says so instead of answering with less."""
        fill(store, 2)
        with store.transaction() as txn, pytest.raises(LogDamaged) as caught:
            txn.pull(3, counted=True)
        assert "tail_cut" == caught.value.kind_of_damage

    def test_appending_elsewhere_than_at_the_end_is_refused(self, store: Store) -> None:
        """The batch has to follow what is there; nothing of it is visible otherwise."""
        lines = fill(store, 2)
        with store.transaction() as txn:
            txn.pull(0)
            with pytest.raises(HeadConflict):
                txn.append(unsealed_entries(1, 1, DAY), 1, DAY)
        assert lines == list(store.read_entries(0))

    def test_cut_removes_what_follows(self, store: Store) -> None:
        """Lines beyond a size go, over day files, and appending goes on behind what is left."""
        lines = fill(store, 4) + fill(store, 3, begin=4, day=NEXT)
        with store.transaction() as txn:
            txn.pull(0)
            txn.cut(2)
        assert lines[:2] == list(store.read_entries(0))
        assert lines[:2] + fill(store, 1, begin=2, day=NEXT) == list(store.read_entries(0))

    def test_cut_to_nothing(self, store: Store) -> None:
        """All lines may go."""
        fill(store, 3)
        with store.transaction() as txn:
            txn.pull(0)
            txn.cut(0)
        assert [] == list(store.read_entries(0))

    def test_foreign_bytes_are_taken_out(self, store: Store) -> None:
        """Whole lines and beginnings of lines go, over day files; the rest stays as it is, and appending goes on."""
        lines = fill(store, 4) + fill(store, 3, begin=4, day=NEXT)
        with store.transaction() as txn:
            txn.pull(1)
            txn.remove([(0, None), (2, 7), (3, None), (5, 2)])
        left = [lines[0], lines[2], lines[3][7:], lines[5], lines[6][2:]]
        assert left == list(store.read_entries(0))
        with store.transaction() as txn:
            assert left[2:] == txn.pull(2, counted=True).entries
        with store.transaction() as txn:
            txn.pull(0)
            txn.append(unsealed_entries(5, 1, NEXT), 5, NEXT)
        assert 6 == len(list(store.read_entries(0)))

    def test_a_file_of_foreign_lines_alone_goes(self, store: Store) -> None:
        """A day of which nothing is left has no file."""
        lines = fill(store, 2) + fill(store, 1, begin=2, day=NEXT)
        with store.transaction() as txn:
            txn.pull(0)
            txn.remove([(2, None)])
        assert lines[:2] == list(store.read_entries(0))
        assert ["audit-2026-11-21.jsonl"] == [file.name for file in store.inspect() if file.kind == "entries"]

    def test_entries_are_located(self, store: Store) -> None:
        """File and line, counted from 1 in each day's file."""
        fill(store, 4)
        fill(store, 2, begin=4, day=NEXT)
        assert ("audit-2026-11-21.jsonl", 1) == store.locate(0)
        assert ("audit-2026-11-21.jsonl", 4) == store.locate(3)
        assert ("audit-2026-11-22.jsonl", 2) == store.locate(5)
        assert store.locate(6) is None

    def test_transactions_exclude_each_other(self, store: Store) -> None:
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


class TestPublication:
    def test_hashes_are_read_by_range(self, store: Store) -> None:
        """32 bytes each, fewer where they are missing."""
        hashes = b"".join(hashlib.sha256(bytes([n])).digest() for n in range(5))
        with store.publication() as publication:
            publication.put_hashes(0, 0, hashes)
            publication.sync_hashes()
        assert hashes == store.read_hashes(0, 0, 5)
        assert hashes[64:128] == store.read_hashes(0, 2, 4)
        assert hashes[128:] == store.read_hashes(0, 4, 9)
        assert b"" == store.read_hashes(1, 0, 1)

    def test_hashes_replace_what_follows(self, store: Store) -> None:
        """Writing from an index on drops what stood behind it."""
        old = bytes(32) * 4
        new = b"\1" * 32
        with store.publication() as publication:
            publication.put_hashes(0, 0, old)
            publication.put_hashes(0, 1, new)
            publication.sync_hashes()
        assert old[:32] + new == store.read_hashes(0, 0, 9)

    def test_checkpoints(self, store: Store) -> None:
        """The published one is replaced, kept ones stay."""
        assert store.read_checkpoint() is None
        assert store.read_kept(7) is None
        with store.publication() as publication:
            publication.put_kept(7, b"kept\n")
            publication.put_kept(7, b"kept\n")
            publication.put_checkpoint(b"one\n")
            publication.put_checkpoint(b"two\n")
        assert b"two\n" == store.read_checkpoint()
        assert b"kept\n" == store.read_kept(7)

    def test_a_time_stamp_stays_beside_its_checkpoint(self, store: Store) -> None:
        """It can be put again, but no other one in its place."""
        assert store.read_token(7) is None
        with store.publication() as publication:
            publication.put_kept(7, b"kept\n")
            publication.put_token(7, b"\x30\x00")
            publication.put_token(7, b"\x30\x00")
            with pytest.raises(HeadConflict):
                publication.put_token(7, b"\x30\x01")
        assert b"\x30\x00" == store.read_token(7)
        assert store.read_token(8) is None

    def test_everything_is_listed_and_seen(self, store: Store) -> None:
        """Entry files by day come first; each file can be viewed whole."""
        lines = fill(store, 2) + fill(store, 1, begin=2, day=NEXT)
        with store.publication() as publication:
            publication.put_hashes(0, 0, bytes(96))
            publication.put_kept(3, b"kept\n")
            publication.put_token(3, b"token")
            publication.put_checkpoint(b"note\n")
        found = {file.name: (file.kind, file.size) for file in store.inspect()}
        assert {
            "audit-2026-11-21.jsonl": ("entries", sum(len(line) + 1 for line in lines[:2])),
            "audit-2026-11-22.jsonl": ("entries", len(lines[2]) + 1),
            "checkpoint": ("checkpoint", 5),
            "checkpoints/00000000000000000003": ("kept", 5),
            "checkpoints/00000000000000000003.tsr": ("token", 5),
            "tree/0": ("tree", 96),
        } == found
        assert ["audit-2026-11-21.jsonl", "audit-2026-11-22.jsonl"] == list(found)[:2]
        with store.view("audit-2026-11-22.jsonl") as view:
            assert lines[2] + b"\n" == bytes(view)

    def test_publishing_goes_on_beside_a_transaction(self, store: Store) -> None:
        """Whoever holds the transaction may publish too."""
        with store.transaction(), store.publication() as publication:
            publication.put_checkpoint(b"note\n")
        assert b"note\n" == store.read_checkpoint()

    def test_reading_goes_on_after_close(self, store: Store) -> None:
        """`close` releases descriptors, no more."""
        lines = fill(store, 2)
        store.close()
        assert lines == list(store.read_entries(0))
        assert lines + fill(store, 1, begin=2) == list(store.read_entries(0))
