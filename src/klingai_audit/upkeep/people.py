"""The table of people in another place: the same pseudonyms, keys and marks of erasures."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any, Final

from klingai_audit.durable import PRIVATE_MODE, FileOps
from klingai_audit.errors import UsageError
from klingai_audit.stores.urls import RemoteUrl

__all__ = ["copy_people"]

_PRIVATE_FOLDER: Final = 0o700
_NEW_FILE: Final = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
_ROWS: Final = "SELECT lookup, pseudonym, kind, key, sealed, reserved FROM subjects"
_MARKS: Final = "SELECT pseudonym, seq, at, basis, clean FROM erased"
_TABLES: Final = "SELECT name FROM sqlite_master WHERE type = 'table'"


def copy_people(source: Path, target: Path | RemoteUrl, ops: FileOps) -> None:
    """Copy the table in the file `source` at one instant; done again it replaces or completes the copy.

    Nobody may use the copy meanwhile. Raises: UsageError (there is another table), OSError, sqlite3.Error,
    StorageError.
    """
    if not source.exists():
        return
    if isinstance(target, RemoteUrl):
        _into_database(source, target)
    else:
        _into_file(source, target, ops)


def _open(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)


def _into_file(source: Path, target: Path, ops: FileOps) -> None:
    """By SQLite itself, under another name until it is whole."""
    ops.make_folder(target.parent, _PRIVATE_FOLDER)
    part = target.with_name(target.name + ".part")
    ops.close(ops.open(part, _NEW_FILE, PRIVATE_MODE))
    with closing(_open(source)) as old, closing(sqlite3.connect(part)) as new:
        new.execute("PRAGMA journal_mode = DELETE")
        new.execute("PRAGMA synchronous = EXTRA")
        old.backup(new)
    ops.rename(part, target)
    ops.sync_folder(target.parent)


def _into_database(source: Path, target: RemoteUrl) -> None:
    """Row by row, in one transaction. The reserved rows go first: their keys belong to the log, too."""
    from klingai_audit.stores.postgres import create_part
    from klingai_audit.stores.postgres_link import Link

    rows, marks = _read(source)
    link = Link(target)
    table = f'"{link.schema}"'.encode()
    try:
        create_part(link, "subjects")
        with link.lend("write") as connection, connection.transaction():
            there = connection.execute(b"SELECT lookup, pseudonym, key FROM " + table + b".subjects").fetchall()
            known = {bytes(row[0]): (row[1], bytes(row[3])) for row in rows}
            if any(known.get(bytes(lookup)) != (pseudonym, bytes(key)) for lookup, pseudonym, key in there):
                raise UsageError(
                    f"The table of people in {target} holds others.", do="Name another schema: ?schema=NAME"
                )
            for row in rows:
                connection.execute(
                    b"INSERT INTO " + table + b".subjects (lookup, pseudonym, kind, key, sealed, reserved)"
                    b" VALUES (%b, %b, %b, %b, %b, %b) ON CONFLICT DO NOTHING",
                    (*row[:5], bool(row[5])),
                )
            for mark in marks:
                connection.execute(
                    b"INSERT INTO " + table + b".erased (pseudonym, seq, at, basis, clean)"
                    b" VALUES (%b, %b, %b, %b, %b) ON CONFLICT DO NOTHING",
                    (*mark[:4], bool(mark[4])),
                )
    finally:
        link.close()


def _read(source: Path) -> tuple[list[Any], list[Any]]:
    with closing(_open(source)) as database:
        tables = {name for (name,) in database.execute(_TABLES)}
        rows = database.execute(_ROWS).fetchall()
        marks = database.execute(_MARKS).fetchall() if "erased" in tables else []
    return rows, marks
