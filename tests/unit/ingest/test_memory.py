"""Which event ids were taken: derived from the log, deleted at will, right after a restart."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from klingai_audit.errors import StorageError
from klingai_audit.ingest import memory as room
from klingai_audit.ingest.memory import WINDOW_S, Memory, alone
from klingai_audit.ledger.reader import LogReader
from klingai_audit.log import AuditLog
from tests.support.ingesting import IDS


@pytest.fixture
def audit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[AuditLog]:
    """A log with five events; the table is brought up to date at every look."""
    monkeypatch.setattr(room, "FOLLOW_S", 0)
    with AuditLog.open(tmp_path / "audit") as opened:
        add(opened, IDS[:5])
        yield opened


def add(audit: AuditLog, ids: list[str]) -> None:
    for event_id in ids:
        audit.log("x_a", "render-1", event_id=event_id)
    audit.flush("published")


def make(audit: AuditLog, later: float = 0) -> Memory:
    return Memory(audit.places.state, audit.reader, clock=lambda: time.time() + later)


def seqs(audit: AuditLog) -> dict[str, int]:
    return {entry.event_id: entry.seq for entry in audit.query(event_type="x_a")}


def test_what_the_log_took_is_found(audit: AuditLog) -> None:
    """Also what comes later, and by a memory of before; nothing else is."""
    memory = make(audit)
    assert seqs(audit) == memory.find(IDS[:10])
    assert {} == memory.find([])
    add(audit, IDS[5:7])
    assert {IDS[6]: seqs(audit)[IDS[6]]} == memory.find([IDS[6], IDS[7]])
    memory.close()
    assert seqs(audit) == memory.find(IDS)
    memory.close()
    again = make(audit)
    assert seqs(audit) == again.find(IDS)
    again.close()


def test_what_is_not_published_can_be_included(audit: AuditLog, monkeypatch: pytest.MonkeyPatch) -> None:
    """A signer that was away for long leaves durable entries without a checkpoint: they are known after a new start."""
    known, size = seqs(audit), audit.reader.size
    monkeypatch.setattr(LogReader, "size", known[IDS[2]])
    memory = make(audit)
    assert set(IDS[:2]) == set(memory.find(IDS))
    memory.include(size)
    assert known == memory.find(IDS)
    memory.include(0)
    memory.close()


def test_the_first_of_two_counts(audit: AuditLog) -> None:
    """A library may log an id twice; the receipt is that of the first."""
    before = seqs(audit)
    add(audit, IDS[:1])
    assert before[IDS[0]] == make(audit).find(IDS[:1])[IDS[0]]


def test_after_a_day_it_is_another_event(audit: AuditLog) -> None:
    """The window ends after 24 hours; the same id again then counts anew."""
    make(audit).find(IDS)
    assert seqs(audit) == make(audit, WINDOW_S - 600).find(IDS)
    late = make(audit, WINDOW_S + 5)
    assert {} == late.find(IDS)
    late.note({IDS[0]: 77})
    assert {IDS[0]: 77} == late.find(IDS)


@pytest.mark.parametrize("damage", ["deleted", "garbled", "other", "longer"])
def test_a_table_that_does_not_fit_is_made_anew(audit: AuditLog, tmp_path: Path, damage: str) -> None:
    """Deleted, garbled, of another log, or ahead of this one: the answer is that of the log."""
    memory = make(audit)
    memory.find(IDS)
    memory.close()
    path = audit.places.state / "ingest.sqlite"
    assert 0o600 == path.stat().st_mode & 0o777
    if damage == "deleted":
        path.unlink()
    elif damage == "garbled":
        path.write_bytes(b"no database" * 1000)
    else:
        with sqlite3.connect(path) as database:
            value = ("origin = 'other.example'", "size = size + 1")[damage == "longer"]
            database.execute(f"UPDATE through SET {value}")
            database.execute("DELETE FROM ids")
        database.close()
    again = make(audit)
    assert seqs(audit) == again.find(IDS)
    again.close()


def test_a_state_folder_that_cannot_be_written_is_done_without(audit: AuditLog) -> None:
    """What was taken is then kept in memory, read from the log."""
    (audit.places.state / "ingest.sqlite").mkdir()
    memory = make(audit)
    assert seqs(audit) == memory.find(IDS)
    memory.close()


def test_only_one_endpoint_has_a_state_folder(tmp_path: Path) -> None:
    """The second is refused until the first is gone."""
    with alone(tmp_path), pytest.raises(StorageError, match="Another ingest"), alone(tmp_path):
        pass
    with alone(tmp_path):
        pass
