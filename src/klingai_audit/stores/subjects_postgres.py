"""The subject table in PostgreSQL, for writers on several hosts; its contract is `privacy.subjects.SubjectTable`.

What a process remembers of rows holds for `LEASE_S` seconds, then it asks whether anybody was erased since; an erasure
returns only after that time. What else PostgreSQL keeps of an erased row (WAL, backups, standbys) is not in
its hands: docs/how-to/postgresql.md says how long that is.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterable
from typing import Any, Final

import psycopg

from klingai_audit.errors import AuditUnavailable, LogNotFound, StorageError, UsageError
from klingai_audit.privacy.erasures import Erased
from klingai_audit.privacy.subject_rows import RESERVED, Subject, SubjectRow, SubjectRows, checked_id, remember
from klingai_audit.stores.postgres import create_part, version_of
from klingai_audit.stores.postgres_link import Connection, Link
from klingai_audit.stores.postgres_schema import newest
from klingai_audit.stores.urls import RemoteUrl

__all__ = ["LEASE_S", "PostgresSubjects"]

LEASE_S: Final = 0.5
"""How long a process relies on what it remembers, in seconds; a process that was stopped meanwhile asks first."""

_PATIENCE_S: Final = 20.0
_WAIT_S: Final = 15.0
_PAUSE_S: Final = 0.2
_NUMBER: Final = re.compile(r"[0-9]+")
_COLUMNS: Final = "lookup, pseudonym, kind, key, sealed, reserved"


class PostgresSubjects:
    """The subject table in a schema of a PostgreSQL database; `lookup_key` has 32 bytes.

    A missing table is made unless it is opened read-only. Several processes may use one; a race on a new id gives one
    row. Raises: LogNotFound: no table where one was expected. StorageError.
    """

    def __init__(
        self,
        url: RemoteUrl | str,
        lookup_key: bytes,
        read_only: bool = False,  # noqa: FBT001, FBT002  # the contract's order
        *,
        create: bool = True,
    ) -> None:
        self._link = Link(url)
        self.url = self._link.shown
        self.read_only = read_only
        self._rows = SubjectRows(lookup_key, self.url)
        self._s = f'"{self._link.schema}"'
        self._lock = threading.Lock()
        self._cache: dict[str, Subject] = {}
        self._when_erased: list[Callable[[], None]] = []
        if create and not read_only:
            create_part(self._link, "subjects")
        self._prepare()
        self._generation = self._count()
        self._relied_on_until = 0.0

    def __repr__(self) -> str:
        return f"PostgresSubjects({self.url!r}, read_only={self.read_only})"

    def _prepare(self) -> None:
        """Check the version, make the reserved rows, check that the table belongs to the look-up key."""
        have = version_of(self._link, "subjects")
        if have == 0:
            raise LogNotFound(f"{self.url} holds no subject table.", do="Create it: klingai-audit init")
        if have != newest("subjects"):
            raise StorageError(
                f"The subject table of {self.url} is of version {have}; this program needs {newest('subjects')}.",
                do="Upgrade the older of the two: klingai-audit init --sql prints what a DBA runs.",
            )
        rows = self._query("SELECT lookup FROM @.subjects WHERE pseudonym = %b::text", (RESERVED[0],))
        if not rows and not self.read_only:
            for name in RESERVED:
                self._add(self._rows.new(name, "system"))
            rows = self._query("SELECT lookup FROM @.subjects WHERE pseudonym = %b::text", (RESERVED[0],))
        self._rows.check_key(rows[0][0] if rows else None)

    # --- who is who -------------------------------------------------------------------------------

    def resolve(self, id: str, *, kind: str = "person") -> Subject:
        cache = self._current()
        cached = cache.get(id)
        if cached is not None:
            return cached
        normal = checked_id(id)
        subject = self._select(normal)
        while subject is None:
            if self.read_only:
                raise AuditUnavailable(
                    f"{self.url}: the subject table is open read-only and lacks this id",
                    do="Writers need the subject table writable.",
                )
            self._add(self._rows.new(normal, kind))
            subject = self._select(normal)  # the row of whoever was first
        remember(cache, id, subject)
        return subject

    def find(self, id: str) -> Subject | None:
        cache = self._current()
        cached = cache.get(id)
        if cached is not None:
            return cached
        subject = self._select(checked_id(id))
        if subject is not None:
            remember(cache, id, subject)
        return subject

    def get(self, pseudonym: str) -> Subject | None:
        rows = self._query(f"SELECT {_COLUMNS} FROM @.subjects WHERE pseudonym = %b::text", (pseudonym,))
        return SubjectRow(*rows[0]).subject if rows else None

    def reveal(self, pseudonym: str) -> str | None:
        rows = self._query("SELECT key, sealed FROM @.subjects WHERE pseudonym = %b::text", (pseudonym,))
        return self._rows.unseal(pseudonym, rows[0][0], rows[0][1]) if rows else None

    def pseudonyms(self) -> list[str]:
        return sorted(row[0] for row in self._query("SELECT pseudonym FROM @.subjects"))

    def _select(self, normal: str) -> Subject | None:
        rows = self._query(f"SELECT {_COLUMNS} FROM @.subjects WHERE lookup = %b::bytea", (self._rows.lookup(normal),))
        return SubjectRow(*rows[0]).subject if rows else None

    def _add(self, row: SubjectRow) -> None:
        """Add a row, unless one of the same look-up value is there; durable on return."""
        self._link.again(
            "write",
            lambda connection: connection.execute(
                self._text(
                    f"INSERT INTO @.subjects ({_COLUMNS}) VALUES (%b, %b, %b, %b, %b, %b) ON CONFLICT DO NOTHING"
                ),
                row,
            ),
            patience=_PATIENCE_S,
        )

    # --- who was erased ---------------------------------------------------------------------------

    def erased(self, pseudonym: str) -> Erased | None:
        rows = self._query("SELECT pseudonym, seq, at, basis FROM @.erased WHERE pseudonym = %b::text", (pseudonym,))
        return Erased(*rows[0]) if rows else None

    def when_erased(self, forget: Callable[[], None]) -> None:
        self._when_erased.append(forget)

    def check_may_destroy(self) -> None:
        rows = self._query(
            "SELECT has_table_privilege('@.subjects', 'DELETE') AND has_table_privilege('@.erased', 'INSERT')"
        )
        if not rows[0][0]:
            raise AuditUnavailable(
                f"The role of {self.url} may not erase people.",
                do=f"Erase with a login that has the role {self._link.schema}_privacy too (docs/how-to/postgresql.md).",
            )

    def destroy(self, erased: Erased) -> bool:
        """Destroy one as `destroy_all` does; tells whether there was anything left to destroy."""
        return self.destroy_all([erased]) == 1

    def destroy_all(self, those: Iterable[Erased]) -> int:
        """As the contract says, for what this table's own file holds; see the head of this module for the rest."""
        wanted = list(those)
        todo = self._unclean(wanted)
        if not todo:
            return 0
        for one in todo:
            if one.pseudonym in RESERVED:
                raise UsageError(f"`{one.pseudonym}` is no person and cannot be erased.")
        try:
            with self._link.lend("keep") as connection:
                self._delete(connection, todo)
                self._rewrite(connection)
                time.sleep(2 * LEASE_S)  # until no process relies on what it read before
                connection.execute(
                    self._text("UPDATE @.erased SET clean = true WHERE pseudonym = ANY (%b::text[])"),
                    ([one.pseudonym for one in todo],),
                )
        except _MayNot:
            self._await_others(todo)
        self._relied_on_until = 0.0
        self._current()
        return len(todo)

    def _unclean(self, those: list[Erased]) -> list[Erased]:
        """Return those of whom anything is left: a row, no mark, or one that is not clean."""
        names = [one.pseudonym for one in those]
        clean = self._query(
            "SELECT pseudonym FROM @.erased e WHERE clean AND pseudonym = ANY (%b::text[])"
            " AND NOT EXISTS (SELECT FROM @.subjects s WHERE s.pseudonym = e.pseudonym)",
            (names,),
        )
        done = {row[0] for row in clean}
        return [one for one in those if one.pseudonym not in done]

    def _delete(self, connection: Connection, todo: list[Erased]) -> None:
        """Delete rows, mark the erasures and count them, in one transaction. Raises: _MayNot, psycopg.Error."""
        names = [one.pseudonym for one in todo]
        marks = "INSERT INTO @.erased (pseudonym, seq, at, basis, clean) VALUES (%b, %b, %b, %b, false)"
        try:
            with connection.transaction():
                connection.execute(self._text("UPDATE @.erasures SET count = count + 1"))
                connection.execute(self._text("DELETE FROM @.subjects WHERE pseudonym = ANY (%b::text[])"), (names,))
                connection.execute(
                    self._text("UPDATE @.erased SET clean = false WHERE pseudonym = ANY (%b::text[])"), (names,)
                )
                for one in todo:
                    connection.execute(self._text(f"{marks} ON CONFLICT (pseudonym) DO NOTHING"), one)
        except psycopg.errors.InsufficientPrivilege:
            raise _MayNot from None

    def _rewrite(self, connection: Connection) -> None:
        """Have the table's files written anew without dead rows. Raises: AuditUnavailable."""
        left: list[int] = []

        def told(diagnostic: psycopg.errors.Diagnostic) -> None:
            number = _NUMBER.search(diagnostic.message_detail or "")
            left.append(int(number[0]) if number else 0)

        file_of = b"SELECT pg_relation_filenode(%b::text::regclass)"
        name = (f"{self._s}.subjects",)
        deadline = time.monotonic() + _WAIT_S
        connection.add_notice_handler(told)
        try:
            while True:
                before = connection.execute(file_of, name).fetchone()
                left.clear()
                connection.execute(self._text("VACUUM (FULL, VERBOSE) @.subjects"), prepare=False)
                if before == connection.execute(file_of, name).fetchone():
                    raise AuditUnavailable(
                        f"The rows are deleted, but this role may not rewrite the subject table of {self.url}.",
                        do=f"As its owner: VACUUM FULL {self._link.schema}.subjects. Then erase again.",
                    )
                if not any(left):
                    return
                if time.monotonic() > deadline:
                    raise AuditUnavailable(
                        f"The rows are deleted, but an older transaction keeps them visible in {self.url}.",
                        do="End it (pg_stat_activity, oldest backend_xmin; replication slots), then erase again.",
                    )
                time.sleep(_PAUSE_S)
        finally:
            connection.remove_notice_handler(told)

    def _await_others(self, todo: list[Erased]) -> None:
        """Wait for whoever may erase and has begun. Raises: AuditUnavailable."""
        deadline = time.monotonic() + _WAIT_S
        while left := self._unclean(todo):
            if time.monotonic() > deadline:
                raise AuditUnavailable(
                    f"The log names {len(left)} erased who are still in {self.url}, and this role may not erase.",
                    do=f"Any command that writes, run with the role {self._link.schema}_privacy too, completes it.",
                )
            time.sleep(_PAUSE_S)

    # --- memory, life -----------------------------------------------------------------------------

    def _current(self) -> dict[str, Subject]:
        """Return what is remembered, emptied if anybody was erased since it was last known to hold."""
        now = time.monotonic()
        if now < self._relied_on_until:
            return self._cache
        count = self._count()
        with self._lock:
            moved = count != self._generation
            if moved:
                self._generation = count
                self._cache = {}
            # From when the question was asked: the answer may have taken long.
            self._relied_on_until = max(self._relied_on_until, now + LEASE_S)
            cache = self._cache
        if moved:
            for forget in self._when_erased:
                forget()
        return cache

    def _count(self) -> int:
        rows = self._query("SELECT count FROM @.erasures")
        return int(rows[0][0]) if rows else 0

    def close(self) -> None:
        self._cache = {}
        self._relied_on_until = 0.0
        self._link.close()

    def after_fork(self) -> None:
        self._lock = threading.Lock()
        self._link.after_fork()

    def _query(self, query: str, values: Iterable[Any] = ()) -> list[tuple[Any, ...]]:
        text, given = self._text(query), tuple(values)
        return self._link.again(
            "read", lambda connection: connection.execute(text, given, binary=True).fetchall(), patience=_PATIENCE_S
        )

    def _text(self, query: str) -> bytes:
        return query.replace("@", self._s).encode()


class _MayNot(Exception):
    """The role of the URL may not erase."""
