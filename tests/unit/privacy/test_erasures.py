"""Erasure in the subject table: nothing of the person is left in any file, and no process goes on using the row."""

from __future__ import annotations

import hashlib
import hmac
import os
import sqlite3
from pathlib import Path

import pytest

from klingai_audit.durable import FileOps
from klingai_audit.errors import AuditUnavailable, UsageError
from klingai_audit.privacy.erasures import Erased
from klingai_audit.privacy.subjects import RESERVED, SqliteSubjects
from tests.support.children import Child, Tell

KEY = bytes(range(32))
USER, OTHER = "user@example.com", "boss@example.com"


def told(pseudonym: str, seq: int = 7) -> Erased:
    """Return an erasure as the log tells of it."""
    return Erased(pseudonym, seq, "2026-11-22T10:00:00.000000Z", "GDPR Art. 17(1)(b)")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Return where the table is."""
    return tmp_path / "subjects.sqlite"


@pytest.fixture
def table(path: Path) -> SqliteSubjects:
    """Return a fresh table."""
    return SqliteSubjects(path, KEY)


def traces(path: Path, pseudonym: str) -> list[bytes]:
    """Return everything secret or personal of a row: key, sealed id, look-up value."""
    with sqlite3.connect(path) as database:
        row = database.execute("SELECT key, sealed, lookup FROM subjects WHERE pseudonym = ?", (pseudonym,)).fetchone()
    database.close()
    return list(row)


def found(folder: Path, needles: list[bytes]) -> list[str]:
    """Return the names of files that hold one of these byte strings."""
    files = [file for file in folder.rglob("*") if file.is_file()]
    return [file.name for file in files if any(needle in file.read_bytes() for needle in needles)]


def test_a_destroyed_row_is_in_no_file(table: SqliteSubjects, path: Path, tmp_path: Path) -> None:
    """Key, sealed id and look-up value were in the file and are in none, journals included; the mark says when."""
    for number in range(300):
        table.resolve(f"user{number}@example.com")
    gone = table.resolve(USER)
    needles = traces(path, gone.pseudonym)
    assert needles[2] == hmac.new(KEY, USER.encode(), hashlib.sha256).digest()
    assert ["subjects.sqlite"] == found(tmp_path, needles)
    assert table.destroy(told(gone.pseudonym))
    assert [] == found(tmp_path, [*needles, USER.encode()])
    assert (None, None) == (table.get(gone.pseudonym), table.find(USER))
    assert told(gone.pseudonym) == table.erased(gone.pseudonym)
    assert "erased on 2026-11-22 under GDPR Art. 17(1)(b)" == str(table.erased(gone.pseudonym))


def test_destroying_twice_changes_nothing(table: SqliteSubjects, path: Path) -> None:
    """The second time there is nothing to do, nothing is written, and the mark stays that of the first entry."""
    gone = table.resolve(USER).pseudonym
    table.destroy(told(gone))
    before = path.read_bytes()
    assert not table.destroy(told(gone, seq=9))
    assert before == path.read_bytes()
    assert told(gone) == table.erased(gone)


def test_a_row_that_came_back_is_destroyed_again(table: SqliteSubjects, path: Path) -> None:
    """Where a backup was put in place of the table, the same erasure destroys the row again."""
    gone = table.resolve(USER).pseudonym
    table.close()
    backup = path.read_bytes()
    table.destroy(told(gone))
    table.close()
    path.write_bytes(backup)
    again = SqliteSubjects(path, KEY)
    assert USER == again.reveal(gone)
    assert again.destroy(told(gone))
    assert None is again.reveal(gone)


def test_who_was_erased_and_comes_back_is_somebody_new(table: SqliteSubjects) -> None:
    """The same id gets another pseudonym and another key."""
    gone = table.resolve(USER)
    table.destroy(told(gone.pseudonym))
    new = table.resolve(USER)
    assert gone.pseudonym != new.pseudonym
    assert gone.key != new.key


@pytest.mark.parametrize("reserved", RESERVED)
def test_reserved_rows_stay(table: SqliteSubjects, reserved: str) -> None:
    """The rows that stand for nobody and for the log itself cannot be destroyed."""
    with pytest.raises(UsageError, match="is no person"):
        table.destroy(told(reserved))
    assert table.get(reserved) is not None


def test_other_connections_forget(table: SqliteSubjects, path: Path) -> None:
    """What another connection, writing or reading, remembers of the row is dropped at its next use."""
    gone = table.resolve(USER)
    writer, reader = SqliteSubjects(path, KEY), SqliteSubjects(path, KEY, read_only=True)
    assert (gone, gone) == (writer.resolve(USER), reader.find(USER))
    told_of: list[str] = []
    writer.when_erased(lambda: told_of.append("writer"))
    table.destroy(told(gone.pseudonym))
    assert None is reader.find(USER)
    assert [] == told_of
    assert gone != writer.resolve(USER)
    assert ["writer"] == told_of
    assert told(gone.pseudonym) == reader.erased(gone.pseudonym)


def test_another_process_forgets(table: SqliteSubjects, path: Path) -> None:
    """A process that resolved the person before it was erased elsewhere does not use the old row again."""
    gone = table.resolve(USER)
    ready, go = os.pipe(), os.pipe()

    def act(tell: Tell) -> None:
        mine = SqliteSubjects(path, KEY)
        tell(mine.resolve(USER).pseudonym)
        os.write(ready[1], b".")
        os.read(go[0], 1)
        tell(mine.resolve(USER).pseudonym)

    child = Child(act)
    os.read(ready[0], 1)
    table.destroy(told(gone.pseudonym))
    os.write(go[1], b".")
    assert 0 == child.wait()
    assert gone.pseudonym == child.lines[0]
    assert gone.pseudonym != child.lines[1]
    assert table.resolve(USER).pseudonym == child.lines[1]


def test_without_the_count_nothing_is_destroyed(path: Path) -> None:
    """If other processes could not be told, the row stays, and so the erasure is not done by half."""

    class Ops(FileOps):
        broken = False

        def write(self, fd: int, data: bytes) -> int:
            if self.broken:
                raise OSError(28, "No space left on device")
            return super().write(fd, data)

    ops = Ops()
    table = SqliteSubjects(path, KEY, ops=ops)
    stays = table.resolve(USER)
    ops.broken = True
    with pytest.raises(AuditUnavailable, match="Nobody was erased"):
        table.destroy(told(stays.pseudonym))
    assert (stays, None) == (table.get(stays.pseudonym), table.erased(stays.pseudonym))
    ops.broken = False
    assert table.destroy(told(stays.pseudonym))


def test_a_table_of_before_erasures_is_read(table: SqliteSubjects, path: Path) -> None:
    """A reader meets a table without marks and says that nobody is erased; the next writer adds them."""
    known = table.resolve(USER)
    table.close()
    with sqlite3.connect(path) as database:
        database.execute("DROP TABLE erased")
    database.close()
    assert None is SqliteSubjects(path, KEY, read_only=True).erased(known.pseudonym)
    assert SqliteSubjects(path, KEY).destroy(told(known.pseudonym))


def test_erasing_one_leaves_the_others(table: SqliteSubjects, path: Path) -> None:
    """Several are destroyed in one go; rows that were not named are as before, byte for byte."""
    gone = [table.resolve(f"user{number}@example.com").pseudonym for number in range(40)]
    stays = table.resolve(OTHER)
    before = traces(path, stays.pseudonym)
    assert 20 == table.destroy_all([told(one) for one in gone[:20]])
    assert 20 == table.destroy_all([told(one) for one in gone])
    assert before == traces(path, stays.pseudonym)
    assert OTHER == table.reveal(stays.pseudonym)
    assert sorted([*RESERVED, stays.pseudonym]) == table.pseudonyms()
