"""Amounts: when two sources say the same, and which deduction belongs to a call without an id."""

from __future__ import annotations

import datetime as dt
from decimal import Decimal

import pytest

from klingai_audit.reconcile.amounts import claim_unnamed, is_nothing, same
from klingai_audit.reconcile.balance import check_balances
from klingai_audit.reconcile.records import LedgerLine, Pack, ProviderRecords
from klingai_audit.views.orders import LoggedTask

NOON = dt.datetime(2026, 11, 22, 12, tzinfo=dt.UTC)
HOUR = dt.timedelta(hours=1)


def amounts(**units):
    """Return amounts by unit: `video=1` is one video unit."""
    return {name if name.isupper() or name == "cash" else f"{name} units": Decimal(n) for name, n in units.items()}


@pytest.mark.parametrize(
    "one, other, expected",
    [
        (amounts(video="1.8"), amounts(video="1.80"), True),
        (amounts(video="1.8"), amounts(video="1.9"), False),
        (amounts(video="8"), amounts(image="8"), False),
        (amounts(image="1"), amounts(try_on="1"), True),
        (amounts(video="1", image="0"), amounts(video="1"), True),
        ({}, amounts(video="0"), True),
        ({}, amounts(video="1"), False),
        ({"unknown pack units": Decimal(2)}, amounts(video="2"), True),
        ({"unknown pack units": Decimal(2)}, amounts(USD="2"), False),
        (amounts(cash="2"), amounts(USD="2"), True),
        (amounts(cash="2"), amounts(video="2"), False),
        (amounts(CNY="2"), amounts(USD="2"), False),
        (amounts(video="1", image="2"), amounts(video="1", image="2"), True),
        (amounts(video="1", image="2"), amounts(video="2", image="1"), False),
    ],
)
def test_the_same_amounts(one, other, expected):
    """Equal by unit; a unit that one side does not name may be the other's; different packs are different money."""
    assert (expected, expected) == (same(one, other), same(other, one))


def test_nothing():
    """No amount, none that is known, and zero."""
    assert [True, True, True, False] == [is_nothing(x) for x in ({}, None, amounts(video="0"), amounts(video="0.1"))]


def call(minute, amount="0.05"):
    """A call that was answered at once."""
    at = NOON + dt.timedelta(minutes=minute)
    return LoggedTask(task_id="", seen=at, ended="succeeded", ended_at=at, charges=amounts(video=amount))


def line(task, minute, amount="0.05", before=None, after=None, account="p"):
    """A deduction."""
    millis = round((NOON + dt.timedelta(minutes=minute)).timestamp() * 1000)
    return LedgerLine(
        task_id=task, unit="video units", amount=amount, time_ms=millis, account=account, before=before, after=after
    )


def test_a_deduction_belongs_to_the_nearest_call():
    """One to one, equal amounts, within a quarter of an hour."""
    calls = [call(0), call(1), call(5, "0.1"), call(60)]
    free = {"a": [line("a", 1.1)], "b": [line("b", 0.2)], "c": [line("c", 5)], "d": [line("d", 80)]}
    assert {"a": calls[1], "b": calls[0]} == claim_unnamed(calls, free)
    assert {"c": calls[2]} == claim_unnamed(calls[2:], {"c": [line("c", 5, "0.1")]})


def check(lines, *packs, owing=None):
    """Return what the ledgers do not explain."""
    records = ProviderRecords(lines=lines, packs=list(packs))
    found = check_balances(records, since=NOON - HOUR, as_of=NOON + 20 * HOUR, lag=12 * HOUR, owing=owing or {})
    return [finding.message for finding in found]


def test_lines_that_follow_each_other():
    """In whatever order they are shown, and with equal times."""
    lines = [line("a", 0, "1", "10", "9"), line("b", 0, "2", "9", "7"), line("c", 0, "3", "7", "4")]
    for shown in (lines, lines[::-1], [lines[1], lines[0], lines[2]]):
        assert [] == check(shown, Pack(id="p", total="10", remaining="4"))


def test_holes_between_lines():
    """What a pack lost without a line, once for each hole; a pack that is filled each period may rise."""
    lines = [line("a", 0, "1", "10", "9"), line("b", 1, "1", "8", "7"), line("c", 2, "1", "5", "4")]
    told = check(lines, Pack(id="p", total="10", remaining="4"))
    assert [
        "p lost 1 video units between two lines: 9, then 8",
        "p lost 2 video units between two lines: 7, then 5",
    ] == told
    risen = [line("a", 0, "1", "10", "9"), line("b", 1, "1", "20", "19")]
    assert [] == check(risen, Pack(id="p", kind="constant_period", remaining="19"))


def test_a_line_that_does_not_add_up():
    """Before less amount is not after."""
    assert ["the line takes 2 from 10 and leaves 9"] == check([line("a", 0, "2", "10", "9")])


@pytest.mark.parametrize(
    "remaining, owing, wrong",
    [("7", "0", False), ("9", "0", True), ("6", "0", True), ("6", "1", False), ("5.9", "1", True)],
)
def test_what_a_pack_has_left(remaining, owing, wrong):
    """By the last line, less what is stated and not deducted yet."""
    lines = [line("a", 0, "1", "10", "9"), line("b", 1, "2", "9", "7")]
    told = check(lines, Pack(id="p", remaining=remaining), owing={"video units": Decimal(owing)})
    assert wrong == bool(told)
