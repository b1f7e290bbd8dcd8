"""Checks the ledgers against themselves and against what packs have left. Pure.

A line says what was there before, what was taken and what was left: within a line that must add up, and each line must
begin where another one ended. What a pack has left, up to 12 hours old, must be what some line left it with.
"""

from __future__ import annotations

import datetime as dt
from collections import Counter
from collections.abc import Iterator, Mapping
from decimal import Decimal
from typing import Final

from klingai_audit.reconcile.records import LedgerLine, Pack, ProviderRecords, moment_of
from klingai_audit.reconcile.result import Difference

__all__ = ["check_balances"]

_PERIODIC: Final = "constant_period"


def check_balances(
    records: ProviderRecords, *, since: dt.datetime, as_of: dt.datetime, lag: dt.timedelta, owing: Mapping[str, Decimal]
) -> list[Difference]:
    """Return what the ledgers do not explain, by lines from `since` on.

    `owing` are amounts by unit that are stated and in no ledger yet: a pack may have lost them already.
    """
    packs = {pack.id: pack for pack in records.packs}
    accounts: dict[tuple[str, bool], list[LedgerLine]] = {}
    for line in records.lines:
        moment = moment_of(line.time_ms)
        if moment is not None and moment >= since:
            accounts.setdefault((line.account, line.is_cash), []).append(line)
    found: list[Difference] = []
    for (account, cash), lines in accounts.items():
        found += _within(lines)
        pack = packs.get(account)
        periodic = cash or (pack is not None and pack.kind == _PERIODIC)
        found += _losses(account, lines) if periodic else _holes(account, lines)
        if pack is not None and not periodic:
            found += _left(pack, lines, as_of - lag, owing.get(lines[0].unit, Decimal(0)))
    return found


def _within(lines: list[LedgerLine]) -> Iterator[Difference]:
    for line in lines:
        if line.amount is None or line.before is None or line.after is None:
            continue
        left = Decimal(line.before) - Decimal(line.amount)
        if left != Decimal(line.after):
            message = f"the line takes {line.amount} from {line.before} and leaves {line.after}"
            yield _difference(line, message)


def _holes(account: str, lines: list[LedgerLine]) -> Iterator[Difference]:
    """Where a pack, which only shrinks, has less than a line left it with.

    What one line left and another began with cancels out, in whatever order lines of one moment are shown.
    """
    told = [line for line in lines if line.before is not None and line.after is not None]
    ends = Counter(Decimal(line.after or 0) for line in told)
    starts = Counter(Decimal(line.before or 0) for line in told)
    left = sorted((ends - starts).elements(), reverse=True)
    begun = sorted((starts - ends).elements(), reverse=True)
    by_end = {Decimal(line.after or 0): line for line in told}
    for one, next_one in zip(left, begun[1:], strict=False):
        if one != next_one:
            yield _hole(account, by_end[one], one, next_one)


def _losses(account: str, lines: list[LedgerLine]) -> Iterator[Difference]:
    """Where a balance, which payments may raise at any time, has less than the line before left it with."""
    previous: LedgerLine | None = None
    waiting = sorted((line for line in lines if line.before is not None and line.after is not None), key=_time)
    while waiting:
        same_moment = [line for line in waiting if _time(line) == _time(waiting[0])]
        after = None if previous is None else Decimal(previous.after or 0)
        line = next((line for line in same_moment if Decimal(line.before or 0) == after), same_moment[0])
        waiting.remove(line)
        if previous is not None and after is not None and Decimal(line.before or 0) < after:
            yield _hole(account, line, after, Decimal(line.before or 0))
        previous = line


def _hole(account: str, line: LedgerLine, left: Decimal, begun: Decimal) -> Difference:
    verb = "lost" if begun < left else "gained"
    amount = f"{abs(left - begun)} {line.unit}"
    return _difference(line, f"{account} {verb} {amount} between two lines: {left}, then {begun}")


def _left(pack: Pack, lines: list[LedgerLine], since: dt.datetime, owing: Decimal) -> Iterator[Difference]:
    """What the pack has left, against what the lines left it with from `since` on, and just before."""
    if pack.remaining is None:
        return
    told = sorted((line for line in lines if line.after is not None and line.before is not None), key=_time)
    older = [line for line in told if (moment_of(line.time_ms) or since) < since]
    newer = [line for line in told if (moment_of(line.time_ms) or since) >= since]
    if not told:
        return
    lowest = min(Decimal(line.after or 0) for line in told)
    highest = max([Decimal(line.before or 0) for line in newer] or [min(Decimal(line.after or 0) for line in older)])
    remaining = Decimal(pack.remaining)
    if not lowest - owing <= remaining <= highest:
        words = f"{lowest}" if lowest == highest else f"{lowest} to {highest}"
        message = f"the pack {pack.id} has {remaining} left; by the ledger it should be {words}"
        yield _difference(told[-1], message)


def _difference(line: LedgerLine, message: str) -> Difference:
    return Difference(
        kind="balance_differs",
        task_id=line.task_id,
        at=moment_of(line.time_ms),
        key_name=line.key_name,
        message=message,
    )


def _time(line: LedgerLine) -> int:
    return line.time_ms or 0
