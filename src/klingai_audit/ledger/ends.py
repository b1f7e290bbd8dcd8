"""Which end events the log holds: one end per task, whoever reports it (docs/format.md, "Ids").

End events have deterministic ids (UUID version 8). The table is derived: it may be deleted at any time and is
rebuilt by a scan; recent ends stand in memory, older ones in `ends.sqlite` of the state folder.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Final

__all__ = ["EndsTable", "end_id_of"]

_HEADER: Final = b'{"schema":1,"event_id":"'
_MEMORY_LIMIT: Final = 10_000


def end_id_of(entry: bytes) -> str | None:
    """Return the entry's event id if it is an end id (UUID version 8), read at its fixed place."""
    if entry[38:39] == b"8" and entry.startswith(_HEADER):
        return entry[24:60].decode("ascii", "replace")
    return None


class EndsTable:
    """End event ids and their `seq`. Used under the writer lock only."""

    def __init__(self, path: Path, read_entries: Callable[[int, int], Iterator[bytes]]) -> None:
        self._path = path
        self._read_entries = read_entries
        self._recent: dict[str, int] = {}
        self._recent_from = 0
        self._database: sqlite3.Connection | None = None

    def begin(self, size: int) -> None:
        """Start the in-memory part at entry `size`; earlier entries are looked up in the file."""
        self._recent.clear()
        self._recent_from = size

    def note(self, event_id: str, seq: int) -> None:
        """Note an end that entered the log at `seq`; the first one counts."""
        self._recent.setdefault(event_id, seq)

    def find(self, event_id: str, size: int) -> int | None:
        """Return the `seq` of the first entry with this end id among the first `size` entries, or None."""
        recent = self._recent.get(event_id)
        try:
            seq = self._find(event_id, size)
            if seq is None or seq == recent or self._holds(seq, event_id):
                return seq
        except sqlite3.Error:
            pass
        self._discard()
        return self._find(event_id, size)

    def _holds(self, seq: int, event_id: str) -> bool:
        return any(end_id_of(entry) == event_id for entry in self._read_entries(seq, seq + 1))

    def _discard(self) -> None:
        """The table contradicts the log or is unreadable: start it anew."""
        self.close()
        for path in (self._path, self._path.with_name(self._path.name + "-journal")):
            with contextlib.suppress(OSError):
                path.unlink()

    def close(self) -> None:
        """Close the file; the next look-up opens it again."""
        if self._database is not None:
            self._database.close()
            self._database = None

    def _find(self, event_id: str, size: int) -> int | None:
        database = self._open()
        through = database.execute("SELECT size FROM through").fetchone()[0]
        if through < self._recent_from:
            found = self._scan(through, self._recent_from)
            self._store(database, found, self._recent_from)
            through = self._recent_from
        if len(self._recent) > _MEMORY_LIMIT and through >= self._recent_from:
            self._store(database, self._recent.items(), size)
            self.begin(size)
        row = database.execute("SELECT seq FROM ends WHERE id = ?", (event_id,)).fetchone()
        return row[0] if row is not None and row[0] < size else self._recent.get(event_id)

    def _scan(self, begin: int, end: int) -> Iterator[tuple[str, int]]:
        for seq, entry in enumerate(self._read_entries(begin, end), begin):
            event_id = end_id_of(entry)
            if event_id is not None:
                yield event_id, seq

    @staticmethod
    def _store(database: sqlite3.Connection, found: Iterable[tuple[str, int]], through: int) -> None:
        with database:
            database.executemany("INSERT OR IGNORE INTO ends (id, seq) VALUES (?, ?)", found)
            database.execute("UPDATE through SET size = ?", (through,))

    def _open(self) -> sqlite3.Connection:
        if self._database is None:
            database = sqlite3.connect(self._path, check_same_thread=False)
            database.execute("PRAGMA synchronous = OFF")
            with database:
                database.execute("CREATE TABLE IF NOT EXISTS ends (id TEXT PRIMARY KEY, seq INTEGER NOT NULL)")
                database.execute("CREATE TABLE IF NOT EXISTS through (size INTEGER NOT NULL)")
                database.execute("INSERT INTO through SELECT 0 WHERE NOT EXISTS (SELECT 1 FROM through)")
            self._database = database
        return self._database
