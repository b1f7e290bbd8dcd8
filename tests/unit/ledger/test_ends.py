"""The table of end events: derived, rebuilt at will, never believed against the log."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from klingai_audit.ledger import ends as ends_module
from klingai_audit.ledger.ends import end_id_of
from klingai_audit.ledger.purged import purged_line
from tests.support.faulty import QuickOps
from tests.support.judge import judge
from tests.support.ledgers import HandClock, Ledger, end_event, event

TASKS = 30


def begun(base: Path) -> Ledger:
    """A closed log with thirty ends among other entries, and the table of them."""
    with Ledger(base, ops=QuickOps(), clock=HandClock()) as ledger:
        for number in range(TASKS):
            ledger.appender.append(event())
            ledger.appender.append(end_event(f"task {number}"), once=True)
    with Ledger(base, ops=QuickOps(), clock=HandClock()) as ledger:
        ledger.appender.append(end_event("task 0"), once=True).wait()
    return ledger


def same_again(ledger: Ledger) -> None:
    """Report every end again, and one new: only the new one is written."""
    with Ledger(ledger.base, ops=QuickOps(), clock=HandClock()) as again:
        receipts = [again.appender.append(end_event(f"task {n}"), once=True) for n in range(TASKS + 1)]
        seqs = [receipt.wait().seq for receipt in receipts]
    judged = judge(ledger.log, ledger.vkey)
    assert [3 + 2 * n for n in range(TASKS)] == seqs[:TASKS]
    assert judged.types().count("task_completed") == TASKS + 1
    judged.check_acknowledged({receipt.event_id: receipt.seq or 0 for receipt in receipts})


def test_only_end_ids_are_ends() -> None:
    """UUID version 8 at its fixed place is an end; other versions, other headers and garbage are not."""
    assert end_event("a").event_id == end_id_of(end_event("a").body)
    for line in (event().body, b"", b"8" * 60, end_event("a").body.replace(b'{"schema":1', b'{"schema":2')):
        assert end_id_of(line) is None


def test_the_table_is_filled_and_used(tmp_path: Path) -> None:
    """Ends of earlier openings are found through the table, without scanning the log again."""
    ledger = begun(tmp_path)
    with sqlite3.connect(ledger.state.ends) as database:
        assert (TASKS,) == database.execute("SELECT count(*) FROM ends").fetchone()
    database.close()
    same_again(ledger)


def delete(path: Path) -> None:
    path.unlink()


def empty(path: Path) -> None:
    path.write_bytes(b"")


def garbage(path: Path) -> None:
    path.write_bytes(b"this is no database" * 100)


def torn(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-3000])


def scrambled(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[4096:] = bytes(byte ^ 0x5A for byte in data[4096:])
    path.write_bytes(data)


def folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def other_schema(path: Path) -> None:
    path.unlink()
    with sqlite3.connect(path) as database:
        database.execute("CREATE TABLE through (size INTEGER)")
        database.execute("INSERT INTO through VALUES (1000)")
    database.close()


def emptied_tables(path: Path) -> None:
    with sqlite3.connect(path) as database:
        database.execute("DELETE FROM through")
        database.execute("DELETE FROM ends")
    database.close()


def wrong_places(path: Path) -> None:
    with sqlite3.connect(path) as database:
        database.execute("UPDATE ends SET seq = seq - 1")
    database.close()


def too_far(path: Path) -> None:
    with sqlite3.connect(path) as database:
        database.execute("DELETE FROM ends")
        database.execute("UPDATE through SET size = 100000")
    database.close()


def of_another_log(path: Path) -> None:
    with Ledger(path.parent / "other", ops=QuickOps(), clock=HandClock()) as other:
        for _ in range(200):
            other.appender.append(event())
    with Ledger(path.parent / "other", ops=QuickOps(), clock=HandClock()) as other:
        other.appender.append(end_event("something else"), once=True).wait()
    shutil.copy(other.state.ends, path)


def read_only(path: Path) -> None:
    path.unlink()
    with sqlite3.connect(path) as database:
        database.execute("CREATE TABLE ends (id TEXT PRIMARY KEY, seq INTEGER)")
    database.close()
    path.chmod(0o400)


@pytest.mark.parametrize(
    "harm",
    [
        delete,
        empty,
        garbage,
        torn,
        scrambled,
        folder,
        other_schema,
        emptied_tables,
        wrong_places,
        too_far,
        of_another_log,
        read_only,
    ],
    ids=lambda harm: str(harm.__name__),
)
def test_whatever_happens_to_the_table(tmp_path: Path, harm: Callable[[Path], None]) -> None:
    """Deleted, damaged, stale or of another log: the ends in the log count, and no end is written twice."""
    ledger = begun(tmp_path)
    harm(ledger.state.ends)
    same_again(ledger)


def test_the_table_vanishes_while_in_use(tmp_path: Path) -> None:
    """The state folder may go while the log is open; ends are still written once."""
    ledger = begun(tmp_path)
    with Ledger(tmp_path, ops=QuickOps(), clock=HandClock()) as again:
        first = again.appender.append(end_event("new"), once=True).wait("published").seq
        shutil.rmtree(again.state.path)
        assert first == again.appender.append(end_event("new"), once=True).wait().seq
        assert again.appender.append(end_event("task 7"), once=True).wait().seq == 17
    assert judge(ledger.log, ledger.vkey).types().count("task_completed") == TASKS + 1


def test_memory_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond a limit recent ends go to the file, and are found there."""
    monkeypatch.setattr(ends_module, "_MEMORY_LIMIT", 10)
    with Ledger(tmp_path, ops=QuickOps(), clock=HandClock()) as ledger:
        places = {}
        for number in range(100):
            receipt = ledger.appender.append(end_event(f"task {number}"), once=True).wait()
            places[number] = receipt.seq
        assert len(ledger.head.ends._recent) <= 11
        for number in (0, 50, 99):
            assert places[number] == ledger.appender.append(end_event(f"task {number}"), once=True).wait().seq
    assert judge(ledger.log, ledger.vkey).types().count("task_completed") == 100


def test_the_first_of_two_counts(tmp_path: Path) -> None:
    """If an end was written twice without asking, the first one is the answer."""
    with Ledger(tmp_path, ops=QuickOps(), clock=HandClock()) as ledger:
        seqs = [ledger.appender.append(end_event("a")).wait().seq for _ in range(2)]
        assert [2, 3] == seqs
        assert ledger.appender.append(end_event("a"), once=True).wait().seq == 2
    with Ledger(tmp_path, ops=QuickOps(), clock=HandClock()) as ledger:
        assert ledger.appender.append(end_event("a"), once=True).wait().seq == 2


def test_a_log_with_a_million_ends_would_not_be_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the table holds is not scanned again: only entries behind it are."""
    ledger = begun(tmp_path)
    scanned: list[tuple[int, int | None]] = []
    with Ledger(tmp_path, ops=QuickOps(), clock=HandClock()) as again:
        read = again.store.read_entries

        def noted(begin: int, end: int | None = None) -> object:
            scanned.append((begin, end))
            return read(begin, end)

        monkeypatch.setattr(again.store, "read_entries", noted)
        again.appender.append(end_event("new"), once=True).wait()
        again.appender.append(end_event("task 3"), once=True).wait()
    assert max((end or 0) - begin for begin, end in scanned) < 10
    assert len(ledger.lines()) > 60


def test_an_end_that_is_purged_while_a_writer_knows_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The receipt has the hash of the entry that it was, not of the line in its place."""
    with Ledger(tmp_path, ops=QuickOps(), clock=HandClock()) as ledger:
        first = ledger.appender.append(end_event("task"), once=True).wait()
        line = purged_line(first.leaf_hash, 3)
        with monkeypatch.context() as patch:
            patch.setattr(ledger.store, "read_entries", lambda _begin, _end: iter([line]))
            again = ledger.appender.append(end_event("task"), once=True).wait()
    assert (again.seq, again.leaf_hash) == (first.seq, first.leaf_hash)
