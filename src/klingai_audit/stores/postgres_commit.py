"""The writing half of the PostgreSQL store: one transaction under the lock of the head row.

Two round trips: the first takes the lock and tells head, last line and time, the second writes everything and commits.
Who lost the connection in the second waits until the old transaction is over, by taking the same lock, and then looks
for the batch's id where the batch would begin. So the answer is known, or it is `CommitUnknown`.
"""

from __future__ import annotations

import datetime as dt
import time
import uuid
from typing import Final, NamedTuple

import psycopg

from klingai_audit.errors import HeadConflict, LogDamaged, StorageError
from klingai_audit.ledger.batches import CommitUnknown, SignedBatch, StoredHead
from klingai_audit.stores.postgres_link import Connection, Link, explained, is_gone, translated
from klingai_audit.stores.postgres_wire import (
    Ask,
    Refused,
    bytea_array,
    date,
    from_date,
    from_int8,
    int2,
    int8,
    int8_array,
    prepare,
    talk,
    text_array,
)

__all__ = ["UNKNOWN_S", "PostgresTransaction", "Statements", "make_room"]

UNKNOWN_S: Final = 60.0
"""How long a server is looked for that may have committed a batch, in seconds."""

_BEGIN_S: Final = 5.0
_FIRST_PAUSE_S: Final = 0.05
_MAX_PAUSE_S: Final = 1.0
_ROOM: Final = 500_000
_AGAIN: Final = frozenset({"40001", "40P01"})
_ENDED: Final = ("57P", "25P03", "08")

_BEGIN, _COMMIT, _ROLLBACK, _LOCK, _LAST = b"begin", b"commit", b"rollback", b"lock", b"last"
_APPEND, _HASHES, _DAY, _KEPT, _ENDS, _ROOM_AHEAD = b"append", b"hashes", b"day", b"kept", b"ends", b"room"


class Statements:
    """The SQL of a commit for one schema: `prepared` by name, the rest for psycopg."""

    def __init__(self, schema: str) -> None:
        s = f'"{schema}"'
        self.lock = f"SELECT size, note, day, bytes, room FROM {s}.head FOR UPDATE".encode()
        self.room = f"SELECT {s}.make_room(%b::int8)".encode()
        self.batch = f"SELECT batch FROM {s}.entries WHERE seq = %b::int8".encode()
        self.release = (
            b"SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            b" WHERE pid = %b::int4 AND backend_start = %b::timestamptz AND wait_event = 'ClientRead'"
        )
        prepared = {
            _BEGIN: "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE",
            _COMMIT: "COMMIT",
            _ROLLBACK: "ROLLBACK",
            _LOCK: self.lock.decode(),
            # In a statement of its own: it must see what was committed while the one before waited for the lock.
            _LAST: "SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::int8,"
            f" (SELECT line FROM {s}.entries WHERE seq = (SELECT size - 1 FROM {s}.head))",
            _APPEND: f"WITH laid AS (INSERT INTO {s}.entries (seq, leaf, line, batch)"
            " SELECT $1::int8 + n - 1, substring($2::bytea FROM 32 * (n - 1)::int + 1 FOR 32), line,"
            " CASE n WHEN 1 THEN $3::uuid END FROM unnest($4::bytea[]) WITH ORDINALITY AS t (line, n))"
            f" UPDATE {s}.head SET size = $5::int8, note = $6::bytea, published = coalesce($7::bytea, published),"
            " day = greatest(day, $8::date), bytes = bytes + $9::int8",
            _HASHES: f"INSERT INTO {s}.hashes (level, place, hash)"
            " SELECT $1::int2, $2::int8 + n - 1, substring(h FROM 32 * (n - 1) + 1 FOR 32)"
            " FROM (SELECT $3::bytea AS h) t, generate_series(1, octet_length(h) / 32) n",
            _DAY: f"INSERT INTO {s}.days (day, begin_seq, before) VALUES ($1::date, $2::int8, $3::int8)",
            _KEPT: f"INSERT INTO {s}.kept (size, note) SELECT * FROM unnest($1::int8[], $2::bytea[])",
            _ENDS: f"INSERT INTO {s}.ends (event_id, seq) SELECT * FROM unnest($1::text[], $2::int8[])",
            _ROOM_AHEAD: f"SELECT {s}.make_room($1::int8)",
        }
        self.prepared = {name: text.encode() for name, text in prepared.items()}


class _Locked(NamedTuple):
    """The head row under its lock."""

    size: int
    note: bytes
    day: dt.date | None
    bytes: int
    room: int


class PostgresTransaction:
    """See `klingai_audit.ledger.batches.BatchTransaction`; `open` and `end` are the store's."""

    def __init__(self, link: Link, statements: Statements) -> None:
        self._link = link
        self._sql = statements
        self._connection: Connection | None = None
        self._head = _Locked(0, b"", None, 0, 0)
        self._last: bytes | None = None
        self._now_ns = 0
        self._over = False

    # --- for the store ----------------------------------------------------------------------------

    def open(self) -> None:
        """Take the lock of the head; a connection that ends meanwhile is replaced. Raises: StorageError."""
        deadline, pause = time.monotonic() + _BEGIN_S, _FIRST_PAUSE_S
        while True:
            connection = self._link.take("write")
            try:
                self._begin(connection)
            except (psycopg.Error, Refused) as error:
                gone = isinstance(error, psycopg.Error) or error.state.startswith(_ENDED)
                connection.close()
                self._link.give_back(connection, "write")
                if not gone or time.monotonic() + pause > deadline:
                    raise self._error(error) from None
            except BaseException:
                self._link.give_back(connection, "write")
                raise
            else:
                self._connection = connection
                return
            time.sleep(pause)
            pause = min(2 * pause, _MAX_PAUSE_S)

    def _begin(self, connection: Connection) -> None:
        if not connection.prepared:
            prepare(connection, self._sql.prepared)
            connection.prepared = True
        _, head, last = talk(connection, [Ask(_BEGIN), Ask(_LOCK), Ask(_LAST)])
        if (head.ntuples, last.ntuples) == (0, 1):
            raise LogDamaged(f"The head of {self._link.shown} is gone.", kind_of_damage="checkpoint_missing")
        if (head.ntuples, head.nfields, last.ntuples, last.nfields) != (1, len(_Locked._fields), 1, 2):
            raise psycopg.OperationalError  # answers to other questions
        self._head = _Locked(
            from_int8(head.get_value(0, 0)),
            head.get_value(0, 1) or b"",
            from_date(head.get_value(0, 2)),
            from_int8(head.get_value(0, 3)),
            from_int8(head.get_value(0, 4)),
        )
        self._now_ns, self._last = from_int8(last.get_value(0, 0)) * 1000, last.get_value(0, 1)

    def end(self) -> None:
        """Roll back what was not committed and give the connection back."""
        connection, self._connection = self._connection, None
        if connection is None:
            return
        if not is_gone(connection) and not self._over:
            try:
                talk(connection, [Ask(_ROLLBACK)])
            except (psycopg.Error, Refused):
                connection.close()
        self._link.give_back(connection, "write")

    def wants_room(self) -> bool:
        """Tell whether partitions are to be made ahead."""
        return self._over and self._head.room - self._head.size < _ROOM

    @property
    def size(self) -> int:
        """Entries of the log as this transaction knows it."""
        return self._head.size

    # --- for the writer ---------------------------------------------------------------------------

    def head(self) -> StoredHead | None:
        if self._head.size == 0:
            return None
        if self._last is None:
            raise LogDamaged(
                f"Entry {self._head.size - 1} of {self._link.shown} is gone, the last one.", kind_of_damage="tail_cut"
            )
        return StoredHead(self._head.note, self._last)

    def now_ns(self) -> int | None:
        return self._now_ns

    def append(self, batch: SignedBatch) -> None:
        connection = self._connection
        if connection is None or self._over:
            raise HeadConflict("A transaction takes one batch.")
        if batch.begin != self._head.size:
            raise HeadConflict(f"The log does not end after {batch.begin} entries.")
        if not batch.entries:
            raise HeadConflict("A batch without entries moves no head.")
        self._over = True
        failed: psycopg.Error | Refused | None = None
        try:
            committed = self._send(connection, batch)
        except (psycopg.Error, Refused) as error:
            failed, committed = error, False
        if not committed:
            connection.close()
            # An error is no proof either: whatever lies between may have mixed up what was said.
            if not self._find_out(batch, connection):
                if isinstance(failed, Refused) and not failed.state.startswith(_ENDED):
                    raise self._error(failed) from None
                raise HeadConflict("The connection was lost before a commit; nothing of the batch was written.")
        self._head = self._head._replace(size=batch.end)

    def _send(self, connection: Connection, batch: SignedBatch) -> bool:
        """Write and commit in one round trip; tells whether the server said that it did. Raises: psycopg.Error."""
        head = self._head
        sizes = sum(map(len, batch.entries)) + len(batch.entries)
        asks: list[Ask] = []
        if batch.end > head.room:
            asks.append(Ask(_ROOM_AHEAD, [int8(batch.end + _ROOM)]))
        if head.day is None or batch.day > head.day:
            asks.append(Ask(_DAY, [date(batch.day), int8(batch.begin), int8(head.bytes)]))
        values: list[bytes | None] = [
            int8(batch.begin),
            batch.leaves,
            bytes.fromhex(batch.id),
            bytea_array(batch.entries),
            int8(batch.end),
        ]
        values += [batch.note, batch.note if batch.published else None, date(batch.day), int8(sizes)]
        asks.append(Ask(_APPEND, values))
        for level, place, hashes in batch.hashes:
            if level and hashes:
                asks.append(Ask(_HASHES, [int2(level), int8(place), hashes]))
        if batch.kept:
            sizes_kept, notes = zip(*batch.kept, strict=True)
            asks.append(Ask(_KEPT, [int8_array(sizes_kept), bytea_array(notes)]))
        if batch.ends:
            ids, seqs = zip(*batch.ends, strict=True)
            asks.append(Ask(_ENDS, [text_array(ids), int8_array(seqs)]))
        asks.append(Ask(_COMMIT))
        return talk(connection, asks)[-1].command_status == b"COMMIT"

    def _find_out(self, batch: SignedBatch, old: Connection) -> bool:
        """Tell whether a batch was committed; if not, it will not be. Raises: CommitUnknown."""
        deadline, pause = time.monotonic() + UNKNOWN_S, _FIRST_PAUSE_S
        while True:
            try:
                return self._is_there(batch, old)
            except (psycopg.Error, StorageError):
                if time.monotonic() + pause > deadline:
                    raise CommitUnknown(
                        f"The connection to {self._link.shown} was lost during a commit of {len(batch.entries)} "
                        f"entries, and the server could not be asked for {UNKNOWN_S:.0f} s.",
                        do="Whether they are in the log shows when it can be read again.",
                    ) from None
            time.sleep(pause)
            pause = min(2 * pause, _MAX_PAUSE_S)

    def _is_there(self, batch: SignedBatch, old: Connection) -> bool:
        with self._link.lend("write") as connection:
            connection.execute(self._sql.release, (old.backend, old.backend_start))
            # The old transaction held this lock: whoever has it now knows that transaction to be over.
            with connection.transaction(force_rollback=True):
                connection.execute(self._sql.lock)
                row = connection.execute(self._sql.batch, (batch.begin,), binary=True).fetchone()
        return row is not None and row[0] == uuid.UUID(batch.id)

    def _error(self, error: psycopg.Error | Refused) -> Exception:
        """Return our error for a statement that the server refused: nothing of the transaction is left."""
        if not isinstance(error, Refused):
            return translated(error, self._link.shown)
        if error.state in _AGAIN:
            return HeadConflict("The server refused a transaction because of another one.")
        if error.state == "23505":
            if error.table == "ends":
                return HeadConflict("Another writer recorded the same end.")
            return LogDamaged(
                f"{self._link.shown} holds rows beyond its head of {self._head.size} entries: in table {error.table}.",
                kind_of_damage="entry_inserted",
            )
        return explained(error.state, self._link.shown)


def make_room(connection: Connection, statements: Statements, size: int) -> None:
    """Make partitions ahead; what stands in the way is met again later. Raises: psycopg.Error."""
    connection.execute(b"SET lock_timeout = '1s'")
    try:
        connection.execute(statements.room, (size + 2 * _ROOM,))
    finally:
        if not is_gone(connection):
            connection.execute(b"SET lock_timeout = '15s'")
