"""Who was erased, as far as the subject table knows: marks without personal data, and a count of erasures beside it.

A mark stands in the same SQLite file and says by which entry of the log, when, and on what basis. The count is the
length of a small file: it tells every process, for the price of one `stat`, that what it remembers is out of date.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Iterable
from pathlib import Path
from typing import Final, NamedTuple

from klingai_audit.durable import PRIVATE_MODE, FileOps
from klingai_audit.errors import AuditUnavailable

__all__ = ["COUNT_SUFFIX", "SCHEMA", "Erased", "ErasureCount", "mark", "marked", "set_clean", "unclean"]

COUNT_SUFFIX: Final = ".erasures"
"""End of the name of the file beside the subject table whose length counts erasures."""

SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS erased (
    pseudonym TEXT NOT NULL PRIMARY KEY,
    seq INTEGER NOT NULL,
    at TEXT NOT NULL,
    basis TEXT NOT NULL,
    clean INTEGER NOT NULL CHECK (clean IN (0, 1))
) WITHOUT ROWID
"""
"""`clean` is 1 once the file was written anew without what the erased row left behind."""


class Erased(NamedTuple):
    """An erasure: whom, by which `subject_erased` entry, when (its `timestamp`), on what basis."""

    pseudonym: str
    seq: int
    at: str
    basis: str

    def to_json(self) -> dict[str, object]:
        """Return entry, time and basis."""
        return {"seq": self.seq, "at": self.at, "basis": self.basis}

    def __str__(self) -> str:
        return f"erased on {self.at[:10]} under {self.basis}"


class ErasureCount:
    """The count of erasures beside the table at `table`."""

    def __init__(self, table: Path, ops: FileOps) -> None:
        self.path = table.with_name(table.name + COUNT_SUFFIX)
        self._name = os.fspath(self.path)
        self._ops = ops

    def read(self) -> int:
        """Return the count; 0 where there is no file, or none that may be looked at. Never raises."""
        try:
            return os.stat(self._name).st_size  # noqa: PTH116  # half the time of Path.stat, at each act
        except OSError:
            return 0

    def create(self) -> None:
        """Create the file if it is not there, because looking at a missing one takes longer. Never raises."""
        if not self.path.exists():
            with contextlib.suppress(OSError):
                self._ops.close(self._ops.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, PRIVATE_MODE))

    def advance(self) -> None:
        """Count one more; durable on return. Raises: AuditUnavailable."""
        try:
            fd = self._ops.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, PRIVATE_MODE)
            try:
                self._ops.write_all(fd, b"\n")
                self._ops.sync(fd)
            finally:
                self._ops.close(fd)
        except OSError as exc:
            raise AuditUnavailable(
                f"{self.path} cannot be written: {exc.strerror}. Nobody was erased.",
                do="Make the folder of the subject table writable, then erase again.",
            ) from exc


def mark(database: sqlite3.Connection, erased: Erased) -> None:
    """Keep an erasure, not clean yet; of several of one pseudonym, the first entry's."""
    database.execute(
        "INSERT INTO erased VALUES (?, ?, ?, ?, 0) ON CONFLICT (pseudonym) DO UPDATE SET clean = 0", erased
    )


def marked(database: sqlite3.Connection, pseudonym: str) -> Erased | None:
    """Return the erasure of a pseudonym, or None."""
    if not _is_there(database):
        return None
    row = database.execute("SELECT pseudonym, seq, at, basis FROM erased WHERE pseudonym = ?", (pseudonym,)).fetchone()
    return None if row is None else Erased(*row)


def unclean(database: sqlite3.Connection, pseudonym: str) -> bool:
    """Tell whether there is anything left to do of an erasure: a row, no mark, or one that is not clean."""
    row = database.execute("SELECT clean FROM erased WHERE pseudonym = ?", (pseudonym,)).fetchone()
    if row is None or row[0] == 0:
        return True
    found = database.execute("SELECT 1 FROM subjects WHERE pseudonym = ?", (pseudonym,)).fetchone()
    return found is not None


def set_clean(database: sqlite3.Connection, those: Iterable[Erased]) -> None:
    """Note that the file was written anew since these erasures."""
    database.executemany("UPDATE erased SET clean = 1 WHERE pseudonym = ?", [(one.pseudonym,) for one in those])


def _is_there(database: sqlite3.Connection) -> bool:
    """Tell whether the table is there: a reader may meet one that no writer of this version has opened yet."""
    found = database.execute("SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'erased'").fetchone()
    return found is not None
