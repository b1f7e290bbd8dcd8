"""The PostgreSQL store: rows for entries and tree hashes, one head row, and the engine's own transaction as commit.

`postgresql://user@host/database?schema=name`, in libpq's form with one parameter more. Its contract is
`klingai_audit.ledger.batches.BatchStore`, its tables are those of docs/postgresql-schema.md.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import psycopg

from klingai_audit.errors import AuditUnavailable, UnsupportedStorage
from klingai_audit.ledger.store import LogFile, StoredDay
from klingai_audit.stores.postgres_commit import PostgresTransaction, Statements, make_room
from klingai_audit.stores.postgres_keeper import PostgresKeeper, PostgresPublication, excluding
from klingai_audit.stores.postgres_link import Connection, Link, translated
from klingai_audit.stores.postgres_reader import PostgresReader
from klingai_audit.stores.postgres_schema import Part, grants_sql, lock_sql, newest, upgrade_sql
from klingai_audit.stores.urls import RemoteUrl

__all__ = ["PostgresStore", "create_part", "version_of"]

_ROOM_PAUSE_S: Final = 10.0


class PostgresStore:
    """A log in one schema of a PostgreSQL database (14 or later).

    `url` names user, host and database; with `keeper_url` purges go through that login, which alone then needs the role
    `<schema>_retention`. Connections are made when they are needed. Raises: UsageError, MissingExtra.
    """

    publishes = True
    publish_interval = 0.01

    def __init__(self, url: RemoteUrl | str, *, keeper_url: RemoteUrl | str | None = None) -> None:
        self._link = Link(url)
        self.url = self._link.shown
        self._keeping = self._link if keeper_url is None else Link(keeper_url)
        self._reader = PostgresReader(self._link)
        self._statements = Statements(self._link.schema)
        self._version_seen = False
        self._room_tried = 0.0

    def __repr__(self) -> str:
        return f"PostgresStore({self.url!r})"

    # --- life -------------------------------------------------------------------------------------

    def exists(self) -> bool:
        row = self._reader.one("SELECT size > 0 OR published IS NOT NULL FROM @.head")
        return row is not None and bool(row[0])

    def create(self) -> None:
        """Make the schema or bring it up to date, if the role of the URL may do that; idempotent.

        Raises: AuditUnavailable (what a DBA has to run), UnsupportedStorage (made by a newer version).
        """
        create_part(self._link, "log")

    def after_fork(self) -> None:
        for link in {self._link, self._keeping}:
            link.after_fork()

    def close(self) -> None:
        for link in {self._link, self._keeping}:
            link.close()

    # --- writing ----------------------------------------------------------------------------------

    @contextlib.contextmanager
    def transaction(self) -> Iterator[PostgresTransaction]:
        if not self._version_seen:
            self._check_version()
        transaction = PostgresTransaction(self._link, self._statements)
        transaction.open()
        try:
            yield transaction
        finally:
            transaction.end()
        if transaction.wants_room() and time.monotonic() - self._room_tried > _ROOM_PAUSE_S:
            self._room_tried = time.monotonic()
            with contextlib.suppress(AuditUnavailable), self._link.lend("write") as connection:
                make_room(connection, self._statements, transaction.size)

    def _check_version(self) -> None:
        have = version_of(self._link, "log")
        if have == 0:
            raise AuditUnavailable(f"There is no log at {self.url}.", do="Create it: klingai-audit init")
        if have != newest("log"):
            raise _unlike(self._link, "log", have)
        self._version_seen = True

    def find_end(self, event_id: str) -> int | None:
        row = self._reader.one("SELECT seq FROM @.ends WHERE event_id = %b::text", (event_id,))
        return None if row is None else int(row[0])

    @contextlib.contextmanager
    def publication(self) -> Iterator[PostgresPublication]:
        with excluding(self._link, "write", "publication") as connection:
            yield PostgresPublication(self._link, connection)

    # --- keeping ----------------------------------------------------------------------------------

    def old_days(self) -> list[StoredDay]:
        return self._reader.days()[:-1]

    @contextlib.contextmanager
    def keeper(self, scratch: Path) -> Iterator[PostgresKeeper]:
        with excluding(self._keeping, "keep", "keeper") as connection:
            try:
                yield PostgresKeeper(self._keeping, connection, self._reader)
            finally:
                with contextlib.suppress(psycopg.Error):
                    connection.execute(b"RESET ROLE")

    # --- reading ----------------------------------------------------------------------------------

    def read_checkpoint(self) -> bytes | None:
        return self._reader.note("SELECT published FROM @.head")

    def read_kept(self, size: int) -> bytes | None:
        return self._reader.note("SELECT note FROM @.kept WHERE size = %b::int8", (size,))

    def read_token(self, size: int) -> bytes | None:
        return self._reader.note("SELECT token FROM @.tokens WHERE size = %b::int8", (size,))

    def read_hashes(self, level: int, begin: int, end: int) -> bytes:
        return self._reader.hashes(level, begin, end)

    def read_entries(self, begin: int, end: int | None = None) -> Iterator[bytes]:
        return self._reader.entries(begin, end)

    def locate(self, seq: int) -> tuple[str, int] | None:
        return self._reader.locate(seq)

    def inspect(self) -> tuple[LogFile, ...]:
        return self._reader.inspect()

    def view(self, name: str) -> contextlib.AbstractContextManager[memoryview]:
        return self._reader.view(name)


def version_of(link: Link, part: Part) -> int:
    """Return the version of a part in the database; 0 if it is not there. Raises: AuditUnavailable."""
    row = PostgresReader(link).one("SELECT coalesce(max(version), 0) FROM @.versions WHERE part = %b::text", (part,))
    return 0 if row is None else int(row[0])


def create_part(link: Link, part: Part) -> None:
    """Make a part of the schema or bring it up to date, in one transaction.

    Raises: AuditUnavailable, UnsupportedStorage.
    """
    have = version_of(link, part)
    if have > newest(part):
        raise _unlike(link, part, have)
    if have == newest(part):
        return
    try:
        with link.connect("keep") as connection, connection.transaction():
            connection.execute(lock_sql(link.schema).encode())
            _become_owner(connection, link.schema)
            connection.execute(upgrade_sql(link.schema, (part,)).encode(), prepare=False)
            connection.execute(grants_sql(link.schema).encode(), prepare=False)
    except psycopg.errors.InsufficientPrivilege:
        raise AuditUnavailable(
            f"The schema {link.schema} of {link.shown} is {'missing' if not have else f'of version {have}'}, "
            "and this role may not make it.",
            do=f"Have a DBA run what this prints: klingai-audit init --sql --log '{link.shown}'",
        ) from None
    except psycopg.Error as error:
        if error.sqlstate is None:  # the connection was lost, perhaps when all was done
            raise translated(error, link.shown) from None
        raise AuditUnavailable(
            f"The schema {link.schema} of {link.shown} cannot be made: SQLSTATE {error.sqlstate}.",
            do="Nothing was changed. Look at the server's log.",
        ) from None


def _become_owner(connection: Connection, schema: str) -> None:
    """Make the schema if it is missing; what is added to one that is there belongs to its owner."""
    row = connection.execute(
        b"SELECT r.rolname::text, pg_has_role(current_user, r.oid, 'MEMBER') AND r.rolname <> current_user"
        b" FROM pg_namespace n JOIN pg_roles r ON r.oid = n.nspowner WHERE n.nspname = %s",
        (schema,),
    ).fetchone()
    if row is None:
        connection.execute(f'CREATE SCHEMA "{schema}"'.encode())
    elif row[1]:
        quoted = row[0].replace('"', '""')
        connection.execute(f'SET LOCAL ROLE "{quoted}"'.encode())


def _unlike(link: Link, part: Part, have: int) -> UnsupportedStorage:
    if have > newest(part):
        return UnsupportedStorage(
            f"The schema {link.schema} of {link.shown} is of version {have}; this program knows up to {newest(part)}.",
            do="Use the version of klingai-audit that the others use.",
        )
    return UnsupportedStorage(
        f"The schema {link.schema} of {link.shown} is of version {have}; this program needs {newest(part)}.",
        do=f"Upgrade it: klingai-audit init; a DBA gets the SQL from: klingai-audit init --sql --log '{link.shown}'",
    )
