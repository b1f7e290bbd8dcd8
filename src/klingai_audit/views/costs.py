"""What was spent, by team, project, key, model, actor or day. Exact decimals, never a float.

A task counts at the time at which it was ordered, for who ordered it. Its charge is what its end states; a task
without an end, or whose end states nothing, is `open` and never 0. Units of different packs are never added.
Allowed callers: views, log, report, cli.
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final

from klingai_audit.errors import UsageError
from klingai_audit.ledger.line import event_type_of
from klingai_audit.privacy.subjects import SubjectTable
from klingai_audit.views.costs_sql import TYPES, add_amount, sums_sql
from klingai_audit.views.entry import People
from klingai_audit.views.ledger import Compared, Reconciled, compare_with_ledger, compared_parts
from klingai_audit.views.orders import LoggedTask, Order, Orders
from klingai_audit.views.prices import PriceList
from klingai_audit.views.times import format_instant, parse_instant

if TYPE_CHECKING:
    from klingai_audit.index import Index

__all__ = ["DIMENSIONS", "CostRow", "Costs", "Period", "costs", "costs_by_index", "costs_of", "period_of"]

DIMENSIONS: Final = ("team", "project", "key", "model", "actor", "day")
"""What costs can be grouped by; `key` is a credential's fingerprint, `day` a UTC day."""

LEAD: Final = dt.timedelta(days=2)
"""How long before a period entries are looked at: a task takes minutes, and clocks differ by less."""

TAIL: Final = dt.timedelta(days=31)
"""How long after a period ends are looked for: the provider shows tasks for 30 days."""

_MONTH: Final = re.compile(r"([0-9]{4})-(0[1-9]|1[0-2])", re.ASCII)
_TIMESTAMP: Final = slice(75, 102)


@dataclass(frozen=True, slots=True)
class Period:
    """[since, until), in UTC."""

    since: dt.datetime
    until: dt.datetime

    def __contains__(self, moment: dt.datetime) -> bool:
        return self.since <= moment < self.until


@dataclass(slots=True, kw_only=True)
class CostRow:
    """One group. `open` tasks have no known charge; `amounts` are by unit (`video units`, `USD`).

    `group` has a value for each dimension asked for, None where nobody stated it or the order is not in the log.
    """

    group: tuple[str | None, ...]
    tasks: int = 0
    completed: int = 0
    failed: int = 0
    open: int = 0
    amounts: dict[str, Decimal] = field(default_factory=dict)

    def add(self, ended: str | None, charges: Mapping[str, Decimal] | None) -> None:
        """Count one task."""
        self.tasks += 1
        self.completed += ended == "succeeded"
        self.failed += ended == "failed"
        self.open += charges is None
        for unit, amount in (charges or {}).items():
            self.amounts[unit] = self.amounts.get(unit, Decimal(0)) + amount


@dataclass(frozen=True, slots=True, kw_only=True)
class Costs:
    """Costs of a period, in the order of the groups, and all of them in `total`.

    `units` are the units that occur, packs first. `outside` counts tasks whose order is not in the log (seen in a
    list): they stand in the groups without a value. `compared` is the comparison with the billing ledger, None if no
    reconciliation covers any part of the period. `names` are names of keys, by fingerprint.
    """

    by: tuple[str, ...]
    period: Period
    rows: tuple[CostRow, ...]
    total: CostRow
    units: tuple[str, ...]
    outside: int
    prices: PriceList
    compared: Compared | None
    names: Mapping[str, str]
    people: People

    @property
    def unpriced(self) -> tuple[str, ...]:
        """Units that occur and have no price in the list."""
        return tuple(unit for unit in self.units if unit.endswith("units") and unit not in self.prices.units)

    def list_price(self, row: CostRow) -> str:
        """Return what a group's units cost by the list, as decimal text; empty if one has no price there."""
        price = self.prices.price(row.amounts)
        return "" if price is None else _plain(price)

    def shown(self, row: CostRow) -> tuple[str, ...]:
        """Return a group's values as people read them: masks, fingerprints with names, `–` where there is none."""
        return tuple(self._shown(name, value) for name, value in zip(self.by, row.group, strict=False))

    def _shown(self, name: str, value: str | None) -> str:
        if value is None:
            return "–"
        if name == "actor":
            return self.people.mask(value)
        if name == "key" and value in self.names:
            return f"{value} ({self.names[value]})"
        return value

    def header(self) -> list[str]:
        """Return the names of the columns of `table`."""
        units = [
            f"cash_{unit.lower()}" if not unit.endswith("units") else unit.replace(" ", "_") for unit in self.units
        ]
        price = f"list_price_{self.prices.currency.lower()}"
        return [*self.by, "tasks", "completed", "failed", "open", *units, price, "price_list"]

    def table(self) -> Iterator[list[str]]:
        """Yield one line for each group, as text, with stored ids of people and amounts as plain decimals."""
        for row in self.rows:
            counts = [str(number) for number in (row.tasks, row.completed, row.failed, row.open)]
            amounts = [_plain(row.amounts[unit]) if unit in row.amounts else "" for unit in self.units]
            group = [value or "" for value in row.group]
            yield [*group, *counts, *amounts, self.list_price(row), f"{self.prices.name}"]

    def to_json(self) -> dict[str, Any]:
        """Return everything as JSON values, amounts as decimal text, in the order of docs."""
        return {
            "by": list(self.by),
            "since": _json_time(self.period.since),
            "until": _json_time(self.period.until),
            "units": list(self.units),
            "rows": [self._row(row) for row in self.rows],
            "total": self._row(self.total, named=False),
            "outside": self.outside,
            "unpriced": list(self.unpriced),
            "prices": self.prices.to_json(),
            "ledger": None if self.compared is None else self.compared.to_json(),
        }

    def _row(self, row: CostRow, *, named: bool = True) -> dict[str, Any]:
        made: dict[str, Any] = {}
        for name, value in zip(self.by, row.group, strict=False) if named else ():
            made[name] = value
            if name == "actor":
                made["actor_shown"] = None if value is None else self.people.mask(value)
            if name == "key":
                made["key_name"] = self.names.get(value or "")
        made |= {"tasks": row.tasks, "completed": row.completed, "failed": row.failed, "open": row.open}
        made["amounts"] = {unit: _plain(row.amounts[unit]) for unit in self.units if unit in row.amounts}
        made["list_price"] = self.list_price(row) or None
        return made


def period_of(
    month: str | None,
    since: str | dt.datetime | dt.date | None,
    until: str | dt.datetime | dt.date | None,
    now: dt.datetime,
) -> Period:
    """Return the period that is asked for: a month (`2026-10`), or times; by default this month up to now.

    Raises: UsageError.
    """
    if month is not None:
        found = _MONTH.fullmatch(month)
        if found is None or since is not None or until is not None or found[1] == "0000":
            raise UsageError(
                f"month {month!r} is no month, or stands beside other times.", do="Use one such as 2026-10."
            )
        year, number = int(found[1]), int(found[2])
        begin = dt.datetime(year, number, 1, tzinfo=dt.UTC)
        if (year, number) == (dt.MAXYEAR, 12):
            return Period(begin, dt.datetime.max.replace(tzinfo=dt.UTC))
        return Period(begin, dt.datetime(year + number // 12, number % 12 + 1, 1, tzinfo=dt.UTC))
    first = now.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    begin = first if since is None else parse_instant(since, edge="since", now=now)
    end = now if until is None else parse_instant(until, edge="until", now=now)
    if begin >= end:
        raise UsageError("The period is empty.", do="Give a --since that lies before --until.")
    return Period(begin, end)


def costs(
    lines: Iterable[bytes],
    by: Sequence[str] = ("team",),
    *,
    month: str | None = None,
    since: str | dt.datetime | dt.date | None = None,
    until: str | dt.datetime | dt.date | None = None,
    prices: PriceList | None = None,
    subjects: SubjectTable | None = None,
    now: dt.datetime | None = None,
) -> Costs:
    """Add up what was spent, from stored entries without LF in log order.

    Args: `by` names dimensions; the period as in `period_of`.
    Raises: UsageError for an unknown dimension or a period that is none; Malformed for a line that is no entry.
    """
    period = period_of(month, since, until, now or dt.datetime.now(dt.UTC))
    orders, reconciled = Orders(), Reconciled()
    first, last = map(format_instant, _looked_at(period))
    for line in lines:
        reconciled.add_line(line)
        if first <= line[_TIMESTAMP] < last and event_type_of(line) in TYPES:
            orders.add_line(line)
    return costs_of(orders, reconciled, by, period, prices=prices, subjects=subjects)


def costs_by_index(
    index: Index,
    read_one: Callable[[int], bytes],
    by: Sequence[str],
    period: Period,
    *,
    prices: PriceList | None = None,
    subjects: SubjectTable | None = None,
) -> Costs:
    """Do as `costs`, by an index that is up to date; `read_one` reads one entry of the log.

    Raises: UsageError for an unknown dimension.
    """
    dimensions = _known(by)
    reconciled = Reconciled()
    seqs = index.rows("SELECT seq FROM events WHERE event_type IN ('reconciled', 'api_key_rotated') ORDER BY seq")
    reconciled.add_lines(read_one(seq) for (seq,) in seqs)
    parts = compared_parts(reconciled, period.since, period.until)
    edges = [edge for part in parts for edge in part]
    moments = _naive(*_looked_at(period), period.since, period.until, *edges)
    found = index.rows(sums_sql(dimensions, len(parts)), moments)
    rows: dict[tuple[str | None, ...], CostRow] = {}
    outside = 0
    for *group, tasks, completed, failed, unknown, strange, _part, _unit, _amount in found:
        if tasks is not None:
            made = CostRow(group=tuple(group), tasks=tasks, completed=completed, failed=failed, open=unknown)
            rows[made.group] = made
            outside += strange
    spent: dict[tuple[dt.datetime, dt.datetime], dict[str, Decimal]] = {part: {} for part in parts}
    for *group, tasks, _completed, _failed, _unknown, _strange, part, unit, amount in found:
        if tasks is None:
            add_amount(rows[tuple(group)].amounts if part is None else spent[parts[part]], unit, amount)
    return _made(dimensions, period, rows, outside, reconciled, lambda begin, end: spent[begin, end], prices, subjects)


def costs_of(
    orders: Orders,
    reconciled: Reconciled,
    by: Sequence[str],
    period: Period,
    *,
    prices: PriceList | None = None,
    subjects: SubjectTable | None = None,
) -> Costs:
    """Add up what was ordered in a period. Raises: UsageError for an unknown dimension."""
    dimensions = _known(by)
    rows: dict[tuple[str | None, ...], CostRow] = {}
    charged: list[tuple[dt.datetime, Mapping[str, Decimal]]] = []
    outside = 0
    for task in _spent(orders, period):
        group = tuple(_value(task, name) for name in dimensions)
        rows.setdefault(group, CostRow(group=group)).add(task.ended, task.charges)
        outside += not task.ordered
        if task.charges:
            charged.append((task.at, task.charges))

    def spent(begin: dt.datetime, end: dt.datetime) -> dict[str, Decimal]:
        sums: dict[str, Decimal] = {}
        for moment, charges in charged:
            for unit, amount in charges.items() if begin <= moment < end else ():
                sums[unit] = sums.get(unit, Decimal(0)) + amount
        return sums

    return _made(dimensions, period, rows, outside, reconciled, spent, prices, subjects)


def _known(by: Sequence[str]) -> tuple[str, ...]:
    dimensions = tuple(dict.fromkeys(by))
    unknown = [name for name in dimensions if name not in DIMENSIONS]
    if unknown or not dimensions:
        raise UsageError(
            f"Costs cannot be grouped by {unknown[0]!r}." if unknown else "Costs are grouped by nothing.",
            do=f"Use one or more of: {', '.join(DIMENSIONS)}.",
        )
    return dimensions


def _made(
    by: tuple[str, ...],
    period: Period,
    rows: Mapping[tuple[str | None, ...], CostRow],
    outside: int,
    reconciled: Reconciled,
    spent: Callable[[dt.datetime, dt.datetime], Mapping[str, Decimal]],
    prices: PriceList | None,
    subjects: SubjectTable | None,
) -> Costs:
    total = CostRow(group=())
    for row in rows.values():
        total.tasks += row.tasks
        total.completed += row.completed
        total.failed += row.failed
        total.open += row.open
        for unit, amount in row.amounts.items():
            total.amounts[unit] = total.amounts.get(unit, Decimal(0)) + amount
    return Costs(
        by=by,
        period=period,
        rows=tuple(rows[group] for group in sorted(rows, key=_place)),
        total=total,
        units=tuple(sorted(total.amounts, key=lambda unit: (not unit.endswith("units"), unit))),
        outside=outside,
        prices=prices or PriceList.load(),
        compared=compare_with_ledger(reconciled, spent, period.since, period.until),
        names=reconciled.key_names,
        people=People(subjects),
    )


def _naive(*moments: dt.datetime) -> list[dt.datetime]:
    return [moment.astimezone(dt.UTC).replace(tzinfo=None) for moment in moments]


def _looked_at(period: Period) -> tuple[dt.datetime, dt.datetime]:
    """Return the times of entries that may tell of the period's tasks."""
    first, last = dt.datetime.min.replace(tzinfo=dt.UTC), dt.datetime.max.replace(tzinfo=dt.UTC)
    begin = period.since - LEAD if period.since - first > LEAD else first
    return begin, period.until + TAIL if last - period.until > TAIL else last


def _spent(orders: Orders, period: Period) -> Iterator[LoggedTask]:
    """Tasks that were ordered in the period, calls answered at once, and orders of which nobody knows the outcome."""
    for task in (*orders.tasks.values(), *orders.unnamed):
        if task.at in period:
            yield task
    for order in orders.orders.values():
        if order.dangling and order.at in period:
            yield _lost(order)


def _lost(order: Order) -> LoggedTask:
    return LoggedTask(task_id="", seen=order.at, who=order.who, order=order, ordered=True)


def _value(task: LoggedTask, name: str) -> str | None:
    if name == "day":
        return task.at.date().isoformat()
    found: str | None = getattr(task.who, name)
    return found


def _place(group: tuple[str | None, ...]) -> tuple[tuple[bool, str], ...]:
    return tuple((value is None, value or "") for value in group)


def _plain(amount: Decimal) -> str:
    text = format(amount, "f")
    return text.rstrip("0").rstrip(".") if "." in text else text


def _json_time(moment: dt.datetime) -> str:
    return format_instant(moment).decode()
