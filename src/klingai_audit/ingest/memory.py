"""Which event ids the log has taken in the last 24 hours, and where: so that what is sent again is recorded once.

A derived table, `ingest.sqlite` in the state folder: it may be deleted at any time and is made anew from the entries.
It names places; whether an entry is the same is looked up in the log itself. A table that does not fit the log is
discarded.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import fcntl
import os
import re
import sqlite3
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Final, TypeVar

from klingai_audit.durable import NO_FORK, OPS, PRIVATE_MODE, FileOps
from klingai_audit.errors import StorageError
from klingai_audit.ledger.reader import LogReader
from klingai_audit.tlog.merkle import leaf_hash

__all__ = ["WINDOW_S", "Memory", "alone"]

_T = TypeVar("_T")

WINDOW_S: Final = 24 * 3600
"""For so many seconds an event id that comes again is the same event."""

FOLLOW_S: Final = 0.25
"""Seconds for which what others wrote may be unknown here."""

_PRUNE_S: Final = 600
_CHUNK: Final = 10_000
_ASKED_AT_ONCE: Final = 500
_LEDGER_BYTES: Final = 256
_HEADER: Final = b'{"schema":1,"event_id":"'
_LOGGED: Final = re.compile(rb',"seq":(0|[1-9][0-9]{0,15}),"logged_at":"([0-9T:-]{19})')
_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS ids (id BLOB PRIMARY KEY, seq INTEGER NOT NULL, at INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS through (size INTEGER NOT NULL, origin TEXT NOT NULL, leaf BLOB NOT NULL);
"""
_PUT: Final = (  # 86,400 is `WINDOW_S`: an id that comes again later is another event
    "INSERT INTO ids VALUES (?, ?, ?) ON CONFLICT (id) DO UPDATE SET seq = excluded.seq, at = excluded.at"
    " WHERE excluded.at >= ids.at + 86400"
)


class _Unfit(sqlite3.DatabaseError):
    """The file is no table of this log."""


class Memory:
    """The event ids of one log; used by one thread at a time. `clock` returns seconds since 1970 UTC."""

    def __init__(
        self, state: Path, reader: LogReader, ops: FileOps = OPS, *, clock: Callable[[], float] = time.time
    ) -> None:
        self._path = state / "ingest.sqlite"
        self._reader = reader
        self._ops = ops
        self._clock = clock
        self._origin = reader.origin
        self._database: sqlite3.Connection | None = None
        self._through = 0
        self._followed = -FOLLOW_S
        self._pruned = 0.0

    @property
    def through(self) -> int:
        """How many entries of the log have been looked at: all that were published a moment ago."""
        return self._through

    def find(self, event_ids: Iterable[str]) -> dict[str, int]:
        """Return the `seq` of those that the log has taken within the window, as far as `through`.

        Raises: StorageError.
        """
        wanted = {uuid.UUID(event_id).bytes: event_id for event_id in event_ids}
        return self._with(lambda database: self._find(database, wanted))

    def note(self, places: Mapping[str, int]) -> None:
        """Note events that are durable, though perhaps not published yet: event id → `seq`. Raises: StorageError."""
        now = int(self._clock())
        rows = [(uuid.UUID(event_id).bytes, seq, now) for event_id, seq in places.items()]
        self._with(lambda database: self._put(database, rows))

    def include(self, size: int) -> None:
        """Note what stands before entry `size` and is not published yet, as when the signer did not answer for long.

        Requires that the first `size` entries are durable. Raises: StorageError.
        """
        begin, since = self._reader.size, int(self._clock()) - WINDOW_S
        rows = list(_rows(self._reader.lines(begin, size), since)) if begin < size else []
        self._with(lambda database: self._put(database, rows))

    def close(self) -> None:
        """Close the file; the next use opens it again."""
        database, self._database = self._database, None
        if database is not None:
            with contextlib.suppress(sqlite3.Error):
                database.close()

    def _with(self, act: Callable[[sqlite3.Connection], _T]) -> _T:
        """Act on the table; one that cannot be used is discarded, and in the end kept in memory only."""
        for place in (str(self._path), str(self._path), ":memory:"):
            with contextlib.suppress(sqlite3.Error, OSError):
                return act(self._open(place))
            self.close()
            self._discard()
        raise StorageError("Which events the log has taken cannot be looked up.", do="Look at the state folder's disk.")

    def _find(self, database: sqlite3.Connection, wanted: Mapping[bytes, str]) -> dict[str, int]:
        if time.monotonic() - self._followed >= FOLLOW_S:
            self._follow(database)
            self._followed = time.monotonic()
        since = int(self._clock()) - WINDOW_S
        keys, found = list(wanted), {}
        for at in range(0, len(keys), _ASKED_AT_ONCE):
            some = keys[at : at + _ASKED_AT_ONCE]
            marks = ",".join("?" * len(some))
            rows = database.execute(f"SELECT id, seq FROM ids WHERE id IN ({marks}) AND at > ?", (*some, since))  # noqa: S608
            found.update({wanted[key]: seq for key, seq in rows})
        return found

    def _follow(self, database: sqlite3.Connection) -> None:
        """Take in what was published since the last look; entries before the window are skipped by their day."""
        size = self._reader.size
        if size < self._through:
            raise _Unfit("the log is shorter than its table")
        if size > self._through:
            since = int(self._clock()) - WINDOW_S
            begin = self._through or self._reader.first_since(dt.datetime.fromtimestamp(since, dt.UTC).date())
            rows: list[tuple[bytes, int, int]] = []
            for row in _rows(self._reader.entries(begin, size), since):
                rows.append(row)
                if len(rows) >= _CHUNK:
                    self._put(database, rows)
                    rows.clear()
            self._put(database, rows, size)
            self._through = size
        if abs(self._clock() - self._pruned) >= _PRUNE_S:
            with database:
                database.execute("DELETE FROM ids WHERE at <= ?", (int(self._clock()) - WINDOW_S,))
            self._pruned = self._clock()

    def _put(self, database: sqlite3.Connection, rows: Iterable[tuple[bytes, int, int]], size: int = 0) -> None:
        with database:
            database.executemany(_PUT, rows)
            if size:
                database.execute("UPDATE through SET size = ?, leaf = ?", (size, self._leaf(size)))

    def _leaf(self, size: int) -> bytes:
        """The leaf hash of the last of the first `size` entries; empty for none."""
        return b"" if size == 0 else b"".join(map(leaf_hash, self._reader.lines(size - 1, size)))

    def _open(self, place: str) -> sqlite3.Connection:
        if self._database is None:
            if place != ":memory:":
                self._ops.make_folder(self._path.parent)
                self._ops.close(self._ops.open(self._path, os.O_RDWR | os.O_CREAT, PRIVATE_MODE))
            database = self._database = sqlite3.connect(place, timeout=5.0, check_same_thread=False)
            # Whole after a crash, perhaps without its last rows: those are read from the log again.
            database.execute("PRAGMA journal_mode = WAL")
            database.execute("PRAGMA synchronous = NORMAL")
            with database:
                database.executescript(_SCHEMA)
                database.execute(
                    "INSERT INTO through SELECT 0, ?, x'' WHERE NOT EXISTS (SELECT 1 FROM through)", (self._origin,)
                )
            size, origin, leaf = database.execute("SELECT size, origin, leaf FROM through").fetchone()
            if origin != self._origin or size > self._reader.size or leaf != self._leaf(size):
                raise _Unfit("ingest.sqlite is of another log")
            self._through, self._followed = size, -FOLLOW_S
        return self._database

    def _discard(self) -> None:
        for suffix in ("", "-wal", "-shm"):
            with contextlib.suppress(OSError):
                self._ops.unlink(self._path.with_name(self._path.name + suffix))


def _rows(entries: Iterable[bytes], since: int) -> Iterator[tuple[bytes, int, int]]:
    """Yield id, `seq` and the second in which it was logged, of entries not older than `since`."""
    for entry in entries:
        found = _LOGGED.search(entry, max(0, len(entry) - _LEDGER_BYTES))
        if found is None or not entry.startswith(_HEADER):
            continue
        at = int(dt.datetime.fromisoformat(found[2].decode() + "+00:00").timestamp())
        if at > since:
            yield bytes.fromhex(entry[24:60].replace(b"-", b"").decode()), int(found[1]), at


@contextlib.contextmanager
def alone(state: Path, ops: FileOps = OPS) -> Iterator[None]:
    """Keep other endpoints with this state folder out: they would not see what is under way here.

    Raises: StorageError.
    """
    path = state / "ingest.lock"
    try:
        with NO_FORK:
            ops.make_folder(state)
            fd = ops.open(path, os.O_RDWR | os.O_CREAT, PRIVATE_MODE)
    except OSError as exc:
        raise StorageError(f"{path} cannot be opened for writing: {exc.strerror}.") from exc
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as exc:
            raise StorageError(
                f"Another ingest runs with the state folder {state}.", do="Stop it first, or send the events there."
            ) from exc
        yield
    finally:
        ops.close(fd)
