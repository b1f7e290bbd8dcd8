"""One private SQLite file: opened safely, used by one thread at a time, safe over forks, errors as ours.

Journal mode DELETE, secure deletion, no temporary files, synchronous EXTRA, file mode 0600. Knows nothing of
what is stored.
"""

from __future__ import annotations

import os
import sqlite3
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from klingai_audit.durable import PRIVATE_MODE, FileOps, is_private
from klingai_audit.errors import AuditUnavailable, LogNotFound, StorageError, UnsafePermissions

__all__ = ["PrivateDatabase"]

_WHERE: Final = "Name the right one with --subjects or KLINGAI_AUDIT_SUBJECTS, or restore it."
_ANSWERS: Final = {
    sqlite3.SQLITE_BUSY: ("stayed locked", "Find the process that holds it (a backup, a database shell) and end it."),
    sqlite3.SQLITE_READONLY: ("cannot be written", "Writers need the file and its folder writable."),
    sqlite3.SQLITE_CANTOPEN: ("cannot be opened", "Check the path, and the permissions of file and folder."),
    sqlite3.SQLITE_FULL: ("cannot grow: the disk is full", "Free space, then try again."),
    sqlite3.SQLITE_IOERR: ("failed to read or write", "Check the disk, then try again."),
    sqlite3.SQLITE_CORRUPT: ("is damaged", "Preserve the file, then restore it from a backup."),
}
_SAME: Final = {
    sqlite3.SQLITE_LOCKED: sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_PERM: sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_AUTH: sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_NOTADB: sqlite3.SQLITE_CORRUPT,
}


class PrivateDatabase:
    """The file at `path`; `what` is what errors call it, `prepare` runs on each new connection.

    A missing file is created if `create`, else LogNotFound. `busy_seconds` is how long another process's lock is
    waited for. A file open to more than owner and group is refused. Sessions exclude each other, and a fork.
    """

    def __init__(
        self,
        path: Path,
        what: str,
        prepare: Callable[[sqlite3.Connection], None],
        ops: FileOps,
        *,
        read_only: bool,
        create: bool,
        busy_seconds: float,
    ) -> None:
        self.path = Path(path).absolute()
        self.what = what
        self.read_only = read_only
        self.create = create
        self._prepare = prepare
        self._ops = ops
        self._busy_seconds = busy_seconds
        self._lock = threading.Lock()
        self._connection: sqlite3.Connection | None = None
        self._closing: weakref.finalize[[], PrivateDatabase] | None = None
        self._identity: tuple[int, int] = (0, 0)
        _databases.add(self)

    @contextmanager
    def session(self, *, writing: bool = False) -> Iterator[sqlite3.Connection]:
        """Give the connection to one thread; autocommit, so a single statement is its own transaction.

        Raises: AuditUnavailable if `writing`, StorageError otherwise: locked, read-only, damaged, full, gone.
        """
        with self._lock:
            try:
                if self._connection is None:
                    self._connection = self._open()
                    self._closing = weakref.finalize(self, self._connection.close)
                self._check_place()
                yield self._connection
            except (sqlite3.Error, OSError) as exc:
                raise self._translated(exc, AuditUnavailable if writing else StorageError) from exc

    @contextmanager
    def transaction(self, connection: sqlite3.Connection, *, exclusive: bool = False) -> Iterator[None]:
        """Make what is done inside one durable step, or nothing. Belongs inside a session.

        With `exclusive` nobody else can read meanwhile.
        Raises: AuditUnavailable: the file was removed or replaced meanwhile, and the step with it.
        """
        connection.execute("BEGIN EXCLUSIVE" if exclusive else "BEGIN IMMEDIATE")
        try:
            yield
            connection.execute("COMMIT")
        except BaseException:
            with suppress(sqlite3.Error):
                connection.execute("ROLLBACK")
            raise
        self._check_place()

    def close(self) -> None:
        """Close the connection; the next session opens it again."""
        with self._lock:
            self._connection = None
            if self._closing is not None:
                self._closing()

    def missing(self) -> LogNotFound:
        """Build the error for a file that holds nothing of what is looked for."""
        return LogNotFound(f"{self.path}: the file holds no {self.what}", do=_WHERE)

    # --- forks ------------------------------------------------------------------------------------

    def before_fork(self) -> None:
        """In the parent: wait for the running session, so that the child inherits no open transaction."""
        self._lock.acquire()

    def after_fork_in_parent(self) -> None:
        """In the parent: go on."""
        self._lock.release()

    def after_fork(self) -> None:
        """In the child: drop lock and connection; the next session opens the file anew. Harmless elsewhere."""
        self._lock = threading.Lock()
        if self._connection is not None:
            _inherited.append(self._connection)
        if self._closing is not None:
            self._closing.detach()
        self._connection = self._closing = None

    # --- the file ---------------------------------------------------------------------------------

    def _open(self) -> sqlite3.Connection:
        if not self.path.exists():
            if not self.create:
                raise LogNotFound(f"{self.path}: there is no {self.what}", do=_WHERE)
            self._ops.close(self._ops.open(self.path, os.O_RDWR | os.O_CREAT, PRIVATE_MODE))
            self._ops.sync_folder(self.path.parent)
        if self.path.is_file() and not is_private(self.path):
            raise UnsafePermissions(
                f"{self.path}: the {self.what} is open to more than owner and group", do=f"Run: chmod 600 {self.path}"
            )
        status = self.path.stat()
        self._identity = (status.st_dev, status.st_ino)
        connection = sqlite3.connect(
            f"{self.path.as_uri()}?mode={'ro' if self.read_only else 'rw'}",
            uri=True,
            timeout=self._busy_seconds,
            isolation_level=None,
            check_same_thread=False,
        )
        try:
            connection.execute("PRAGMA trusted_schema = OFF")
            connection.execute("PRAGMA temp_store = MEMORY")
            if not self.read_only:
                connection.execute("PRAGMA journal_mode = DELETE")
                connection.execute("PRAGMA secure_delete = ON")
                # EXTRA is FULL plus a sync of the folder after each commit: without it a journal that reappears
                # after a power loss can roll a committed row back.
                connection.execute("PRAGMA synchronous = EXTRA")
            self._prepare(connection)
        except BaseException:
            connection.close()
            raise
        return connection

    def _check_place(self) -> None:
        """Raise unless the path still names the file that is open."""
        try:
            status = self.path.stat()
        except FileNotFoundError:
            status = None
        if status is None or (status.st_dev, status.st_ino) != self._identity:
            raise AuditUnavailable(
                f"{self.path}: the {self.what} is gone or was replaced while in use",
                do="Restore the file, then open the log again.",
            )

    def _translated(self, exc: sqlite3.Error | OSError, kind: type[StorageError]) -> StorageError:
        if isinstance(exc, OSError):
            return kind(f"{self.path}: {exc.strerror}", do="Check the path, and the permissions of file and folder.")
        code = getattr(exc, "sqlite_errorcode", 0) & 0xFF
        state, do = _ANSWERS.get(_SAME.get(code, code), ("failed", "Check the file and the disk."))
        return kind(f"{self.path}: the {self.what} {state}", do=do)


_databases: weakref.WeakSet[PrivateDatabase] = weakref.WeakSet()
_held: list[PrivateDatabase] = []
# A child must not close what its parent opened (SQLite's rule): it is kept and never used.
_inherited: list[sqlite3.Connection] = []


def _before_fork() -> None:
    for database in sorted(_databases, key=id):
        database.before_fork()
        _held.append(database)


def _after_fork_in_parent() -> None:
    while _held:
        _held.pop().after_fork_in_parent()


def _after_fork_in_child() -> None:
    while _held:
        _held.pop().after_fork()


os.register_at_fork(before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork_in_child)
