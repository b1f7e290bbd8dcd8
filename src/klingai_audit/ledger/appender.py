"""The queue and the one writer thread of a process: group commit, publishing by time, heartbeat, forks.

Callers encode; the thread commits what has gathered in one batch, resolves its receipts, and signs at once
when idle, at most every 10 ms under load. There is no linger: a batch is what arrived while the last one synced.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import multiprocessing
import multiprocessing.util
import os
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from klingai_audit.errors import AuditUnavailable, KlingAuditError, VerificationError
from klingai_audit.event.record import EncodedEvent
from klingai_audit.ledger.head import HEARTBEAT_NS, Appended, Head
from klingai_audit.ledger.reader import LogReader
from klingai_audit.ledger.receipt import Receipt, Waiters, wake_loops
from klingai_audit.ledger.store import SyncFailed, Transaction
from klingai_audit.tlog.proof import TlogProof

__all__ = ["MAX_QUEUE", "PUBLISH_INTERVAL_S", "Appender"]

MAX_QUEUE: Final = 10_000
"""Events that may wait for the writer thread; a full queue makes the caller wait, it never drops."""

PUBLISH_INTERVAL_S: Final = 0.010
"""Longest time under load until signing over an acknowledged entry starts, in seconds."""

MAX_BATCH: Final = 4_096
_RETRY_PUBLISH_S: Final = 1.0
_HEARTBEAT_LOOK_S: Final = 30.0
_LOG: Final = logging.getLogger("klingai_audit")

Observer = Callable[[Sequence[bytes]], None]
Opening = Callable[[], Mapping[str, Any]]


@dataclass(slots=True)
class _Item:
    event: EncodedEvent | None
    once: bool
    receipt: Receipt


class Appender:
    """Appends events to one log from any thread, asyncio task or forked child of this process.

    `opening` gives the metadata of `log_opened`, among it `writer`, which `log_closed` repeats; `observer` sees
    durable lines after each batch.
    """

    def __init__(self, head: Head, *, opening: Opening, observer: Observer | None = None) -> None:
        self._head = head
        self._store = head.store
        self._opening = opening
        self._observer = observer
        self._reset()
        _APPENDERS.add(self)

    def _reset(self) -> None:
        self._pid = os.getpid()
        mutex = threading.Lock()
        self._changed = threading.Condition(mutex)
        self._room = threading.Condition(mutex)
        self._queue: deque[_Item] = deque()
        self._closing = False
        self._fatal: KlingAuditError | None = None
        self._publish_error: KlingAuditError | None = None
        self._publish_wanted = False
        self._published_waiters: list[Waiters] = []
        self._last_publish = 0.0
        self._published = self._head.published
        self._thread: threading.Thread | None = None
        self._opened = False
        self._writer = ""
        self._opening_lock = threading.Lock()

    # --- life -------------------------------------------------------------------------------------

    def open(self, *, created: Sequence[tuple[EncodedEvent, bool]] = ()) -> None:
        """Recover, append `created` to an empty log and `log_opened`, publish; durable on return.

        Raises: LogDamaged and InconsistentCheckpoints (nothing was changed), StorageError.
        """
        head = self._head
        with self._store.transaction() as txn:
            head.load(txn)
            first = list(created) if head.size == 0 else []
            opening = dict(self._opening())
            self._writer = str(opening.get("writer", ""))
            self._append(txn, [*first, head.own("log_opened", opening)])
            head.publish(txn)
        self._published = head.published
        self._opened = True
        self._thread = threading.Thread(target=self._run, name="klingai-audit-writer", daemon=True)
        self._thread.start()
        if multiprocessing.parent_process() is not None:
            multiprocessing.util.Finalize(self, _close_quietly, args=(weakref.ref(self),), exitpriority=20)

    def close(self) -> None:
        """Commit what is queued, append `log_closed`, publish, stop the thread; idempotent.

        Raises: AuditUnavailable if the closing entry could not be recorded.
        """
        if self._pid != os.getpid() or not self._opened:
            return
        with self._changed:
            already, self._closing = self._closing, True
            self._changed.notify_all()
            self._room.notify_all()
        if self._thread is not None:
            self._thread.join()
        if not already:
            self._head.ends.close()
            self._store.close()
            if self._fatal is not None:
                raise AuditUnavailable(self._fatal.message, do=self._fatal.do) from self._fatal

    def after_fork(self) -> None:
        """In a forked child: drop queue, thread, keys and inherited descriptors; the first use opens anew."""
        closed = self._closing
        self._store.after_fork()
        self._head.keys.forget()
        self._head.ends.close()
        self._reset()
        self._closing = closed

    # --- appending --------------------------------------------------------------------------------

    def append(self, event: EncodedEvent, *, once: bool = False) -> Receipt:
        """Queue an event and return its receipt at once; waits only while the queue is full.

        With `once` (end events) an event id that the log already holds is not appended again: the receipt is
        the first one's. Raises: AuditUnavailable if the log is closed or stopped.
        """
        if not self._opened:
            self._reopen()
        receipt = Receipt(event.event_id, self)
        self._put(_Item(event, once=once, receipt=receipt))
        return receipt

    def _put(self, item: _Item) -> None:
        with self._changed:
            while len(self._queue) >= MAX_QUEUE and not self._closing and self._fatal is None:
                self._room.wait()
            self._refuse_if_stopped()
            self._queue.append(item)
            if len(self._queue) == 1:
                self._changed.notify()

    def _refuse_if_stopped(self) -> None:
        if self._fatal is not None:
            raise AuditUnavailable(self._fatal.message, do=self._fatal.do) from self._fatal
        if self._closing:
            raise AuditUnavailable("The log was closed in this process.", do="Open it again with AuditLog.open().")

    def _reopen(self) -> None:
        with self._opening_lock:
            if not self._opened:
                if self._closing:
                    self._refuse_if_stopped()
                self.open()

    def flush(self, *, publish: bool = False, timeout: float | None = None) -> None:
        """Block until everything queued so far is durable (or, with `publish`, under a signed checkpoint)."""
        if not self._opened:
            return
        barrier = Receipt("", self)
        self._put(_Item(None, once=False, receipt=barrier))
        barrier.wait(timeout=timeout)
        if publish:
            self.wait_published(self._head.size, timeout)

    def locked(self, act: Callable[[Head, Transaction], None]) -> None:
        """Run `act` on the caught-up head under the writer lock (key rotation)."""
        if not self._opened:
            self._reopen()
        self.flush()
        with self._store.transaction() as txn:
            self._head.catch_up(txn)
            act(self._head, txn)
            self._note_published()

    # --- publishing -------------------------------------------------------------------------------

    def wait_published(self, size: int, timeout: float | None = None) -> None:
        """Block until a signed checkpoint covers `size` entries. Raises: AuditUnavailable."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while not self._is_published(size):
            waiters = self._want()
            lock = waiters.add_thread()
            if self._is_published(size):
                return
            left = -1 if deadline is None else max(0.0, deadline - time.monotonic())
            if not lock.acquire(timeout=left):
                raise AuditUnavailable(f"No checkpoint covered entry {size - 1} within {timeout} s.")

    async def published(self, size: int) -> None:
        """Await a signed checkpoint that covers `size` entries. Raises: AuditUnavailable."""
        while not self._is_published(size):
            future = self._want().add_task()
            if self._is_published(size):
                return
            await future

    def _want(self) -> Waiters:
        waiters = Waiters()
        with self._changed:
            self._published_waiters.append(waiters)
            self._publish_wanted = True
            self._changed.notify()
        return waiters

    def _is_published(self, size: int) -> bool:
        if self._published >= size:
            return True
        error = self._fatal or self._publish_error
        if error is not None:
            raise AuditUnavailable(f"Durable, but not published: {error.message}", do=error.do) from error
        if self._thread is None or not self._thread.is_alive():
            raise AuditUnavailable("The log was closed before a checkpoint covered the entry.")
        return False

    def prove(self, seq: int) -> TlogProof:
        """Return the inclusion proof of entry `seq` under the newest checkpoint."""
        return LogReader(self._store).prove(seq)

    def _note_published(self, error: KlingAuditError | None = None) -> None:
        self._publish_error = error
        self._published = self._head.published
        self._last_publish = time.monotonic()
        with self._changed:
            waiting, self._published_waiters = self._published_waiters, []
            self._publish_wanted = False
        loops: dict[asyncio.AbstractEventLoop, list[asyncio.Future[None]]] = {}
        for waiters in waiting:
            waiters.wake(loops)
        wake_loops(loops)

    # --- the writer thread ------------------------------------------------------------------------

    def _run(self) -> None:
        while True:
            batch, closing = self._gather()
            try:
                if batch:
                    self._commit(batch)
                self._publish_if_due(closing=closing)
                if closing and not batch:
                    self._finish()
                    return
                if not batch and self._head.silent_ns >= HEARTBEAT_NS:
                    self._beat()
            except KlingAuditError as error:
                self._stop(batch, error)
                return
            except Exception as exc:
                _LOG.exception("the writer thread failed")
                self._stop(batch, AuditUnavailable(f"The writer thread failed: {type(exc).__name__}."))
                raise

    def _gather(self) -> tuple[list[_Item], bool]:
        with self._changed:
            while not self._queue and not self._closing:
                wait = self._idle_wait()
                if wait <= 0:
                    return [], False
                if not self._changed.wait(wait) and wait >= _HEARTBEAT_LOOK_S:
                    return [], False
            queue = self._queue
            batch = [queue.popleft() for _ in range(min(len(queue), MAX_BATCH))]
            if batch:
                self._room.notify_all()
            return batch, self._closing

    def _idle_wait(self) -> float:
        """Seconds until something is due without new events."""
        if self._head.size == self._head.published:
            return 0.0 if self._publish_wanted else _HEARTBEAT_LOOK_S
        pause = _RETRY_PUBLISH_S if self._publish_error is not None else PUBLISH_INTERVAL_S
        return self._last_publish + pause - time.monotonic()

    def _commit(self, batch: list[_Item]) -> None:
        """Commit one batch and resolve its receipts. Raises only what stops the log."""
        events = [(item.event, item.once) for item in batch if item.event is not None]
        loops: dict[asyncio.AbstractEventLoop, list[asyncio.Future[None]]] = {}
        try:
            with self._store.transaction() as txn:
                if events:
                    self._head.catch_up(txn)
                    self._resolve(batch, self._append(txn, events), loops)
                    if self._queue and time.monotonic() - self._last_publish >= PUBLISH_INTERVAL_S:
                        self._publish(txn)
                else:
                    self._resolve(batch, [], loops)
        except (SyncFailed, VerificationError):
            raise
        except KlingAuditError as error:
            for item in batch:
                if not item.receipt.done:
                    item.receipt.resolve(loops, error=error)
            wake_loops(loops)

    def _resolve(
        self,
        batch: list[_Item],
        results: list[Appended],
        loops: dict[asyncio.AbstractEventLoop, list[asyncio.Future[None]]],
    ) -> None:
        places = iter(results)
        for item in batch:
            if item.event is None:
                item.receipt.resolve(loops, seq=-1)
            else:
                place = next(places)
                item.receipt.resolve(loops, seq=place.seq, leaf_hash=place.leaf_hash)
        wake_loops(loops)

    def _append(self, txn: Transaction, events: Sequence[tuple[EncodedEvent, bool]]) -> list[Appended]:
        results = self._head.append(txn, events)
        if self._observer is not None:
            self._observer([place.line for place in results if place.line])
        return results

    def _publish_if_due(self, *, closing: bool) -> None:
        if self._queue and not closing:
            return
        unsigned = self._head.size != self._head.published
        if unsigned and (closing or self._publish_wanted or self._idle_wait() <= 0):
            try:
                with self._store.transaction() as txn:
                    self._head.catch_up(txn)
                    self._publish(txn)
            except (SyncFailed, VerificationError):
                raise
            except KlingAuditError as error:
                self._note_published(error)
        elif self._publish_wanted:
            self._note_published()

    def _publish(self, txn: Transaction) -> None:
        try:
            self._head.publish(txn)
        except (SyncFailed, VerificationError):
            raise
        except KlingAuditError as error:
            self._note_published(error)
        else:
            self._note_published()

    def _beat(self) -> None:
        try:
            with self._store.transaction() as txn:
                self._head.catch_up(txn)
                if self._head.silent_ns >= HEARTBEAT_NS:
                    self._append(txn, [self._head.own("log_heartbeat", {})])
                    self._publish(txn)
        except (SyncFailed, VerificationError):
            raise
        except KlingAuditError as error:
            _LOG.warning("no heartbeat could be written: %s", error.message)

    def _finish(self) -> None:
        with self._store.transaction() as txn:
            self._head.catch_up(txn)
            self._append(txn, [self._head.own("log_closed", {"writer": self._writer})])
            self._head.publish(txn)
        self._note_published()

    def _stop(self, batch: list[_Item], error: KlingAuditError) -> None:
        """Close this log in this process: everything pending fails, nothing is retried."""
        with self._changed:
            self._fatal = error
            pending = [*batch, *self._queue]
            self._queue.clear()
            self._room.notify_all()
        loops: dict[asyncio.AbstractEventLoop, list[asyncio.Future[None]]] = {}
        for item in pending:
            if not item.receipt.done:
                item.receipt.resolve(loops, error=error)
        wake_loops(loops)
        self._note_published(error)


_APPENDERS: weakref.WeakSet[Appender] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    for appender in list(_APPENDERS):
        appender.after_fork()


def _close_quietly(reference: weakref.ref[Appender]) -> None:
    """At the end of a `multiprocessing` child, which skips `atexit`."""
    appender = reference()
    if appender is not None:
        with contextlib.suppress(KlingAuditError):
            appender.close()


os.register_at_fork(after_in_child=_after_fork_in_child)
