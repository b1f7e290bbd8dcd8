"""What `log()` returns: the promise that becomes a fact."""

from __future__ import annotations

import asyncio
import logging
import os
import threading
import time
from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias

from klingai_audit.diagnostics import tell
from klingai_audit.errors import AuditUnavailable, KlingAuditError, UsageError

if TYPE_CHECKING:
    from klingai_audit.ledger.appender import Appender
    from klingai_audit.tlog.proof import TlogProof

__all__ = [
    "Loops",
    "Reached",
    "Receipt",
    "State",
    "Waiters",
    "add_task",
    "add_thread",
    "check_wait",
    "wake",
    "wake_loops",
]


State = Literal["durable", "published"]
"""`durable`: synced and sealed; `published`: under a signed checkpoint (docs/format.md)."""

Reached = Literal["durable", "published", "witnessed"]
"""A state, or `witnessed`: under a checkpoint that the witnesses' quorum has cosigned (docs/how-to/witness.md)."""

Loops = dict[asyncio.AbstractEventLoop, list[asyncio.Future[None]]]
"""Futures to resolve, by the event loop that they belong to."""

Waiters: TypeAlias = (
    "list[threading.Lock | tuple[asyncio.AbstractEventLoop, asyncio.Future[None]] | Callable[[], object]]"
)
"""Threads and asyncio tasks that wait for one fact, and what is to be called then; each once."""


def add_thread(waiters: Waiters) -> threading.Lock:
    """Return a lock whose `acquire` returns when the fact is there."""
    lock = threading.Lock()
    lock.acquire()
    waiters.append(lock)
    return lock


def add_task(waiters: Waiters) -> asyncio.Future[None]:
    """Return a future of the running loop that is resolved when the fact is there."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[None] = loop.create_future()
    waiters.append((loop, future))
    return future


def wake(waiters: Waiters, loops: Loops) -> None:
    """Wake threads and call back now; collect futures by loop, so that each loop is called once a batch."""
    while waiters:
        waiter = waiters.pop()
        if isinstance(waiter, tuple):
            loop, future = waiter
            if loop in loops:
                loops[loop].append(future)
            else:
                loops[loop] = [future]
        elif callable(waiter):
            try:
                waiter()
            except Exception as exc:  # noqa: BLE001  # whoever is called back, the entry is what it is
                tell(logging.ERROR, "callback_failed", "what waited for an entry failed", error=exc)
        else:
            waiter.release()


def wake_loops(loops: Loops) -> None:
    """Resolve collected futures, one call into each loop; a closed loop has nobody waiting."""
    for loop, futures in loops.items():
        try:
            loop.call_soon_threadsafe(_resolve, futures)
        except RuntimeError:
            continue


def _resolve(futures: list[asyncio.Future[None]]) -> None:
    for future in futures:
        if not future.done():
            future.set_result(None)


class Receipt:
    """One submitted event and what became of it.

    `seq` and `leaf_hash` (32 bytes) are None until the entry is durable. For an event appended with `once`
    that the log already held they are the first one's.
    """

    __slots__ = ("_appender", "_error", "_pid", "_waiters", "event_id", "leaf_hash", "seq")

    def __init__(self, event_id: str, appender: Appender) -> None:
        self.event_id = event_id
        self.seq: int | None = None
        self.leaf_hash: bytes | None = None
        self._appender = appender
        self._error: KlingAuditError | None = None
        self._pid = _process[0]
        self._waiters: Waiters = []

    def __repr__(self) -> str:
        state = "failed" if self._error else "pending" if self.seq is None else f"seq {self.seq}"
        return f"<Receipt {self.event_id} {state}>"

    @property
    def done(self) -> bool:
        """Tell whether the entry is durable or has failed for good."""
        return self.seq is not None or self._error is not None

    def wait(self, state: Reached = "durable", timeout: float | None = None) -> Receipt:
        """Block until the entry is `durable`, `published` or `witnessed`; returns self.

        `timeout` is in seconds; without one the policy's `witness.timeout` limits the wait for witnesses. Somebody has
        to ask them: `Witnessing` in this process, or `klingai-audit watch`. Raises: AuditUnavailable if it was not
        recorded, if no policy of witnesses says who has to see it, if this process was forked since, or when time is
        up (the entry may still become durable).
        """
        _check_state(state)
        deadline = None if timeout is None else time.monotonic() + timeout
        if not self.done:
            self._check_process()
            lock = add_thread(self._waiters)
            if not self._settled() and not lock.acquire(timeout=-1 if timeout is None else max(0.0, timeout)):
                raise AuditUnavailable(f"The entry was not durable within {timeout} s.", do="It may still become so.")
        seq = self._raise_or_seq()
        if state != "durable":
            self._check_process()
            self._appender.wait_published(seq + 1, None if deadline is None else deadline - time.monotonic())
        if state == "witnessed":
            self._appender.witnesses.wait(seq, None if deadline is None else max(0.0, deadline - time.monotonic()))
        return self

    def __await__(self) -> Generator[Any, None, Receipt]:
        if not self.done:
            self._check_process()
            future = add_task(self._waiters)
            if not self._settled():
                yield from future
        self._raise_or_seq()
        return self

    async def reached(self, state: Reached = "durable", timeout: float | None = None) -> Receipt:
        """Await the entry being `durable`, `published` or `witnessed`; returns self. As `wait`, and raises as it does.

        `timeout` is in seconds.
        """
        _check_state(state)
        deadline = None if timeout is None else time.monotonic() + timeout
        try:
            async with asyncio.timeout(timeout):
                seq = await self._reached(state)
        except TimeoutError as exc:
            raise AuditUnavailable(
                f"The entry was not {state} within {timeout} s.", do="It may still become so."
            ) from exc
        if state == "witnessed":
            await self._appender.witnesses.awaited(
                seq, None if deadline is None else max(0.0, deadline - time.monotonic())
            )
        return self

    async def _reached(self, state: Reached) -> int:
        if not self.done:
            self._check_process()
            future = add_task(self._waiters)
            if not self._settled():
                await future
        seq = self._raise_or_seq()
        if state != "durable":
            self._check_process()
            await self._appender.published(seq + 1)
        return seq

    def when_done(self, callback: Callable[[], object]) -> None:
        """Have `callback` called once the entry is durable or has failed; at once if that is so already.

        It is called by the thread that writes the log, so it must be quick and wait for no other entry; `wait` then
        returns or raises at once. What it raises is logged.
        """
        self._check_process()
        self._waiters.append(callback)
        if self._settled():
            wake(self._waiters, {})

    def proof(self) -> TlogProof:
        """Return the inclusion proof of this entry under the newest checkpoint; waits until there is one.

        Raises: AuditUnavailable as `wait("published")` does.
        """
        self.wait("published")
        return self._appender.prove(self._raise_or_seq())

    def resolve(
        self,
        loops: Loops,
        seq: int | None = None,
        leaf_hash: bytes | None = None,
        error: KlingAuditError | None = None,
    ) -> None:
        """Called by the appender, once."""
        self._error = error
        self.leaf_hash = leaf_hash
        self.seq = seq
        if self._waiters:
            wake(self._waiters, loops)

    def _raise_or_seq(self) -> int:
        if self._error is not None:
            raise AuditUnavailable(self._error.message, do=self._error.do) from self._error
        if self.seq is None:
            raise AuditUnavailable("The entry was not recorded.")
        return self.seq

    def _settled(self) -> bool:
        """`done`, looked at again: another thread may have resolved the receipt meanwhile."""
        return self.done

    def _check_process(self) -> None:
        if self._pid != _process[0]:
            raise AuditUnavailable(
                "This receipt was pending in the parent when the process forked; only the parent learns its outcome.",
                do="Wait for receipts before forking, or log in the child.",
            )


_process: Final = [os.getpid()]


def _after_fork_in_child() -> None:
    _process[0] = os.getpid()


os.register_at_fork(after_in_child=_after_fork_in_child)


def check_wait(state: str | None) -> None:
    """Check for what every call of a log may wait. Raises: UsageError; witnesses are asked by calls of the same log."""
    if state not in (None, "durable", "published"):
        raise UsageError(
            f"Calls cannot all wait until their entry is {state!r}.",
            do="Use 'durable' or 'published'; for witnesses receipt.wait('witnessed') or policy witness.require",
        )


def _check_state(state: str) -> None:
    if state not in ("durable", "published", "witnessed"):
        raise UsageError(
            f"An entry cannot be waited for as {state!r}.", do="Use 'durable', 'published' or 'witnessed'."
        )
