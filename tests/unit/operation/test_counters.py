"""What writers count: classes, totals, what closing and forking do to them."""

from __future__ import annotations

from pathlib import Path

import pytest

from klingai_audit.errors import AuditUnavailable, StorageError
from klingai_audit.ledger import counters as counters_of
from klingai_audit.ledger.counters import Counters, Histogram, count_missed, missed, totals, writers_of
from tests.support.children import Child
from tests.support.faulty import QuickOps
from tests.support.ledgers import ORIGIN, Ledger, end_event, event


@pytest.fixture(autouse=True)
def _nothing_counted_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    """Other tests have logs of the same name."""
    monkeypatch.setattr(counters_of, "_REGISTRY", counters_of._Registry())


@pytest.mark.parametrize(("value", "place"), [(0.0, 0), (1.0, 0), (1.5, 1), (2.0, 1), (2.1, 2), (1e9, 2)])
def test_a_value_falls_into_the_class_that_it_is_not_above(value: float, place: int) -> None:
    """Bounds are inclusive; what is above all of them has a class of its own."""
    histogram = Histogram((1.0, 2.0))
    histogram.observe(value)
    assert [1 if index == place else 0 for index in range(3)] == histogram.counts
    assert value == histogram.sum


def test_publication_is_timed_from_the_commit() -> None:
    """Each batch is timed once, when a checkpoint covers all of it."""
    counters = Counters()
    for size in (3, 5, 9):
        counters.committed(2, size, 0.0)
    assert counters.unpublished_seconds() > 0
    counters.published(8)
    assert (2, 3) == (sum(counters.publication.counts), sum(counters.commit.counts))
    counters.published(9)
    counters.published(9)
    assert (3, 9, 0.0) == (sum(counters.publication.counts), counters.signed, counters.unpublished_seconds())


def test_what_waits_is_bounded() -> None:
    """A signer that is away for days does not fill the memory."""
    counters = Counters()
    for size in range(3000):
        counters.committed(1, size, 0.0)
    counters.published(3000)
    assert (3000, 1024) == (counters.entries, sum(counters.publication.counts))


def test_a_log_counts_and_keeps_its_count(tmp_path: Path) -> None:
    """Entries, batches and the queue of an open log; closed and opened again, the numbers go on from there."""
    before = totals().get(ORIGIN, (Counters(), 0, 0.0))[0].entries
    ledger = Ledger(tmp_path, ops=QuickOps())
    ledger.open()
    for _ in range(5):
        ledger.appender.append(event()).wait("published")
    done, queued, _ = totals()[ORIGIN]
    assert (7, 0) == (done.entries - before, queued)  # log_created, log_opened
    assert 7 == done.size == done.signed
    assert done.entries - before >= sum(done.commit.counts) >= 6
    assert 1 == len(writers_of(ORIGIN))
    ledger.close()
    assert [] == writers_of(ORIGIN)
    assert 8 == totals()[ORIGIN][0].entries - before
    again = Ledger(tmp_path, ops=QuickOps())
    again.open()
    assert 9 == totals()[ORIGIN][0].entries - before
    again.close()


def test_what_was_there_already_is_not_counted(tmp_path: Path) -> None:
    """An end event that the log holds is no new entry."""
    with Ledger(tmp_path, ops=QuickOps()) as ledger:
        first = end_event("task-1")
        ledger.appender.append(first, once=True).wait()
        before = totals()[ORIGIN][0].entries
        ledger.appender.append(first, once=True).wait()
        assert before == totals()[ORIGIN][0].entries


def test_a_refused_batch_is_counted_by_its_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing was appended, the log goes on, and the class of the error is counted."""
    with Ledger(tmp_path, ops=QuickOps()) as ledger:

        def refuse(_events: object) -> None:
            raise AuditUnavailable("No room.")

        before = totals()[ORIGIN][0].not_committed["AuditUnavailable"]
        with monkeypatch.context() as patch:
            patch.setattr(ledger.head, "commit", refuse)
            with pytest.raises(StorageError):
                ledger.appender.append(event()).wait()
        ledger.appender.append(event()).wait()
        assert 1 == totals()[ORIGIN][0].not_committed["AuditUnavailable"] - before
        assert [""] == [one.stopped for one in writers_of(ORIGIN)]


def test_a_forked_child_counts_for_itself(tmp_path: Path) -> None:
    """What the parent did is not told a second time by its children."""
    with Ledger(tmp_path, ops=QuickOps()) as ledger:
        ledger.appender.append(event()).wait()

        def act(tell: object) -> None:
            begun = len(totals())
            ledger.appender.append(event()).wait()
            tell(f"{begun} {totals()[ORIGIN][0].entries}")  # type: ignore[operator]

        child = Child(act)
        assert 0 == child.wait()
        assert ["0 2"] == child.lines  # log_opened and the event


def test_acts_that_could_not_be_recorded_are_counted() -> None:
    """By kind, for the whole process."""
    before = missed().get("paid", 0)
    count_missed("paid")
    assert 1 == missed()["paid"] - before
