"""What a witness remembers: for each log the last checkpoint it cosigned, and the proof of each attempt to cheat.

SQLite, every change durable before it is answered. Looking at the old size and storing the new checkpoint is one
transaction, so a slow request cannot roll the state back.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from klingai_audit.durable import OPS, PRIVATE_MODE, FileOps
from klingai_audit.errors import StorageError

__all__ = ["MAX_EXHIBITS", "Book", "Exhibit", "Held", "Turn"]

MAX_EXHIBITS: Final = 1_000
"""Exhibits kept for each log; an attempt that is repeated is kept once."""

_VERSION: Final = 1
_BUSY_MS: Final = 30_000
_SCHEMA: Final = f"""
CREATE TABLE IF NOT EXISTS logs (
    origin TEXT NOT NULL PRIMARY KEY, size INTEGER NOT NULL, root BLOB NOT NULL, note BLOB NOT NULL,
    time INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS exhibits (
    digest BLOB NOT NULL PRIMARY KEY, origin TEXT NOT NULL, time INTEGER NOT NULL, reason TEXT NOT NULL,
    held BLOB NOT NULL, request BLOB NOT NULL
) WITHOUT ROWID;
PRAGMA user_version = {_VERSION};
"""


@dataclass(frozen=True, slots=True)
class Held:
    """The last checkpoint of a log that this witness cosigned: its size, its root, the note with our line, the time."""

    size: int
    root: bytes
    note: bytes
    time: int


@dataclass(frozen=True, slots=True)
class Exhibit:
    """One refused request that contradicts what is held: both, signed by the log, are the proof of its cheating."""

    origin: str
    time: int
    reason: str
    held: bytes
    request: bytes


class Book:
    """The database of one witness; any thread and process may use it."""

    def __init__(self, path: Path, ops: FileOps = OPS) -> None:
        """Open or create the database at `path`. Raises: StorageError."""
        self.path = path
        try:
            ops.make_folder(path.parent)
            ops.close(ops.open(path, os.O_RDWR | os.O_CREAT, PRIVATE_MODE))  # SQLite alone would let others read it
            with self._session() as database:
                database.executescript(_SCHEMA)
        except (OSError, sqlite3.Error) as exc:
            raise self._failed(exc) from exc

    @contextlib.contextmanager
    def turn(self, origin: str) -> Iterator[Turn]:
        """Take the only turn with a log; what is put is durable when the block ends, undone if it raises.

        Raises: StorageError.
        """
        try:
            with self._session() as database:
                database.execute("BEGIN IMMEDIATE")
                try:
                    yield Turn(database, origin)
                except BaseException:
                    database.rollback()
                    raise
                database.commit()
        except sqlite3.Error as exc:
            raise self._failed(exc) from exc

    def held(self, origin: str) -> Held | None:
        """Return what is held of a log. Raises: StorageError."""
        with self.turn(origin) as turn:
            return turn.held()

    def exhibits(self) -> list[Exhibit]:
        """Return all exhibits, oldest first. Raises: StorageError."""
        try:
            with self._session() as database:
                rows = database.execute(
                    "SELECT origin, time, reason, held, request FROM exhibits ORDER BY time, digest"
                )
                return [Exhibit(*row) for row in rows]
        except sqlite3.Error as exc:
            raise self._failed(exc) from exc

    @contextlib.contextmanager
    def _session(self) -> Iterator[sqlite3.Connection]:
        database = sqlite3.connect(self.path, timeout=_BUSY_MS / 1000, isolation_level=None)
        try:
            database.execute("PRAGMA journal_mode = DELETE")
            database.execute("PRAGMA synchronous = EXTRA")
            yield database
        finally:
            database.close()

    def _failed(self, exc: Exception) -> StorageError:
        reason = getattr(exc, "strerror", None) or str(exc)
        return StorageError(f"The witness's database {self.path} cannot be used: {reason}.")


class Turn:
    """The only access to one log's row while it lasts."""

    def __init__(self, database: sqlite3.Connection, origin: str) -> None:
        self._database = database
        self._origin = origin

    def held(self) -> Held | None:
        """Return what is held, or None."""
        row = self._database.execute(
            "SELECT size, root, note, time FROM logs WHERE origin = ?", (self._origin,)
        ).fetchone()
        return None if row is None else Held(*row)

    def put(self, held: Held) -> None:
        """Hold another checkpoint from now on."""
        self._database.execute(
            "INSERT INTO logs VALUES (?, ?, ?, ?, ?) ON CONFLICT (origin) DO UPDATE SET"
            " size = excluded.size, root = excluded.root, note = excluded.note, time = excluded.time",
            (self._origin, held.size, held.root, held.note, held.time),
        )

    def keep(self, reason: str, request: bytes, time: int) -> None:
        """Keep a request that contradicts what is held as an exhibit; the same again is kept once."""
        held = self.held()
        count = self._database.execute("SELECT count(*) FROM exhibits WHERE origin = ?", (self._origin,)).fetchone()[0]
        if held is not None and count < MAX_EXHIBITS:
            digest = hashlib.sha256(held.note + b"\0" + request).digest()
            self._database.execute(
                "INSERT OR IGNORE INTO exhibits VALUES (?, ?, ?, ?, ?, ?)",
                (digest, self._origin, time, reason, held.note, request),
            )
