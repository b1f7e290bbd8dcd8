"""Tests of one person's summary."""

from __future__ import annotations

import datetime as dt

import pytest

from klingai_audit.errors import UsageError
from klingai_audit.views.activity import activity
from tests.unit.views.lines import NOW, PEOPLE, event_id, line, pseudonym, stamp

HOUR = dt.timedelta(hours=1)


def charged(seq, amount, package="video", **members):
    charge = [{"charge_type": "unit", "amount": amount, "package_type": package}]
    members.setdefault("event_type", "video_generation_completed")
    return line(seq, event_id=event_id(seq, version=8), metadata={"charge": charge}, **members)


def test_totals_of_one_person_in_the_period():
    """Counts by type, outcome and day, exact charges; older entries are the period before, others' do not count."""
    lines = [
        line(0, when=NOW - 31 * 24 * HOUR),
        line(1, when=NOW - 30 * 24 * HOUR),
        charged(2, "0.1", when=NOW - 13 * HOUR),
        charged(3, "0.2", when=NOW - 12 * HOUR),
        line(4, event_type="policy_violation", outcome="blocked", when=NOW - HOUR),
        line(5, actor_id=pseudonym(2), when=NOW),
    ]
    assert {
        "actor_id": pseudonym(1),
        "actor": "us***@example.com",
        "period_days": 30,
        "total_events": 4,
        "acts": 2,
        "generations": {"success": 0, "failure": 0, "blocked": 0, "unknown": 0},
        "by_type": {"video_generation_completed": 2, "prompt_submitted": 1, "policy_violation": 1},
        "by_outcome": {"success": 3, "blocked": 1},
        "by_day": {"2026-10-22": 1, "2026-11-20": 1, "2026-11-21": 2},
        "charges": {"video units": "0.3"},
        "first_activity": stamp(NOW - 30 * 24 * HOUR),
        "last_activity": stamp(NOW - HOUR),
        "success_rate": 0.6667,
        "unusual_hours": None,
        "previous": {"total_events": 1, "by_outcome": {"success": 1}, "success_rate": None, "charges": {}},
    } == activity(lines, "user@example.com", subjects=PEOPLE, now=NOW).to_json()


@pytest.mark.parametrize(
    "asked,stored,shown",
    [
        ("boss@example.org", pseudonym(3), "bo***@example.org"),
        (pseudonym(3), pseudonym(3), "bo***@example.org"),
        ("nobody@example.com", None, "no***@example.com"),
        ("us***@example.com", None, "us***@example.com"),
        ("unknown", "unknown", "unknown"),
    ],
)
def test_nothing_in_the_period_is_an_empty_answer(asked, stored, shown):
    """Someone without entries has zero events, and a raw id never comes back."""
    answer = activity([], asked, subjects=PEOPLE, now=NOW).to_json()
    assert (stored, shown, 0, {}, None, None) == (
        answer["actor_id"],
        answer["actor"],
        answer["total_events"],
        answer["by_type"],
        answer["first_activity"],
        answer["last_activity"],
    )


def test_a_mask_of_one_active_person_is_that_person():
    """A mask finds its person."""
    answer = activity([line(0)], "us***@example.com", subjects=PEOPLE, now=NOW)
    assert (pseudonym(1), 1) == (answer.actor_id, answer.total_events)


def test_a_mask_of_two_people_is_refused():
    """Two people with one mask are never added together; the message names their pseudonyms."""
    with pytest.raises(UsageError) as caught:
        activity([line(0), line(1, actor_id=pseudonym(2))], "us***@example.com", subjects=PEOPLE, now=NOW)
    assert [True, True] == [pseudonym(n) in caught.value.do for n in (1, 2)]


@pytest.mark.parametrize("days", [0, -1, 36_501])
def test_periods_out_of_range_are_refused(days):
    """A period is 1 to 36,500 days."""
    with pytest.raises(UsageError):
        activity([], "user@example.com", days=days, subjects=PEOPLE, now=NOW)


def test_units_are_never_added_together_and_only_ends_count():
    """Each pack type and currency has its own sum; what is no end or no amount counts nothing."""
    cash = [
        {"charge_type": "cash", "amount": "1.50", "currency": "USD"},
        {"charge_type": "cash", "amount": "2", "currency": "USD", "cash_type": "test_balance"},
        {"charge_type": "unit", "amount": "7"},
    ]
    lines = [
        charged(0, "1.25"),
        charged(1, "2", package="image"),
        charged(2, "9", event_type="x_own"),
        charged(3, "NaN"),
        charged(4, "1e999999"),
        line(5, event_type="task_completed", metadata={"charge": cash}),
        line(6, event_type="task_completed", metadata={"charge": "5"}),
        line(7, event_type="task_completed", metadata={"charge": ["5", {"amount": 5}]}),
    ]
    assert {
        "USD": "1.50",
        "USD test_balance": "2",
        "image units": "2",
        "unknown pack units": "7",
        "video units": "1.25",
    } == activity(lines, "user@example.com", subjects=PEOPLE, now=NOW).to_json()["charges"]


def working_days(count, *, hour=10):
    """Someone who begins something at one hour of each of `count` days before the period."""
    first = (NOW - dt.timedelta(days=31)).replace(hour=hour)
    return [line(n, when=first - dt.timedelta(days=n)) for n in range(count)]


def test_unusual_hours():
    """What was begun in an hour that the person never works in, nor beside one; ends come when they come."""
    night = (NOW - dt.timedelta(days=2)).replace(hour=3)
    lines = [
        *working_days(6),
        line(10, when=night),
        line(11, when=night.replace(hour=9)),
        line(12, when=night.replace(hour=11)),
        charged(13, "1", when=night.replace(hour=2)),
    ]
    answer = activity(lines, "user@example.com", subjects=PEOPLE, now=NOW)
    assert {3: 1} == answer.unusual
    assert {"3": 1} == answer.to_json()["unusual_hours"]


@pytest.mark.parametrize("count, known", [(4, False), (5, True)])
def test_usual_hours_need_five_days(count, known):
    """Of somebody who was hardly there nothing is said."""
    answer = activity([*working_days(count), line(9, when=NOW - HOUR)], "user@example.com", subjects=PEOPLE, now=NOW)
    assert known == (answer.unusual is not None)


def test_an_hour_of_one_day_is_not_usual():
    """Once does not make a habit: two days do."""
    once = line(8, when=(NOW - dt.timedelta(days=40)).replace(hour=3))
    twice = line(9, when=(NOW - dt.timedelta(days=41)).replace(hour=4))
    night = line(10, when=(NOW - dt.timedelta(days=2)).replace(hour=3))
    for others, expected in (([once], {3: 1}), ([twice, once], {})):
        lines = [*working_days(5), *others, night]
        assert expected == activity(lines, "user@example.com", subjects=PEOPLE, now=NOW).unusual


def test_a_mask_of_somebody_else_before_the_period_is_refused():
    """The period before and the usual hours are one person's too."""
    lines = [line(0, actor_id=pseudonym(2), when=NOW - 40 * 24 * HOUR), line(1)]
    with pytest.raises(UsageError):
        activity(lines, "us***@example.com", subjects=PEOPLE, now=NOW)


def told(seq, event_type, outcome="success", order=0, **metadata):
    """One entry of an order's story."""
    version = 8 if "status" in metadata else 7
    members = {"event_type": event_type, "outcome": outcome, "correlation_id": event_id(order)}
    return line(seq, event_id=event_id(seq, version=version), metadata=metadata, **members)


def test_acts_and_generations():
    """A pair of intent and outcome is one act; what is only seen is none; orders are told by how they came out."""
    lines = [
        told(0, "prompt_submitted", phase="intent", order=0),
        told(1, "api_key_used", order=0),
        told(2, "video_generation_started", intent=event_id(0), order=0),
        told(3, "task_status_changed", order=0),
        told(4, "video_generation_completed", status="succeeded", order=0),
        told(5, "video_downloaded", "unknown", phase="intent", order=0),
        told(6, "video_downloaded", intent=event_id(5), order=0),
        told(7, "prompt_submitted", phase="intent", order=7),
        told(8, "policy_violation", "blocked", intent=event_id(7), order=7),
        told(9, "task_submitted", phase="intent", order=9),
        told(10, "x_note", order=10),
        told(11, "quota_checked", order=11),
    ]
    found = activity(lines, "user@example.com", subjects=PEOPLE, now=NOW)
    assert (found.total_events, found.acts) == (12, 6)
    assert found.generations == {"success": 1, "failure": 0, "blocked": 1, "unknown": 1}
    assert found.to_json()["acts"] == 6
