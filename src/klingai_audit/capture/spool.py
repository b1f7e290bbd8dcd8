"""Where entries wait while the log cannot be reached, and how they get into it: in order, each once.

`put` makes records durable on this machine before an act goes on; from then on `down` sends everything of the classes
with policy `spool` there, until `drain` has put all of it into the log. A thread tries that again and again, and looks
after entries that the log has not acknowledged in time. What a process left behind is drained by the next writer.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import math
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final, Literal

from klingai_audit.capture.drain import GAP, Drain, SpoolTarget
from klingai_audit.diagnostics import tell
from klingai_audit.durable import OPS, FileOps
from klingai_audit.errors import AuditUnavailable, KlingAuditError, LogMigrated, VerificationError
from klingai_audit.event.own import own_event
from klingai_audit.event.record import EncodedEvent, new_event_id
from klingai_audit.ledger.alive import Alive
from klingai_audit.ledger.spool import Record, SpoolFile, count_records, spool_files, spool_key
from klingai_audit.ledger.store import SyncFailed
from klingai_audit.privacy.policy import Policy

__all__ = ["FOLDER", "Spool", "may_wait"]

FOLDER: Final = "spool"
"""The spool's folder in the state folder."""

FIRST_PAUSE_S: Final = 0.25
"""How long after the first failure the log is tried again, in seconds; twice as long after each further one."""

MAX_PAUSE_S: Final = 30.0

_ROUNDS: Final = 3
_TRIES: Final = 20
_FULL: Final = (
    "Make the log reachable again: what waits goes into it by itself. The limits are in policy.toml, [spool]."
)


def may_wait(exc: BaseException) -> bool:
    """Whether an entry that failed with `exc` may wait: the log was out of reach, neither damaged nor elsewhere."""
    return isinstance(exc, AuditUnavailable) and not isinstance(exc.__cause__ or exc, VerificationError | LogMigrated)


class Spool:
    """The spool of one writer of one log. Thread-safe.

    `remembered` tells whether this machine has seen the log before. When it is within reach, entries are waited for
    until they are `state`, at most `after` seconds.
    """

    def __init__(
        self,
        state: Path,
        lookup_key: bytes,
        origin: str,
        policy: Policy,
        target: SpoolTarget,
        *,
        remembered: Callable[[], bool] = lambda: False,
        wait: Literal["durable", "published"] | None = None,
        ops: FileOps = OPS,
        now_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        self.folder = state / FOLDER
        self.state: Literal["durable", "published"] = wait or "durable"
        self.after: float = policy.spool_after
        self._begun: Callable[[], None] | None = None
        self._drained: Callable[[], None] = lambda: None
        self._overdue: Callable[[], float | None] = lambda: None
        self._key = spool_key(lookup_key, origin)
        self._origin = origin
        self._policy = policy
        self._is_remembered = remembered
        self._drain = Drain(target, state, ops, now_ns)
        self._target = target
        self._ops = ops
        self._now_ns = now_ns
        self._reset()
        _ALIVE.add(self)

    def _reset(self) -> None:
        self._lock = threading.Lock()
        self._draining = threading.Lock()
        self._wakeup = threading.Condition()
        self._thread: threading.Thread | None = None
        self._file: SpoolFile | None = None
        self._held: list[SpoolFile] = []
        self._others: dict[str, tuple[int, int]] = {}
        self._down = False
        self._left = self._news = self._ending = False
        self._pause, self._next, self._failed = FIRST_PAUSE_S, 0.0, -math.inf
        self.cause: Exception | None = None

    def after_fork(self) -> None:
        """In a forked child: files and what they hold are the parent's."""
        for file in self._held:
            file.abandon()
        self._reset()

    # --- what goes in -----------------------------------------------------------------------------

    @property
    def down(self) -> bool:
        """Whether entries go to the spool: the log could not be reached, and what waits is not in it yet."""
        return self._down

    @property
    def waiting(self) -> int:
        """How many entries this process has put into files that are not drained; the gaps themselves not counted."""
        return sum(max(0, file.count - 1) for file in self._held)

    def mark(self) -> int:
        """Return the index of the first entry of the log that an event handed to it from now on may become."""
        return self._target.head.size

    def start(self, opening: Callable[[], None], begun: Callable[[], None]) -> None:
        """Open the log by `opening`, then do `begun`, and drain what processes that ended have left.

        If it cannot be reached, entries may wait, and this machine remembers the log: go on without it, and do all
        that when it can. Raises: what `opening` and `begun` raise.
        """
        try:
            opening()
        except AuditUnavailable as exc:
            known = self._policy.failure.spools and self._is_remembered()
            if not known or not may_wait(exc) or isinstance(exc, SyncFailed):
                raise
            self._begun = begun
            self._mark_down(exc)
            return
        begun()
        self.take_up()

    def _mark_down(self, cause: Exception) -> None:
        with self._lock:
            self._down, self.cause = True, cause
        self._next = time.monotonic() + FIRST_PAUSE_S
        self._tell(cause)
        self.watch()

    def send(self, event: EncodedEvent, *, once: bool, since: int | None = None) -> Any:
        """Queue an event for the log itself. Raises: AuditUnavailable.

        With `since` it was handed to the log before, and is not appended if it stands there from that entry on.
        """
        if since is None:
            return self._target.append(event, once=once)
        sought = self._target.head.sought
        sought.seek({event.event_id: since})
        receipt = self._target.append(event, once=once)
        receipt.when_done(lambda: sought.forget([event.event_id]))
        return receipt

    def check_room(self) -> None:
        """Raises: AuditUnavailable: so much waits that no further act may begin."""
        with self._lock:
            self._check_room()

    def put(self, records: Sequence[Record], cause: Exception, *, begins: bool) -> None:
        """Put records into the spool; durable on return. `begins`: they announce an act, and the ceiling counts.

        Raises: AuditUnavailable: the log is damaged rather than out of reach, too much waits, or this disk fails, too.
        """
        if not may_wait(cause):
            raise AuditUnavailable(str(cause)) from cause.__cause__ or cause
        with self._lock:
            if begins:
                self._check_room()
            try:
                self._append(records, cause)
            except OSError as exc:
                raise AuditUnavailable(
                    f"The log cannot be reached, and the entry cannot be put into {self.folder}: {exc.strerror}.",
                    do="Make the log reachable, or the state folder writable with room on its disk.",
                ) from exc
            if not self._down:
                self._down, self._pause, self._next = True, FIRST_PAUSE_S, time.monotonic() + FIRST_PAUSE_S
                self._tell(cause)
            self.cause = cause
        self.watch()

    def _append(self, records: Sequence[Record], cause: Exception) -> None:
        file = self._file
        try:
            if file is None:
                file = self._create()
                self._held.append(file)
                told = {"spool": file.name, "cause": type(cause.__cause__ or cause).__name__}
                gap = own_event("gap_opened", told, self._now_ns())
                records = [Record(gap, min(record.since for record in records), GAP), *records]
            file.append(records)
        except OSError:
            self._file = None
            if file is not None and not file.count:
                self._held.remove(file)
                with contextlib.suppress(OSError):
                    file.remove()
            raise
        self._file = file

    def _create(self) -> SpoolFile:
        """Begin a file; one that another writer took for left behind, before it was locked, is that one's to remove."""
        for _ in range(_TRIES):
            name = new_event_id(self._now_ns()).replace("-", "")
            with contextlib.suppress(BlockingIOError, FileNotFoundError):
                return SpoolFile.create(self.folder, name, self._key, self._origin, self._ops)
        raise OSError(errno.EAGAIN, "other processes take each new file away")

    def _check_room(self) -> None:
        try:
            size, records = self._measure()
        except OSError as exc:
            raise AuditUnavailable(f"The spool {self.folder} cannot be read: {exc.strerror}.") from exc
        if size >= self._policy.spool.max_bytes or records >= self._policy.spool.max_records:
            raise AuditUnavailable(
                f"The log cannot be reached, and the spool is full: {records:,} entries ({size:,} bytes) wait in it.",
                do=_FULL,
            )

    def _measure(self) -> tuple[int, int]:
        """Bytes and records of all files; those of others are counted again when they have grown."""
        own = {file.path.name: file for file in self._held}
        others: dict[str, tuple[int, int]] = {}
        for path in spool_files(self.folder):
            if path.name not in own:
                with contextlib.suppress(FileNotFoundError):
                    size = path.stat().st_size
                    known = self._others.get(path.name, (-1, 0))
                    others[path.name] = known if known[0] == size else (size, count_records(path))
        self._others = others
        counted = [*others.values(), *((file.size, file.count) for file in own.values())]
        return sum(size for size, _ in counted), sum(records for _, records in counted)

    def _tell(self, cause: Exception) -> None:
        tell(logging.ERROR, "spool_begun", "the log cannot be reached; entries wait in the spool", error=cause)

    # --- what comes out ---------------------------------------------------------------------------

    def drain(self, timeout: float | None = None) -> bool:
        """Put all that waits into the log, what others left included; tell whether nothing waits any more.

        Never raises for what a log or a disk does; `cause` tells. `timeout` is in seconds.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        if not self._draining.acquire(timeout=-1 if timeout is None else timeout):
            return False
        try:
            self._target.open_again()
            if self._begun is not None:
                self._begun()
                self._begun = None
            self._drain_left(deadline)
            while self._held:
                self._drain_own(self._held[0], deadline)
            with self._lock:
                self._down = bool(self._held)
        except (KlingAuditError, OSError) as exc:
            self.cause, self._failed = exc, time.monotonic()
            return False
        finally:
            self._draining.release()
        return not self._down

    def _drain_left(self, deadline: float | None) -> None:
        """Drain the files of processes that ended; `_left` tells if there are more, which somebody holds."""
        own = {file.path for file in self._held}
        paths = [path for path in spool_files(self.folder) if path not in own]
        self._left, kept = bool(paths), False
        for path in paths:
            try:
                file = SpoolFile.take_over(path, self._key, self._origin, self._ops)
            except OSError as exc:
                tell(logging.WARNING, "spool_unread", "a spool file cannot be opened", error=exc)
                continue
            if file is None:
                kept = True
                continue
            try:
                self._drain.finish(file, self._drain.send(file, deadline), deadline)
            finally:
                file.close()
        self._left = kept

    def _drain_own(self, file: SpoolFile, deadline: float | None) -> None:
        """Drain a file of this process, to which others may still add."""
        for _ in range(_ROUNDS):
            with self._lock:
                size = file.size
            self._drain.send(file, deadline)
            if size == file.size:
                break
        with self._lock:  # who wants to add something waits until all before it is in the log
            soon = time.monotonic() + self.after
            contents = self._drain.send(file, soon if deadline is None else min(deadline, soon))
            if self._file is file:
                self._file = None
                self._down = len(self._held) > 1
        self._drain.finish(file, contents, deadline)
        with self._lock:
            self._held.remove(file)

    @property
    def _waits(self) -> bool:
        return self._down or bool(self._held) or self._left

    def settle(self) -> bool:
        """If anything waits, or did when others wrote it, try once to drain; tell whether nothing of ours waits."""
        return not self._waits or self.drain(self.after)

    # --- the thread that looks after it -----------------------------------------------------------

    def look_after(self, overdue: Callable[[], float | None], drained: Callable[[], None]) -> None:
        """Ask `overdue` from time to time, and call `drained` when nothing waits any more."""
        self._overdue, self._drained = overdue, drained

    def watch(self, *, at_once: bool = True) -> None:
        """Let somebody look after what waits, from now on, or in time for what was just handed to the log."""
        with self._wakeup:
            self._news = True
            if self._thread is not None and at_once:
                self._wakeup.notify()
            elif self._thread is None and not self._ending:
                thread = threading.Thread(target=self._run, name="klingai-audit-spool", daemon=True)
                with contextlib.suppress(RuntimeError):  # no more threads: whoever acts next tries
                    thread.start()
                    self._thread = thread

    def _run(self) -> None:
        while True:
            asked = self._look()
            with self._wakeup:
                news, self._news = self._news, False
                if self._ending or not (news or self._waits or asked is not None):
                    self._thread = None
                    return
                pauses = [self.after if asked is None else asked]
                if self._waits:
                    pauses.append(self._next - time.monotonic())
                if not news:
                    self._wakeup.wait(max(0.01, min(pauses)))

    def _look(self) -> float | None:
        """Move what is overdue, and try the log if it is time for that."""
        asked = None
        try:
            asked = self._overdue()
            if self._waits and time.monotonic() >= self._next:
                if self.drain():
                    self._pause = MAX_PAUSE_S if self._left else FIRST_PAUSE_S
                    self._drained()
                else:
                    self._pause = min(2 * self._pause, MAX_PAUSE_S)
                self._next = time.monotonic() + self._pause
        except Exception as exc:  # noqa: BLE001  what waits is durable; the next round tries again
            tell(logging.ERROR, "spool_failed", "what waits in the spool could not be looked after", error=exc)
            self._next = time.monotonic() + MAX_PAUSE_S
        return asked

    def take_up(self) -> None:
        """Drain what processes that ended have left; what does not succeed is tried again in the background."""
        try:
            left = bool(spool_files(self.folder))
        except OSError as exc:
            tell(logging.WARNING, "spool_unread", "the spool cannot be read", error=exc)
            return
        if left and not self.drain():
            self.watch()
            tell(logging.WARNING, "spool_waits", "what waits in the spool could not be put into the log",
                 error=self.cause)  # fmt: skip

    def close(self) -> None:
        """Try to drain, unless that has just failed, then let go of what waits: it stays for the next writer."""
        with self._wakeup:
            self._ending = True
            thread = self._thread
            self._wakeup.notify()
        if thread is not None:
            thread.join(self.after)
        tried = self._down and time.monotonic() - self._failed < self.after
        if self._held and (tried or not self.drain(self.after)):
            tell(logging.WARNING, "spool_left", "entries wait in the spool for the next writer", records=self.waiting)
        with self._lock:
            for file in self._held:
                with contextlib.suppress(OSError):
                    file.close()
            self._held, self._file = [], None


_ALIVE: Final[Alive[Spool]] = Alive()
