"""The subject table in SQLite."""

from __future__ import annotations

import hashlib
import hmac
import multiprocessing
import os
import sqlite3
import stat
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from klingai_audit.durable import FileOps
from klingai_audit.errors import (
    AuditUnavailable,
    InvalidEvent,
    LogNotFound,
    StorageError,
    UnsafePermissions,
)
from klingai_audit.privacy import subject_rows
from klingai_audit.privacy.subjects import RESERVED, SqliteSubjects, Subject, SubjectTable, is_pseudonym

KEY = bytes(range(32))
USER = "user@example.com"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Return where the table is to be."""
    return tmp_path / "subjects.sqlite"


@pytest.fixture
def table(path: Path) -> SqliteSubjects:
    """Return a fresh table."""
    return SqliteSubjects(path, KEY)


def rows(path: Path) -> list[tuple[object, ...]]:
    """Read the rows with no help from the product."""
    connection = sqlite3.connect(path)
    try:
        return connection.execute(
            "SELECT lookup, pseudonym, kind, key, sealed, reserved FROM subjects ORDER BY reserved DESC, pseudonym"
        ).fetchall()
    finally:
        connection.close()


def test_a_new_person_gets_a_random_row(table: SqliteSubjects, path: Path) -> None:
    """The row holds the keyed look-up, a random pseudonym and key, and the id sealed under that key, as documented."""
    subject = table.resolve(" User@Example.com ")
    assert is_pseudonym(subject.pseudonym)
    assert (32, False) == (len(subject.key), subject.reserved)
    lookup, pseudonym, kind, key, sealed, reserved = rows(path)[2]
    assert hmac.new(KEY, USER.encode(), hashlib.sha256).digest() == lookup
    assert (subject.pseudonym, "person", subject.key, 0) == (pseudonym, kind, key, reserved)
    assert isinstance(sealed, bytes)
    opened = AESGCM(subject.key).decrypt(
        sealed[:12], sealed[12:], b"klingai-audit/subject/v1\0" + subject.pseudonym.encode()
    )
    assert USER.encode() == opened


def test_same_person_same_row(table: SqliteSubjects, path: Path) -> None:
    """Every spelling of an id, now and after reopening, gives the same pseudonym and key."""
    first = table.resolve(USER)
    assert first == table.resolve("USER@EXAMPLE.COM")
    table.close()
    assert first == table.resolve(USER)
    assert first == SqliteSubjects(path, KEY).resolve(USER)
    assert 3 == len(rows(path))


def test_people_with_one_mask_stay_two(table: SqliteSubjects) -> None:
    """Two ids with the same mask have different pseudonyms and keys; two tables share nothing."""
    one, two = table.resolve("us1@example.com"), table.resolve("us2@example.com")
    assert one.pseudonym != two.pseudonym
    assert one.key != two.key


def test_two_tables_share_nothing(tmp_path: Path) -> None:
    """The same id has another pseudonym and key in another table with the same look-up key."""
    one = SqliteSubjects(tmp_path / "a.sqlite", KEY).resolve(USER)
    two = SqliteSubjects(tmp_path / "b.sqlite", KEY).resolve(USER)
    assert one.pseudonym != two.pseudonym
    assert one.key != two.key


def test_reserved_ids_are_literal_and_have_rows(table: SqliteSubjects, path: Path) -> None:
    """`unknown` and `klingai-audit` are their own pseudonym, with a key each, from the beginning."""
    assert [(name, 1) for name in sorted(RESERVED)] == [(row[1], row[5]) for row in rows(path)]
    for name in RESERVED:
        subject = table.resolve(f" {name} ")
        assert (name, True, 32) == (subject.pseudonym, subject.reserved, len(subject.key))
        assert name == table.reveal(name)
    assert table.resolve("unknown").key != table.resolve("klingai-audit").key
    assert is_pseudonym(table.resolve("Unknown").pseudonym)


def test_find_writes_nothing(table: SqliteSubjects, path: Path) -> None:
    """`find` gives a known person's row and creates none."""
    assert table.find(USER) is None
    assert 2 == len(rows(path))
    assert table.resolve(USER) == table.find(f" {USER}")


def test_behind_a_pseudonym(table: SqliteSubjects) -> None:
    """A pseudonym leads to its row and its normalised id; an unknown one to nothing."""
    subject = table.resolve("User@Example.com")
    assert subject == table.get(subject.pseudonym)
    assert USER == table.reveal(subject.pseudonym)
    assert (None, None) == (table.get("p_" + "A" * 22), table.reveal("p_" + "A" * 22))
    assert sorted([*RESERVED, subject.pseudonym]) == table.pseudonyms()


@pytest.mark.parametrize("bad", ["", "  ", "x" * 513])
def test_ids_have_a_size(table: SqliteSubjects, bad: str) -> None:
    """Empty and endless ids are refused."""
    with pytest.raises(InvalidEvent):
        table.resolve(bad)
    with pytest.raises(InvalidEvent):
        table.find(bad)


def test_odd_ids_survive(table: SqliteSubjects) -> None:
    """Control characters, a lone surrogate and other scripts are sealed and revealed as they are."""
    for odd in ("a\x00b", "\ud800", "\u6c34@example.com"):
        assert odd == table.reveal(table.resolve(odd).pseudonym)


def test_file_is_private_and_holds_no_id(table: SqliteSubjects, path: Path) -> None:
    """The file has mode 0600, no journal stays beside it (only the count of erasures), and no byte shows an id."""
    table.resolve(USER)
    assert 0o600 == stat.S_IMODE(path.stat().st_mode)
    assert [path.name, f"{path.name}.erasures"] == sorted(file.name for file in path.parent.iterdir())
    data = path.read_bytes()
    assert b"example" not in data
    assert b"user@" not in data


def test_settings_of_the_connection(table: SqliteSubjects) -> None:
    """DELETE journal, secure deletion and a sync of everything, folder included."""
    with table._file.session() as database:
        found = [
            database.execute(f"PRAGMA {name}").fetchone()[0]
            for name in ("journal_mode", "secure_delete", "synchronous", "trusted_schema")
        ]
    assert ["delete", 1, 3, 0] == found


def test_a_wide_file_is_refused(table: SqliteSubjects, path: Path) -> None:
    """A file that others can read is refused with the command that repairs it."""
    table.close()
    path.chmod(0o644)
    with pytest.raises(UnsafePermissions) as caught:
        SqliteSubjects(path, KEY)
    assert f"chmod 600 {path}" in caught.value.do
    path.chmod(0o640)
    assert SqliteSubjects(path, KEY).resolve(USER)


# --- reading only --------------------------------------------------------------------------------------


def test_read_only_reads(table: SqliteSubjects, path: Path) -> None:
    """A table opened for reading answers, on a read-only copy without a writable folder too, and never writes."""
    subject = table.resolve(USER)
    table.close()
    path.chmod(0o400)
    path.parent.chmod(0o500)
    try:
        reader = SqliteSubjects(path, KEY, read_only=True)
        assert (subject, subject, USER) == (reader.resolve(USER), reader.find(USER), reader.reveal(subject.pseudonym))
        assert reader.find("other@example.com") is None
        with pytest.raises(AuditUnavailable, match="open read-only"):
            reader.resolve("other@example.com")
    finally:
        path.parent.chmod(0o700)
    assert 3 == len(rows(path))


def test_read_only_without_a_table(path: Path) -> None:
    """Reading a table that does not exist says so and creates no file."""
    with pytest.raises(LogNotFound) as caught:
        SqliteSubjects(path, KEY, read_only=True)
    assert "there is no subject table" in caught.value.message
    assert caught.value.do
    assert not path.exists()
    with pytest.raises(LogNotFound):
        SqliteSubjects(path, KEY, create=False)


def test_read_only_file_without_a_table(path: Path) -> None:
    """A database that holds no subject table is answered as clearly."""
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE other (a)")
    connection.close()
    path.chmod(0o600)
    with pytest.raises(LogNotFound, match="holds no subject table"):
        SqliteSubjects(path, KEY, read_only=True)


# --- what can go wrong ---------------------------------------------------------------------------------


def test_another_look_up_key(table: SqliteSubjects, path: Path) -> None:
    """A table that was made with another look-up key is refused instead of growing second rows."""
    table.resolve(USER)
    with pytest.raises(StorageError, match="look-up key is not the one"):
        SqliteSubjects(path, bytes(32))
    with pytest.raises(StorageError, match="31 bytes"):
        SqliteSubjects(path, bytes(31))
    assert 3 == len(rows(path))


def test_a_later_version(table: SqliteSubjects, path: Path) -> None:
    """A table of a version that this program does not know is refused."""
    table.close()
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA user_version = 7")
    connection.close()
    with pytest.raises(StorageError, match="version 7"):
        SqliteSubjects(path, KEY)


def test_locked(table: SqliteSubjects, path: Path) -> None:
    """A table that another process keeps locked is unavailable after the wait, and works again afterwards."""
    quick = SqliteSubjects(path, KEY, busy_seconds=0.05)
    holder = sqlite3.connect(path, isolation_level=None)
    holder.execute("BEGIN EXCLUSIVE")
    with pytest.raises(AuditUnavailable, match="stayed locked") as caught:
        quick.resolve(USER)
    assert caught.value.do
    with pytest.raises(StorageError, match="stayed locked"):
        quick.find(USER)
    holder.close()
    assert quick.resolve(USER) == table.resolve(USER)


def test_not_writable(table: SqliteSubjects, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A table that may not be written is unavailable for new people and still knows the old ones."""
    known = table.resolve(USER)
    table.close()
    connect = sqlite3.connect
    # What the system would do for anyone but root: the file opens for reading only.
    monkeypatch.setattr(sqlite3, "connect", lambda name, **more: connect(name.replace("mode=rw", "mode=ro"), **more))
    writer = SqliteSubjects(path, KEY)
    assert known == writer.resolve(USER)
    with pytest.raises(AuditUnavailable, match="cannot be written") as caught:
        writer.resolve("other@example.com")
    assert "writable" in caught.value.do


def test_disk_full(table: SqliteSubjects, path: Path) -> None:
    """When the file cannot grow, new people are refused, nothing half is left, and it works again with space."""
    known = table.resolve(USER)
    with table._file.session() as database:
        pages = database.execute("PRAGMA page_count").fetchone()[0]
        database.execute(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(AuditUnavailable, match="disk is full"):
        for number in range(200):
            table.resolve(f"user{number}@example.com")
    kept = len(rows(path))
    assert known == table.resolve("USER@example.com")
    with table._file.session() as database:
        database.execute("PRAGMA max_page_count = 1000")
    table.resolve("user199@example.com")
    assert kept + 1 == len(rows(path))


def test_damaged(table: SqliteSubjects, path: Path) -> None:
    """A file that is no database any more is named as damaged, when opened and while in use."""
    table.resolve(USER)
    table.close()
    path.write_bytes(b"no database at all, just text" * 200)
    with pytest.raises(StorageError, match="is damaged") as caught:
        SqliteSubjects(path, KEY)
    assert "Preserve" in caught.value.do


def test_gone_underneath(table: SqliteSubjects, path: Path) -> None:
    """A table whose file was deleted takes no new people; nothing goes into a file without a name."""
    known = table.resolve(USER)
    path.unlink()
    with pytest.raises(AuditUnavailable, match="is gone or was replaced"):
        table.resolve("other@example.com")
    assert known == table.resolve(USER)


def test_replaced_underneath(table: SqliteSubjects, path: Path) -> None:
    """A file put in the place of the open one is noticed."""
    other = path.with_name("other.sqlite")
    SqliteSubjects(other, KEY).close()
    other.rename(path)
    with pytest.raises(AuditUnavailable, match="is gone or was replaced"):
        table.resolve(USER)


def test_gone_while_writing(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file deleted during the very transaction is noticed before the person is returned."""
    table = SqliteSubjects(path, KEY)
    add = SqliteSubjects._add

    def unlink_then_add(self: SqliteSubjects, database: sqlite3.Connection, normal: str, kind: str) -> Subject:
        subject = add(self, database, normal, kind)
        path.unlink()
        return subject

    monkeypatch.setattr(SqliteSubjects, "_add", unlink_then_add)
    with pytest.raises(AuditUnavailable):
        table.resolve(USER)
    assert USER not in table._cache


@pytest.mark.parametrize("obstacle", ["folder", "missing parent", "file as parent"])
def test_no_place_for_the_file(tmp_path: Path, obstacle: str) -> None:
    """A folder in the file's place, or no folder to hold it: unavailable, with the path and what to do."""
    path = tmp_path / "subjects.sqlite"
    if obstacle == "folder":
        path.mkdir()
    elif obstacle == "missing parent":
        path = tmp_path / "none" / "subjects.sqlite"
    else:
        (tmp_path / "file").write_bytes(b"")
        path = tmp_path / "file" / "subjects.sqlite"
    with pytest.raises(AuditUnavailable) as caught:
        SqliteSubjects(path, KEY)
    assert str(path) in caught.value.message
    assert caught.value.do


def test_creation_goes_through_the_seam(path: Path) -> None:
    """The file is created and its folder synced by the operations that tests can replace; a failure is ours."""

    class Full(FileOps):
        def sync_folder(self, folder: Path) -> None:
            raise OSError(28, "No space left on device")

    with pytest.raises(AuditUnavailable, match="No space left"):
        SqliteSubjects(path, KEY, ops=Full())


def test_half_made_file_is_completed(path: Path) -> None:
    """An empty file left by a crash during creation becomes the table."""
    path.touch(mode=0o600)
    table = SqliteSubjects(path, KEY)
    assert sorted(RESERVED) == table.pseudonyms()


def test_tampered_row(table: SqliteSubjects, path: Path) -> None:
    """A sealed id that was moved to another row does not open, and the error shows no id."""
    one, two = table.resolve(USER), table.resolve("other@example.com")
    connection = sqlite3.connect(path)
    connection.execute(
        "UPDATE subjects SET sealed = (SELECT sealed FROM subjects WHERE pseudonym = ?) WHERE pseudonym = ?",
        (two.pseudonym, one.pseudonym),
    )
    connection.commit()
    connection.close()
    with pytest.raises(StorageError, match="does not open") as caught:
        table.reveal(one.pseudonym)
    assert "example" not in str(caught.value)


def test_errors_show_no_ids(table: SqliteSubjects, path: Path) -> None:
    """Neither error texts nor reprs show an id or a key."""
    subject = table.resolve(USER)
    path.unlink()
    with pytest.raises(StorageError) as caught:
        table.resolve("other@example.com")
    shown = repr((caught.value, str(caught.value), caught.value.__cause__, table, subject))
    assert "example" not in shown
    assert repr(subject.key) not in shown


# --- together ------------------------------------------------------------------------------------------


def test_cache_is_bounded(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The oldest id leaves the cache when it is full, and is found again in the file."""
    monkeypatch.setattr(subject_rows, "_CACHE_ENTRIES", 3)
    table = SqliteSubjects(path, KEY)
    found = {name: table.resolve(name) for name in "abcde"}
    assert ["c", "d", "e"] == list(table._cache)
    assert found == {name: table.resolve(name) for name in "abcde"}


def test_threads_that_make_room_in_a_full_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    """The oldest id that another thread took away meanwhile is gone as it should be."""
    monkeypatch.setattr(subject_rows, "_CACHE_ENTRIES", 2)
    subject = Subject("p_0123456789abcdefghijkl", KEY)

    class Contended(dict[str, Subject]):
        def __delitem__(self, id: str) -> None:
            super().__delitem__(id)  # by the other thread
            super().__delitem__(id)

    cache = Contended(a=subject, b=subject)
    subject_rows.remember(cache, "c", subject)
    assert ["b", "c"] == list(cache)


def test_threads_racing_on_new_people_get_one_row(table: SqliteSubjects, path: Path) -> None:
    """Many threads that meet the same new people at once agree on them."""
    barrier = threading.Barrier(8)

    def work(_: int) -> list[Subject]:
        barrier.wait()
        return [table.resolve(f"user{number}@example.com") for number in range(5)]

    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(work, range(8)))
    assert all(result == results[0] for result in results)
    assert 7 == len(rows(path))


def test_the_second_of_two_writers_takes_the_first_ones_row(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A person whom another writer adds between our look and our write has that writer's row."""
    mine, other = SqliteSubjects(path, KEY), SqliteSubjects(path, KEY)
    select, theirs = SqliteSubjects._select, []

    def slow(self: SqliteSubjects, database: sqlite3.Connection, normal: str) -> Subject | None:
        found = select(self, database, normal)
        if self is mine and not theirs:
            theirs.append(other.resolve(USER))
        return found

    monkeypatch.setattr(SqliteSubjects, "_select", slow)
    assert [mine.resolve(USER)] == theirs
    assert 3 == len(rows(path))


def race(path: str, start: float, results: multiprocessing.Queue[list[str]]) -> None:
    """Open the table, created here or elsewhere, and resolve the same people as everybody."""
    while time.time() < start:
        time.sleep(0.001)
    table: SubjectTable = SqliteSubjects(Path(path), KEY)
    results.put([table.resolve(f"user{number}@example.com").pseudonym for number in range(10)])


@pytest.mark.slow
def test_processes_racing_on_new_people_get_one_row(path: Path) -> None:
    """Several processes that create the file and meet the same new people at once agree on both."""
    context = multiprocessing.get_context("spawn")
    results: multiprocessing.Queue[list[str]] = context.Queue()
    start = time.time() + 1.5
    children = [context.Process(target=race, args=(str(path), start, results)) for _ in range(4)]
    for child in children:
        child.start()
    found = [results.get(timeout=60) for _ in children]
    for child in children:
        child.join()
    assert [0] * 4 == [child.exitcode for child in children]
    assert [found[0]] * 4 == found
    assert 12 == len(rows(path))


def test_forked_child_and_parent_go_on(table: SqliteSubjects, path: Path) -> None:
    """After a fork both sides add people to the same file, each by its own connection."""
    before = table.resolve("before@example.com")
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            assert table._file._connection is None
            mine = [before.pseudonym == table.resolve("before@example.com").pseudonym, table.resolve(USER).pseudonym]
            os.write(write, repr(mine).encode())
            status = 0
        finally:
            os._exit(status)
    after = table.resolve("after@example.com")
    assert 0 == os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert repr([True, table.resolve(USER).pseudonym]) == os.read(read, 1000).decode()
    os.close(read)
    os.close(write)
    assert after == SqliteSubjects(path, KEY).resolve("after@example.com")
    assert 5 == len(rows(path))


def test_fork_waits_for_a_running_session(table: SqliteSubjects) -> None:
    """A fork during another thread's transaction waits, so that the child inherits no half-done one."""
    inside, leave = threading.Event(), threading.Event()
    order: list[str] = []

    def hold() -> None:
        with table._file.session() as database, table._file.transaction(database):
            inside.set()
            leave.wait(5)
            order.append("transaction over")

    thread = threading.Thread(target=hold)
    thread.start()
    inside.wait(5)
    threading.Timer(0.2, leave.set).start()
    child = os.fork()
    if child == 0:
        os._exit(0 if order == ["transaction over"] else 1)
    assert 0 == os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    thread.join()
    assert table.resolve(USER)


def test_after_fork_drops_the_connection(table: SqliteSubjects) -> None:
    """`after_fork` by hand opens the file anew on next use."""
    subject = table.resolve(USER)
    table.after_fork()
    assert table._file._connection is None
    assert subject == table.find("USER@example.com")
