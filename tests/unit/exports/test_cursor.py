"""Cursors: theirs is one log and one destination, and they never move backwards by themselves."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from klingai_audit.errors import LogDamaged, StorageError, UsageError
from klingai_audit.exports.cursor import CursorFile
from klingai_audit.exports.record import Source
from tests.support.faulty import FaultyOps, QuickOps
from tests.support.ledgers import Ledger, event


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    """A closed log of 13 entries."""
    with Ledger(tmp_path / "one", ops=QuickOps()) as open_ledger:
        for number in range(10):
            open_ledger.appender.append(event(metadata={"n": number}))
    return open_ledger


def state(ledger: Ledger) -> Path:
    return ledger.base / "audit.state"


def save(ledger: Ledger, seq: int, name: str = "siem") -> None:
    """Leave a cursor that stands before entry `seq`."""
    source = Source(ledger.reader)
    with CursorFile.open(state(ledger), name) as cursor:
        cursor.save(source.position(seq), source.head(), "ocsf", "tls://host:1")


def load(ledger: Ledger, format: str = "ocsf", to: str = "tls://host:1", at: Path | None = None) -> int | None:
    source = Source(ledger.reader)
    with CursorFile.open(at or state(ledger), "siem") as cursor:
        position = cursor.load(source, source.head(), format, to)
    return None if position is None else position.seq


@pytest.mark.parametrize("seq", [0, 1, 7, 13])
def test_cursor_comes_back(ledger: Ledger, seq: int) -> None:
    """What was saved is where the next export begins; before the first time there is nothing."""
    assert load(ledger) is None
    save(ledger, seq)
    assert seq == load(ledger)
    stored = json.loads((state(ledger) / "exports" / "siem.json").read_bytes())
    assert {"version", "origin", "format", "to", "next", "leaf"} == set(stored)
    assert (seq, "log.example.com/test") == (stored["next"], stored["origin"])


def test_unchanged_cursor_is_not_written_again(ledger: Ledger) -> None:
    """An export that waits does not wear the disk."""
    ops = FaultyOps()
    source = Source(ledger.reader)
    with CursorFile.open(state(ledger), "siem", ops) as cursor:
        cursor.save(source.position(3), source.head(), "ocsf", "x")
        before = len(ops.calls)
        cursor.save(source.position(3), source.head(), "ocsf", "x")
        assert before == len(ops.calls)


@pytest.mark.parametrize("format,to", [("cef", "tls://host:1"), ("ocsf", "tls://other:1")])
def test_cursor_of_another_destination_is_refused(ledger: Ledger, format: str, to: str) -> None:
    """Another destination would miss what the first one got."""
    save(ledger, 3)
    with pytest.raises(UsageError):
        load(ledger, format, to)


def test_cursor_of_another_log_is_refused(ledger: Ledger, tmp_path: Path) -> None:
    """The origin tells logs apart; the hash tells two histories of one origin apart."""
    save(ledger, 5)
    path = state(ledger) / "exports" / "siem.json"
    stored = json.loads(path.read_bytes())
    path.write_text(json.dumps({**stored, "origin": "log.example.com/other"}))
    with pytest.raises(UsageError):
        load(ledger)
    with Ledger(tmp_path / "two", ops=QuickOps()) as second:
        for number in range(10):
            second.appender.append(event(metadata={"n": number}))
    path.write_text(json.dumps(stored))
    with pytest.raises(LogDamaged) as caught:
        load(second, at=state(ledger))
    assert "history_rewritten" == caught.value.kind_of_damage


def test_cursor_ahead_of_the_log_tells_a_rollback(ledger: Ledger) -> None:
    """A log that is shorter than what was exported is an older copy."""
    save(ledger, 13)
    path = state(ledger) / "exports" / "siem.json"
    path.write_text(json.dumps({**json.loads(path.read_bytes()), "next": 14}))
    with pytest.raises(LogDamaged) as caught:
        load(ledger)
    assert "rollback" == caught.value.kind_of_damage


@pytest.mark.parametrize("data", [b"", b"{}", b'{"next":1}', b"\xff", b"[1]", b'{"version":1,"origin":"x"'])
def test_cursor_that_makes_no_sense_is_refused(ledger: Ledger, data: bytes) -> None:
    """It says which file, and what to do; it is never taken for a new one."""
    save(ledger, 3)
    (state(ledger) / "exports" / "siem.json").write_bytes(data)
    with pytest.raises(StorageError) as caught:
        load(ledger)
    assert "siem.json" in caught.value.message
    assert "--from-seq" in caught.value.do


@pytest.mark.parametrize("name", ["", "../x", "a/b", "A", ".x", "x" * 65, "a b", "a\n"])
def test_names_stay_in_their_folder(ledger: Ledger, name: str) -> None:
    """A name is no path."""
    with pytest.raises(UsageError):
        CursorFile.open(state(ledger), name)


def test_one_export_at_a_time(ledger: Ledger) -> None:
    """Two exports with one cursor would each skip what the other did; the second is told, until the first ends."""
    first = CursorFile.open(state(ledger), "siem")
    with pytest.raises(UsageError):
        CursorFile.open(state(ledger), "siem")
    with CursorFile.open(state(ledger), "other"):
        first.close()
    CursorFile.open(state(ledger), "siem").close()


def test_unwritable_state_is_told(ledger: Ledger, tmp_path: Path) -> None:
    """A cursor that cannot be kept is an error before anything is sent, and while it is moved."""
    (tmp_path / "file").write_text("x")
    with pytest.raises(StorageError):
        CursorFile.open(tmp_path / "file", "siem")
    ops = FaultyOps()
    source = Source(ledger.reader)
    with CursorFile.open(state(ledger), "siem", ops) as cursor:
        ops.fails = lambda call: call.name == "write"
        with pytest.raises(StorageError):
            cursor.save(source.position(3), source.head(), "ocsf", "x")
    shutil.rmtree(state(ledger) / "exports")
    assert load(ledger) is None
