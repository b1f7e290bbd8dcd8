"""The task table: what all processes of one log know of its tasks, in the state folder (`capture.facts.Shelf`).

It is derived from the log's entries, by what the log commits in this process, by one look at what was written while
this process was not there, and by a look at the log's end before anything is said to be unknown: an entry is durable
before its process has told the table of it. It may be deleted at any time: the next use of capture reads the day files
of the last `KEPT_DAYS` days again. Only polls that no entry has told of yet, and callbacks that were no news, are
nowhere else. It holds task ids, ids of callers, pseudonyms and models. Whatever is wrong with it, recording goes on
without it.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import hashlib
import sqlite3
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Final

import msgspec

from klingai_audit.capture.facts import Filed
from klingai_audit.durable import NO_FORK, OPS, FileOps
from klingai_audit.errors import KlingAuditError
from klingai_audit.event.context import UNKNOWN_ACTOR, Actor
from klingai_audit.event.record import format_time, parse_time
from klingai_audit.kling.shelf_entries import ENDED, EXTERNAL, Told, keep_delivery, read_note, read_told, take
from klingai_audit.ledger.reader import LogReader
from klingai_audit.ledger.tail import Tail
from klingai_audit.privacy.subjects import is_pseudonym

__all__ = ["TaskTable"]

_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS tasks (
  task TEXT PRIMARY KEY, correlation TEXT NOT NULL, who TEXT NOT NULL, state TEXT, final INTEGER NOT NULL,
  note TEXT NOT NULL, at TEXT NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS orders (
  correlation TEXT PRIMARY KEY, who TEXT NOT NULL, note TEXT NOT NULL, state TEXT NOT NULL, due TEXT NOT NULL
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS orders_by_state ON orders (state, due);
CREATE TABLE IF NOT EXISTS polls (
  task TEXT PRIMARY KEY, count INTEGER NOT NULL, first TEXT NOT NULL, last TEXT NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS deliveries (delivery TEXT PRIMARY KEY, at TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS through (size INTEGER NOT NULL, origin TEXT NOT NULL, last BLOB NOT NULL);
"""
MAX_WAITING: Final = 1_000
"""Entries that are kept for a database that is locked just now."""

KEPT_DAYS: Final = 60
"""Kling keeps tasks for 30 days; what is older is of no use here."""

_VERSION: Final = 3
_BUSY_SECONDS: Final = 0.25
_COMPANIONS: Final = ("journal", "wal", "shm")
_DATED: Final = (("tasks", "at"), ("orders", "due"), ("polls", "last"), ("deliveries", "at"))
_SOME_POLLS: Final = "SELECT 1 FROM polls WHERE task IN (?, ?)"
_ADD_POLL: Final = """
INSERT INTO polls VALUES (?, 1, ?, ?) ON CONFLICT (task) DO UPDATE
SET count = count + 1, first = min(first, excluded.first), last = max(last, excluded.last)
"""
_KEEP_FOR_END: Final = """
INSERT INTO polls SELECT ?, count, first, last FROM polls WHERE task = ? ON CONFLICT (task) DO UPDATE
SET count = count + excluded.count, first = min(first, excluded.first), last = max(last, excluded.last)
"""
_POLLS: Final = "SELECT count, first, last FROM polls WHERE task = ?"
_DROP_POLLS: Final = "DELETE FROM polls WHERE task = ?"


class TaskTable:
    """One log's table. `reveal` gives the id behind a pseudonym, None if it was erased. Thread-safe."""

    def __init__(
        self, path: Path, reader: LogReader, reveal: Callable[[str], str | None], *, ops: FileOps = OPS
    ) -> None:
        self._path = path
        self._reader = reader
        self._reveal = reveal
        self._ops = ops
        self._lock = threading.Lock()
        self._database: sqlite3.Connection | None = None
        self._waiting: list[Told] = []
        self._tail: Tail | None = None
        self._run(self._catch_up)

    # --- what is asked ----------------------------------------------------------------------------

    def find(self, thing: str) -> Filed | None:
        def select(database: sqlite3.Connection) -> Any:
            return database.execute(
                "SELECT correlation, who, state, final, note FROM tasks WHERE task = ?", (thing,)
            ).fetchone()

        row = self._ask(select)
        if row is None:
            return None
        return Filed(
            correlation_id=row[0], token=self._actor(row[1]), state=row[2], final=bool(row[3]), note=read_note(row[4])
        )

    def order(self, correlation_id: str) -> Filed | None:
        def select(database: sqlite3.Connection) -> Any:
            return database.execute(
                "SELECT who, note, state, due FROM orders WHERE correlation = ?", (correlation_id,)
            ).fetchone()

        row = self._ask(select)
        if row is None:
            return None
        waits = row[2] in ("open", "named")
        overdue = waits and row[3] < format_time(dt.datetime.now(dt.UTC))
        return Filed(
            correlation_id=correlation_id, token=self._actor(row[0]), note=read_note(row[1]),
            lost=row[2] == "lost" or overdue, open=waits and not overdue,
        )  # fmt: skip

    def ordered_as(self, external_id: str) -> str | None:
        named = self.order(EXTERNAL + external_id)
        return None if named is None else named.note.get("correlation")

    def expects(self) -> bool:
        now = format_time(dt.datetime.now(dt.UTC))

        def select(database: sqlite3.Connection) -> Any:
            return database.execute("SELECT 1 FROM orders WHERE state = 'open' AND due > ? LIMIT 1", (now,)).fetchone()

        return self._run(select) is not None

    def add_poll(self, thing: str, when: dt.datetime) -> bool:
        moment = format_time(when)

        def count(database: sqlite3.Connection) -> bool:
            with database:
                database.execute(_ADD_POLL, (thing, moment, moment))
            return True

        return self._run(count) is True

    def take_polls(self, thing: str, *, ends: bool = False) -> tuple[int, dt.datetime, dt.datetime] | None:
        def take(database: sqlite3.Connection) -> Any:
            if database.execute(_SOME_POLLS, (thing, ENDED + thing if ends else thing)).fetchone() is None:
                return None
            with database:
                if not ends:
                    return database.execute(f"{_DROP_POLLS} RETURNING count, first, last", (thing,)).fetchone()
                database.execute(_KEEP_FOR_END, (ENDED + thing, thing))
                database.execute(_DROP_POLLS, (thing,))
                return database.execute(_POLLS, (ENDED + thing,)).fetchone()

        row = self._run(take)
        return None if row is None else (row[0], parse_time(row[1]), parse_time(row[2]))

    def delivered(self, delivery: str) -> bool:
        def select(database: sqlite3.Connection) -> Any:
            return database.execute("SELECT 1 FROM deliveries WHERE delivery = ?", (delivery,)).fetchone()

        return self._run(select) is not None

    def keep_delivery(self, delivery: str, when: dt.datetime) -> None:
        def insert(database: sqlite3.Connection) -> None:
            with database:
                keep_delivery(database, delivery, format_time(when))

        self._run(insert)

    # --- what is told -----------------------------------------------------------------------------

    def observe(self, lines: Iterable[bytes]) -> None:
        """Take in entries that this process committed."""
        entries = list(read_told(lines))
        if not entries:
            return
        with self._lock:
            self._waiting += entries
        if self._run(self._write_waiting) is not True:
            with self._lock:
                del self._waiting[:-MAX_WAITING]

    def close(self) -> None:
        with self._lock, NO_FORK:
            self._drop()

    def after_fork(self) -> None:
        self._lock = threading.Lock()
        self._waiting, self._tail = [], None
        self._drop()

    # --- the file ---------------------------------------------------------------------------------

    def _ask(self, select: Callable[[sqlite3.Connection], Any]) -> Any:
        """One row; before there is none, look at what was appended to the log meanwhile."""
        row = self._run(select)
        if row is None and self._run(self._follow) is True:
            row = self._run(select)
        return row

    def _run(self, work: Callable[[sqlite3.Connection], Any]) -> Any:
        """Do something with the database; None if it cannot be used now. A broken one is made anew."""
        with self._lock, NO_FORK:  # a child must not inherit a database in the middle of a transaction
            for again in (True, False):
                try:
                    if self._database is None:
                        self._database = self._open()
                    return work(self._database)
                except sqlite3.OperationalError:  # locked, read-only, no space: not now
                    return None
                except (sqlite3.Error, OSError, KlingAuditError):
                    self._drop()
                    if again:
                        self._discard()
        return None

    def _open(self) -> sqlite3.Connection:
        database = sqlite3.connect(str(self._path), timeout=_BUSY_SECONDS, check_same_thread=False)
        try:
            database.execute("PRAGMA journal_mode = WAL")
            database.execute("PRAGMA synchronous = OFF")  # it may be lost; it is derived
            if database.execute("PRAGMA user_version").fetchone()[0] != _VERSION:
                with database:
                    database.executescript(_SCHEMA)
                    database.execute(f"PRAGMA user_version = {_VERSION}")
        except BaseException:
            database.close()
            raise
        return database

    def _drop(self) -> None:
        database, self._database = self._database, None
        if database is not None:
            with contextlib.suppress(sqlite3.Error):
                database.close()

    def _discard(self) -> None:
        self._tail = None
        for path in (self._path, *(self._path.with_name(f"{self._path.name}-{end}") for end in _COMPANIONS)):
            with contextlib.suppress(OSError):
                self._ops.unlink(path)

    def _catch_up(self, database: sqlite3.Connection) -> None:
        """Take in what was committed while nobody watched; start anew if the file is of another log."""
        tail = Tail(self._reader.store)
        checkpoint = self._reader.checkpoint()
        row = database.execute("SELECT size, origin, last FROM through").fetchone()
        if row is not None and (
            row[1] != checkpoint.origin or row[0] > checkpoint.size or row[2] != self._last(row[0])
        ):
            raise sqlite3.DatabaseError("tasks.sqlite is of another log")
        old = dt.datetime.now(dt.UTC) - dt.timedelta(days=KEPT_DAYS)
        begin = self._reader.first_since(old.date()) if row is None else row[0]
        self._write(database, read_told(self._reader.entries(begin)))
        if begin < checkpoint.size or row is None:
            with database:
                database.execute("DELETE FROM through")
                values = (checkpoint.size, checkpoint.origin, self._last(checkpoint.size))
                database.execute("INSERT INTO through VALUES (?, ?, ?)", values)
                for table, column in _DATED:
                    database.execute(f"DELETE FROM {table} WHERE {column} < ?", (format_time(old),))  # noqa: S608

        self._tail = tail

    def _follow(self, database: sqlite3.Connection) -> bool:
        """Take in what was appended since the last look; whether that may have changed anything."""
        if self._tail is None:
            self._catch_up(database)
            return True
        try:
            self._waiting += read_told(self._tail.look())
        except OSError:  # a file went away: it is looked for anew
            self._tail = None
        return bool(self._waiting) and self._write_waiting(database)

    def _last(self, size: int) -> bytes:
        return hashlib.sha256(b"".join(self._reader.lines(size - 1, size)) if size else b"").digest()

    def _write_waiting(self, database: sqlite3.Connection) -> bool:
        written = self._write(database, self._waiting)
        self._waiting = []
        return written

    def _write(self, database: sqlite3.Connection, entries: Iterable[Told]) -> bool:
        with database:
            database.execute("BEGIN IMMEDIATE")
            for entry in entries:
                take(database, entry)
        return True

    def _actor(self, who: str) -> Actor | None:
        """Who ordered, with the id that the subject table still has."""
        people: dict[str, str] = msgspec.json.decode(who)
        actor_id = self._name(people.pop("actor_id", None))
        if actor_id is None:
            return None
        behalf = self._name(people.pop("on_behalf_of", None))
        return Actor(actor_id=actor_id, on_behalf_of=behalf, **people)

    def _name(self, stored: str | None) -> str | None:
        if stored is None or stored == UNKNOWN_ACTOR:
            return None
        if not is_pseudonym(stored):
            return stored
        try:
            return self._reveal(stored)
        except KlingAuditError:
            return None
