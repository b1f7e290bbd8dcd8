"""The subject table in PostgreSQL: what `SubjectTable` promises, with real roles, and what an erasure leaves."""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from klingai_audit.errors import AuditUnavailable, InvalidEvent, LogNotFound, StorageError, UsageError
from klingai_audit.privacy.erasures import Erased
from klingai_audit.privacy.subjects import RESERVED, SqliteSubjects, is_pseudonym
from klingai_audit.stores.postgres_schema import dba_sql
from klingai_audit.testing.store_contract.forked import in_child
from tests.support.postgres import PostgresServer

pytestmark = pytest.mark.slow

KEY = bytes(range(32))
WHO = "user@example.com"
SCHEMA = "klingai_audit"


def erasure(pseudonym: str, seq: int = 7) -> Erased:
    """What an entry of the log says of an erasure."""
    return Erased(pseudonym, seq, "2026-11-22T08:00:00.000000Z", "GDPR 17")


@pytest.fixture
def open_table(postgres_url: str) -> Iterator[Callable[..., Any]]:
    """Opens the table of one database, as one process each; all are closed in the end."""
    from klingai_audit.stores.subjects_postgres import PostgresSubjects

    opened: list[Any] = []

    def make(url: str = postgres_url, key: bytes = KEY, **options: Any) -> Any:
        opened.append(PostgresSubjects(url, key, **options))
        return opened[-1]

    yield make
    for table in opened:
        table.close()


@pytest.fixture
def table(open_table: Callable[..., Any]) -> Any:
    """A new table."""
    return open_table()


@pytest.fixture
def superuser(postgres: PostgresServer, postgres_url: str) -> Iterator[Any]:
    """A connection of somebody who may do everything."""
    with postgres.connect(postgres_url) as connection:
        yield connection


def test_one_id_has_one_subject(table: Any, open_table: Callable[..., Any]) -> None:
    """However it is written, whoever asks, now and later; another id has another."""
    subject = table.resolve(WHO)
    assert is_pseudonym(subject.pseudonym)
    assert 32 == len(subject.key)
    assert subject == table.resolve("  User@Example.com ") == open_table().resolve(WHO)
    assert subject == table.find(WHO) == table.get(subject.pseudonym)
    assert subject.pseudonym != table.resolve("other@example.com").pseudonym
    assert WHO == open_table().reveal(subject.pseudonym)
    assert table.find("nobody@example.com") is None
    assert [None, None] == [table.get("p_none"), table.reveal("p_none")]


def test_reserved_rows_are_literal(table: Any) -> None:
    """They are there from the beginning, are their own pseudonyms, and stay."""
    for name in RESERVED:
        assert (name, True) == (table.resolve(name).pseudonym, table.resolve(name).reserved)
        with pytest.raises(UsageError):
            table.destroy_all([erasure(name)])
    assert sorted(RESERVED) == table.pseudonyms()


def test_a_race_gives_one_row(open_table: Callable[..., Any]) -> None:
    """Processes that meet a person at the same moment agree."""
    tables = [open_table() for _ in range(6)]
    for number in range(10):
        found: list[Any] = []
        ready = threading.Barrier(len(tables), timeout=60)

        def meet(table: Any, number: int = number, found: list[Any] = found, ready: Any = ready) -> None:
            ready.wait()
            found.append(table.resolve(f"user{number}@example.com"))

        threads = [threading.Thread(target=meet, args=(table,)) for table in tables]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(tables) == len(found)
        assert 1 == len({subject.pseudonym for subject in found})


def test_ids_are_not_stored_in_the_clear(table: Any, superuser: Any) -> None:
    """Neither in a column nor in what the object shows of itself."""
    subject = table.resolve(WHO)
    rows = superuser.execute(f"SELECT * FROM {SCHEMA}.subjects").fetchall()
    assert b"example" not in repr(rows).encode()
    assert "example.com" not in repr(subject) + repr(table)


def test_it_is_the_same_as_in_sqlite(table: Any, tmp_path: Any) -> None:
    """A row that is carried over means the same: the formats are one."""
    file = SqliteSubjects(tmp_path / "subjects.sqlite", KEY)
    assert file._rows.lookup("a") == table._rows.lookup("a")
    row = file._rows.new("user@example.com", "person")
    assert "user@example.com" == table._rows.unseal(row.pseudonym, row.key, row.sealed)
    file.close()


@pytest.mark.parametrize("id", ["", "   ", "x" * 513])
def test_ids_that_nobody_has(table: Any, id: str) -> None:
    """They are refused, and no row is made."""
    with pytest.raises(InvalidEvent):
        table.resolve(id)
    assert 2 == len(table.pseudonyms())


def test_another_look_up_key_is_noticed(table: Any, open_table: Callable[..., Any]) -> None:
    """Keys and table belong together."""
    with pytest.raises(StorageError):
        open_table(key=bytes(32))


def test_read_only(open_table: Callable[..., Any]) -> None:
    """A missing table is not made; one that is there is read, and no row is added."""
    with pytest.raises(LogNotFound):
        open_table(read_only=True)
    subject = open_table().resolve(WHO)
    reader = open_table(read_only=True)
    assert subject == reader.resolve(WHO)
    with pytest.raises(AuditUnavailable):
        reader.resolve("new@example.com")


def test_an_erased_person_is_gone(table: Any, open_table: Callable[..., Any], superuser: Any) -> None:
    """Row, key and sealed id; the same id is a new person afterwards. Doing it again finds nothing to do."""
    subject, other = table.resolve(WHO), table.resolve("other@example.com")
    forgotten: list[int] = []
    table.when_erased(lambda: forgotten.append(1))
    before = superuser.execute(f"SELECT pg_relation_filenode('{SCHEMA}.subjects')").fetchone()
    assert 1 == table.destroy_all([erasure(subject.pseudonym)])
    assert [1] == forgotten
    assert table.get(subject.pseudonym) is None
    assert table.reveal(subject.pseudonym) is None
    assert erasure(subject.pseudonym) == table.erased(subject.pseudonym)
    assert table.erased(other.pseudonym) is None
    assert subject.pseudonym != table.resolve(WHO).pseudonym
    assert other == table.resolve("other@example.com")
    assert before != superuser.execute(f"SELECT pg_relation_filenode('{SCHEMA}.subjects')").fetchone()
    assert 0 == open_table().destroy_all([erasure(subject.pseudonym)])


def test_others_forget_by_the_time_an_erasure_returns(table: Any, open_table: Callable[..., Any]) -> None:
    """What a process remembers does not outlive the call by which another erased it."""
    other = open_table()
    subject = table.resolve(WHO)
    for _ in range(3):
        assert subject == other.resolve(WHO)
    over = threading.Event()
    seen: list[tuple[float, str]] = []

    def use() -> None:
        while not over.is_set():
            asked = time.monotonic()
            seen.append((asked, other.resolve(WHO).pseudonym))

    user = threading.Thread(target=use)
    user.start()
    table.destroy_all([erasure(subject.pseudonym)])
    returned = time.monotonic()
    time.sleep(0.3)
    over.set()
    user.join()
    after = {pseudonym for asked, pseudonym in seen if asked > returned}
    assert after
    assert subject.pseudonym not in after


def test_a_row_that_an_old_transaction_sees_is_not_gone(
    table: Any, postgres: PostgresServer, postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The erasure says so instead of claiming it, and completes when that transaction is over."""
    from klingai_audit.stores import subjects_postgres

    monkeypatch.setattr(subjects_postgres, "_WAIT_S", 0.5)
    subject = table.resolve(WHO)
    with postgres.connect(postgres_url) as old:
        old.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
        old.execute("SELECT txid_current()")
        with pytest.raises(AuditUnavailable) as caught:
            table.destroy_all([erasure(subject.pseudonym)])
        assert "older transaction" in caught.value.message
        assert table.get(subject.pseudonym) is None
        old.execute("ROLLBACK")
        assert 1 == table.destroy_all([erasure(subject.pseudonym)])
        assert 0 == table.destroy_all([erasure(subject.pseudonym)])


def test_bytes_of_an_erased_row_are_in_no_file_of_the_table(
    table: Any, superuser: Any, postgres: PostgresServer
) -> None:
    """Looked for in the server's own files after a checkpoint; what the WAL holds is another matter.

    The planner's samples are among them: what ANALYZE took from the table before.
    """
    subject = table.resolve(WHO)
    for number in range(50):
        table.resolve(f"user{number}@example.com")
    superuser.execute(f"ANALYZE {SCHEMA}.subjects")
    superuser.execute("CHECKPOINT")

    def found() -> list[str]:
        name = superuser.execute(f"SELECT pg_relation_filepath('{SCHEMA}.subjects')").fetchone()[0]
        files = (postgres.folder / "data" / name).parent.iterdir()
        return [file.name for file in files if file.is_file() and subject.key in file.read_bytes()]

    assert 1 == len(found())
    table.destroy_all([erasure(subject.pseudonym)])
    superuser.execute("CHECKPOINT")
    assert [] == found()


def test_rights(
    table: Any, open_table: Callable[..., Any], superuser: Any, postgres: PostgresServer, postgres_url: str
) -> None:
    """Writers add people, privacy officers erase them, nobody changes a row."""
    import psycopg

    schema = f"audit_{secrets.token_hex(4)}"
    superuser.execute(dba_sql(schema, parts=("subjects",)), prepare=False)
    urls = {}
    for role in ("writer", "privacy", "reader"):
        name, password = f"user_{secrets.token_hex(4)}", secrets.token_hex(8)
        superuser.execute(f"CREATE ROLE {name} LOGIN PASSWORD '{password}'")
        superuser.execute(f"GRANT {schema}_{role} TO {name}")
        urls[role] = postgres_url.replace(f"postgres:{postgres.password}@", f"{name}:{password}@")
    writer = open_table(f"{urls['writer']}?schema={schema}")
    subject = writer.resolve(WHO)
    for statement in (
        f"DELETE FROM {schema}.subjects",
        f"UPDATE {schema}.subjects SET kind = 'x'",
        f"TRUNCATE {schema}.subjects",
        f"UPDATE {schema}.erasures SET count = 0",
    ):
        with psycopg.connect(urls["writer"], autocommit=True) as plain:
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                plain.execute(statement)
    with psycopg.connect(urls["reader"], autocommit=True) as plain:
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            plain.execute(f"SELECT * FROM {schema}.subjects")
    with psycopg.connect(postgres_url, autocommit=True) as plain:
        for statement in (f"UPDATE {schema}.subjects SET kind = 'x'", f"TRUNCATE {schema}.subjects"):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                plain.execute(statement)
    officer = open_table(f"{urls['privacy']}?schema={schema}", create=False)
    assert 1 == officer.destroy_all([erasure(subject.pseudonym)])
    assert 0 == writer.destroy_all([erasure(subject.pseudonym)])
    assert subject.pseudonym != writer.resolve(WHO).pseudonym


def test_a_writer_waits_for_the_officer(
    postgres: PostgresServer, postgres_url: str, superuser: Any, open_table: Callable[..., Any]
) -> None:
    """A writer that meets an erasure in the log before it is done waits, and is refused if nobody does it."""
    from klingai_audit.stores import subjects_postgres

    schema = f"audit_{secrets.token_hex(4)}"
    superuser.execute(dba_sql(schema), prepare=False)
    name, password = f"user_{secrets.token_hex(4)}", secrets.token_hex(8)
    superuser.execute(f"CREATE ROLE {name} LOGIN PASSWORD '{password}'")
    superuser.execute(f"GRANT {schema}_writer TO {name}")
    url = postgres_url.replace(f"postgres:{postgres.password}@", f"{name}:{password}@")
    writer, officer = open_table(f"{url}?schema={schema}"), open_table(f"{postgres_url}?schema={schema}")
    subject = writer.resolve(WHO)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(subjects_postgres, "_WAIT_S", 0.3)
        with pytest.raises(AuditUnavailable) as caught:
            writer.destroy_all([erasure(subject.pseudonym)])
    assert f"{schema}_privacy" in caught.value.do
    with pytest.raises(AuditUnavailable):
        writer.check_may_destroy()
    officer.check_may_destroy()
    later = threading.Timer(0.3, lambda: officer.destroy_all([erasure(subject.pseudonym)]))
    later.start()
    assert 1 == writer.destroy_all([erasure(subject.pseudonym)])
    later.join()


def test_a_restart_of_the_server_is_not_noticed() -> None:
    """A connection that is gone is made anew, for reading and for adding."""
    from klingai_audit.stores.subjects_postgres import PostgresSubjects

    with PostgresServer.running() as server:
        table = PostgresSubjects(server.database(), KEY)
        subject = table.resolve(WHO)
        server.kill()
        server.restart()
        time.sleep(0.6)
        assert subject == table.resolve(WHO)
        server.kill()
        restart = threading.Timer(0.5, server.restart)
        restart.start()
        new = table.resolve("new@example.com")
        restart.join()
        assert new == table.resolve("new@example.com")
        server.kill()
        with pytest.MonkeyPatch.context() as patch:
            from klingai_audit.stores import subjects_postgres

            patch.setattr(subjects_postgres, "_PATIENCE_S", 0.2)
            with pytest.raises(AuditUnavailable):
                table.resolve("third@example.com")
        table.close()


def test_a_forked_child_uses_connections_of_its_own(table: Any) -> None:
    """Parent and child resolve the same people side by side."""
    subject = table.resolve(WHO)

    def act() -> None:
        table.after_fork()
        assert subject == table.resolve(WHO)
        table.resolve("child@example.com")
        table.close()

    assert 0 == in_child(act)
    assert "child@example.com" == table.reveal(table.resolve("child@example.com").pseudonym)
