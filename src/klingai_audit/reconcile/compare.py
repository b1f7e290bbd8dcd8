"""Compares what the log says with what the provider says, task by task. Pure: no I/O, no clock.

Order of thought for one task: is it ours (the log holds its order)? Does the provider know it? Do the ends agree? Do
the amounts agree, of log, task record and ledger? What cannot be judged yet, or no more, is said to be so.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Final

from klingai_audit.kling.endpoints import ROWS
from klingai_audit.reconcile.amounts import add_to, claim_unnamed, is_nothing, same, total
from klingai_audit.reconcile.balance import check_balances
from klingai_audit.reconcile.gather import LAG, MARGIN, RETENTION
from klingai_audit.reconcile.records import LedgerLine, ProviderRecords, ProviderTask, moment_of
from klingai_audit.reconcile.result import Amounts, Difference
from klingai_audit.views.orders import LoggedTask, Order, Orders

__all__ = ["Compared", "Comparison", "Earlier", "is_listed"]

OVERDUE: Final = dt.timedelta(hours=24)
"""A task that still runs after this long is a finding; real ones take minutes."""

_AT_ONCE: Final = frozenset(row.action for row in ROWS if row.kind == "paid_sync")
_LISTED: Final = frozenset(row.action for row in ROWS if row.kind == "paid_create")
_STOP: Final = ("state_differs", "open", "open_overdue")
"""States after which amounts say nothing."""


def is_listed(task: LoggedTask) -> bool:
    """Whether the provider lists such a task; calls that are answered at once are in its ledger only."""
    return task.who.action not in _AT_ONCE


@dataclass(frozen=True, slots=True)
class Earlier:
    """What the log said before anything was asked: how each task that was ordered had ended, which orders dangled.

    `dangling` maps an order to whether some sending of it is known to be lost.
    """

    ended: Mapping[str, str | None]
    dangling: Mapping[str, bool]

    @classmethod
    def of(cls, orders: Orders) -> Earlier:
        """Note what `orders` says now; it may go on growing."""
        return cls(
            {task.task_id: task.ended for task in orders.tasks.values() if task.ordered},
            {order.event_id: order.lost for order in orders.orders.values() if order.dangling},
        )


@dataclass(slots=True)
class Compared:
    """What one comparison came to; members as in `Result`."""

    matched: int = 0
    findings: list[Difference] = field(default_factory=list)
    log_sums: dict[str, Decimal] = field(default_factory=dict)
    ledger_sums: dict[str, Decimal] = field(default_factory=dict)
    ledger_days: dict[str, dict[str, Decimal]] = field(default_factory=dict)
    keys: dict[str, set[str]] = field(default_factory=dict)


class Comparison:
    """One comparison over tasks ordered in [begin, end).

    `earlier` is of the log as it was before anything was asked, `after` the log when all was read: what the asking
    itself brought to light is in `after` only. `complete` names the generations of which every task that the
    provider still keeps is among the records.
    """

    def __init__(
        self,
        earlier: Earlier,
        after: Orders,
        records: ProviderRecords,
        *,
        begin: dt.datetime,
        end: dt.datetime,
        as_of: dt.datetime,
        complete: frozenset[str | None],
    ) -> None:
        self._earlier = earlier
        self._after = after
        self._records = records
        self._begin = begin
        self._end = end
        self._as_of = as_of
        self._complete = complete
        self._lines = records.by_task()
        self._external = records.by_external()
        known = after.tasks.keys() | records.tasks.keys()
        free = {task_id: lines for task_id, lines in self._lines.items() if task_id and task_id not in known}
        self._claimed = claim_unnamed(after.unnamed, free)
        self._out = Compared()

    def run(self) -> Compared:
        """Compare everything."""
        ids = [*self._after.tasks, *self._records.tasks, *self._lines]
        for task_id in dict.fromkeys(name for name in ids if name):
            self._judge(task_id)
        for line in self._lines.get("", ()):
            self._nameless(line)
        for event_id in self._earlier.dangling:
            order = self._after.orders[event_id]
            if self._begin <= order.at < self._end:
                self._dangling(order)
        self._unnamed()
        self._out.findings += check_balances(
            self._records, since=self._begin, as_of=self._as_of, lag=LAG + MARGIN, owing=self._owing()
        )
        return self._out

    # --- one task ---------------------------------------------------------------------------------

    def _judge(self, task_id: str) -> None:
        logged, told = self._after.tasks.get(task_id), self._records.tasks.get(task_id)
        lines = self._lines.get(task_id, [])
        order = self._after.order_of(told.external_id) if told is not None else None
        when = _when(logged, told, order, lines)
        if task_id in self._claimed or when is None or not self._begin <= when < self._end:
            return
        self._count(when, logged, lines)
        if order is not None and (logged is None or not logged.ordered):
            logged = _adopted(task_id, when, order, logged)
        if logged is None or not logged.ordered:
            first = self._after.first
            early = first is not None and when < first - MARGIN
            self._find("before_log" if early else "missing_here", when, task_id, logged, told, lines)
            return
        if told is None and not lines and is_listed(logged):
            self._find(self._unknown_there(task_id, when, logged), when, task_id, logged, told, lines)
            return
        state = None if told is None else self._state(logged, told, when)
        money = None if state in _STOP else self._amounts(logged, told, lines)
        for kind in (state, money):
            if kind is not None:
                self._find(kind, when, task_id, logged, told, lines)
        if state is None and money is None:
            self._out.matched += 1

    def _count(self, when: dt.datetime, logged: LoggedTask | None, lines: list[LedgerLine]) -> None:
        """Take the amounts of one task into the sums."""
        sums = total(lines)
        add_to(self._out.ledger_sums, sums)
        if sums:
            add_to(self._out.ledger_days.setdefault(when.date().isoformat(), {}), sums)
        if logged is None or not logged.ordered:
            return
        add_to(self._out.log_sums, logged.charges)
        if logged.who.key is not None:
            names = {line.key_name for line in lines if line.key_name}
            if names:
                self._out.keys.setdefault(logged.who.key, set()).update(names)

    def _unknown_there(self, task_id: str, when: dt.datetime, logged: LoggedTask) -> str:
        """No record and no line: gone by age, not to be asked for, or never there."""
        gone = when <= self._as_of - RETENTION + MARGIN
        if gone and not is_nothing(logged.charges):
            return "amount_differs"
        return "unverifiable" if gone or task_id not in self._records.asked else "missing_there"

    def _state(self, logged: LoggedTask, told: ProviderTask, when: dt.datetime) -> str | None:
        """The kind of finding that the two states make, None if they agree."""
        if logged.ended not in (None, told.status):
            return "state_differs"
        order = logged.order
        if logged.task_id not in self._earlier.ended and order is not None:
            lost = self._earlier.dangling.get(order.event_id)
            if lost or (lost is not None and order.due <= self._as_of):
                return "dangling_found"
        if not told.final:
            return "open_overdue" if self._as_of - when > OVERDUE else "open"
        return "ended_there" if self._earlier.ended.get(logged.task_id) is None else None

    def _amounts(self, logged: LoggedTask, told: ProviderTask | None, lines: list[LedgerLine]) -> str | None:
        """`amount_differs`, `pending`, `ended_there`, or None if all that was stated agrees."""
        listed = told.amounts if told is not None and told.final else None
        stated = [sums for sums in (logged.charges, listed) if sums is not None]
        if any(not same(stated[0], other) for other in stated[1:]):
            return "amount_differs"
        if lines:
            ledger = total(lines)
            if any(not same(sums, ledger) for sums in stated):
                return "amount_differs"
            return "ended_there" if told is None and logged.ended is None else None
        if not stated or is_nothing(stated[0]):
            return None
        ended = moment_of(told.updated_ms) if told is not None else logged.ended_at
        return "pending" if self._is_young(ended) else "amount_differs"

    def _is_young(self, ended: dt.datetime | None) -> bool:
        return ended is None or self._as_of - ended <= LAG + MARGIN

    # --- orders without a task, calls without an id -------------------------------------------------

    def _dangling(self, order: Order) -> None:
        """An order of which the log did not say what became, when the comparison began."""
        if order.external_id in self._external or any(task in self._records.tasks for task in order.tasks):
            return  # the task itself was judged
        if order.tasks:
            self._order_finding("dangling_found", order)
        elif self._as_of < order.due:
            self._order_finding("in_flight", order)
        elif order.at <= self._as_of - RETENTION + MARGIN:
            self._order_finding("unverifiable", order)
        else:
            strangers = self._strangers(order)
            asked = order.external_id in self._records.asked
            whole = order.who.generation in self._complete and order.who.action in _LISTED
            if asked or (whole and not strangers):
                self._order_finding("dangling_absent", order)
            else:
                near = ", ".join(strangers[:5])
                self._order_finding("dangling_unresolved", order, f"perhaps {near}" if near else "")

    def _strangers(self, order: Order) -> list[str]:
        """Tasks at the provider that nobody here ordered and that may be this order's."""
        found = []
        for task in self._records.tasks.values():
            made, known = moment_of(task.created_ms), self._after.tasks.get(task.id)
            near = made is not None and order.at - MARGIN <= made <= order.due + MARGIN
            ordered = known is not None and known.ordered
            if near and not ordered and self._after.order_of(task.external_id) is None:
                found.append(task.id)
        return found

    def _unnamed(self) -> None:
        """Calls that were answered at once: each must have its deduction."""
        found = {id(call): task_id for task_id, call in self._claimed.items()}
        for call in self._after.unnamed:
            if not self._begin <= call.at < self._end:
                continue
            lines = self._lines[found[id(call)]] if id(call) in found else []
            self._count(call.at, call, lines)
            if lines or is_nothing(call.charges):
                self._out.matched += 1
            else:
                kind = "pending" if self._is_young(call.ended_at) else "amount_differs"
                self._find(kind, call.at, None, call, None, [])

    def _nameless(self, line: LedgerLine) -> None:
        """A deduction that names no task."""
        when = moment_of(line.time_ms)
        if when is not None and self._begin <= when < self._end:
            self._count(when, None, [line])
            self._find("missing_here", when, None, None, None, [line], "a deduction that names no task")

    def _owing(self) -> dict[str, Decimal]:
        """Amounts that are stated and not in the ledger yet, by unit: packs may show them already."""
        owing: dict[str, Decimal] = {}
        seen: set[str | None] = set()
        for finding in self._out.findings:
            amounts = finding.amounts
            if "ledger" not in amounts and (finding.task_id is None or finding.task_id not in seen):
                seen.add(finding.task_id)
                add_to(owing, amounts.get("task") or amounts.get("log"))
        return owing

    # --- findings -----------------------------------------------------------------------------------

    def _find(
        self,
        kind: str,
        when: dt.datetime,
        task_id: str | None,
        logged: LoggedTask | None,
        told: ProviderTask | None,
        lines: list[LedgerLine],
        message: str = "",
    ) -> None:
        who = logged.who if logged is not None else None
        order = logged.order if logged is not None else None
        amounts: dict[str, Amounts | None] = {
            "log": logged.charges if logged is not None else None,
            "task": told.amounts if told is not None else None,
            "ledger": total(lines) if lines else None,
        }
        external = [
            told.external_id if told else None,
            logged.external_id if logged else None,
            order.external_id if order else None,
        ]
        seqs = {*(logged.seqs if logged else ()), *(order.seqs if order else ())}
        self._out.findings.append(
            Difference(
                kind=kind,
                task_id=task_id,
                external_task_id=next(filter(None, external), None),
                seqs=tuple(sorted(seqs)),
                at=when,
                log_state=_state_of(logged),
                provider_state=told.status if told else None,
                amounts={name: sums for name, sums in amounts.items() if sums is not None},
                key=who.key if who else None,
                key_name=next((line.key_name for line in lines if line.key_name), None),
                model=(who.model if who else None) or next((line.model for line in lines if line.model), None),
                action=(who.action if who else None) or next((line.function for line in lines if line.function), None),
                message=message,
            )
        )

    def _order_finding(self, kind: str, order: Order, message: str = "") -> None:
        self._out.findings.append(
            Difference(
                kind=kind,
                external_task_id=order.external_id,
                seqs=tuple(order.seqs),
                at=order.at,
                key=order.who.key,
                model=order.who.model,
                action=order.who.action,
                message=message,
            )
        )


def _adopted(task_id: str, when: dt.datetime, order: Order, seen: LoggedTask | None) -> LoggedTask:
    """A task that the provider has under the id of one of our orders."""
    task = LoggedTask(task_id=task_id, seen=when, who=order.who, order=order, ordered=True)
    if seen is not None:
        task.ended, task.ended_at, task.charges, task.seqs = seen.ended, seen.ended_at, seen.charges, seen.seqs
    return task


def _when(
    logged: LoggedTask | None, told: ProviderTask | None, order: Order | None, lines: Iterable[LedgerLine]
) -> dt.datetime | None:
    """When a task was ordered, by the best that is known."""
    made = moment_of(told.created_ms) if told is not None else None
    if made is None and logged is not None:
        made = logged.at
    if made is None and order is not None:
        made = order.at
    return made or moment_of(min((line.time_ms for line in lines if line.time_ms is not None), default=None))


def _state_of(logged: LoggedTask | None) -> str | None:
    if logged is None:
        return None
    return (logged.ended or "open") if logged.ordered else "seen"
