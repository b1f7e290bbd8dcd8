"""Parquet: one file with all columns, written by DuckDB. The signed checkpoint stands in the file's own metadata."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from klingai_audit.durable import OPS, FileOps
from klingai_audit.errors import StorageError
from klingai_audit.exports.columns import COLUMNS
from klingai_audit.exports.record import Position, Record, TreeHead
from klingai_audit.exports.sink import NewFile, cannot_write

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

__all__ = ["ParquetSink"]

_TYPES: Final = ", ".join(f'"{name}" {column.type}' for name, column in COLUMNS.items())
_VALUES: Final = ", ".join(f"unnest(?::{column.type}[])" for column in COLUMNS.values())
_CREATE: Final = f"CREATE TABLE rows ({_TYPES})"
_INSERT: Final = f"INSERT INTO rows SELECT {_VALUES}"
_ROWS: Final = 5_000
_MEMORY: Final = "512MB"


class ParquetSink:
    """A new Parquet file, which takes its name when it is complete.

    Rows wait in a table of DuckDB's until then; beyond half a gigabyte it keeps them in a folder beside the file.
    """

    def __init__(self, path: Path, *, ops: FileOps = OPS) -> None:
        self._path = path
        self._new = NewFile(path, ops)
        self._ops = ops
        self._rows: list[list[Any]] = [[] for _ in COLUMNS]
        self._database: DuckDBPyConnection | None = None
        self.settled = Position(0, None)

    def open(self, position: Position) -> bool:
        import duckdb

        if not self._path.parent.is_dir():
            raise StorageError(f"{self._path} cannot be written: there is no such folder.")
        spill = str(self._path.with_name(self._path.name + ".spill"))
        config: dict[str, str | bool | int | float | list[str]] = {
            "memory_limit": _MEMORY,
            "temp_directory": spill,
            "autoinstall_known_extensions": "false",
        }
        self._database = duckdb.connect(":memory:", config=config)
        self._database.execute("SET enable_progress_bar = false")  # what is on standard output is the caller's
        self._database.execute(_CREATE)
        self.settled = position
        return True

    def send(self, records: Sequence[Record], position: Position) -> None:
        for column, values in zip(COLUMNS.values(), self._rows, strict=True):
            values.extend(map(column.value, records))
        if len(self._rows[0]) >= _ROWS:
            self._insert()
        self.settled = position

    def check(self, head: TreeHead) -> None:
        """A file that is being made goes nowhere."""

    def finish(self, head: TreeHead) -> None:
        note = _quoted(head.note.decode("utf-8"))
        metadata = f"{{origin: {_quoted(head.origin)}, tree_size: '{head.size}', checkpoint: {note}}}"
        self._insert()
        self._new.begin()
        where = _quoted(str(self._new.temporary))
        self._run(f"COPY rows TO {where} (FORMAT parquet, COMPRESSION zstd, KV_METADATA {metadata})")
        self._close()
        try:
            fd = self._ops.open(self._new.temporary, os.O_RDONLY)
            try:
                self._ops.sync(fd)
            finally:
                self._ops.close(fd)
            self._new.complete(head)
        except OSError as exc:
            raise cannot_write(self._path, exc) from exc

    def abandon(self) -> None:
        self._close()
        self._new.discard()

    def _insert(self) -> None:
        if self._rows[0]:
            self._run(_INSERT, self._rows)
        self._rows = [[] for _ in COLUMNS]

    def _run(self, statement: str, parameters: Sequence[object] | None = None) -> None:
        import duckdb

        if self._database is None:
            raise StorageError(f"{self._path} is closed.")
        try:
            self._database.execute(statement, parameters)
        except (duckdb.IOException, duckdb.OutOfMemoryException) as exc:
            raise StorageError(f"{self._path} cannot be written: disk or memory do not suffice.") from exc

    def _close(self) -> None:
        if self._database is not None:
            self._database.close()
            self._database = None


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
