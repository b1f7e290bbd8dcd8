"""Publishing and purging on PostgreSQL: each excludes others of its kind by an advisory lock of its session."""

from __future__ import annotations

import contextlib
import datetime as dt
from collections.abc import Callable, Iterator
from typing import Any, Final

import psycopg

from klingai_audit.errors import AuditUnavailable, HeadConflict, LogDamaged
from klingai_audit.ledger.store import PreparedDay, StoredDay
from klingai_audit.stores.postgres_link import Connection, Link, Use, translated
from klingai_audit.stores.postgres_reader import PostgresReader

__all__ = ["PostgresKeeper", "PostgresPublication", "excluding"]

_LOCK: Final = b"SELECT pg_advisory_lock(hashtextextended(%s, 0))"
_UNLOCK: Final = b"SELECT pg_advisory_unlock(hashtextextended(%s, 0))"
_STAGED: Final = 500


@contextlib.contextmanager
def excluding(link: Link, use: Use, what: str) -> Iterator[Connection]:
    """Lend a connection that holds the lock `what` of the schema until exit. Raises: AuditUnavailable."""
    name = f"klingai-audit/{what}/{link.schema}"
    with link.lend(use) as connection:
        connection.execute(_LOCK, (name,))
        try:
            yield connection
        finally:
            if not connection.closed:
                connection.execute(_UNLOCK, (name,))


class PostgresPublication:
    """See `klingai_audit.ledger.store.Publication`; each put is a transaction of its own."""

    def __init__(self, link: Link, connection: Connection) -> None:
        self._link = link
        self._connection = connection
        self._s = f'"{link.schema}"'

    def put_kept(self, size: int, note: bytes) -> None:
        self._put_once("kept", "note", size, note, "checkpoint")

    def put_token(self, size: int, token: bytes) -> None:
        self._put_once("tokens", "token", size, token, "time stamp of the checkpoint")

    def put_checkpoint(self, note: bytes) -> None:
        """Replace the published checkpoint, unless one of more entries was published meanwhile."""
        self._execute(f"UPDATE {self._s}.head SET published = %b::bytea WHERE true{self._unless_newer(note)}", (note,))

    def _unless_newer(self, note: bytes) -> str:
        size = _stated_size(note)
        if size is None:
            return ""
        # A commit with a later checkpoint may have come between; the second line of a checkpoint is its size.
        stated = "split_part(encode(published, 'escape'), E'\\n', 2)"
        return f" AND NOT (published IS NOT NULL AND {stated} ~ '^[0-9]{{1,18}}$' AND {stated}::int8 > {size})"

    def _put_once(self, table: str, column: str, size: int, data: bytes, what: str) -> None:
        self._execute(
            f"INSERT INTO {self._s}.{table} (size, {column}) VALUES (%b::int8, %b::bytea) ON CONFLICT DO NOTHING",
            (size, data),
        )
        row = self._execute(f"SELECT {column} FROM {self._s}.{table} WHERE size = %b::int8", (size,)).fetchone()
        if row is None or bytes(row[0]) != data:
            raise HeadConflict(f"Another {what} of size {size} is there already.")

    def _execute(self, query: str, values: tuple[Any, ...]) -> psycopg.Cursor[tuple[Any, ...]]:
        try:
            return self._connection.execute(query.encode(), values, binary=True)
        except psycopg.Error as error:
            raise translated(error, self._link.shown) from None


class PostgresKeeper:
    """See `klingai_audit.ledger.store.Keeper`.

    Nothing is packed. What is to take the places of lines waits in the table `purging`, and moves in one transaction.
    """

    def __init__(self, link: Link, connection: Connection, reader: PostgresReader) -> None:
        self._link = link
        self._connection = connection
        self._reader = reader
        self._s = f'"{link.schema}"'
        self._become_retention()

    def _become_retention(self) -> None:
        """Take the role that may purge, if it is there and whoever asks is a member."""
        role = f"{self._link.schema}_retention"
        row = self._connection.execute(
            b"SELECT pg_has_role(current_user, oid, 'MEMBER') FROM pg_roles WHERE rolname = %s", (role,)
        ).fetchone()
        if row is not None and row[0]:
            self._connection.execute(f'SET ROLE "{role}"'.encode())
        elif row is not None:
            raise AuditUnavailable(
                f"Whoever purges {self._link.shown} has to be a member of the role {role}.",
                do=f"GRANT {role} TO the login role of the URL (docs/how-to/postgresql.md).",
            )

    def prepare(self, day: StoredDay, change: Callable[[int, bytes], bytes]) -> PreparedDay:
        size = 0
        with self._translated(), self._connection.transaction():
            self._clear(day)
            staged: list[tuple[int, bytes]] = []
            seq = day.begin
            for line in self._reader.entries(day.begin, day.end):
                new = change(seq, line)
                size += len(new) + 1
                if new != line:
                    staged.append((seq, new))
                if len(staged) == _STAGED:
                    self._stage(staged)
                    staged = []
                seq += 1
            self._stage(staged)
            if seq != day.end:
                raise LogDamaged(
                    f"{day.name} does not hold the entries {day.begin} to {day.end - 1} that it claims to hold.",
                    kind_of_damage="entry_missing",
                )
        return PreparedDay(day, day.name, None, size)

    def _clear(self, day: StoredDay) -> None:
        self._connection.execute(
            f"DELETE FROM {self._s}.purging WHERE seq >= %s AND seq < %s".encode(), (day.begin, day.end)
        )

    def _stage(self, staged: list[tuple[int, bytes]]) -> None:
        if staged:
            self._connection.execute(
                f"INSERT INTO {self._s}.purging (seq, line) SELECT * FROM unnest(%b::int8[], %b::bytea[])".encode(),
                tuple(map(list, zip(*staged, strict=True))),
            )

    def put(self, prepared: PreparedDay) -> None:
        day = prepared.day
        span: tuple[int, dt.date | int] = (day.begin, day.end)
        with self._translated(), self._connection.transaction():
            row = self._connection.execute(
                (
                    "SELECT count(*), coalesce(sum(octet_length(p.line) - octet_length(e.line)), 0)::int8"
                    f" FROM {self._s}.purging p JOIN {self._s}.entries e USING (seq)"
                    " WHERE p.seq >= %s AND p.seq < %s AND e.seq >= %s AND e.seq < %s"
                ).encode(),
                (*span, *span),
            ).fetchone()
            if row is not None and row[0]:
                self._connection.execute(
                    (
                        f"UPDATE {self._s}.entries e SET line = p.line FROM {self._s}.purging p"
                        " WHERE p.seq = e.seq AND e.seq >= %s AND e.seq < %s"
                    ).encode(),
                    span,
                )
                self._connection.execute(
                    f"UPDATE {self._s}.days SET grown = grown + %s WHERE day = %s".encode(), (row[1], day.day)
                )
            self._clear(day)

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except psycopg.Error as error:
            raise translated(error, self._link.shown) from None


def _stated_size(note: bytes) -> int | None:
    """Return the size that a checkpoint states, None for what has not its form."""
    lines = note.split(b"\n", 3)
    return int(lines[1]) if len(lines) > 3 and lines[1].isdigit() and len(lines[1]) < 19 else None
