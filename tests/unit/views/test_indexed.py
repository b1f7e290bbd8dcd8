"""The index is used where it pays, and the scan takes over where the index fails or lies."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from klingai_audit.errors import StorageError
from klingai_audit.index import Index, index
from klingai_audit.index.lines import Stale
from klingai_audit.ledger.reader import LogReader
from klingai_audit.stores.memory import MemoryStore
from klingai_audit.views import indexed
from klingai_audit.views.activity import activity
from klingai_audit.views.indexed import Indexed
from klingai_audit.views.query import Filter, query
from klingai_audit.views.story import find_shown
from tests.unit.views.lines import NOW, PEOPLE, event_id, line, pseudonym


class Counting(LogReader):
    """Counts how many entries are read in a row from the beginning on."""

    scanned = 0

    def entries(self, begin: int = 0, end: int | None = None) -> Iterator[bytes]:
        for entry in super().entries(begin, end):
            self.scanned += begin == 0 and end != 1
            yield entry


@pytest.fixture
def reader() -> Counting:
    """A log of 40 entries of two people; every fifth is a task's."""
    store = MemoryStore()
    store.entries = [
        line(
            seq,
            actor_id=pseudonym(1 + seq % 2),
            event_type="video_generation_completed" if seq % 5 == 0 else "prompt_submitted",
            resource_id=f"83{seq}" if seq % 5 == 0 else None,
            correlation_id=f"c{seq // 5}",
        )
        for seq in range(40)
    ]
    return Counting(store)


@pytest.fixture
def made(reader: Counting, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Index]:
    """Its index; every log is worth one."""
    monkeypatch.setattr(indexed, "WORTH_AN_INDEX", 1)
    with Index.open(reader, tmp_path) as index:
        reader.scanned = 0
        yield index


def scan(reader: LogReader, **wanted: object) -> list[int]:
    return [entry.seq for entry in query(list(reader.store.read_entries(0)), Filter(**wanted), PEOPLE, now=NOW)]


@pytest.mark.parametrize(
    "wanted",
    [
        {"actor": pseudonym(2)},
        {"actor": "us***@example.com", "event_type": "video_generation_completed"},
        {"task": "8310"},
        {"task": event_id(7)},
        {"category": "operations", "limit": 3},
        {"outcome": "success", "reverse": True, "limit": 4},
        {"reverse": True, "limit": 4},
        {"category": "custom"},
        {"resource": "8315", "duplicates": True},
    ],
)
def test_a_question_is_answered_without_a_scan(reader, made, wanted):
    """What narrows is looked up: nothing is read from the beginning on, and the answer is the scan's."""
    found = [entry.seq for entry in query(Indexed(reader, lambda: made, 40), Filter(**wanted), PEOPLE, now=NOW)]
    assert 0 == reader.scanned
    assert scan(reader, **wanted) == found


def test_what_does_not_narrow_is_scanned(reader, made):
    """Everything, or a word somewhere in it, is read in a row."""
    for wanted in ({}, {"text": "prompt"}):
        reader.scanned = 0
        found = [entry.seq for entry in query(Indexed(reader, lambda: made, 40), Filter(**wanted), PEOPLE, now=NOW)]
        assert (40, scan(reader, **wanted)) == (reader.scanned, found)


def test_a_small_log_is_scanned(reader):
    """No index is made for a log that is scanned in no time."""
    source = Indexed(reader, lambda: pytest.fail("an index was opened"), 40)
    assert scan(reader, outcome="success") == [entry.seq for entry in query(source, Filter(outcome="success"), PEOPLE)]


def test_stories_and_activity_go_through_the_index(reader, made):
    """`show` and `activity` read what belongs to their answer."""
    whole = Indexed(reader, lambda: made, 40)
    lines = list(reader.store.read_entries(0))
    shown = [find_shown(lambda: whole, reader.entry, 40, what, PEOPLE) for what in (event_id(9), "8310", "c2")]
    expected = [find_shown(lambda: lines, reader.entry, 40, what, PEOPLE) for what in (event_id(9), "8310", "c2")]
    assert expected == shown
    assert activity(lines, pseudonym(1), subjects=PEOPLE, now=NOW) == activity(
        whole, pseudonym(1), subjects=PEOPLE, now=NOW
    )
    assert 0 == reader.scanned


@pytest.mark.parametrize("newest", [False, True])
@pytest.mark.parametrize("trouble", [Stale(7), StorageError("planted")])
@pytest.mark.parametrize("after", [0, 3])
def test_where_the_index_fails_the_scan_goes_on(reader, made, monkeypatch, newest, trouble, after):
    """Whenever the index fails, every entry is shown once, in order; a lying index is thrown away."""
    real = made.lines

    def broken(*arguments, **options):
        for count, entry in enumerate(real(*arguments, **options)):
            if count == after:
                raise trouble
            yield entry

    monkeypatch.setattr(made, "lines", broken)
    wanted = {"actor": pseudonym(2), "reverse": newest, "limit": 12}
    found = [entry.seq for entry in query(Indexed(reader, lambda: made, 40), Filter(**wanted), PEOPLE, now=NOW)]
    assert scan(reader, **wanted) == found
    assert isinstance(trouble, StorageError) == (made._folder.path / "manifest").exists()


def test_an_answer_outlives_the_index(reader, made, monkeypatch):
    """An index that is closed while its answer is read leaves the rest to the scan."""
    monkeypatch.setattr(index, "_FETCHED", 4)
    found = query(Indexed(reader, lambda: made, 40), Filter(actor=pseudonym(2)), PEOPLE, now=NOW)
    first = next(found).seq
    made.close()
    assert scan(reader, actor=pseudonym(2)) == [first, *(entry.seq for entry in found)]


def test_without_an_index_there_is_the_scan(reader, monkeypatch):
    """No place for an index: the answer is the same."""
    monkeypatch.setattr(indexed, "WORTH_AN_INDEX", 1)

    def none() -> Index:
        raise StorageError("planted")

    source = Indexed(reader, none, 40)
    assert scan(reader, task="8310") == [entry.seq for entry in query(source, Filter(task="8310"), PEOPLE, now=NOW)]
    assert [line(3, actor_id=pseudonym(2), correlation_id="c0")] == [
        entry for entry in source.of_event(event_id(3)) if event_id(3).encode() in entry
    ]


@pytest.mark.parametrize("seq", [0, 17, 39])
def test_an_event_is_found_without_a_scan(reader: Counting, made: Index, seq: int) -> None:
    """The entry itself is read and compared, and no other."""
    assert seq == Indexed(reader, lambda: made, 40).find_event(event_id(seq))
    assert 0 == reader.scanned


def test_an_event_that_the_index_does_not_know_is_sought_in_the_log(reader: Counting, made: Index) -> None:
    """The index is no evidence that something is not there."""
    store = reader.store
    assert isinstance(store, MemoryStore)
    store.entries[7] = line(7, event_id=event_id(77))
    assert 7 == Indexed(reader, lambda: made, 40).find_event(event_id(77))
    assert None is Indexed(reader, lambda: made, 40).find_event(event_id(7))
    assert 2 * 40 > reader.scanned > 40


def test_an_event_is_found_where_no_index_can_be_had(reader: Counting, made: Index) -> None:
    """By a scan, and so in a log that is not worth an index."""

    def refuse() -> Index:
        raise StorageError("no place", do="none")

    assert 21 == Indexed(reader, refuse, 40).find_event(event_id(21))
    assert 22 == reader.scanned
