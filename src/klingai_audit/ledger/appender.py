"""The queue and the one writer thread of a process: group commit, heartbeat, forks.

Callers encode; the thread commits what has gathered in one batch and resolves its receipts; another thread
signs (`publisher`). There is no linger: a batch is what arrived while the last one synced.
"""

from __future__ import annotations

import logging
import multiprocessing
import multiprocessing.util
import threading
import weakref
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from time import perf_counter
from typing import Any, Final, NoReturn, Protocol

from klingai_audit.diagnostics import tell
from klingai_audit.errors import AuditUnavailable, KlingAuditError, SignerUnavailable, VerificationError
from klingai_audit.event.record import EncodedEvent
from klingai_audit.ledger.alive import Alive, close_last
from klingai_audit.ledger.counters import Counters
from klingai_audit.ledger.log_head import LogHead
from klingai_audit.ledger.places import Appended
from klingai_audit.ledger.publisher import Publisher
from klingai_audit.ledger.reader import LogReader
from klingai_audit.ledger.receipt import Loops, Receipt, wake_loops
from klingai_audit.ledger.store import SyncFailed
from klingai_audit.tlog.proof import TlogProof

__all__ = ["MAX_QUEUE", "Appender", "Observer", "Opening", "Witnesses"]

MAX_QUEUE: Final = 10_000
"""Events that may wait for the writer thread; a full queue makes the caller wait, it never drops."""

OBSERVE_DELAY_S: Final = 0.005
"""How long an idle writer waits before the observer sees what it committed, in seconds: whoever waited for the entry
goes on first, and a call's intent and its outcome are often seen together."""

MAX_UNSEEN: Final = 256
"""Entries of a busy writer after which the observer sees them at once."""

MAX_BATCH: Final = 4_096
_HEARTBEAT_LOOK_S: Final = 30.0

Observer = Callable[[Sequence[bytes]], None]
Opening = Callable[[], Mapping[str, Any]]


class Witnesses(Protocol):
    """Whom to wait for until witnesses have seen an entry; `trust.quorum` has one."""

    def wait(self, seq: int, timeout: float | None = None) -> None:
        """Block until they have seen entry `seq`. Raises: AuditUnavailable."""
        ...

    async def awaited(self, seq: int, timeout: float | None = None) -> None:
        """Do the same without blocking the loop."""
        ...


_Item = tuple[EncodedEvent | None, bool, Receipt]


class Appender:
    """Appends events to one log from any thread, asyncio task or forked child of this process.

    `opening` gives the metadata of `log_opened`, among it `writer`, which `log_closed` repeats; `observer` sees
    durable lines soon after they were committed, and before `flush` returns.
    """

    def __init__(self, head: LogHead, *, opening: Opening, observer: Observer | None = None) -> None:
        self._witnesses: Witnesses | None = None
        self._head = head
        self._store = head.store
        self._opening = opening
        self._observer = observer
        self._reset()
        _APPENDERS.add(self)

    def _reset(self) -> None:
        self._mutex = mutex = threading.Lock()
        self._changed = threading.Condition(mutex)
        self._room = threading.Condition(mutex)
        self._queue: deque[_Item] = deque()
        self._closing = False
        self._fatal: KlingAuditError | None = None
        self._counters = Counters(self._queue)
        self._publisher = Publisher(self._head, self._stop, self._counters)
        self._thread: threading.Thread | None = None
        self._opened = False
        self._writer = ""
        self._unseen: list[bytes] = []
        self._opening_lock = threading.Lock()
        self._head_lock = threading.Lock()

    # --- life -------------------------------------------------------------------------------------

    def open(self, *, created: Sequence[tuple[EncodedEvent, bool]] = ()) -> None:
        """Recover, append `created` to an empty log and `log_opened`, publish; durable on return.

        Raises: LogDamaged and InconsistentCheckpoints (nothing was changed), StorageError.
        """
        try:
            self._take_up(created)
            self._start()
        except BaseException:
            self._head.close()
            raise
        self._opened = True
        self._counters.open(self._head.keys.origin)
        if multiprocessing.parent_process() is not None:
            multiprocessing.util.Finalize(self, close_last, args=(weakref.ref(self),), exitpriority=20)

    def _start(self) -> None:
        """Start both threads or none, so that the log may be opened again."""
        thread = threading.Thread(target=self._run, name="klingai-audit-writer", daemon=True)
        try:
            self._publisher.start()
            thread.start()
        except RuntimeError as exc:
            error = AuditUnavailable(
                "No thread can be started to write the log.", do="Raise the limit of threads, or end some."
            )
            self._publisher.stop(error)
            self._publisher = Publisher(self._head, self._stop, self._counters)
            raise error from exc
        self._thread = thread

    def _take_up(self, created: Sequence[tuple[EncodedEvent, bool]]) -> None:
        head = self._head
        opening = dict(self._opening())
        self._writer = str(opening.get("writer", ""))
        self._durable(lambda: head.take_up([*created, head.own("log_opened", opening)]))
        try:
            head.publish()
        except SignerUnavailable as error:  # the publisher goes on asking; only a new log has to be signed first
            if head.keys.pending:
                raise
            words = "the log is open, but its first entries are not signed yet: %s"
            tell(logging.WARNING, "signer_unavailable", words, error.message)
        self._counters.published(head.published)
        head.keys.created()
        self._show()
        tell(logging.INFO, "log_opened", "the log is open for writing", log=head.keys.origin, entries=head.size)

    def close(self) -> None:
        """Commit what is queued, append `log_closed`, publish, stop the thread; idempotent.

        Raises: AuditUnavailable if the closing entry could not be recorded.
        """
        with self._opening_lock, self._changed:
            already, self._closing = self._closing or not self._opened, True
            self._changed.notify_all()
            self._room.notify_all()
        if self._thread is not None:
            self._thread.join()
        if not already:
            self._counters.close()
            self._head.close()
            tell(logging.INFO, "log_closed", "the log is closed", log=self._head.keys.origin, entries=self._head.size)
            if self._fatal is not None:
                kind = SignerUnavailable if isinstance(self._fatal, SignerUnavailable) else AuditUnavailable
                raise kind(self._fatal.message, do=self._fatal.do) from self._fatal

    def after_fork(self) -> None:
        """In a forked child: drop queue, thread, keys and inherited descriptors; the first use opens anew."""
        closed = self._closing
        self._store.after_fork()
        self._head.after_fork()
        self._reset()
        self._closing = closed

    # --- appending --------------------------------------------------------------------------------

    def append(self, event: EncodedEvent, *, once: bool = False) -> Receipt:
        """Queue an event and return its receipt at once; waits only while the queue is full.

        With `once` (end events) an event id that the log already holds is not appended again: the receipt is
        the first one's. Raises: AuditUnavailable if the log is closed or stopped.
        """
        return self.append_batch([(event, once)])[0]

    def append_batch(self, events: Sequence[tuple[EncodedEvent, bool]]) -> list[Receipt]:
        """Queue (event, once) pairs that are to be committed together, as far as one batch takes them; see `append`."""
        if not self._opened:
            self._reopen()
        items = [(event, once, Receipt(event.event_id, self)) for event, once in events]
        self._put(*items)
        return [receipt for _event, _once, receipt in items]

    def _put(self, *items: _Item) -> None:
        with self._mutex:
            while len(self._queue) >= MAX_QUEUE and not self._closing and self._fatal is None:
                self._room.wait()
            if self._closing or self._fatal is not None:
                self._refuse()
            self._queue += items
            if len(self._queue) == len(items):
                self._changed.notify()

    def _refuse(self) -> NoReturn:
        if self._fatal is not None:
            raise AuditUnavailable(self._fatal.message, do=self._fatal.do) from self._fatal
        raise AuditUnavailable("The log was closed in this process.", do="Open it again with AuditLog.open().")

    def _reopen(self) -> None:
        with self._opening_lock:
            if not self._opened:
                if self._closing:
                    self._refuse()
                self.open()

    def open_again(self) -> None:
        """Open the log if it is not open: it could not be opened, or this process was forked. Raises: as `open`."""
        if not self._opened:
            self._reopen()

    @property
    def head(self) -> LogHead:
        """The head, which only this writer moves."""
        return self._head

    def flush(self, *, publish: bool = False, timeout: float | None = None) -> None:
        """Block until everything queued so far is durable (or, with `publish`, under a signed checkpoint)."""
        if not self._opened:
            return
        barrier = Receipt("", self)
        self._put((None, False, barrier))
        barrier.wait(timeout=timeout)
        if publish:
            self.wait_published(self._head.size, timeout)

    def rotate(self) -> None:
        """End the current epoch; durable on return. Raises: AuditUnavailable, VerificationError."""
        self.open_again()
        self.flush()
        try:
            with self._head_lock:
                self._head.rotate_now()
        except (SyncFailed, VerificationError) as error:
            self._stop(error)
            raise
        self._publisher.committed()

    def wait_published(self, size: int, timeout: float | None = None) -> None:
        """Block until a signed checkpoint covers `size` entries. Raises: AuditUnavailable."""
        self._publisher.wait(size, timeout)

    async def published(self, size: int) -> None:
        """Await a signed checkpoint that covers `size` entries. Raises: AuditUnavailable."""
        await self._publisher.published(size)

    @property
    def witnesses(self) -> Witnesses:
        """Whom to wait for until witnesses have seen an entry. Raises: AuditUnavailable if nobody is known."""
        if self._witnesses is None:
            raise AuditUnavailable("Nobody can be waited for to witness an entry: this log has no keys folder.")
        return self._witnesses

    @witnesses.setter
    def witnesses(self, witnesses: Witnesses) -> None:
        self._witnesses = witnesses

    def prove(self, seq: int) -> TlogProof:
        """Return the inclusion proof of entry `seq` under the newest checkpoint."""
        return LogReader(self._store).prove(seq)

    # --- the writer thread ------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            self._work()
        finally:
            self._show()

    def _work(self) -> None:
        while True:
            batch, closing = self._gather()
            if self._fatal is not None:  # the publisher stopped the log
                self._stop(self._fatal, batch)
                return
            try:
                if batch:
                    self._commit(batch)
                elif closing:
                    self._finish()
                    return
                elif self._unseen:
                    self._show()
                else:
                    self._beat()
            except KlingAuditError as error:
                self._stop(error, batch)
                return
            except Exception as exc:  # noqa: BLE001  # told, and everybody who waits is told
                tell(logging.ERROR, "writer_failed", "the writer thread failed", error=exc)
                self._stop(AuditUnavailable(f"The writer thread failed: {type(exc).__name__}."), batch)
                return

    def _gather(self) -> tuple[list[_Item], bool]:
        with self._changed:
            while not self._queue and not self._closing and self._fatal is None:
                if not self._changed.wait(OBSERVE_DELAY_S if self._unseen else _HEARTBEAT_LOOK_S):
                    return [], False
            queue = self._queue
            batch = [queue.popleft() for _ in range(min(len(queue), MAX_BATCH))]
            if batch:
                self._room.notify_all()
            return batch, self._closing

    def _commit(self, batch: list[_Item]) -> None:
        """Commit one batch and resolve its receipts. Raises only what stops the log."""
        events = [(event, once) for event, once, _receipt in batch if event is not None]
        loops: Loops = {}
        results: list[Appended] = []
        try:
            if events:
                results = self._durable(lambda: self._head.commit(events))
            if len(events) < len(batch):  # who flushes finds everything seen
                self._show()
            places = iter(results)
            for event, _once, receipt in batch:
                if event is None:
                    receipt.resolve(loops, -1)
                else:
                    seq, leaf_hash, _line = next(places)
                    receipt.resolve(loops, seq, leaf_hash)
        except (SyncFailed, VerificationError):
            raise
        except KlingAuditError as error:
            self._counters.failed(error.kind)
            tell(logging.WARNING, "not_committed", "a batch could not be committed: %s", error.message, kind=error.kind)
            for _event, _once, receipt in batch:
                receipt.resolve(loops, error=error)
        wake_loops(loops)
        self._publisher.committed()
        if len(self._unseen) >= MAX_UNSEEN:
            self._show()

    def _durable(self, act: Callable[[], list[Appended]]) -> list[Appended]:
        """Let the head append; count it, and keep the durable lines for the observer; `_show` shows them."""
        begun = perf_counter()
        with self._head_lock:
            results = act()
        if results:
            lines = [place.line for place in results if place.line]
            self._counters.committed(len(lines), self._head.size, begun)
            tell(logging.DEBUG, "batch_committed", "a batch is durable", entries=len(lines), size=self._head.size)
            if self._observer is not None:
                self._unseen += lines
        return results

    def _show(self) -> None:
        lines, self._unseen = self._unseen, []
        if self._observer is None or not lines:
            return
        try:
            self._observer(lines)
        except Exception as exc:  # noqa: BLE001  # whatever a view does, the entries are durable
            words = "the observer of durable entries failed; the entries themselves are durable"
            tell(logging.ERROR, "observer_failed", words, error=exc)

    def _beat(self) -> None:
        try:
            self._durable(self._head.beat)
        except (SyncFailed, VerificationError):
            raise
        except KlingAuditError as error:
            self._counters.failed(error.kind)
            tell(logging.WARNING, "no_heartbeat", "no heartbeat could be written: %s", error.message, kind=error.kind)
        self._publisher.committed()

    def _finish(self) -> None:
        self._durable(lambda: self._head.commit([self._head.own("log_closed", {"writer": self._writer})]))
        self._publisher.stop()

    def _stop(self, error: KlingAuditError, batch: Sequence[_Item] = ()) -> None:
        """Close this log in this process: everything pending fails, nothing is retried."""
        with self._changed:
            first, self._fatal = self._fatal is None, self._fatal or error
            pending = [*batch, *self._queue]
            self._queue.clear()
            self._changed.notify_all()
            self._room.notify_all()
        loops: Loops = {}
        for _event, _once, receipt in pending:
            if not receipt.done:
                receipt.resolve(loops, error=error)
        wake_loops(loops)
        if first:
            self._counters.stopped = error.message
            self._counters.failed(error.kind)
            words = "nothing more is written to the log by this process: %s"
            tell(logging.ERROR, "log_stopped", words, error.message, kind=error.kind)
        self._publisher.stop(error)


_APPENDERS: Final[Alive[Appender]] = Alive()
