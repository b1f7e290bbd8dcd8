"""Several prepared statements in one round trip, over libpq itself.

psycopg's own pipeline polls the socket after each statement, and each poll is a chance for another thread to keep the
interpreter for 5 ms. A commit can afford two polls. Values are PostgreSQL's binary forms, made by the functions here.
"""

from __future__ import annotations

import datetime as dt
import select
import struct
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Final, NamedTuple

import psycopg
from psycopg import pq

if TYPE_CHECKING:
    from psycopg.pq.abc import PGresult

    from klingai_audit.stores.postgres_link import Connection

__all__ = [
    "Ask",
    "Refused",
    "bytea_array",
    "date",
    "from_date",
    "from_int8",
    "int2",
    "int8",
    "int8_array",
    "prepare",
    "talk",
    "text_array",
]

_EPOCH: Final = dt.date(2000, 1, 1).toordinal()
_INT2: Final = struct.Struct("!h")
_INT4: Final = struct.Struct("!i")
_INT8: Final = struct.Struct("!q")
_ARRAY: Final = struct.Struct("!iiIii")
_BYTEA, _INT8_OID, _TEXT = 17, 20, 25
_GOOD: Final = frozenset({pq.ExecStatus.COMMAND_OK, pq.ExecStatus.TUPLES_OK})


class Ask(NamedTuple):
    """One execution of the prepared statement `name` with binary values."""

    name: bytes
    values: Sequence[bytes | None] = ()


class Refused(Exception):
    """The server refused a statement: SQLSTATE and table, not a word of the message."""

    def __init__(self, state: str, table: str) -> None:
        super().__init__(state)
        self.state = state
        self.table = table


def prepare(connection: Connection, statements: Mapping[bytes, bytes]) -> None:
    """Prepare statements by name, in one round trip. Raises: Refused, psycopg.OperationalError."""
    pgconn = connection.pgconn
    pgconn.enter_pipeline_mode()
    for name, text in statements.items():
        pgconn.send_prepare(name, text)
    _finish(connection, len(statements))


def talk(connection: Connection, asks: Sequence[Ask]) -> list[PGresult]:
    """Execute prepared statements in order, in one round trip; values in results are binary.

    Raises: Refused (of the first that failed; the server skipped the rest), psycopg.OperationalError (the connection is
    of no use any more, and what was done is not known).
    """
    pgconn = connection.pgconn
    pgconn.enter_pipeline_mode()
    for name, values in asks:
        pgconn.send_query_prepared(name, values, param_formats=[pq.Format.BINARY] * len(values), result_format=1)
    return _finish(connection, len(asks))


def _finish(connection: Connection, count: int) -> list[PGresult]:
    pgconn = connection.pgconn
    pgconn.pipeline_sync()
    deadline = None if connection.patience is None else time.monotonic() + connection.patience
    poll = select.poll()
    while pgconn.flush():
        _wait(connection, poll, select.POLLIN | select.POLLOUT, deadline)
    results: list[PGresult] = []
    refused: Refused | None = None
    nothing = 0
    while True:
        while pgconn.is_busy():
            _wait(connection, poll, select.POLLIN, deadline)
        result = pgconn.get_result()
        if result is None:
            nothing += 1
            if nothing > 1:  # more answers than questions, or fewer
                _lose(connection)
            continue
        nothing = 0
        if result.status == pq.ExecStatus.PIPELINE_SYNC:
            break
        if result.status == pq.ExecStatus.FATAL_ERROR and refused is None:
            refused = Refused(
                _field(result, pq.DiagnosticField.SQLSTATE), _field(result, pq.DiagnosticField.TABLE_NAME)
            )
        results.append(result)
    pgconn.exit_pipeline_mode()
    if pgconn.status != pq.ConnStatus.OK:
        _lose(connection)
    if refused is not None:
        if not refused.state:  # not the server's words but libpq's
            _lose(connection)
        raise refused
    if len(results) != count or any(result.status not in _GOOD for result in results):
        _lose(connection)
    return results


def _wait(connection: Connection, poll: select.poll, events: int, deadline: float | None) -> None:
    """Wait until the socket can be read or written, and read what is there. Raises: psycopg.OperationalError."""
    pgconn = connection.pgconn
    poll.register(pgconn.socket, events)
    left = None if deadline is None else (deadline - time.monotonic()) * 1000
    ready = [] if left is not None and left <= 0 else poll.poll(left)
    if not ready:
        _lose(connection)
    if ready[0][1] & ~select.POLLOUT:
        pgconn.consume_input()


def _lose(connection: Connection) -> None:
    """Give a connection up. Raises: psycopg.OperationalError."""
    connection.pgconn.finish()
    raise psycopg.OperationalError("the connection was given up")


def _field(result: PGresult, field: pq.DiagnosticField) -> str:
    return (result.error_field(field) or b"").decode("ascii", "replace")


# --- values --------------------------------------------------------------------------------------------


def int2(value: int) -> bytes:
    """Return a `smallint`."""
    return _INT2.pack(value)


def int8(value: int) -> bytes:
    """Return a `bigint`."""
    return _INT8.pack(value)


def from_int8(data: bytes | None) -> int:
    """Return the number of a `bigint`, 0 of NULL."""
    return 0 if data is None else int(_INT8.unpack(data)[0])


def date(value: dt.date) -> bytes:
    """Return a `date`."""
    return _INT4.pack(value.toordinal() - _EPOCH)


def from_date(data: bytes | None) -> dt.date | None:
    """Return the day of a `date`, None of NULL."""
    return None if data is None else dt.date.fromordinal(_INT4.unpack(data)[0] + _EPOCH)


def bytea_array(values: Sequence[bytes]) -> bytes:
    """Return a `bytea[]`."""
    return _array(_BYTEA, values)


def text_array(values: Iterable[str]) -> bytes:
    """Return a `text[]`."""
    return _array(_TEXT, [value.encode() for value in values])


def int8_array(values: Iterable[int]) -> bytes:
    """Return a `bigint[]`."""
    return _array(_INT8_OID, [_INT8.pack(value) for value in values])


def _array(oid: int, values: Sequence[bytes]) -> bytes:
    parts = [_ARRAY.pack(1, 0, oid, len(values), 1)]
    for value in values:
        parts += (_INT4.pack(len(value)), value)
    return b"".join(parts)
