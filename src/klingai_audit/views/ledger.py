"""What reconciliations recorded of the billing ledger: sums by day, and names of keys.

Allowed callers: views, report, cli.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final

from klingai_audit.views.entry import EntryView
from klingai_audit.views.orders import decimals_of
from klingai_audit.views.times import stated_instant

__all__ = ["Compared", "Reconciled", "compare_with_ledger", "compared_parts"]

SETTLED: Final = dt.timedelta(hours=12)
"""How long after a day its deductions may still come."""

_DAY: Final = dt.timedelta(days=1)
_TYPE_AT: Final = 118
_RECONCILED: Final = b"reconciled"
_ROTATED: Final = b"api_key_rotated"


@dataclass(frozen=True, slots=True)
class _Run:
    seq: int
    begin: dt.datetime
    end: dt.datetime
    as_of: dt.datetime
    days: Mapping[str, Mapping[str, Decimal]]

    def part(self, day: dt.datetime, since: dt.datetime, until: dt.datetime) -> tuple[dt.datetime, dt.datetime] | None:
        """Return which part of a day this run compared, if that lies in [since, until) whole; else None."""
        begin, end = max(day, self.begin), min(day + _DAY, self.end)
        return (begin, end) if since <= begin < end <= until else None


class Reconciled:
    """The entries `reconciled` of a log, and the names that keys were declared under. `key_names` by fingerprint."""

    def __init__(self) -> None:
        self.runs: list[_Run] = []
        self.key_names: dict[str, str] = {}

    def add_lines(self, lines: Iterable[bytes]) -> None:
        """Take in stored entries in log order; all others are passed over."""
        for line in lines:
            self.add_line(line)

    def add_line(self, line: bytes) -> None:
        """Take in one stored entry."""
        kind = line[_TYPE_AT : line.find(b'"', _TYPE_AT)]
        if kind in (_RECONCILED, _ROTATED):
            self.add(EntryView(line))

    def add(self, entry: EntryView) -> None:
        """Take in one entry."""
        told = entry.metadata
        if entry.event_type == "api_key_rotated":
            name, new = told.get("name"), told.get("new")
            if isinstance(name, str) and isinstance(new, str):
                self.key_names[new] = name
            return
        times = [stated_instant(told.get(name)) for name in ("begin", "end", "as_of")]
        begin, end, as_of = times
        days = told.get("ledger_days")
        if begin is None or end is None or as_of is None or not isinstance(days, dict):
            return
        sums = {day: decimals_of(amounts) for day, amounts in days.items()}
        self.runs.append(_Run(entry.seq, begin, end, as_of, sums))
        keys = told.get("keys")
        for key, names in keys.items() if isinstance(keys, dict) else ():
            known = [name for name in names if isinstance(name, str)] if isinstance(names, list) else []
            if known:
                self.key_names[key] = ", ".join(known)


@dataclass(frozen=True, slots=True)
class Compared:
    """Sums of the log and of the billing ledger over those parts of a period that reconciliations compared.

    `days` of `of` UTC days are covered, `settled` of them whole and late enough that no deduction is to come; `seqs`
    are the entries of the reconciliations. Both sums are of tasks ordered in those parts.
    """

    days: int
    settled: int
    of: int
    seqs: tuple[int, ...]
    log: Mapping[str, Decimal]
    ledger: Mapping[str, Decimal]

    @property
    def agrees(self) -> bool:
        """Whether the sums are equal, unit by unit."""
        return {u: a for u, a in self.log.items() if a} == {u: a for u, a in self.ledger.items() if a}

    def to_json(self) -> dict[str, Any]:
        """Return the members as JSON values, amounts as decimal text."""
        return {
            "days": self.days,
            "settled": self.settled,
            "of": self.of,
            "seqs": list(self.seqs),
            "log": _json(self.log),
            "ledger": _json(self.ledger),
            "agrees": self.agrees,
        }


def compare_with_ledger(
    reconciled: Reconciled,
    spent: Callable[[dt.datetime, dt.datetime], Mapping[str, Decimal]],
    since: dt.datetime,
    until: dt.datetime,
) -> Compared | None:
    """Compare what was spent, as `spent(begin, end)` says, with the run that covers most of each day; None without."""
    days, count = _compared_days(reconciled, since, until)
    if not days:
        return None
    log: dict[str, Decimal] = {}
    for begin, end in _joined(part for _, part in days.values()):
        _add(log, spent(begin, end))
    ledger: dict[str, Decimal] = {}
    for day, (run, _) in days.items():
        _add(ledger, run.days.get(day.date().isoformat(), {}))
    settled = sum(end - begin == _DAY and run.as_of >= end + SETTLED for run, (begin, end) in days.values())
    return Compared(len(days), settled, count, tuple(sorted({run.seq for run, _ in days.values()})), log, ledger)


def compared_parts(
    reconciled: Reconciled, since: dt.datetime, until: dt.datetime
) -> list[tuple[dt.datetime, dt.datetime]]:
    """Return the parts [begin, end) of a period, in order, over which `compare_with_ledger` asks what was spent."""
    days, _ = _compared_days(reconciled, since, until)
    return _joined(part for _, part in days.values())


def _compared_days(
    reconciled: Reconciled, since: dt.datetime, until: dt.datetime
) -> tuple[dict[dt.datetime, tuple[_Run, tuple[dt.datetime, dt.datetime]]], int]:
    """Return the days that a run compared, each with the run and the part, and the number of days of the period."""
    first = since.replace(hour=0, minute=0, second=0, microsecond=0)
    count = -((first - until) // _DAY)
    found = ((day, _choose(reconciled, day, since, until)) for day in _days(first, count))
    return {day: chosen for day, chosen in found if chosen is not None}, count


def _joined(parts: Iterable[tuple[dt.datetime, dt.datetime]]) -> list[tuple[dt.datetime, dt.datetime]]:
    """Join parts, in order, that begin where the one before ends."""
    joined: list[tuple[dt.datetime, dt.datetime]] = []
    for begin, end in parts:
        if joined and joined[-1][1] == begin:
            joined[-1] = (joined[-1][0], end)
        else:
            joined.append((begin, end))
    return joined


def _days(first: dt.datetime, count: int) -> Iterator[dt.datetime]:
    for number in range(count):
        yield first + number * _DAY


def _choose(
    reconciled: Reconciled, day: dt.datetime, since: dt.datetime, until: dt.datetime
) -> tuple[_Run, tuple[dt.datetime, dt.datetime]] | None:
    """Return the run that compared most of a day, of equals the latest, and the part that it compared."""
    found = [(run, part) for run in reconciled.runs if (part := run.part(day, since, until)) is not None]
    return max(found, key=lambda one: (one[1][1] - one[1][0], one[0].seq), default=None)


def _add(sums: dict[str, Decimal], more: Mapping[str, Decimal]) -> None:
    for unit, amount in more.items():
        sums[unit] = sums.get(unit, Decimal(0)) + amount


def _json(sums: Mapping[str, Decimal]) -> dict[str, str]:
    return {unit: format(sums[unit].normalize() + 0, "f") for unit in sorted(sums)}
