"""A log that went on elsewhere takes nothing more; where it goes on, nothing stands before the entry that says so."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from klingai_audit.errors import AuditUnavailable, LogMigrated
from klingai_audit.event.own import own_event
from klingai_audit.ledger.moved import moved_to, refuse_moved, takes_up
from klingai_audit.ledger.store import Store
from klingai_audit.stores.memory import MemoryStore
from tests.support.batches import BatchMemory
from tests.support.ledgers import NOON, HandClock, Ledger, event

TARGET = "postgresql://db.example.com/audit"
OUT = {"phase": "out", "to": TARGET}
DAY_S = 86_400


@pytest.fixture(params=["directory", "memory", "batches"])
def store(request: pytest.FixtureRequest) -> Store | None:
    return {"directory": lambda: None, "memory": MemoryStore, "batches": BatchMemory}[request.param]()


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


@pytest.fixture
def ledger(tmp_path: Path, store: Store | None, clock: HandClock) -> Iterator[Ledger]:
    ledger = Ledger(tmp_path, store=store, clock=clock).open()
    yield ledger
    with contextlib.suppress(AuditUnavailable):
        ledger.close()


def leave(ledger: Ledger) -> None:
    """End the log as a migration does, beside the writer that has it open."""
    other = Ledger(ledger.base, store=ledger.store, clock=ledger.clock)  # type: ignore[arg-type]
    other.head.take_up([(own_event("log_migrated", OUT, NOON), False)])
    other.head.publish()


def test_a_writer_is_refused(ledger):
    """One that is open learns it with its next entry, and one that comes later when it opens; both are told where."""
    ledger.appender.append(event()).wait()
    leave(ledger)
    with pytest.raises(AuditUnavailable, match="goes on at " + TARGET) as refused:
        ledger.appender.append(event()).wait()
    assert isinstance(refused.value.__cause__, LogMigrated)
    with pytest.raises(LogMigrated):
        ledger.appender.rotate()
    with pytest.raises(AuditUnavailable, match=TARGET):
        ledger.close()
    with pytest.raises(LogMigrated, match=TARGET):
        Ledger(ledger.base, store=ledger.store, clock=ledger.clock).open()
    assert ["log_created", "log_opened", "x_test", "log_migrated"] == ledger.types()


def test_no_heartbeat_either(ledger, clock):
    """The end of the log stays its end, however long it is looked at."""
    leave(ledger)
    clock.advance(2 * 3600)
    with pytest.raises(LogMigrated):
        ledger.head.beat()
    assert ["log_created", "log_opened", "log_migrated"] == ledger.types()


def test_nothing_stands_before_the_entry_that_takes_it_up(ledger, clock):
    """Not even the end of an epoch that is due; the next day ends it."""
    ledger.appender.append(event()).wait()
    leave(ledger)
    clock.advance(3 * DAY_S)
    again = Ledger(ledger.base, store=ledger.store, clock=clock)
    taken = own_event("log_migrated", {"phase": "in", "from": "audit", "size": 4}, clock.now_ns())
    again.head.take_up([(taken, False)])
    again.head.publish()
    assert ["log_migrated", "log_migrated"] == ledger.types()[3:]
    clock.advance(DAY_S)
    with Ledger(ledger.base, store=ledger.store, clock=clock):
        pass
    assert ["signing_key_rotated", "log_opened", "log_closed"] == ledger.types()[5:]


def test_what_says_that_a_log_moved():
    """The phase of the last entry does, nothing else in it."""
    out, back = (own_event("log_migrated", {"phase": phase, "to": TARGET}, NOON) for phase in ("out", "in"))
    talk = own_event("log_recovered", OUT, NOON)
    assert [TARGET, None, None, None] == [moved_to(body) for body in (out.body, back.body, talk.body, b"")]
    assert [True, False, False] == [takes_up([(one, False)]) for one in (back, out, talk)]
    assert not takes_up([])
    refuse_moved(out.body, "audit", [(back, False)])
    with pytest.raises(LogMigrated):
        refuse_moved(out.body, "audit", [(talk, False), (back, False)])
    assert moved_to(out.body.replace(b'"metadata":{', b'"metadata":{,')) is None
