"""Writes what capture has to say, and answers for what could not be written.

An act that already happened must not be lost because the disk is full now, and the provider's answer must
not be lost because our record of it failed. So an entry that cannot be written after the act is kept here
(late), tried again before every further act, and reported loudly: an error in the log `klingai_audit`, an
`UnrecordedWarning`, and, once writing works again, a `gap_closed` entry with the counts, followed by the late
entries with their own `timestamp`. While anything is late, acts whose policy is `refuse` are refused.

Entries of classes whose policy is `spool` do not stay in memory: they wait in the spool (`capture.spool`). An outcome
that nobody waits for is handed to the thread that looks after the spool, so that no caller waits for the disk.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import functools
import itertools
import logging
import threading
import time
import warnings
from collections import Counter, deque
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Final

from klingai_audit.capture.facts import PendingReceipt, Sink, utc_now
from klingai_audit.capture.items import Item, reduced
from klingai_audit.capture.spool import may_wait
from klingai_audit.capture.spooling import Spooling
from klingai_audit.diagnostics import tell
from klingai_audit.errors import AuditUnavailable, UsageError
from klingai_audit.event.context import acting
from klingai_audit.event.own import own_event
from klingai_audit.event.record import Draft, EncodedEvent, format_time
from klingai_audit.ledger.counters import count_missed

__all__ = ["MAX_LATE", "Desk", "Item", "UnrecordedWarning"]

MAX_LATE: Final = 1_000
"""Late entries kept in memory; what exceeds it is counted as lost."""


class UnrecordedWarning(UserWarning):
    """Something happened that is not in the log yet."""


@dataclass(frozen=True, slots=True)
class _Gap:
    """What could not be recorded in time, and the entry that says so."""

    missed: Counter[str]
    lost: int
    since: dt.datetime
    report: Item


class Desk:
    """Hands drafts to the sink. Thread-safe; the methods in pairs are for threads and for coroutines."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self._late: deque[Item] = deque()
        self._unconfirmed: deque[tuple[Item, PendingReceipt]] = deque()
        self._handed: dict[int, tuple[Item, PendingReceipt, float]] = {}
        self._spooling = Spooling(sink, self._keep)
        self._numbers = itertools.count()
        self._missed: Counter[str] = Counter()
        self._lost = 0
        self._since: dt.datetime | None = None
        self._cause: Exception | None = None
        self._lock = threading.Lock()

    def after_fork(self) -> None:
        """In a forked child: what the parent has to write is the parent's to write."""
        self._lock = threading.Lock()
        self._spooling.after_fork()
        self._late.clear()
        self._unconfirmed.clear()
        self._handed.clear()
        self._missed, self._lost, self._since = Counter(), 0, None

    @property
    def outstanding(self) -> int:
        """How many entries of acts that happened are not known to be in the log."""
        return len(self._late) + self._spooling.later + len(self._unconfirmed) + len(self._handed)

    @property
    def late(self) -> int:
        """How many entries of acts that happened could not be written so far."""
        return len(self._late)

    @property
    def cause(self) -> Exception | None:
        """Why the last late entry is late."""
        return self._cause

    def record(self, item: Item) -> PendingReceipt:
        """Queue one entry in the name of who acted."""
        if isinstance(item.entry, EncodedEvent):
            return self._sink.append(item.entry, once=item.once)
        with acting.restore(item.token):
            return self._sink.record(item.entry, once=item.once)

    def announce(self, item: Item) -> PendingReceipt | None:
        """Record what is about to happen, durable on return; None if it waits in the spool.

        Raises: what the log does wrong; then policy decides about the act, or refuses it with this very error.
        """
        spooling = self._spooling
        if not spooling.takes(item):
            receipt = self.record(item)
            receipt.wait()
            return receipt
        item = spooling.encode(item)
        if spooling.now:
            spooling.put(item)
            return None
        try:
            receipt = spooling.send(item)
            spooling.wait(item, receipt)
        except AuditUnavailable as exc:
            spooling.put(item, exc)
            return None
        return receipt

    async def aannounce(self, item: Item) -> PendingReceipt | None:
        """Do the same without blocking the loop."""
        spooling = self._spooling
        if not spooling.takes(item):
            receipt = self.record(item)
            await receipt
            return receipt
        item = spooling.encode(item)
        if spooling.now:
            await asyncio.to_thread(spooling.put, item)
            return None
        try:
            receipt = spooling.send(item)
            await spooling.reached(item, receipt)
        except AuditUnavailable as exc:
            await asyncio.to_thread(spooling.put, item, exc)
            return None
        return receipt

    def waits_before(self, cls: str) -> int:
        """How many entries of earlier acts have to be written before an act of a class may begin."""
        failure = self._sink.policy.failure
        match failure.for_class(cls):
            case "warn":
                return 0
            case "spool":
                return sum(failure.for_class(item.kind) == "spool" for item in tuple(self._late))
            case _:
                return self.late + self._spooling.waiting

    def prepare(self, cls: str) -> None:
        """Before an act of a class, while entries wait in the spool: drain it first if policy wants the log itself.

        Raises: AuditUnavailable: entries of the act may wait, and there is no more room.
        """
        self._spooling.prepare(cls)

    async def aprepare(self, cls: str) -> None:
        """Do the same without blocking the loop."""
        if self._spooling.now:
            await asyncio.to_thread(self._spooling.prepare, cls)

    def write(self, items: Iterable[Item]) -> None:
        """Write entries of an act that happened, durable on return; never raises for what a log can do wrong."""
        pending = self._queue(items)
        while pending:
            item, receipt = pending[0]
            try:
                self._spooling.wait(item, receipt)
            except Exception as exc:  # noqa: BLE001  whatever the log does, the act has happened
                self._fell_short(item, exc)
            except BaseException:
                self._unconfirmed.extend(pending)
                raise
            pending.popleft()
        self._spooling.put_later()

    async def awrite(self, items: Iterable[Item]) -> None:
        """Do the same without blocking the loop."""
        pending = self._queue(items)
        while pending:
            item, receipt = pending[0]
            try:
                await self._spooling.reached(item, receipt)
            except Exception as exc:  # noqa: BLE001  see `write`
                self._fell_short(item, exc)
            except BaseException:
                self._unconfirmed.extend(pending)
                raise
            pending.popleft()
        if self._spooling.later:
            await asyncio.to_thread(self._spooling.put_later)

    def hand_over(self, items: Iterable[Item]) -> None:
        """Queue entries of an act that happened, behind all before them, without waiting for the disk.

        What falls short is told and kept as soon as that is known, by the thread that writes; `settle` waits for all.
        """
        for item, receipt in self._queue(items):
            number = next(self._numbers)
            self._handed[number] = item, receipt, time.monotonic()
            receipt.when_done(functools.partial(self._confirm, number))
            self._spooling.watch(item)

    def _confirm(self, number: int) -> None:
        handed = self._handed.pop(number, None)
        if handed is None:
            return
        item, receipt, _ = handed
        try:
            self._spooling.wait(item, receipt)
        except Exception as exc:  # noqa: BLE001  see `write`
            self._fell_short(item, exc)

    def settle(self) -> None:
        """Wait for all that was handed over; what waits in the spool is tried once."""
        for number, (item, receipt, _) in list(self._handed.items()):
            with contextlib.suppress(Exception):
                self._spooling.wait(item, receipt)
            self._confirm(number)
        self._spooling.drain()

    def overdue(self) -> float | None:
        """Let what the log has not acknowledged in time go to the spool; return when to look again, in seconds."""
        spooling, due = self._spooling, None
        for number, (item, _, handed) in list(self._handed.items()):
            if spooling.takes(item):
                left = handed + spooling.after - time.monotonic()
                if left > 0:
                    due = left if due is None else min(due, left)
                elif self._handed.pop(number, None) is not None:
                    spooling.let_wait(item, AuditUnavailable(f"No answer of the log within {spooling.after:g} s."))
        spooling.put_later()
        return due

    def post(self, items: Iterable[Item]) -> None:
        """Queue entries without waiting, for callers that are being cancelled; `catch_up` confirms them."""
        self._unconfirmed.extend(self._queue(items))

    def missed(self, item: Item, cause: Exception) -> None:
        """Keep an entry that policy `warn` lets go unrecorded for now."""
        self._keep(item, cause)

    def catch_up(self) -> None:
        """Confirm posted entries; then write the report of a gap, and behind it what is late. All or none is tried."""
        if not (self._unconfirmed or self._late or self._missed):
            return
        while (posted := self._take_posted()) is not None:
            item, receipt = posted
            try:
                self._spooling.wait(item, receipt)
            except Exception as exc:  # noqa: BLE001  see `write`
                self._fell_short(item, exc)
            except BaseException:
                self._unconfirmed.appendleft(posted)
                raise
        if self._spooling.out_of_reach:
            return
        gap = self._take_gap()
        if gap is not None:
            try:
                self.record(gap.report).wait()
            except Exception as exc:  # noqa: BLE001  see `write`
                self._put_back(gap, exc)
                return
        self.write(self._take_late())

    async def acatch_up(self) -> None:
        """Do the same without blocking the loop."""
        if not (self._unconfirmed or self._late or self._missed):
            return
        while (posted := self._take_posted()) is not None:
            item, receipt = posted
            try:
                await self._spooling.reached(item, receipt)
            except Exception as exc:  # noqa: BLE001  see `write`
                self._fell_short(item, exc)
            except BaseException:
                self._unconfirmed.appendleft(posted)
                raise
        if self._spooling.out_of_reach:
            return
        gap = self._take_gap()
        if gap is not None:
            try:
                await self.record(gap.report)
            except Exception as exc:  # noqa: BLE001  see `write`
                self._put_back(gap, exc)
                return
        await self.awrite(self._take_late())

    def _take_posted(self) -> tuple[Item, PendingReceipt] | None:
        try:
            return self._unconfirmed.popleft()
        except IndexError:
            return None

    def _take_late(self) -> list[Item]:
        with self._lock:
            items = list(self._late)
            self._late.clear()
        return items

    def _take_gap(self) -> _Gap | None:
        """Take the counts of what was missed, as the entry that reports them."""
        with self._lock:
            if not self._missed or self._since is None:
                return None
            missed, lost, since = self._missed, self._lost, self._since
            self._missed, self._lost, self._since = Counter(), 0, None
        facts = {
            "late": sum(missed.values()) - lost,
            "lost": lost,
            "classes": dict(sorted(missed.items())),
            "since": format_time(since),
        }
        report = Item(own_event("gap_closed", facts, time.time_ns()), None, kind="log")
        return _Gap(missed, lost, since, report)

    def _put_back(self, gap: _Gap, cause: Exception) -> None:
        with self._lock:
            self._missed.update(gap.missed)
            self._lost += gap.lost
            self._since = gap.since
            self._cause = cause

    # --- what fell short --------------------------------------------------------------------------

    def _queue(self, items: Iterable[Item]) -> deque[tuple[Item, PendingReceipt]]:
        pending: deque[tuple[Item, PendingReceipt]] = deque()
        for item in items:
            self._queue_one(item, pending)
        return pending

    def _queue_one(self, item: Item, pending: deque[tuple[Item, PendingReceipt]]) -> None:
        spooling = self._spooling
        try:
            if not spooling.takes(item):
                if spooling.out_of_reach:
                    self._fell_short(item, spooling.cause)
                else:
                    pending.append((item, self.record(item)))
                return
            again = item.since is not None
            item = spooling.encode(item)
            if spooling.now:
                spooling.let_wait(item, spooling.cause)
            else:
                pending.append((item, spooling.send(item, again=again)))
        except Exception as exc:  # noqa: BLE001  see `write`
            self._fell_short(item, exc)

    def _fell_short(self, item: Item, cause: Exception) -> None:
        """An entry was not written: reduce it if the entry is at fault, else keep it for later."""
        if isinstance(cause, UsageError) and isinstance(item.entry, Draft):
            if "reduced" in item.entry.metadata:
                self._count(item, lost=True)
                self._tell(item, cause)
                return
            self._queue_one(replace(item, entry=reduced(item.entry, cause)), self._unconfirmed)
            return
        if self._spooling.takes(item) and may_wait(cause) and item.since is not None:
            self._spooling.let_wait(item, cause)
        else:
            self._keep(item, cause)

    def _keep(self, item: Item, cause: Exception) -> None:
        with self._lock:
            lost = len(self._late) >= MAX_LATE
            if not lost:
                self._late.append(item)
        self._count(item, lost=lost)
        self._cause = cause
        self._tell(item, cause)

    def _count(self, item: Item, *, lost: bool) -> None:
        with self._lock:
            self._missed[item.kind] += 1
            count_missed(str(item.kind))
            self._lost += lost
            self._since = self._since or utc_now()

    def _tell(self, item: Item, cause: Exception) -> None:
        text = (
            f"{item.entry.event_type} happened and could not be recorded ({type(cause).__name__}); "
            f"entries waiting: {self.outstanding}"
        )
        tell(logging.ERROR, "not_recorded", text, type=item.entry.event_type, error_kind=type(cause).__name__)
        with contextlib.suppress(UnrecordedWarning):  # with `-W error` the provider's answer would be lost
            warnings.warn(text, UnrecordedWarning, stacklevel=2)
