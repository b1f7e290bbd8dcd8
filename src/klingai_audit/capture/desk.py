"""Writes what capture has to say, and answers for what could not be written.

An act that already happened must not be lost because the disk is full now, and the provider's answer must
not be lost because our record of it failed. So an entry that cannot be written after the act is kept here
(late), tried again before every further act, and reported loudly: an error in the log `klingai_audit`, an
`UnrecordedWarning`, and, once writing works again, a `gap_closed` entry with the counts, followed by the late
entries with their own `timestamp`. While anything is late, acts whose policy is `refuse` are refused.
"""

from __future__ import annotations

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
from klingai_audit.diagnostics import tell
from klingai_audit.errors import UsageError
from klingai_audit.event.context import Actor, acting
from klingai_audit.event.own import own_event
from klingai_audit.event.record import Draft, EncodedEvent, format_time
from klingai_audit.ledger.counters import count_missed

__all__ = ["MAX_LATE", "Desk", "Item", "UnrecordedWarning"]

MAX_LATE: Final = 1_000
"""Late entries kept in memory; what exceeds it is counted as lost."""


class UnrecordedWarning(UserWarning):
    """Something happened that is not in the log yet."""


@dataclass(frozen=True, slots=True)
class Item:
    """One entry to write: `token` says who acts, `kind` is the class of the failure policy, for the counts."""

    entry: Draft | EncodedEvent
    token: Actor | None
    once: bool = False
    kind: str = "read"


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
        self._handed: dict[int, tuple[Item, PendingReceipt]] = {}
        self._numbers = itertools.count()
        self._missed: Counter[str] = Counter()
        self._lost = 0
        self._since: dt.datetime | None = None
        self._cause: Exception | None = None
        self._lock = threading.Lock()

    def after_fork(self) -> None:
        """In a forked child: what the parent has to write is the parent's to write."""
        self._lock = threading.Lock()
        self._late.clear()
        self._unconfirmed.clear()
        self._handed.clear()
        self._missed, self._lost, self._since = Counter(), 0, None

    @property
    def outstanding(self) -> int:
        """How many entries of acts that happened are not known to be in the log."""
        return len(self._late) + len(self._unconfirmed) + len(self._handed)

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
            return self._sink.append(item.entry)
        with acting.restore(item.token):
            return self._sink.record(item.entry, once=item.once)

    def write(self, items: Iterable[Item]) -> None:
        """Write entries of an act that happened, durable on return; never raises for what a log can do wrong."""
        pending = self._queue(items)
        while pending:
            item, receipt = pending[0]
            try:
                receipt.wait()
            except Exception as exc:  # noqa: BLE001  whatever the log does, the act has happened
                self._fell_short(item, exc)
            except BaseException:
                self._unconfirmed.extend(pending)
                raise
            pending.popleft()

    async def awrite(self, items: Iterable[Item]) -> None:
        """Do the same without blocking the loop."""
        pending = self._queue(items)
        while pending:
            item, receipt = pending[0]
            try:
                await receipt
            except Exception as exc:  # noqa: BLE001  see `write`
                self._fell_short(item, exc)
            except BaseException:
                self._unconfirmed.extend(pending)
                raise
            pending.popleft()

    def hand_over(self, items: Iterable[Item]) -> None:
        """Queue entries of an act that happened, behind all before them, without waiting for the disk.

        What falls short is told and kept as soon as that is known, by the thread that writes; `settle` waits for all.
        """
        for item, receipt in self._queue(items):
            number = next(self._numbers)
            self._handed[number] = item, receipt
            receipt.when_done(functools.partial(self._confirm, number))

    def _confirm(self, number: int) -> None:
        handed = self._handed.pop(number, None)
        if handed is None:
            return
        item, receipt = handed
        try:
            receipt.wait()
        except Exception as exc:  # noqa: BLE001  see `write`
            self._fell_short(item, exc)

    def settle(self) -> None:
        """Wait for all that was handed over."""
        for number, (_item, receipt) in list(self._handed.items()):
            with contextlib.suppress(Exception):
                receipt.wait()
            self._confirm(number)

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
                receipt.wait()
            except Exception as exc:  # noqa: BLE001  see `write`
                self._fell_short(item, exc)
            except BaseException:
                self._unconfirmed.appendleft(posted)
                raise
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
                await receipt
            except Exception as exc:  # noqa: BLE001  see `write`
                self._fell_short(item, exc)
            except BaseException:
                self._unconfirmed.appendleft(posted)
                raise
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

    def _queue(self, items: Iterable[Item]) -> deque[tuple[Item, PendingReceipt]]:
        pending: deque[tuple[Item, PendingReceipt]] = deque()
        for item in items:
            try:
                pending.append((item, self.record(item)))
            except Exception as exc:  # noqa: BLE001  see `write`
                self._fell_short(item, exc)
        return pending

    def _fell_short(self, item: Item, cause: Exception) -> None:
        """An entry was not written: reduce it if the entry is at fault, else keep it for later."""
        if isinstance(cause, UsageError) and isinstance(item.entry, Draft):
            if "reduced" in item.entry.metadata:
                self._count(item, lost=True)
                self._tell(item, cause)
                return
            item = replace(item, entry=_reduced(item.entry, cause))
            try:
                self._unconfirmed.append((item, self.record(item)))
            except Exception as exc:  # noqa: BLE001  see `write`
                self._fell_short(item, exc)
            return
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


def _reduced(draft: Draft, cause: Exception) -> Draft:
    """The same entry without what the log refused to hold."""
    kept = {name: draft.metadata[name] for name in ("intent", "code", "error", "http_status") if name in draft.metadata}
    return draft.replace(metadata={**kept, "reduced": type(cause).__name__})
