"""Which end events the log holds: one end per task, whoever reports it (docs/format.md, "Ids").

End events have deterministic ids (UUID version 8). The table is derived: it may be deleted at any time and is
rebuilt by a scan; recent ends stand in memory, older ones in `ends.sqlite` of the state folder. The file says of
which log it is and through which entry it is complete; one that does not fit this log is discarded.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterable, Iterator
from typing import Final

from klingai_audit.durable import NO_FORK
from klingai_audit.errors import AuditUnavailable
from klingai_audit.ledger.state import StateFolder
from klingai_audit.ledger.store import Store
from klingai_audit.tlog.merkle import leaf_hash

__all__ = ["EndsTable", "end_id_of"]

_HEADER: Final = b'{"schema":1,"event_id":"'
_MEMORY_LIMIT: Final = 10_000
_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS ends (id TEXT PRIMARY KEY, seq INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS through (size INTEGER NOT NULL, origin TEXT NOT NULL, leaf BLOB NOT NULL);
"""


class _Unfit(sqlite3.DatabaseError):
    """The file is no table of this log's ends."""


def end_id_of(entry: bytes) -> str | None:
    """Return the entry's event id if it is an end id (UUID version 8), read at its fixed place."""
    if entry[38:39] == b"8" and entry.startswith(_HEADER):
        return entry[24:60].decode("ascii", "replace")
    return None


class EndsTable:
    """End event ids and their `seq`. Used under the writer lock only."""

    def __init__(self, state: StateFolder, store: Store) -> None:
        self._state = state
        self._store = store
        self._origin = ""
        self._recent: dict[str, int] = {}
        self._recent_from = 0
        self._database: sqlite3.Connection | None = None

    def begin(self, origin: str, size: int) -> None:
        """Start the in-memory part at entry `size`; earlier entries are looked up in the file."""
        self._origin = origin
        self._recent.clear()
        self._recent_from = size

    def note(self, event_id: str, seq: int) -> None:
        """Note an end that entered the log at `seq`; the first one counts."""
        self._recent.setdefault(event_id, seq)

    def find(self, event_id: str, size: int) -> int | None:
        """Return the `seq` of the first entry with this end id among the first `size` entries, or None.

        Raises: AuditUnavailable if that cannot be told.
        """
        with NO_FORK:  # a child must not inherit a database in the middle of a transaction
            for path in (str(self._state.ends), str(self._state.ends), ":memory:"):
                with contextlib.suppress(sqlite3.Error, OSError):
                    seq = self._find(self._open(path), event_id, size)
                    if seq is None or seq == self._recent.get(event_id) or self._holds(seq, event_id):
                        return seq
                self.close()
                self._state.discard_ends()  # it contradicts the log or cannot be used: start it anew
        raise AuditUnavailable("Whether the log holds this end already cannot be looked up.")

    def close(self) -> None:
        """Close the file; the next look-up opens it again."""
        if self._database is not None:
            with contextlib.suppress(sqlite3.Error):
                self._database.close()
            self._database = None

    def after_fork(self) -> None:
        """In a forked child: close what was inherited (nothing was under way, see `find`)."""
        self.close()

    def _holds(self, seq: int, event_id: str) -> bool:
        return any(end_id_of(entry) == event_id for entry in self._store.read_entries(seq, seq + 1))

    def _find(self, database: sqlite3.Connection, event_id: str, size: int) -> int | None:
        through = database.execute("SELECT size FROM through").fetchone()[0]
        if through < self._recent_from:
            found = self._scan(through, self._recent_from)
            self._write(database, found, self._recent_from)
            through = self._recent_from
        if len(self._recent) > _MEMORY_LIMIT:
            self._write(database, self._recent.items(), size)
            self.begin(self._origin, size)
        row = database.execute("SELECT seq FROM ends WHERE id = ?", (event_id,)).fetchone()
        return row[0] if row is not None and row[0] < size else self._recent.get(event_id)

    def _scan(self, begin: int, end: int) -> Iterator[tuple[str, int]]:
        for seq, entry in enumerate(self._store.read_entries(begin, end), begin):
            event_id = end_id_of(entry)
            if event_id is not None:
                yield event_id, seq

    def _write(self, database: sqlite3.Connection, found: Iterable[tuple[str, int]], through: int) -> None:
        with database:
            database.executemany("INSERT OR IGNORE INTO ends (id, seq) VALUES (?, ?)", found)
            database.execute("UPDATE through SET size = ?, leaf = ?", (through, self._leaf(through)))

    def _leaf(self, size: int) -> bytes:
        """The leaf hash of the last of the first `size` entries; empty for none."""
        if size == 0:
            return b""
        stored = self._store.read_hashes(0, size - 1, size)
        return stored or b"".join(leaf_hash(entry) for entry in self._store.read_entries(size - 1, size))

    def _open(self, path: str) -> sqlite3.Connection:
        if self._database is None:
            database = self._database = sqlite3.connect(path, timeout=1.0, check_same_thread=False)
            with database:
                database.executescript(_SCHEMA)
                database.execute(
                    "INSERT INTO through SELECT 0, ?, x'' WHERE NOT EXISTS (SELECT 1 FROM through)", (self._origin,)
                )
            size, origin, leaf = database.execute("SELECT size, origin, leaf FROM through").fetchone()
            if origin != self._origin or leaf != self._leaf(size):
                raise _Unfit("ends.sqlite is of another log")
        return self._database
