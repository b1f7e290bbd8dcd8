"""The index of a store without files: what it reads of the log is bounded, and it takes in only what is new."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from pathlib import Path

import pytest

from klingai_audit.index import Index
from klingai_audit.ledger.purged import line_hash, purged_line
from klingai_audit.ledger.reader import LogReader
from klingai_audit.stores.memory import MemoryStore
from tests.unit.views.lines import line

DAYS = [dt.date(2026, 11, day) for day in (18, 19, 20)]
PER_DAY = 1000


class Far(MemoryStore):
    """Counts how many lines were asked for in how many readings."""

    def __init__(self) -> None:
        super().__init__()
        self.readings = self.lines = 0

    def read_entries(self, begin: int, end: int | None = None) -> Iterator[bytes]:
        self.readings += 1
        for found in super().read_entries(begin, end):
            self.lines += 1
            yield found


@pytest.fixture
def store() -> Far:
    """Three days; every tenth entry is another type."""
    made = Far()
    for number, day in enumerate(DAYS):
        append(made, number * PER_DAY, day, PER_DAY)
    return made


def append(store: Far, begin: int, day: dt.date, count: int) -> None:
    noon = dt.datetime.combine(day, dt.time(12), dt.UTC)
    types = ("x_rare", *["x_plain"] * 9)
    lines = [line(seq, when=noon, event_type=types[seq % 10]) for seq in range(begin, begin + count)]
    with store.transaction() as txn:
        txn.append(lines, begin, day)


@pytest.mark.parametrize("newest", [False, True])
def test_lines_come_some_at_a_time(store: Far, tmp_path: Path, newest: bool):
    """Three hundred lines that stand near each other take a few readings, in either direction."""
    with Index.open(LogReader(store), tmp_path / "index") as index:
        store.readings = 0
        found = list(index.lines("event_type = 'x_rare'", newest=newest))
    assert store.entries[::10] == (found[::-1] if newest else found)
    assert store.readings < 12


def test_one_line_is_one_line(store: Far, tmp_path: Path):
    """What stands alone is read alone."""
    with Index.open(LogReader(store), tmp_path / "index") as index:
        store.lines = 0
        assert [store.entries[1500]] == list(index.lines("seq = 1500"))
    assert 1 == store.lines


def test_a_refresh_reads_what_is_new(store: Far, tmp_path: Path):
    """The day that ended meanwhile is looked through for purged entries, the rest is left alone."""
    with Index.open(LogReader(store), tmp_path / "index") as index:
        append(store, 3 * PER_DAY, DAYS[-1], 5)
        store.lines = 0
        assert 3 * PER_DAY + 5 == index.refresh()
        assert 10 > store.lines


@pytest.mark.parametrize(("day", "first"), [(17, 0), (18, 0), (19, 1000), (20, 2000)])
def test_first_since(store: Far, day: int, first: int):
    """The first entry of a day is found by halving."""
    store.checkpoint = b"log.example.com/x\n3000\n" + b"A" * 43 + b"=\n\n\xe2\x80\x94 log.example.com/x AAAAAAA=\n"
    assert first == LogReader(store).first_since(dt.date(2026, 11, day))
    assert 30 > store.lines


def test_what_is_purged_goes(store: Far, tmp_path: Path):
    """The index notices that an old day changed, and takes in again what follows the first purged entry."""
    with Index.open(LogReader(store), tmp_path / "index") as index:
        with store.keeper(tmp_path) as keeper:
            day = store.old_days()[1]
            purge = keeper.prepare(day, lambda seq, text: purged_line(line_hash(text), 2999) if seq == 1500 else text)
            keeper.put(purge)
        index.refresh()
        assert [(2999,)] == index.rows("SELECT count(*) FROM events")
        assert [] == index.rows("SELECT seq FROM events WHERE seq = 1500")
