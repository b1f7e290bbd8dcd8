"""What every store promises to those who read it, seal its days and purge entries."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import pytest

from klingai_audit.errors import HeadConflict
from klingai_audit.ledger.purged import line_hash, purged_line
from klingai_audit.ledger.store import PreparedDay, Store
from klingai_audit.testing.batches import DAY, NEXT_DAY, BatchMaker
from klingai_audit.tlog.hashing import fold_subtree
from klingai_audit.tlog.merkle import leaf_hash

__all__ = [
    "DAYS",
    "PER_DAY",
    "OpenStore",
    "StoreContract",
    "StoreFixtures",
    "closing_all",
    "keep_days",
    "purged",
    "purging",
]

OpenStore = Callable[[], Any]
"""Gives a new store object for the place of one test."""

DAYS: Final = [DAY.replace(day=day) for day in (18, 19, 20, 21)]
PER_DAY: Final = 5


def purging(*seqs: int) -> Callable[[int, bytes], bytes]:
    """Return a change for `Keeper.prepare` that purges these entries, by entry 17."""

    def change(seq: int, line: bytes) -> bytes:
        return purged_line(line_hash(line), 17) if seq in seqs else line

    return change


def keep_days(store: Store, scratch: Path, change: Callable[[int, bytes], bytes]) -> list[PreparedDay]:
    """Seal all days but the newest."""
    with store.keeper(scratch) as keeper:
        prepared = [keeper.prepare(day, change) for day in store.old_days()]
        for one in prepared:
            keeper.put(one)
    return prepared


def purged(lines: Sequence[bytes], *seqs: int) -> list[bytes]:
    """Return what `purging` makes of all lines."""
    return [purging(*seqs)(seq, line) for seq, line in enumerate(lines)]


@contextlib.contextmanager
def closing_all(make: Callable[..., Any]) -> Iterator[Callable[..., Any]]:
    """Give a function that makes what `make` makes; all of it is closed at the end."""
    with contextlib.ExitStack() as stack:
        yield lambda *given: stack.enter_context(contextlib.closing(make(*given)))


class StoreFixtures:
    """What the tests of all contracts ask for. Give the fixture `open_store`."""

    @pytest.fixture
    def opened(self, open_store: OpenStore) -> Iterator[OpenStore]:
        """`open_store`; what it gives is closed after the test."""
        with closing_all(open_store) as opened:
            yield opened

    @pytest.fixture
    def store(self, opened: OpenStore) -> Any:
        """An empty log."""
        made = opened()
        made.create()
        return made

    @pytest.fixture
    def maker(self) -> BatchMaker:
        """What is written into it."""
        return BatchMaker()

    @pytest.fixture
    def four_days(self, store: Store, maker: BatchMaker) -> list[bytes]:
        """Five entries on each of four days, in `store`."""
        for day in DAYS:
            maker.put(store, PER_DAY, day)
        return maker.lines


class StoreContract(StoreFixtures):
    """Reading, keeping, and what each store does alike."""

    # --- entries -----------------------------------------------------------------------------------------------

    def test_an_empty_log_holds_nothing(self, store: Store) -> None:
        """Preparing a place makes no log, and every question has an answer."""
        assert not store.exists()
        assert [] == list(store.read_entries(0))
        assert [None] * 4 == [store.read_checkpoint(), store.read_kept(1), store.read_token(1), store.locate(0)]
        assert b"" == store.read_hashes(0, 0, 9)
        assert [] == store.old_days()
        assert [] == [file for file in store.inspect() if file.kind in ("entries", "checkpoint", "kept", "stray")]

    def test_a_url_tells_no_password(self, store: Store) -> None:
        """It stands in messages and reports."""
        assert urlsplit(store.url).password is None

    def test_creating_twice_changes_nothing(self, store: Store, maker: BatchMaker, opened: OpenStore) -> None:
        """`create` is idempotent, with entries there too, and by another process."""
        maker.put(store, 3)
        store.create()
        opened().create()
        assert maker.lines == list(store.read_entries(0))
        assert maker.note == store.read_checkpoint()

    def test_what_was_appended_is_read(self, store: Store, maker: BatchMaker) -> None:
        """Bytes come back as they went in, in order, by half-open ranges, over batches and days."""
        for count, day in ((5, DAY), (4, DAY), (3, NEXT_DAY), (1, NEXT_DAY)):
            maker.put(store, count, day)
        assert store.exists()
        for begin, end in (
            (0, None),
            (0, 0),
            (0, 1),
            (4, 6),
            (8, 10),
            (9, 12),
            (12, 13),
            (12, 20),
            (13, 14),
            (3, None),
        ):
            assert maker.lines[begin:end] == list(store.read_entries(begin, end))

    def test_any_text_comes_back_as_it_went_in(self, store: Store, maker: BatchMaker) -> None:
        """Long lines, other scripts, characters that end lines elsewhere, backslashes and quotes."""
        texts = [
            "x" * 60_000,
            "\u4f60\u597d \U0001f3ac",
            "\u2028\u2029\u0085\u000b",
            "\\N \\. \\x00 \t '\"%s%%",
            "\u0000",
        ]
        batch = maker.batch(1, metadata={"texts": texts})
        maker.batch = lambda *_arguments, **_options: batch  # type: ignore[method-assign]
        maker.put(store)
        assert maker.lines == list(store.read_entries(0))

    def test_another_process_reads_the_same(self, store: Store, maker: BatchMaker, opened: OpenStore) -> None:
        """What is durable does not depend on the object that wrote it."""
        maker.put(store, 7, keep=True)
        other = opened()
        assert other.exists()
        assert maker.lines == list(other.read_entries(0))
        assert maker.note == other.read_checkpoint() == other.read_kept(7)

    def test_entries_are_located(self, store: Store, maker: BatchMaker) -> None:
        """File and line, counted from 1 in each day's file."""
        maker.put(store, 4)
        maker.put(store, 2, NEXT_DAY)
        assert (f"audit-{DAY}.jsonl", 1) == store.locate(0)
        assert (f"audit-{DAY}.jsonl", 4) == store.locate(3)
        assert (f"audit-{NEXT_DAY}.jsonl", 2) == store.locate(5)
        assert store.locate(6) is None

    def test_a_reader_beside_a_writer_sees_beginnings(self, store: Store, maker: BatchMaker, opened: OpenStore) -> None:
        """Whatever moment it reads at: entries from the first on without a gap, never fewer than before."""
        seen: list[list[bytes]] = []
        over = threading.Event()

        def read() -> None:
            other = opened()
            while not over.is_set():
                seen.append(list(other.read_entries(0)))
            other.close()

        reader = threading.Thread(target=read)
        reader.start()
        try:
            for count in (1, 3, 2, 5, 1, 4):
                maker.put(store, count)
        finally:
            over.set()
            reader.join()
        assert all(maker.lines[: len(lines)] == lines for lines in seen)
        assert all(len(before) <= len(after) for before, after in pairwise(seen))

    # --- hashes and checkpoints ----------------------------------------------------------------------------------

    def test_hashes_are_read_by_range(self, store: Store, maker: BatchMaker) -> None:
        """32 bytes each, fewer where they are missing; on the level above one for each 256 that are whole."""
        for count in (1, 255, 1, 343):
            maker.put(store, count)
        leaves = b"".join(map(leaf_hash, maker.lines))
        assert leaves == store.read_hashes(0, 0, 600)
        for begin, end in ((0, 1), (250, 260), (255, 256), (511, 513), (599, 600), (590, 700), (600, 601)):
            assert leaves[32 * begin : 32 * end] == store.read_hashes(0, begin, end)
        above = b"".join(fold_subtree(leaves[32 * begin : 32 * begin + 32 * 256]) for begin in (0, 256))
        assert above == store.read_hashes(1, 0, 2)
        assert above[32:] == store.read_hashes(1, 1, 9)
        assert b"" == store.read_hashes(2, 0, 1)

    def test_checkpoints(self, store: Store, maker: BatchMaker) -> None:
        """The published one is replaced, kept ones stay, and can be kept again."""
        first = maker.put(store, 3, keep=True)
        assert first.note == store.read_checkpoint() == store.read_kept(3)
        second = maker.put(store, 4)
        assert second.note == store.read_checkpoint()
        assert store.read_kept(7) is None
        with store.publication() as publication:
            publication.put_kept(3, first.note)
            publication.put_kept(7, second.note)
            publication.put_checkpoint(second.note)
        assert (first.note, second.note) == (store.read_kept(3), store.read_kept(7))
        assert second.note == store.read_checkpoint()

    def test_a_time_stamp_stays_beside_its_checkpoint(self, store: Store, maker: BatchMaker) -> None:
        """It can be put again, but no other one in its place."""
        maker.put(store, 7, keep=True)
        assert store.read_token(7) is None
        with store.publication() as publication:
            publication.put_token(7, b"\x30\x00")
            publication.put_token(7, b"\x30\x00")
            with pytest.raises(HeadConflict):
                publication.put_token(7, b"\x30\x01")
        assert b"\x30\x00" == store.read_token(7)
        assert store.read_token(8) is None

    def test_everything_is_listed_and_seen(self, store: Store, maker: BatchMaker) -> None:
        """As the files that a folder would hold: entries by day first; each can be viewed whole."""
        maker.put(store, 2)
        batch = maker.put(store, 1, NEXT_DAY, keep=True)
        with store.publication() as publication:
            publication.put_token(3, b"token")
        expected = {
            f"audit-{DAY}.jsonl": ("entries", b"".join(line + b"\n" for line in maker.lines[:2])),
            f"audit-{NEXT_DAY}.jsonl": ("entries", maker.lines[2] + b"\n"),
            "checkpoint": ("checkpoint", batch.note),
            "checkpoints/00000000000000000003": ("kept", batch.note),
            "checkpoints/00000000000000000003.tsr": ("token", b"token"),
            "tree/0": ("tree", b"".join(map(leaf_hash, maker.lines))),
        }
        found = {file.name: (file.kind, file.size) for file in store.inspect()}
        assert {name: (kind, len(data)) for name, (kind, data) in expected.items()} == found
        assert [f"audit-{DAY}.jsonl", f"audit-{NEXT_DAY}.jsonl"] == list(found)[:2]
        for name, (_kind, data) in expected.items():
            with store.view(name) as view:
                assert data == bytes(view)

    # --- processes -----------------------------------------------------------------------------------------------

    def test_work_goes_on_after_close(self, store: Store, maker: BatchMaker) -> None:
        """`close` releases descriptors and connections, no more."""
        maker.put(store, 2)
        store.close()
        assert maker.lines == list(store.read_entries(0))
        maker.put(store, 1)
        assert maker.lines == list(store.read_entries(0))

    # --- days ----------------------------------------------------------------------------------------------------

    def test_days_but_the_newest(self, store: Store, four_days: list[bytes], tmp_path: Path) -> None:
        """Each with its entries, half-open; the newest belongs to writers."""
        with store.keeper(tmp_path / "scratch"):
            found = [(day.day, day.begin, day.end) for day in store.old_days()]
        assert [(day, PER_DAY * n, PER_DAY * n + PER_DAY) for n, day in enumerate(DAYS[:-1])] == found

    def test_a_log_of_one_day_has_no_old_one(self, store: Store, maker: BatchMaker) -> None:
        """Nothing is there to seal while everything is of the newest day."""
        maker.put(store, 2)
        maker.put(store, 1)
        assert [] == store.old_days()

    @pytest.mark.parametrize("seqs", [(), (7,), (5, 6, 7, 8, 9), (4, 5, 9, 10), tuple(range(1, 15))])
    def test_kept_days_read_as_before(
        self, store: Store, four_days: list[bytes], tmp_path: Path, seqs: tuple[int, ...]
    ) -> None:
        """Purged lines stand in their places, all others are the same bytes, by any way of reading."""
        hashes = store.read_hashes(0, 0, len(four_days))
        keep_days(store, tmp_path / "scratch", purging(*seqs))
        expected = purged(four_days, *seqs)
        for begin in range(len(four_days)):
            assert expected[begin : begin + 7] == list(store.read_entries(begin, begin + 7))
            assert begin % PER_DAY + 1 == (store.locate(begin) or ("", 0))[1]
        assert expected == list(store.read_entries(0))
        assert hashes == store.read_hashes(0, 0, len(four_days)) == b"".join(map(line_hash, store.read_entries(0)))
        files = [file.name for file in store.inspect() if file.kind == "entries"]
        assert len(DAYS) == len(files)
        for name in files:
            with store.view(name) as view:
                assert all(line in expected for line in bytes(view).split(b"\n")[:-1])

    def test_writers_go_on_after_kept_days(
        self, store: Store, four_days: list[bytes], maker: BatchMaker, tmp_path: Path
    ) -> None:
        """The log's end is where it was; another day is kept later."""
        keep_days(store, tmp_path / "scratch", purging(13, 14))
        maker.put(store, 3, DAYS[-1])
        maker.put(store, 1, NEXT_DAY)
        assert purged(maker.lines, 13, 14) == list(store.read_entries(0))
        keep_days(store, tmp_path / "scratch", purging(15))
        assert purged(maker.lines, 13, 14, 15) == list(store.read_entries(0))

    def test_days_are_kept_again_and_further(self, store: Store, four_days: list[bytes], tmp_path: Path) -> None:
        """More of a kept day can be purged; what is purged stays as it is."""
        keep_days(store, tmp_path / "scratch", purging(6))
        keep_days(store, tmp_path / "scratch", purging(7, 8))
        assert purged(four_days, 6, 7, 8) == list(store.read_entries(0))
