"""The subject table: who stands behind a pseudonym, with the key that makes this person's data readable.

HMAC-SHA-256(look-up key, normalised id) → pseudonym (128 random bits), a random 256-bit subject key, and the id
sealed under it with AES-256-GCM. Erasing the row makes pseudonym, salts and sealed content meaningless; what
other processes remember of it they drop at their next use. A new row is durable before it is returned. Two reserved
rows keep `unknown` and `klingai-audit` literal.
Source: docs/format.md, "Pseudonyms and commitments".
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final, Protocol

from klingai_audit.durable import OPS, FileOps
from klingai_audit.errors import AuditUnavailable, StorageError, UsageError
from klingai_audit.event.context import UNKNOWN_ACTOR, normalise_id
from klingai_audit.privacy import erasures
from klingai_audit.privacy.database import PrivateDatabase
from klingai_audit.privacy.erasures import Erased, ErasureCount
from klingai_audit.privacy.masks import mask_email, mask_id, mask_ip
from klingai_audit.privacy.subject_rows import MAX_ID_CHARACTERS, RESERVED, Subject, SubjectRows, checked_id, remember

__all__ = [
    "MAX_ID_CHARACTERS",
    "RESERVED",
    "Erased",
    "SqliteSubjects",
    "Subject",
    "SubjectTable",
    "is_pseudonym",
    "mask_email",
    "mask_id",
    "mask_ip",
    "normalise_id",
]

_APPLICATION_ID: Final = 0x6B6C6175  # "klau"
_VERSION: Final = 1
_PSEUDONYM: Final = re.compile(r"p_[A-Za-z0-9_-]{21}[AQgw]").fullmatch

_SCHEMA: Final = f"""
CREATE TABLE IF NOT EXISTS subjects (
    lookup BLOB NOT NULL PRIMARY KEY CHECK (length(lookup) = 32),
    pseudonym TEXT NOT NULL UNIQUE,
    kind TEXT NOT NULL,
    key BLOB NOT NULL CHECK (length(key) = 32),
    sealed BLOB NOT NULL,
    reserved INTEGER NOT NULL CHECK (reserved IN (0, 1))
) WITHOUT ROWID;
PRAGMA application_id = {_APPLICATION_ID};
PRAGMA user_version = {_VERSION};
"""


class SubjectTable(Protocol):
    """What the rest of the product needs of a subject table. Every method may be called from any thread."""

    def resolve(self, id: str, *, kind: str = "person") -> Subject:
        """Return the subject of an id, created if new; a new row is durable on return.

        Raises: AuditUnavailable: the row cannot be written or read, so the act must not happen.
        """
        ...

    def find(self, id: str) -> Subject | None:
        """Return the subject of an id, or None; writes nothing. Raises: StorageError."""
        ...

    def get(self, pseudonym: str) -> Subject | None:
        """Return the subject behind a pseudonym, or None (never known, or erased). Raises: StorageError."""
        ...

    def reveal(self, pseudonym: str) -> str | None:
        """Return the id behind a pseudonym, or None (never known, or erased). Raises: StorageError."""
        ...

    def pseudonyms(self) -> list[str]:
        """Return all pseudonyms, sorted, reserved ones included. Raises: StorageError."""
        ...

    def erased(self, pseudonym: str) -> Erased | None:
        """Return when and why the person behind a pseudonym was erased, or None. Raises: StorageError."""
        ...

    def when_erased(self, forget: Callable[[], None]) -> None:
        """Have `forget` called when this process first meets an erasure, its own or another's: it drops memories."""
        ...

    def check_may_destroy(self) -> None:
        """Raises: AuditUnavailable: whoever has this table open could not destroy a row in it."""
        ...

    def destroy_all(self, those: Iterable[Erased]) -> int:
        """Destroy rows and keys for good; returns of how many anything was left. Running it again completes it.

        On return no file of the table holds key, id or look-up value of those, and no journal is left. Other processes
        drop what they remember at their next use.
        Raises: UsageError for a reserved row, AuditUnavailable (what is not destroyed then is so at the next try).
        """
        ...

    def close(self) -> None:
        """Release the table; a later call opens it again."""
        ...

    def after_fork(self) -> None:
        """In a forked child: drop what was inherited; the next call opens the table anew."""
        ...


def is_pseudonym(text: str) -> bool:
    """Tell whether `text` has the form of a pseudonym: `p_` and 22 characters base64url of 128 bits."""
    return _PSEUDONYM(text) is not None


class SqliteSubjects:
    """The subject table in one SQLite file of mode 0600.

    `lookup_key` are the 32 bytes of the keys folder's look-up key. A missing file is created unless `create` is
    False or the table is opened read-only. Several threads and processes may use one file; a race on a new id
    gives one row. `busy_seconds` is how long another process's lock is waited for.
    Raises: LogNotFound: no table where one was expected. UnsafePermissions, StorageError: see PrivateDatabase.
    """

    def __init__(
        self,
        path: Path,
        lookup_key: bytes,
        read_only: bool = False,  # noqa: FBT001, FBT002  # the contract's order
        *,
        create: bool = True,
        busy_seconds: float = 10.0,
        ops: FileOps = OPS,
    ) -> None:
        self._rows = SubjectRows(lookup_key, str(Path(path).absolute()))
        self._cache: dict[str, Subject] = {}
        self._when_erased: list[Callable[[], None]] = []
        self._file = PrivateDatabase(
            path,
            "subject table",
            self._prepare,
            ops,
            read_only=read_only,
            create=create and not read_only,
            busy_seconds=busy_seconds,
        )
        self._erasures = ErasureCount(self._file.path, ops)
        self._generation = self._erasures.read()
        with self._file.session(writing=not read_only):
            pass

    @property
    def path(self) -> Path:
        """The absolute path of the file."""
        return self._file.path

    @property
    def read_only(self) -> bool:
        """Whether the table was opened for reading only."""
        return self._file.read_only

    def __repr__(self) -> str:
        return f"SqliteSubjects({str(self.path)!r}, read_only={self.read_only})"

    def resolve(self, id: str, *, kind: str = "person") -> Subject:
        cache = self._current()
        cached = cache.get(id)
        if cached is not None:
            return cached
        normal = checked_id(id)
        with self._file.session(writing=True) as database:
            subject = self._select(database, normal)
            if subject is None:
                if self.read_only:
                    raise AuditUnavailable(
                        f"{self.path}: the subject table is open read-only and lacks this id",
                        do="Writers need the subject table writable.",
                    )
                with self._file.transaction(database):
                    # Another process may have been first; the write lock is held from here on.
                    subject = self._select(database, normal) or self._add(database, normal, kind)
            remember(cache, id, subject)
        return subject

    def find(self, id: str) -> Subject | None:
        cache = self._current()
        cached = cache.get(id)
        if cached is not None:
            return cached
        normal = checked_id(id)
        with self._file.session() as database:
            subject = self._select(database, normal)
            if subject is not None:
                remember(cache, id, subject)
        return subject

    def get(self, pseudonym: str) -> Subject | None:
        with self._file.session() as database:
            row = database.execute("SELECT key, reserved FROM subjects WHERE pseudonym = ?", (pseudonym,)).fetchone()
        return None if row is None else Subject(pseudonym, row[0], bool(row[1]))

    def reveal(self, pseudonym: str) -> str | None:
        with self._file.session() as database:
            row = database.execute("SELECT key, sealed FROM subjects WHERE pseudonym = ?", (pseudonym,)).fetchone()
        return None if row is None else self._rows.unseal(pseudonym, row[0], row[1])

    def pseudonyms(self) -> list[str]:
        with self._file.session() as database:
            return [row[0] for row in database.execute("SELECT pseudonym FROM subjects ORDER BY pseudonym")]

    def erased(self, pseudonym: str) -> Erased | None:
        with self._file.session() as database:
            return erasures.marked(database, pseudonym)

    def when_erased(self, forget: Callable[[], None]) -> None:
        self._when_erased.append(forget)

    def check_may_destroy(self) -> None:
        if self.read_only:
            raise AuditUnavailable(f"{self.path}: the subject table is open read-only", do="Erasing has to write it.")

    def destroy(self, erased: Erased) -> bool:
        """Destroy one as `destroy_all` does; tells whether there was anything left to destroy."""
        return self.destroy_all([erased]) == 1

    def destroy_all(self, those: Iterable[Erased]) -> int:
        with self._file.session(writing=True) as database:
            todo = [one for one in those if erasures.unclean(database, one.pseudonym)]
            if todo:
                # The count goes up while readers are shut out: whoever sees it finds the row gone.
                with self._file.transaction(database, exclusive=True):
                    for one in todo:
                        self._delete(database, one)
                    self._erasures.advance()
                database.execute("VACUUM")
                with self._file.transaction(database):
                    erasures.set_clean(database, todo)
        if todo:
            self._current()
        return len(todo)

    def _delete(self, database: sqlite3.Connection, erased: Erased) -> None:
        row = database.execute("SELECT reserved FROM subjects WHERE pseudonym = ?", (erased.pseudonym,)).fetchone()
        if erased.pseudonym in RESERVED or (row is not None and row[0]):
            raise UsageError(f"`{erased.pseudonym}` is no person and cannot be erased.")
        database.execute("DELETE FROM subjects WHERE pseudonym = ?", (erased.pseudonym,))
        erasures.mark(database, erased)

    def close(self) -> None:
        self._cache = {}
        self._file.close()

    def after_fork(self) -> None:
        self._file.after_fork()

    def _select(self, database: sqlite3.Connection, normal: str) -> Subject | None:
        row = database.execute(
            "SELECT pseudonym, key, reserved FROM subjects WHERE lookup = ?", (self._rows.lookup(normal),)
        ).fetchone()
        return None if row is None else Subject(row[0], row[1], bool(row[2]))

    def _add(self, database: sqlite3.Connection, normal: str, kind: str) -> Subject:
        row = self._rows.new(normal, kind)
        database.execute(
            "INSERT INTO subjects (lookup, pseudonym, kind, key, sealed, reserved) VALUES (?, ?, ?, ?, ?, ?)", row
        )
        return row.subject

    def _current(self) -> dict[str, Subject]:
        """Return what is remembered, emptied if anybody was erased since.

        Who looks up the table adds to the mapping that was current before: what was read just before an erasure is
        not remembered after it.
        """
        generation = self._erasures.read()
        if generation != self._generation:
            self._cache = {}
            self._generation = generation
            for forget in self._when_erased:
                forget()
        return self._cache

    def _prepare(self, database: sqlite3.Connection) -> None:
        """Make the table if it may be made, and check that it belongs to the look-up key."""
        present = database.execute("SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'subjects'").fetchone()
        if present is None:
            if not self._file.create:
                raise self._file.missing()
            with self._file.transaction(database):
                for statement in _SCHEMA.split(";"):
                    database.execute(statement)
                for name in RESERVED:
                    if self._select(database, name) is None:
                        self._add(database, name, "system")
        if not self.read_only:
            database.execute(erasures.SCHEMA)
            self._erasures.create()
        version = database.execute("PRAGMA user_version").fetchone()[0]
        if version != _VERSION:
            raise StorageError(f"{self.path}: subject table of version {version}, this program knows {_VERSION}")
        row = database.execute("SELECT lookup FROM subjects WHERE pseudonym = ?", (UNKNOWN_ACTOR,)).fetchone()
        self._rows.check_key(None if row is None else row[0])
