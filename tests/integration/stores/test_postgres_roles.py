"""What a DBA sets up, with real roles: writers append and do nothing else, readers read, retention purges."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from klingai_audit.errors import AuditUnavailable
from klingai_audit.ledger.purged import line_hash, purged_line
from klingai_audit.stores.postgres_schema import dba_sql
from klingai_audit.testing.batches import DAY, NEXT_DAY, BatchMaker
from tests.support.postgres import PostgresServer

pytestmark = pytest.mark.slow

TABLES = ("entries", "hashes", "days", "kept", "tokens", "ends", "head")


@pytest.fixture
def schema() -> str:
    """A schema of its own: roles belong to the whole server."""
    return f"audit_{secrets.token_hex(4)}"


@pytest.fixture
def login(postgres: PostgresServer, postgres_url: str, schema: str) -> Callable[..., str]:
    """Gives the URL of a new login that has the named roles of the schema, which a DBA made."""
    with postgres.connect(postgres_url) as connection:
        connection.execute(dba_sql(schema), prepare=False)
        connection.execute(dba_sql(schema), prepare=False)

    def make(*roles: str) -> str:
        name, password = f"user_{secrets.token_hex(4)}", secrets.token_hex(8)
        with postgres.connect(postgres_url) as connection:
            connection.execute(f"CREATE ROLE {name} LOGIN PASSWORD '{password}'")
            for role in roles:
                connection.execute(f"GRANT {schema}_{role} TO {name}")
        return postgres_url.replace(f"postgres:{postgres.password}@", f"{name}:{password}@") + f"?schema={schema}"

    return make


def plain(url: str) -> Any:
    """A connection of one's own, without our store."""
    import psycopg

    return psycopg.connect(url.partition("?")[0], autocommit=True)


def refused(url: str, statement: str) -> None:
    """A statement is refused for lack of rights, whether by a grant or by a trigger."""
    import psycopg

    with plain(url) as connection, pytest.raises(psycopg.errors.InsufficientPrivilege):
        connection.execute(statement)


def fill(url: str) -> BatchMaker:
    """Entries of two days, hashes, a kept checkpoint, a token."""
    from klingai_audit.stores.postgres import PostgresStore

    store, maker = PostgresStore(url), BatchMaker()
    maker.put(store, 300)
    maker.put(store, 2, NEXT_DAY, keep=True)
    with store.publication() as publication:
        publication.put_token(302, b"token")
    store.close()
    return maker


def test_a_writer_without_ddl_rights_writes(login: Callable[..., str], schema: str) -> None:
    """The DBA ran the SQL; the writer creates nothing, and reads back what it wrote."""
    from klingai_audit.stores.postgres import PostgresStore

    url = login("writer")
    store = PostgresStore(url)
    store.create()
    assert not store.exists()
    maker = fill(url)
    assert maker.lines == list(store.read_entries(0))
    assert [] == [file.name for file in store.inspect() if file.kind == "stray"]
    refused(url, f"CREATE TABLE {schema}.mine (a int)")
    store.close()


@pytest.mark.parametrize("table", TABLES)
def test_a_writer_changes_and_removes_nothing(login: Callable[..., str], schema: str, table: str) -> None:
    """Neither grants nor triggers let it."""
    url = login("writer")
    fill(url)
    column = {"entries": "line = line", "hashes": "hash = hash", "days": "grown = 0", "kept": "note = note"}
    change = column | {"tokens": "token = token", "ends": "seq = seq", "head": "room = 0"}
    refused(url, f"UPDATE {schema}.{table} SET {change[table]}")
    refused(url, f"DELETE FROM {schema}.{table}")
    refused(url, f"TRUNCATE {schema}.{table} CASCADE")


def test_a_head_does_not_go_back(login: Callable[..., str], schema: str) -> None:
    """A stolen writer's password does not cut the log."""
    url = login("writer")
    fill(url)
    refused(url, f"UPDATE {schema}.head SET size = size - 1")
    refused(url, f"UPDATE {schema}.head SET published = NULL")


@pytest.mark.parametrize("table", TABLES)
def test_the_owner_is_kept_from_accidents(
    login: Callable[..., str], postgres: PostgresServer, postgres_url: str, schema: str, table: str
) -> None:
    """Triggers refuse a superuser too, on the partitions as well, until somebody takes them away."""
    fill(login("writer"))
    superuser = postgres_url
    refused(superuser, f"DELETE FROM {schema}.{table}")
    refused(superuser, f"TRUNCATE {schema}.{table} CASCADE")
    if table == "entries":
        refused(superuser, f"UPDATE {schema}.entries SET line = 'x' WHERE seq = 1")
        refused(superuser, f"DELETE FROM {schema}.entries_0000000 WHERE seq = 1")
        refused(superuser, f"TRUNCATE {schema}.entries_0000000")


def test_a_reader_reads_and_writes_nothing(login: Callable[..., str], schema: str) -> None:
    """The log is read, people are not, and there is no head lock to take."""
    from klingai_audit.stores.postgres import PostgresStore

    maker = fill(login("writer"))
    url = login("reader")
    store = PostgresStore(url)
    assert maker.lines == list(store.read_entries(0))
    assert maker.note == store.read_checkpoint()
    assert {"entries", "tree", "checkpoint", "kept", "token"} == {file.kind for file in store.inspect()}
    with pytest.raises(AuditUnavailable) as caught, store.transaction():
        pass
    assert "does not let this role" in caught.value.message
    refused(url, f"SELECT * FROM {schema}.subjects")
    refused(url, f"INSERT INTO {schema}.ends VALUES ('a', 1)")
    store.close()


def test_retention_purges_and_no_more(login: Callable[..., str], schema: str, tmp_path: Path) -> None:
    """The purge's line in an entry's place is all that its role may write."""
    from klingai_audit.stores.postgres import PostgresStore

    writer = login("writer")
    maker = fill(writer)
    keeper_url = login("retention")
    store = PostgresStore(writer, keeper_url=keeper_url)
    before = store.read_hashes(0, 0, 302)
    with store.keeper(tmp_path) as keeper:
        (day,) = store.old_days()
        assert (DAY, 0, 300) == (day.day, day.begin, day.end)
        prepared = keeper.prepare(day, lambda seq, line: purged_line(line_hash(line), 301) if seq in (3, 4) else line)
        assert maker.lines[:5] == list(store.read_entries(0, 5))
        keeper.put(prepared)
    lines = list(store.read_entries(0))
    assert [purged_line(line_hash(maker.lines[seq]), 301) for seq in (3, 4)] == lines[3:5]
    assert maker.lines[:3] + maker.lines[5:] == lines[:3] + lines[5:]
    assert before == store.read_hashes(0, 0, 302)
    (size,) = [file.size for file in store.inspect() if file.name == day.name]
    with store.view(day.name) as view:
        assert len(view) == size == prepared.size
    refused(keeper_url, f"UPDATE {schema}.entries SET line = 'x' WHERE seq = 7")
    refused(keeper_url, f"UPDATE {schema}.entries SET leaf = sha256('x') WHERE seq = 7")
    refused(keeper_url, f"DELETE FROM {schema}.entries WHERE seq = 7")
    store.close()


def test_a_writer_does_not_purge(login: Callable[..., str], schema: str, tmp_path: Path) -> None:
    """The error names the role that is missing."""
    from klingai_audit.stores.postgres import PostgresStore

    url = login("writer")
    fill(url)
    store = PostgresStore(url)
    with pytest.raises(AuditUnavailable) as caught, store.keeper(tmp_path):
        pass
    assert f"{schema}_retention" in caught.value.message
    store.close()


def test_who_may_not_make_a_schema_is_told_what_a_dba_runs(
    postgres: PostgresServer, postgres_url: str, login: Callable[..., str]
) -> None:
    """Nothing is half made, and no password is in the words."""
    from klingai_audit.stores.postgres import PostgresStore

    url = login("writer").partition("?")[0] + "?schema=elsewhere"
    store = PostgresStore(url)
    with pytest.raises(AuditUnavailable) as caught:
        store.create()
    assert "init --sql" in caught.value.do
    password = url.partition(":")[2].partition(":")[2].partition("@")[0]
    assert password not in str(caught.value) + repr(caught.value) + repr(store) + store.url
    with pytest.raises(AuditUnavailable), store.transaction():
        pass
    store.close()


def test_writers_make_room_ahead(
    login: Callable[..., str], postgres: PostgresServer, postgres_url: str, schema: str
) -> None:
    """A writer without the right to make tables gets the next partition, guarded like the others."""
    url = login("writer")
    fill(url)
    with plain(url) as connection:
        assert (3_000_000,) == connection.execute(f"SELECT {schema}.make_room(2500000)").fetchone()
        assert (3_000_000,) == connection.execute(f"SELECT {schema}.make_room(1)").fetchone()
    refused(postgres_url, f"TRUNCATE {schema}.entries_0000002")
    with plain(postgres_url) as connection:
        found = connection.execute(
            "SELECT count(*) FROM pg_trigger WHERE tgrelid = %s::regclass", (f"{schema}.entries_0000002",)
        ).fetchone()
        assert (2,) == found
        owner = connection.execute(
            "SELECT tableowner FROM pg_tables WHERE schemaname = %s AND tablename = 'entries_0000002'", (schema,)
        ).fetchone()
        assert (f"{schema}_owner",) == owner
    import psycopg

    with plain(url) as connection, pytest.raises(psycopg.errors.RaiseException):
        connection.execute(f"SELECT {schema}.make_room(2000000000)")


def test_the_sql_of_a_dba_who_is_no_superuser(postgres: PostgresServer, postgres_url: str, schema: str) -> None:
    """CREATEROLE and CREATE on the database are enough."""
    from klingai_audit.stores.postgres import PostgresStore

    name, password = f"dba_{secrets.token_hex(4)}", secrets.token_hex(8)
    with postgres.connect(postgres_url) as connection:
        database = connection.info.dbname
        connection.execute(f"CREATE ROLE {name} LOGIN CREATEROLE PASSWORD '{password}'")
        connection.execute(f'GRANT CREATE ON DATABASE "{database}" TO {name}')
    url = postgres_url.replace(f"postgres:{postgres.password}@", f"{name}:{password}@")
    with plain(url) as connection:
        connection.execute(dba_sql(schema), prepare=False)
        connection.execute(f"GRANT {schema}_writer TO {name}")
    store = PostgresStore(f"{url}?schema={schema}")
    maker = BatchMaker()
    maker.put(store, 3)
    assert maker.lines == list(store.read_entries(0))
    store.close()


def test_a_schema_made_without_roles_gets_them_later(
    postgres: PostgresServer, postgres_url: str, schema: str, tmp_path: Path
) -> None:
    """The script of a DBA takes the tables over; the login that made them may do no more than its roles."""
    from klingai_audit.stores.postgres import PostgresStore

    name, password = f"user_{secrets.token_hex(4)}", secrets.token_hex(8)
    with postgres.connect(postgres_url) as connection:
        database = connection.info.dbname
        connection.execute(f"CREATE ROLE {name} LOGIN PASSWORD '{password}'")
        connection.execute(f'GRANT CREATE ON DATABASE "{database}" TO {name}')
    url = postgres_url.replace(f"postgres:{postgres.password}@", f"{name}:{password}@") + f"?schema={schema}"
    store = PostgresStore(url)
    store.create()
    maker = fill(url)
    refused(url, f"DELETE FROM {schema}.entries")
    with store.keeper(tmp_path) as keeper:
        (day,) = store.old_days()
        keeper.put(keeper.prepare(day, lambda seq, line: purged_line(line_hash(line), 301) if seq == 1 else line))
    with postgres.connect(postgres_url) as connection:
        connection.execute(dba_sql(schema), prepare=False)
    with pytest.raises(AuditUnavailable), store.transaction():
        pass
    with postgres.connect(postgres_url) as connection:
        connection.execute(f"GRANT {schema}_writer TO {name}")
    maker.put(store, 1, NEXT_DAY)
    assert maker.lines[2:] == list(store.read_entries(2))
    with pytest.raises(AuditUnavailable), store.keeper(tmp_path):
        pass
    with plain(url) as connection:
        assert (3_000_000,) == connection.execute(f"SELECT {schema}.make_room(2500000)").fetchone()
    store.close()
