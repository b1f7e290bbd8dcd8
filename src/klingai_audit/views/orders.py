"""What the log says was ordered from the provider: orders, the tasks that came of them, how those ended, the charge.

An order is one intent with all its sendings; a task is the provider's. They are joined by what entries state: the
intent that an answer names, the caller's id, the correlation. A task whose order is not in the log was only seen (a
list or a callback told of it). Allowed callers: views, reconcile, cli.
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, Final

from klingai_audit.event.record import is_end_id
from klingai_audit.event.types import END_TYPES, EVENT_TYPES
from klingai_audit.kling.rows import UNKNOWN_PACK
from klingai_audit.ledger.line import PURGED_PREFIX
from klingai_audit.views.entry import EntryView, People
from klingai_audit.views.times import stated_instant

__all__ = [
    "TOLD_TYPES",
    "LoggedTask",
    "Order",
    "Orders",
    "Who",
    "amounts_of",
    "decimals_of",
    "read_orders",
    "unit_name",
]

INTENTS: Final = frozenset({"prompt_submitted", "task_submitted"})
_REFUSALS: Final = frozenset({"rate_limit_exceeded", "policy_violation", "access_denied"})
TOLD_TYPES: Final = frozenset(
    name for name in (*INTENTS, *_REFUSALS, *END_TYPES, *(n for n in EVENT_TYPES if n.endswith("_generation_started")))
) | {"task_status_changed"}
"""Event types that tell of orders and tasks."""

_TOLD: Final = frozenset(name.encode() for name in TOLD_TYPES)
_TYPE_AT: Final = 118
_AMOUNT: Final = re.compile(r"-?[0-9]{1,18}(?:\.[0-9]{1,9})?", re.ASCII)
_FOREVER: Final = 10**7
_NOBODY: Final = People()


@dataclass(frozen=True, slots=True, kw_only=True)
class Who:
    """Who ordered what: members of the entry, None where it has none; `key` is the credential's fingerprint."""

    actor: str | None = None
    team: str | None = None
    project: str | None = None
    key: str | None = None
    model: str | None = None
    product: str | None = None
    action: str | None = None
    generation: str | None = None


@dataclass(slots=True, kw_only=True)
class Order:
    """One intent, sent once or more often. `seqs` are its intents and answers; `tasks` the provider's ids.

    `lost`: of some sending nobody knows whether it took effect. `done`: it was answered in full without a task.
    """

    event_id: str
    at: dt.datetime
    due: dt.datetime
    who: Who
    external_id: str | None
    correlation: str | None
    seqs: list[int] = field(default_factory=list)
    sent: int = 0
    answered: int = 0
    lost: bool = False
    done: bool = False
    tasks: list[str] = field(default_factory=list)

    @property
    def dangling(self) -> bool:
        """Whether the log does not say what became of it."""
        return not self.tasks and not self.done and (self.lost or self.answered < self.sent)


@dataclass(slots=True, kw_only=True)
class LoggedTask:
    """One task as the log tells of it; `task_id` is empty for a call that was answered at once without naming one.

    `ordered`: the log holds its order, or its beginning. `ended` is `succeeded` or `failed`. `charges` are exact
    amounts by unit: None while nobody stated them, empty for a failure without a word of one. `created` is the
    provider's time, `seen` the first entry's.
    """

    task_id: str
    seen: dt.datetime
    who: Who = Who()
    order: Order | None = None
    ordered: bool = False
    created: dt.datetime | None = None
    ended: str | None = None
    ended_at: dt.datetime | None = None
    charges: dict[str, Decimal] | None = None
    external_id: str | None = None
    seqs: list[int] = field(default_factory=list)

    @property
    def at(self) -> dt.datetime:
        """When it was ordered: by the provider's clock if the log has that, else by ours."""
        return self.created or (self.order.at if self.order is not None else self.seen)


class Orders:
    """Everything that was ordered, built from entries in log order: `tasks` by the provider's id, `orders` by intent.

    `unnamed` are calls that were answered at once and have no task id. `first` is the time of the first entry.
    """

    def __init__(self) -> None:
        self.tasks: dict[str, LoggedTask] = {}
        self.orders: dict[str, Order] = {}
        self.unnamed: list[LoggedTask] = []
        self.first: dt.datetime | None = None
        self.size = 0
        self._by_external: dict[str, Order] = {}
        self._by_intent: dict[str, Order] = {}
        self._unnamed_ids: set[str] = set()

    def order_of(self, external_id: str | None) -> Order | None:
        """Return the order that was sent with this id of the caller's."""
        return None if external_id is None else self._by_external.get(external_id) or self._by_intent.get(external_id)

    def add_lines(self, lines: Iterable[bytes]) -> None:
        """Take in stored entries, in log order, going on where the last call ended. Raises: Malformed."""
        for line in lines:
            self.add_line(line)

    def add_line(self, line: bytes) -> None:
        """Take in one stored entry. Raises: Malformed."""
        self.size += 1
        if line.startswith(PURGED_PREFIX):
            return
        if self.first is None:
            self.first = EntryView(line).timestamp
        if line[_TYPE_AT : line.find(b'"', _TYPE_AT)] in _TOLD:
            self.add(EntryView(line, _NOBODY))

    def add(self, entry: EntryView) -> None:
        """Take in one entry."""
        told = entry.metadata
        if told.get("phase") == "intent":
            if entry.event_type in INTENTS:
                self._intend(entry, told)
            return
        if told.get("claim") is True:
            return
        order = self._by_intent.get(_text(told.get("intent")) or "")
        task_id = _task_of(entry, told)
        if order is not None:
            order.answered += 1
            order.seqs.append(entry.seq)
            if task_id is None:
                self._answered_without_task(entry, told, order)
                return
        if task_id is not None:
            self._see(entry, told, task_id, order)

    def _intend(self, entry: EntryView, told: Mapping[str, Any]) -> None:
        first = _text(told.get("resend_of")) or entry.event_id
        order = self.orders.get(first)
        if order is None:
            seconds = told.get("deadline_s")
            limit = seconds if isinstance(seconds, int) and 0 < seconds < _FOREVER else 0
            external = _text(told.get("external_task_id"))
            order = self.orders[first] = Order(
                event_id=first, at=entry.timestamp, due=entry.timestamp + dt.timedelta(seconds=limit),
                who=_who(entry, told), external_id=external, correlation=entry.correlation_id,
            )  # fmt: skip
            self._by_intent[first] = order
            if external is not None:
                self._by_external.setdefault(external, order)
        elif entry.event_id in self._by_intent:
            return
        self._by_intent[entry.event_id] = order
        order.sent += 1
        order.seqs.append(entry.seq)

    def _answered_without_task(self, entry: EntryView, told: Mapping[str, Any], order: Order) -> None:
        if entry.outcome == "unknown":
            order.lost = True
        elif entry.outcome == "success" and entry.event_id not in self._unnamed_ids:
            order.done = True
            if entry.event_type in END_TYPES:
                self._unnamed_ids.add(entry.event_id)
                task = LoggedTask(task_id="", seen=entry.timestamp, who=order.who, order=order, ordered=True)
                task.seqs = [*order.seqs]
                _end(task, entry, told)
                self.unnamed.append(task)

    def _see(self, entry: EntryView, told: Mapping[str, Any], task_id: str, order: Order | None) -> None:
        task = self.tasks.get(task_id)
        if task is None:
            task = self.tasks[task_id] = LoggedTask(task_id=task_id, seen=entry.timestamp)
        task.seqs.append(entry.seq)
        task.external_id = task.external_id or _text(told.get("external_task_id"))
        task.created = task.created or stated_instant(told.get("provider_created_at"))
        if task.order is None:
            named = (_text(told.get("external_task_id")), entry.correlation_id)
            order = order or next((found for name in named if (found := self.order_of(name)) is not None), None)
            if order is not None:
                task.order, task.ordered, task.who = order, True, order.who
        if task.order is not None and task_id not in task.order.tasks:
            task.order.tasks.append(task_id)
        own_word = entry.event_type in END_TYPES and not is_end_id(entry.event_id)
        if not task.ordered and (own_word or entry.event_type in INTENTS or _starts(entry.event_type)):
            task.ordered, task.who = True, _who(entry, told)
        if task.ended is None and entry.event_type in END_TYPES:
            _end(task, entry, told)


def read_orders(lines: Iterable[bytes]) -> Orders:
    """Return what was ordered, from stored entries in log order. Raises: Malformed."""
    orders = Orders()
    orders.add_lines(lines)
    return orders


def amounts_of(charges: Any) -> dict[str, Decimal] | None:
    """Add up `metadata.charge` by unit; None if it states no amount."""
    sums: dict[str, Decimal] = {}
    for unit, amount in _amounts(charges):
        sums[unit] = sums.get(unit, Decimal(0)) + amount
    return sums or None


def decimals_of(amounts: Any) -> dict[str, Decimal]:
    """Read amounts by unit as an entry holds them; what is no amount is left out."""
    told = amounts.items() if isinstance(amounts, dict) else ()
    return {unit: Decimal(text) for unit, text in told if isinstance(text, str) and _AMOUNT.fullmatch(text)}


def unit_name(charge_type: object = None, *, package: object = None, currency: object = None) -> str:
    """Return what an amount is of: `video units`, `unknown pack units`; `USD`, `CNY`, or `cash` without a word."""
    if charge_type == "unit":
        pack = package.lower().replace("-", "_") if isinstance(package, str) and package else UNKNOWN_PACK
        return f"{pack} units"
    return currency.upper() if isinstance(currency, str) and currency else "cash"


def _amounts(charges: Any) -> Iterator[tuple[str, Decimal]]:
    for charge in charges if isinstance(charges, list) else ():
        amount = charge.get("amount") if isinstance(charge, dict) else None
        if isinstance(amount, str) and _AMOUNT.fullmatch(amount):
            kind = charge.get("charge_type")
            yield unit_name(kind, package=charge.get("package_type"), currency=charge.get("currency")), Decimal(amount)


def _end(task: LoggedTask, entry: EntryView, told: Mapping[str, Any]) -> None:
    task.ended = "succeeded" if entry.outcome == "success" else "failed"
    task.ended_at = stated_instant(told.get("provider_updated_at")) or entry.timestamp
    task.charges = amounts_of(told.get("charge"))
    if task.charges is None and task.ended == "failed":
        task.charges = {}


def _task_of(entry: EntryView, told: Mapping[str, Any]) -> str | None:
    """Return the provider's task id that an entry names."""
    if entry.event_type == "resource_created":
        return _text(told.get("task_id"))
    return None if entry.event_type in _REFUSALS else entry.resource_id


def _starts(event_type: str) -> bool:
    return event_type.endswith("_generation_started")


def _who(entry: EntryView, told: Mapping[str, Any]) -> Who:
    return Who(
        actor=entry.actor_id, team=entry.team, project=entry.project,
        key=_text(told.get("key_fingerprint")), model=_text(told.get("model")), product=entry.resource_type,
        action=entry.action, generation=_text(told.get("generation")),
    )  # fmt: skip


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) and value else None
