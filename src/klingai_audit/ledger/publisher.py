"""The thread that signs: soon after the first entry when idle, at most every 10 ms under load, beside the commits.

Nobody need wait for a signature, and who does makes it come at once. So an idle publisher lets a few milliseconds
pass: the outcome of a call often follows its intent by less, one signature serves both, and its syncs do not stand in
the way of theirs. Where the log key is elsewhere, checkpoints of one writer are a second apart, and a signer that gave
no signature is asked again, later and later unless somebody waits. Entries are durable all the while.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Final

from klingai_audit.diagnostics import tell
from klingai_audit.errors import AuditUnavailable, KlingAuditError, SignerUnavailable, VerificationError
from klingai_audit.ledger.counters import Counters
from klingai_audit.ledger.log_head import LogHead
from klingai_audit.ledger.receipt import Loops, Waiters, add_task, add_thread, wake, wake_loops
from klingai_audit.ledger.store import SyncFailed

__all__ = ["PUBLISH_DELAY_S", "PUBLISH_INTERVAL_S", "Publisher"]

PUBLISH_INTERVAL_S: Final = 0.010
"""Longest time under load until signing over an acknowledged entry starts, in seconds (or as soon as the
signature before it is durable)."""

PUBLISH_DELAY_S: Final = 0.005
"""How long an idle publisher lets pass after an entry unless somebody waits for the signature, in seconds."""

_RETRY_S: Final = 1.0
_MAX_RETRY_S: Final = 60.0


class Publisher:
    """Publishes what the head acknowledged; `stop_log` is told of an error after which nothing may be written."""

    def __init__(self, head: LogHead, stop_log: Callable[[KlingAuditError], None], counters: Counters) -> None:
        self._head = head
        self._counters = counters
        self._stop_log = stop_log
        self._wake = threading.Condition()
        self._waiting: list[Waiters] = []
        self._error: KlingAuditError | None = None
        self._failures = 0
        self._refusals = 0
        self._final = False
        self._stopped = False
        self._started_at = 0.0
        self._idle_until = 0.0
        self._idle = False
        self._thread = threading.Thread(target=self._run, name="klingai-audit-publisher", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def committed(self) -> None:
        """Called by the writer after each batch."""
        if self._idle:  # else it looks by itself
            with self._wake:
                self._wake.notify()

    def stop(self, error: KlingAuditError | None = None) -> None:
        """Stop the thread; without `error` publish what is left first. Raises: AuditUnavailable, SyncFailed."""
        with self._wake:
            self._stopped = True
            self._wake.notify()
        if self._thread.ident is not None and threading.current_thread() is not self._thread:
            self._thread.join()
        try:
            if error is None:
                self._head.publish()
        except SignerUnavailable as exc:
            left = self._head.size - self._head.published
            error = SignerUnavailable(
                f"The log was closed; its last {left} entries are durable, and no signed checkpoint covers them yet: "
                f"{exc.message}",
                do=f"They are signed when the log is next opened and its signer answers. {exc.do}",
            )
            raise error from exc
        except KlingAuditError as exc:
            error = exc
            raise
        finally:
            self._final = True
            self._note(error)

    def wait(self, size: int, timeout: float | None = None) -> None:
        """Block until a signed checkpoint covers `size` entries.

        Raises: AuditUnavailable if an attempt fails meanwhile; it is made again, and so may the caller.
        """
        failures = self._failures
        deadline = None if timeout is None else time.monotonic() + timeout
        while not self._covers(size, failures):
            waiters: Waiters = []
            lock = add_thread(waiters)
            self._register(waiters)
            if self._covers(size, failures):
                return
            left = -1 if deadline is None else max(0.0, deadline - time.monotonic())
            if not lock.acquire(timeout=left):
                raise self._too_late(size, timeout)

    def _too_late(self, size: int, timeout: float | None) -> AuditUnavailable:
        error, late = self._error, f"No checkpoint covered entry {size - 1} within {timeout} s."
        if error is None:
            return AuditUnavailable(late, do="The entry is durable, and signing over it is under way.")
        kind = SignerUnavailable if isinstance(error, SignerUnavailable) else AuditUnavailable
        return kind(f"{late} The entry is durable; the last attempt failed: {error.message}", do=error.do)

    async def published(self, size: int) -> None:
        """Await a signed checkpoint that covers `size` entries. Raises: as `wait`."""
        failures = self._failures
        while not self._covers(size, failures):
            waiters: Waiters = []
            future = add_task(waiters)
            self._register(waiters)
            if self._covers(size, failures):
                return
            await future

    def _register(self, waiters: Waiters) -> None:
        """Let the next `_note` wake `waiters`, which has its waiter in it already."""
        with self._wake:
            self._waiting.append(waiters)
            self._wake.notify()

    def _covers(self, size: int, failures: int) -> bool:
        if self._head.published >= size:
            return True
        if self._error is not None and (self._final or self._failures > failures):
            kind = SignerUnavailable if isinstance(self._error, SignerUnavailable) else AuditUnavailable
            raise kind(f"Durable, but not published: {self._error.message}", do=self._error.do)
        if self._final:
            raise AuditUnavailable("The log was closed before a checkpoint covered the entry.")
        return False

    def _note(self, error: KlingAuditError | None) -> None:
        refused = isinstance(error, SignerUnavailable)
        if error is not None and refused and not self._refusals:
            words = "entries are durable, but no signed checkpoint covers them yet: %s"
            tell(logging.WARNING, "signer_unavailable", words, error.message)
        elif error is None and self._refusals:
            words = "the signer of the log key answers again: %d entries are signed"
            tell(logging.WARNING, "signer_back", words, self._head.published)
        self._refusals = self._refusals + 1 if refused else 0
        self._error = error
        self._failures += error is not None
        if error is None:
            self._counters.published(self._head.published)
            tell(logging.DEBUG, "published", "a signed checkpoint is published", size=self._head.published)
        else:
            self._counters.refused(error.kind)
        with self._wake:
            waiting, self._waiting = self._waiting, []
        loops: Loops = {}
        for waiters in waiting:
            wake(waiters, loops)
        wake_loops(loops)

    def _run(self) -> None:
        while self._wait_until_due():
            self._started_at = time.monotonic()
            try:
                self._head.publish()
            except (SyncFailed, VerificationError) as error:
                self._stop_log(error)
                return
            except KlingAuditError as error:
                self._note(error)
            except Exception as exc:  # noqa: BLE001  # told, and everybody who waits is told
                tell(logging.ERROR, "publisher_failed", "the publisher thread failed", error=exc)
                self._stop_log(AuditUnavailable(f"The publisher thread failed: {type(exc).__name__}."))
                return
            else:
                self._note(None)

    def _wait_until_due(self) -> bool:
        """Wait until something is to be signed; False when the thread is to end."""
        with self._wake:
            while not self._stopped:
                self._idle = True  # before the look: whoever adds entries looks the other way round
                if self._head.size == self._head.published:
                    self._wake.wait()
                    self._idle_until = time.monotonic()
                    continue
                self._idle = False
                due = self._started_at + self._pause()
                if not self._waiting:
                    due = max(due, self._idle_until + PUBLISH_DELAY_S)
                left = due - time.monotonic()
                if left <= 0:
                    return True
                self._wake.wait(left)
            return False

    def _pause(self) -> float:
        """The shortest time between the beginnings of two attempts, in seconds."""
        if self._error is None:
            return max(PUBLISH_INTERVAL_S, self._head.publish_interval)
        if self._refusals < 2 or self._waiting:
            return _RETRY_S
        return min(_RETRY_S * 2.0 ** min(self._refusals - 1, 10), _MAX_RETRY_S)
