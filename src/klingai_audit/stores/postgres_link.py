"""Connections to one PostgreSQL database: how they are made, set up, kept, lent and left behind after a fork.

Knows nothing of logs. Errors are ours, without what a driver's words may hold: passwords, and values of rows.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Final, Literal, TypeVar, cast
from urllib.parse import urlsplit

from klingai_audit.errors import AuditUnavailable, MissingExtra, StorageError, UnsupportedStorage, UsageError
from klingai_audit.stores.postgres_schema import DEFAULT_SCHEMA, check_schema_name
from klingai_audit.stores.urls import RemoteUrl

try:
    import psycopg
    from psycopg import conninfo
except ImportError as exc:
    raise MissingExtra("A log on PostgreSQL needs psycopg.", do="pip install 'klingai-audit[postgres]'") from exc

if TYPE_CHECKING:
    from psycopg.abc import PQGen

__all__ = ["Connection", "Link", "Use", "explained", "is_gone", "translated"]

Use = Literal["write", "read", "keep"]
"""What a connection is for: appending (short limits), reading, purging and schema changes (no limits)."""

_T = TypeVar("_T")

_KEPT: Final = 8
_CONNECT_S: Final = 10
_LOCK_S: Final = 15
_STATEMENT_S: Final = {"write": 20, "read": 120, "keep": 0}
_IDLE_S: Final = {"write": 15, "read": 0, "keep": 0}
_SPARE_S: Final = 5.0
_FIRST_PAUSE_S: Final = 0.05
_MAX_PAUSE_S: Final = 1.0

_DEFAULTS: Final = {
    "application_name": "klingai-audit",
    "client_encoding": "utf8",
    "connect_timeout": str(_CONNECT_S),
    "keepalives_idle": "10",
    "keepalives_interval": "5",
    "keepalives_count": "3",
    "tcp_user_timeout": "20000",
}
_SESSION: Final = {
    "search_path": "pg_catalog, pg_temp",
    "client_min_messages": "error",
    "tcp_keepalives_idle": "10",
    "tcp_keepalives_interval": "5",
    "tcp_keepalives_count": "3",
}
"""Settings of every session; the server's side of keep-alive ends the transaction of a client that vanished."""

_SERVER: Final = "Check that the server runs, its address, and the network between; then try again."
_STATES: Final = {
    "25006": (
        "takes no writes: it is a standby",
        "Name the primary, or all hosts: postgresql://a,b/… (to read from a standby: ?target_session_attrs=any).",
    ),
    "25P03": ("ended a transaction that was idle for too long", "This process was stopped meanwhile; try again."),
    "28000": ("refuses this role", "Check the role in the URL and pg_hba.conf."),
    "28P01": ("refuses the password", "Check the password in the URL, PGPASSWORD or ~/.pgpass."),
    "3D000": ("has no such database", "Check the database in the URL, or create it."),
    "3F000": ("has no such schema", "Create the log: klingai-audit init. A DBA gets the SQL from: init --sql."),
    "40001": ("refused a transaction because of another one", "Try again."),
    "40P01": ("ended a deadlock", "Try again."),
    "42501": ("does not let this role do that", "Grant it the role it needs (docs/how-to/postgresql.md)."),
    "42P01": (
        "lacks a table of the log",
        "Create or upgrade it: klingai-audit init. A DBA gets the SQL from: init --sql.",
    ),
    "53100": ("has no space left on its disk", "Make room there; nothing was written."),
    "53200": ("has no memory left", "Look at the server's memory settings; nothing was written."),
    "53300": ("takes no more connections", "Raise max_connections, or let fewer processes write."),
    "55P03": (f"did not give a lock within {_LOCK_S} s", "Another writer holds it: look at pg_stat_activity."),
    "57014": ("cancelled a statement that took too long", "Look at the server's load; nothing was written."),
    "57P01": ("is being shut down", _SERVER),
    "57P02": ("crashed", _SERVER),
    "57P03": ("is starting or stopping", _SERVER),
}
_CONNECTING: Final = (
    ("password authentication failed", "28P01"),
    ("no password supplied", "28P01"),
    ("no pg_hba.conf entry", "28000"),
    ("FATAL:  role ", "28000"),
    ("FATAL:  database ", "3D000"),
    ("too many clients", "53300"),
    ("too many connections", "53300"),
    ("remaining connection slots", "53300"),
    ("starting up", "57P03"),
    ("shutting down", "57P03"),
    ("recovery mode", "57P03"),
    ("read-only", "25006"),
    ("in recovery", "25006"),
    ("hot standby", "25006"),
)
_PLAIN: Final = (
    ("Connection refused", "refuses connections"),
    ("could not translate host name", "has a host name that leads nowhere"),
    ("timeout expired", "does not answer"),
    ("timed out", "does not answer"),
    ("certificate", "has a certificate that is not accepted"),
    ("SSL", "does not agree on TLS"),
    ("No such file or directory", "has no socket there"),
    ("closed the connection", "closed the connection"),
)


class Connection(psycopg.Connection[tuple[Any, ...]]):
    """A connection whose every wait ends, also if something between lets the server's answer never arrive."""

    _pool = None  # psycopg's mark of a connection that may be collected while open: its socket is closed then
    patience: float | None = None
    prepared: bool = False
    backend: int = 0
    backend_start: Any = None

    def wait(self, gen: PQGen[_T], interval: float = 0.1, *rest: Any, **more: Any) -> _T:
        """As psycopg's, for `patience` seconds at most; then the connection is of no use any more."""
        if self.patience is not None:
            gen = _limited(gen, time.monotonic() + self.patience)
        try:
            return super().wait(gen, interval, *rest, **more)
        except _TooLong:
            self.pgconn.finish()
            raise psycopg.OperationalError("timed out") from None


class _TooLong(Exception):
    """A server did not answer in time."""


def _limited(gen: PQGen[_T], until: float) -> PQGen[_T]:
    """Wait as `gen` does, until `time.monotonic()` is `until`: psycopg comes by ten times a second."""
    wanted = next(gen)
    while True:
        ready = yield wanted
        if not ready and time.monotonic() > until:
            raise _TooLong
        try:
            wanted = gen.send(ready)
        except StopIteration as done:
            return cast("_T", done.value)


class Link:
    """All connections of one process to the database of `url`; every method may be called from any thread.

    `url` is libpq's, with `schema=` among its parameters for the log's schema. Raises: UsageError.
    """

    def __init__(self, url: RemoteUrl | str) -> None:
        whole = url if isinstance(url, RemoteUrl) else RemoteUrl(url)
        if whole.scheme != "postgresql":
            raise UsageError(f"{whole} is no PostgreSQL URL.", do="postgresql://USER@HOST:PORT/DATABASE?schema=NAME")
        self.shown = whole.shown
        parts = urlsplit(whole.reveal())
        named = whole.schema
        self.schema = check_schema_name(DEFAULT_SCHEMA if named is None else named)
        # As it was written: libpq takes `+` for itself, where others take it for a space.
        query = "&".join(asked for asked in parts.query.split("&") if asked.partition("=")[0] != "schema")
        try:
            given = conninfo.conninfo_to_dict(f"postgresql://{parts.netloc}{parts.path}?{query}")
        except psycopg.ProgrammingError:  # its words hold the URL
            raise UsageError(f"{self.shown} is no PostgreSQL URL.", do="Check it against libpq's form.") from None
        self._given: dict[str, Any] = _DEFAULTS | {name: value for name, value in given.items() if value is not None}
        self._mutex = threading.Lock()
        self._idle: dict[Use, list[Connection]] = {"write": [], "read": [], "keep": []}
        self._lent: set[Connection] = set()
        self._reached = False

    def __repr__(self) -> str:
        return f"Link({self.shown!r})"

    def connect(self, use: Use) -> Connection:
        """Make a connection, set up for its use. Raises: AuditUnavailable, UnsupportedStorage."""
        wanted = {"write": "read-write", "read": "primary", "keep": "read-write"}[use]
        words = {"target_session_attrs": wanted} | self._given
        try:
            made = Connection.connect(**words, autocommit=True, prepare_threshold=0)
        except psycopg.Error as error:
            raise translated(error, self.shown) from None
        try:
            self._set_up(made, use)
        except psycopg.Error as error:
            made.close()
            raise translated(error, self.shown) from None
        except BaseException:
            made.close()
            raise
        self._reached = True
        return made

    def _set_up(self, made: Connection, use: Use) -> None:
        limit = _STATEMENT_S[use]
        made.patience = limit + _SPARE_S if limit else None
        limits = {
            "statement_timeout": limit,
            "idle_in_transaction_session_timeout": _IDLE_S[use],
            "lock_timeout": _LOCK_S,
        }
        values = {name: f"{seconds}s" for name, seconds in limits.items()} | _SESSION
        found = made.execute(
            "SELECT current_setting('synchronous_commit'), pg_backend_pid(),"
            " (SELECT backend_start FROM pg_stat_activity WHERE pid = pg_backend_pid()), "
            + ", ".join(f"set_config('{name}', '{value}', false)" for name, value in values.items())
        ).fetchone()
        if found is not None:
            made.backend, made.backend_start = found[1], found[2]
        if use != "read" and found is not None and found[0] == "off":
            raise UnsupportedStorage(
                f"{self.shown} has synchronous_commit off: what it acknowledges may vanish in a crash.",
                do="ALTER ROLE … IN DATABASE … SET synchronous_commit = on",
            )

    @contextlib.contextmanager
    def lend(self, use: Use) -> Iterator[Connection]:
        """Lend a connection to one thread; a broken one is not kept. psycopg's errors become ours.

        Raises: AuditUnavailable, HeadConflict.
        """
        connection = self.take(use)
        try:
            yield connection
        except psycopg.Error as error:
            raise translated(error, self.shown) from None
        finally:
            self.give_back(connection, use)

    def take(self, use: Use) -> Connection:
        """Take a connection, to be given back by the same thread. Raises: as `connect`."""
        while True:
            with self._mutex:
                idle = self._idle[use]
                connection = idle.pop() if idle else None
                if connection is not None:
                    self._lent.add(connection)
            if connection is None:
                connection = self.connect(use)
                with self._mutex:
                    self._lent.add(connection)
                return connection
            if not _is_stale(connection):
                return connection
            with self._mutex:
                self._lent.discard(connection)
            connection.close()

    def give_back(self, connection: Connection, use: Use) -> None:
        """Give a connection back; it is kept if it is idle and whole."""
        status = connection.pgconn.transaction_status
        clean = status == psycopg.pq.TransactionStatus.IDLE and not connection.pgconn.pipeline_status
        with self._mutex:
            if connection not in self._lent:  # inherited from the parent of a fork
                return
            self._lent.discard(connection)
            if clean and len(self._idle[use]) < _KEPT:
                self._idle[use].append(connection)
                return
        connection.close()

    def again(self, use: Use, act: Callable[[Connection], _T], *, patience: float) -> _T:
        """Do what may be done twice; if the connection is lost, again for `patience` seconds.

        A server that was never reached by this process is asked once. Raises: AuditUnavailable, HeadConflict.
        """
        deadline, pause = time.monotonic() + patience, _FIRST_PAUSE_S
        while True:
            try:
                with self.lend(use) as connection:
                    try:
                        return act(connection)
                    except psycopg.Error:
                        if not connection.closed:
                            deadline = 0.0
                        raise
            except AuditUnavailable:
                if not self._reached or time.monotonic() + pause > deadline:
                    raise
            time.sleep(pause)
            pause = min(2 * pause, _MAX_PAUSE_S)

    def close(self) -> None:
        """Close what is not lent."""
        with self._mutex:
            idle = [connection for kept in self._idle.values() for connection in kept]
            for kept in self._idle.values():
                kept.clear()
        for connection in idle:
            connection.close()

    def after_fork(self) -> None:
        """In a forked child: leave the parent's connections alone. Nothing is said to the server, nothing is reused."""
        inherited = [*(one for kept in self._idle.values() for one in kept), *self._lent]
        self._mutex = threading.Lock()
        self._idle = {"write": [], "read": [], "keep": []}
        self._lent = set()
        _leave(inherited)


_inherited: list[Connection] = []


def _leave(connections: list[Connection]) -> None:
    """Keep the objects for good, for ending them would speak on the parent's socket; let go of the sockets.

    Otherwise the server would not notice the end of a parent that dies before its child.
    """
    _inherited.extend(connections)
    null = os.open(os.devnull, os.O_RDWR)
    try:
        for connection in connections:
            with contextlib.suppress(psycopg.Error, OSError):
                os.dup2(null, connection.pgconn.socket, inheritable=False)
    finally:
        os.close(null)


def _is_stale(connection: Connection) -> bool:
    """Tell whether the server has said anything to an idle connection since: that is always its end."""
    if connection.closed:
        return True
    try:
        connection.pgconn.consume_input()
    except psycopg.Error:
        return True
    return connection.pgconn.status != psycopg.pq.ConnStatus.OK


def is_gone(connection: Connection) -> bool:
    """Tell whether a connection was lost, so that what its last statements did is not known."""
    return connection.closed


def translated(error: psycopg.Error, where: str) -> StorageError:
    """Return our error for psycopg's; not a word of it but its state, for it may hold a password or a row.

    AuditUnavailable for all: what nothing of was committed, or cannot have been.
    """
    state = error.sqlstate or next((state for words, state in _CONNECTING if words in str(error)), "")
    if state:
        return explained(state, where)
    what = next((plain for words, plain in _PLAIN if words in str(error)), "cannot be reached")
    return AuditUnavailable(f"The database {where} {what}.", do=_SERVER)


def explained(state: str, where: str) -> AuditUnavailable:
    """Return our error for an SQLSTATE."""
    what, do = _STATES.get(state, (f"answered with SQLSTATE {state}", "Look at the server's log."))
    return AuditUnavailable(f"The database {where} {what}.", do=do)
