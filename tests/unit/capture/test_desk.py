"""What could not be written is kept, bounded, counted and told."""

from __future__ import annotations

import asyncio
import logging

import pytest

from klingai_audit.capture import desk
from klingai_audit.capture.desk import Desk, Item, UnrecordedWarning
from klingai_audit.errors import AuditUnavailable, InvalidEvent
from klingai_audit.event.record import Draft
from tests.unit.capture.doubles import MemorySink, Receipt


def item(name: str = "x_test", **metadata) -> Item:
    """Return an entry to write."""
    return Item(Draft(event_type=name, metadata=metadata), None, kind="paid_create")


@pytest.fixture
def made():
    """Give a desk over a fresh sink."""
    sink = MemorySink()
    return Desk(sink), sink


def test_late_entries_are_bounded_and_the_rest_counted_as_lost(made, monkeypatch):
    """Beyond the bound nothing is kept, and the report says how many were lost."""
    monkeypatch.setattr(desk, "MAX_LATE", 2)
    at, sink = made
    sink.break_down()
    with pytest.warns(UnrecordedWarning):
        at.write([item(f"x_{number}") for number in range(5)])
    assert (at.late, at.outstanding) == (2, 2)
    sink.repair()
    at.catch_up()
    assert sink.types == ["x_0", "x_1"]
    ((name, facts),) = sink.own
    assert (name, facts["late"], facts["lost"]) == ("gap_closed", 2, 3)


@pytest.mark.parametrize("at_once", [True, False])
def test_an_entry_that_is_refused_even_reduced_is_lost_and_told(made, at_once):
    """What the log will never take is not tried for ever."""
    at, sink = made
    sink.at_once = at_once
    sink.fail = lambda entry: InvalidEvent("no") if entry.event_type == "x_test" else None

    def write():
        at.write([item(code=1301)])
        at.catch_up()

    with pytest.warns(UnrecordedWarning):
        write()
    assert at.outstanding == 0
    assert sink.types == []
    at.catch_up()
    assert [facts["lost"] for _, facts in sink.own] == [1]


def test_a_reduced_entry_keeps_what_matters(made):
    """Reduced: the code and the intent stay, the rest goes, and the entry says so."""
    at, sink = made
    sink.fail = lambda entry: InvalidEvent("no") if "much" in entry.metadata else None
    at.write([item(code=1301, intent="i", much="text")])
    at.catch_up()
    assert dict(sink.drafts[0].metadata) == {"code": 1301, "intent": "i", "reduced": "InvalidEvent"}


@pytest.mark.parametrize("how", ["sync", "async"])
def test_posted_entries_are_confirmed_later(made, how):
    """What was queued without waiting is asked for at the next act; if it failed, it is late."""
    at, sink = made
    sink.break_down()
    at.post([item("x_1")])
    assert (at.outstanding, at.late) == (1, 0)
    with pytest.warns(UnrecordedWarning):
        at.catch_up() if how == "sync" else asyncio.run(at.acatch_up())
    assert (at.outstanding, at.late) == (1, 1)
    sink.repair()
    at.catch_up() if how == "sync" else asyncio.run(at.acatch_up())
    assert (at.outstanding, sink.types) == (0, ["x_1"])


class Pending(Receipt):
    """Neither durable nor failed until told."""

    def __init__(self, error: BaseException | None = None) -> None:
        super().__init__(error)
        self.callbacks = []

    def when_done(self, callback):
        self.callbacks.append(callback)

    def end(self):
        """Become what it is going to be."""
        for callback in self.callbacks:
            callback()


@pytest.mark.parametrize("settled", [False, True])
def test_what_is_handed_over_is_not_waited_for(made, monkeypatch, settled):
    """Handing over returns before anything is durable; what then fails is told and late as soon as it is known."""
    at, sink = made
    receipts = [Pending(), Pending(AuditUnavailable("no space left"))]
    waiting = iter(receipts)
    monkeypatch.setattr(sink, "record", lambda draft, *, once=False: next(waiting))
    at.hand_over([item("x_1"), item("x_2")])
    assert (at.outstanding, at.late) == (2, 0)
    at.catch_up()
    assert (at.outstanding, at.late) == (2, 0)
    receipts[0].end()
    assert (at.outstanding, at.late) == (1, 0)
    with pytest.warns(UnrecordedWarning, match="x_2 happened"):
        at.settle() if settled else receipts[1].end()
    assert (at.outstanding, at.late) == (1, 1)
    receipts[1].end()
    assert (at.outstanding, at.late) == (1, 1)


def test_the_log_of_errors_names_no_content(made, caplog):
    """The error that operators see has the type of the entry and the class of the cause only."""
    at, sink = made
    sink.fail = lambda entry: AuditUnavailable("disk of user@example.com is full")
    with caplog.at_level(logging.DEBUG), pytest.warns(UnrecordedWarning):
        at.write([item("x_1", prompt="a lake")])
    assert [one.levelname for one in caplog.records if one.name.startswith("klingai_audit")] == ["ERROR"]
    assert "x_1" in caplog.text
    assert "AuditUnavailable" in caplog.text
    assert not any(word in caplog.text for word in ("a lake", "user@example.com"))


def test_an_interrupt_loses_nothing(made):
    """Interrupted while waiting for the disk: what was queued is confirmed later."""
    at, sink = made
    answers = iter([KeyboardInterrupt(), None, None])
    sink.fail = lambda entry: next(answers)
    with pytest.raises(KeyboardInterrupt):
        at.write([item("x_1"), item("x_2")])
    assert at.outstanding == 2
