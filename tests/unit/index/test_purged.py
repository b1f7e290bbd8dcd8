"""Entries that were purged leave the index, whenever it was made; everything else stays in it."""

from __future__ import annotations

import datetime as dt
import hashlib
import json
from pathlib import Path

import pytest

from klingai_audit.index import Index, build, index
from klingai_audit.ledger.purged import line_hash, purged_line
from klingai_audit.ledger.reader import LogReader
from klingai_audit.ledger.store import SealedStore
from klingai_audit.stores.directory import DirectoryStore
from klingai_audit.stores.memory import MemoryStore
from klingai_audit.views.plan import Filter
from klingai_audit.views.query import query
from tests.unit.views.lines import event_id, line

DAYS = [dt.date(2026, 11, day) for day in (18, 19, 20)]
PER_DAY = 30


@pytest.fixture(params=["directory", pytest.param("memory", marks=pytest.mark.slow)])
def store(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SealedStore:
    """A log of three days, in a folder or in a store without files; full segments have 16 entries."""
    monkeypatch.setattr(build, "SEGMENT_ENTRIES", 16)
    monkeypatch.setattr(index, "SEGMENT_ENTRIES", 16)
    folder = request.param == "directory"
    made: SealedStore = DirectoryStore(tmp_path / "audit", tmp_path / "mark") if folder else MemoryStore()
    made.create()
    for number, day in enumerate(DAYS):
        begin = number * PER_DAY
        lines = [
            line(
                seq,
                when=dt.datetime.combine(day, dt.time(12), dt.UTC),
                event_type="x_secret" if seq % 7 == 3 else "x_plain",
            )
            for seq in range(begin, begin + PER_DAY)
        ]
        with made.transaction() as txn:
            txn.pull(begin)
            txn.append(lines, begin, day)
    return made


def purge(store: SealedStore, scratch: Path, *seqs: int) -> None:
    """Seal all days but the newest; these entries are purged."""
    with store.keeper(scratch) as keeper:
        for day in store.old_days():
            keeper.put(keeper.prepare(day, lambda seq, text: purged_line(line_hash(text), 80) if seq in seqs else text))


def seqs_in(made: Index) -> list[int]:
    return [row[0] for row in made.rows("SELECT seq FROM events ORDER BY seq")]


GONE = [(), (33,), (0, 1, 2), tuple(range(30, 60)), (29, 30), (5, 16, 17, 47, 59)]


@pytest.mark.parametrize("gone", GONE)
@pytest.mark.parametrize("before", [True, False])
def test_what_is_purged_is_in_no_answer(store, tmp_path, gone, before):
    """Whether the index was made before the purge or after it."""
    if before:
        with Index.open(LogReader(store), tmp_path / "index") as made:
            assert list(range(90)) == seqs_in(made)
    purge(store, tmp_path / "scratch", *gone)
    left = [seq for seq in range(90) if seq not in gone]
    with Index.open(LogReader(store), tmp_path / "index") as made:
        assert (90, left) == (made.size, seqs_in(made))
        assert [event_id(seq) for seq in left] == [
            row[1] for row in made.rows("SELECT seq, event_id FROM events ORDER BY seq")
        ]
        assert [(str(len(left)),)] == [tuple(map(str, row)) for row in made.sql("SELECT count(*) FROM events").rows]
        found = [json.loads(text)["seq"] for text in made.lines("event_type = ?", ["x_secret"])]
        assert [seq for seq in left if seq % 7 == 3] == found
        assert list(reversed(found)) == [
            json.loads(text)["seq"] for text in made.lines("event_type = ?", ["x_secret"], newest=True)
        ]


def test_an_open_index_follows(store, tmp_path):
    """A purge with nothing appended after it is seen at the next refresh, and sealing alone changes nothing."""
    with Index.open(LogReader(store), tmp_path / "index") as made:
        assert 90 == made.refresh()
        purge(store, tmp_path / "scratch")
        assert list(range(90)) == (made.refresh() and seqs_in(made))
        kept = {path.name for path in (tmp_path / "index").rglob("0*.parquet")}
        purge(store, tmp_path / "scratch", 40)
        made.refresh()
        assert [seq for seq in range(90) if seq != 40] == seqs_in(made)
        assert len(kept & {path.name for path in (tmp_path / "index").rglob("0*.parquet")}) >= 1


def test_a_scan_passes_over_them(store, tmp_path):
    """Queries without an index, and readers of single entries, see what is left."""
    purge(store, tmp_path / "scratch", 33, 40)
    reader = LogReader(store)
    assert [3, 10, 17, 24, 31, 38, 45, 52, 59, 66, 73, 80, 87] == [
        entry.seq for entry in query(reader.entries(0, 90), Filter(event_type="x_secret"), None)
    ]
    assert 90 == len(list(reader.lines()))
    assert 88 == len(list(reader.entries()))
    with pytest.raises(Exception, match="Entry 33 was purged; entry 80 authorised it"):
        reader.entry(33)


def test_the_digest_of_a_purged_line_is_the_entrys(store, tmp_path):
    """The leaf hash survives the entry."""
    reader = LogReader(store)
    leaf = hashlib.sha256(b"\x00" + reader.entry(33)).digest()
    purge(store, tmp_path / "scratch", 33)
    assert leaf == line_hash(next(reader.lines(33)))
