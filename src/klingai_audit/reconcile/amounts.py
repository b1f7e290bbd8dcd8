"""Sums by unit, and when two of them say the same. Pure."""

from __future__ import annotations

import bisect
import datetime as dt
from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from typing import Final

from klingai_audit.kling.rows import UNKNOWN_PACK
from klingai_audit.reconcile.records import LedgerLine, moment_of
from klingai_audit.reconcile.result import Amounts
from klingai_audit.views.orders import LoggedTask

__all__ = ["add_to", "claim_unnamed", "is_nothing", "same", "total"]

NEAR: Final = dt.timedelta(minutes=15)
"""How near in time a deduction without a known task must be to the call that it is taken for."""

_UNKNOWN: Final = f"{UNKNOWN_PACK} units"
_ALIKE: Final = (frozenset({"image units", "try_on units"}),)
"""Units that records of the older generation do not tell apart."""


def total(lines: Iterable[LedgerLine]) -> dict[str, Decimal]:
    """Add up lines of the ledgers."""
    sums: dict[str, Decimal] = {}
    for line in lines:
        sums[line.unit] = sums.get(line.unit, Decimal(0)) + line.value
    return sums


def add_to(sums: dict[str, Decimal], more: Amounts | None) -> None:
    """Add amounts, unit by unit."""
    for unit, amount in (more or {}).items():
        sums[unit] = sums.get(unit, Decimal(0)) + amount


def is_nothing(sums: Amounts | None) -> bool:
    """Whether nothing was charged, as far as is known."""
    return not sums or not any(sums.values())


def same(one: Amounts, other: Amounts) -> bool:
    """Whether two sources state the same amounts; a unit that one of them does not name may be the other's."""
    left = {unit: amount for unit, amount in one.items() if amount}
    right = {unit: amount for unit, amount in other.items() if amount}
    if left == right:
        return True
    if len(left) != 1 or len(right) != 1:
        return False
    ((unit, amount),), ((other_unit, other_amount),) = left.items(), right.items()
    return amount == other_amount and _alike(unit, other_unit)


def claim_unnamed(calls: Sequence[LoggedTask], free: Mapping[str, Sequence[LedgerLine]]) -> dict[str, LoggedTask]:
    """Give deductions without a known task to calls without an id: equal amounts, nearest in time, one to one.

    Returns task id of the ledger -> call.
    """
    buckets: dict[Decimal, list[tuple[float, str]]] = {}
    for task_id, lines in free.items():
        moment = moment_of(lines[0].time_ms)
        if moment is not None:
            buckets.setdefault(sum(total(lines).values(), Decimal(0)), []).append((moment.timestamp(), task_id))
    for bucket in buckets.values():
        bucket.sort()
    pairs = []
    for position, call in enumerate(calls):
        if call.charges is None:
            continue
        bucket = buckets.get(sum(call.charges.values(), Decimal(0)), [])
        ended = (call.ended_at or call.at).timestamp()
        reach = NEAR.total_seconds()
        for when, task_id in bucket[bisect.bisect_left(bucket, (ended - reach, "")) :]:
            if when > ended + reach:
                break
            if same(call.charges, total(free[task_id])):
                pairs.append((abs(when - ended), position, task_id))
    claimed: dict[str, LoggedTask] = {}
    taken: set[int] = set()
    for _, position, task_id in sorted(pairs):
        if position not in taken and task_id not in claimed:
            taken.add(position)
            claimed[task_id] = calls[position]
    return claimed


def _alike(one: str, other: str) -> bool:
    """Whether two units may be the same: equal, not told apart by the provider, or one of them not named."""
    if one == other or {one, other} in _ALIKE:
        return True
    return any(
        nameless in (one, other) and one.endswith("units") == other.endswith("units") for nameless in (_UNKNOWN, "cash")
    )
