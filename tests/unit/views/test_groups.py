"""Activity of everybody in groups: the index against a count by hand."""

from __future__ import annotations

import datetime as dt
from collections import Counter
from decimal import Decimal

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from klingai_audit.errors import UsageError
from klingai_audit.testing import memory_log
from klingai_audit.views.activity import RESULT_TYPES, activity
from klingai_audit.views.groups import GROUPINGS, activity_by
from klingai_audit.views.query import Filter, query

DAY = dt.timedelta(days=1)
TYPES = ["prompt_submitted", "api_key_used", "video_generation_completed", "policy_violation", "x_thing"]
EVENTS = st.lists(
    st.tuples(
        st.sampled_from(TYPES),
        st.sampled_from(["a@example.com", "b@example.com"]),
        st.sampled_from(["red", "blue", None]),
        st.integers(0, 130),
        st.integers(0, 23),
    ),
    max_size=40,
)


def write(audit, now, events):
    """Log events, each some days before now, at an hour."""
    for kind, actor, team, days, hour in events:
        when = min((now - days * DAY).replace(hour=hour, minute=30), now - dt.timedelta(seconds=1))
        outcome = "blocked" if kind == "policy_violation" else "success"
        charge = [{"charge_type": "unit", "amount": "1.25", "package_type": "video"}]
        audit.log(
            kind, actor, outcome=outcome, team=team, timestamp=when,
            metadata={"charge": charge, "model": "m1" if hour % 2 else "m2", **({"intent": "i"} if hour % 3 else {})},
        )  # fmt: skip
    audit.flush()


def check(events):
    """Compare all groupings with what a scan counts."""
    now = dt.datetime.now(dt.UTC)
    with memory_log() as audit:
        write(audit, now, events)
        entries = [entry for entry in query(audit.entries(), Filter()) if entry.actor_id != "klingai-audit"]
        recent = [entry for entry in entries if now - 30 * DAY <= entry.timestamp < now]
        for by in ("actor", "team", "model", "day"):
            found = activity_by(audit.index.rows, by, days=30, now=now, subjects=audit.subjects)
            value = {
                "actor": lambda entry: entry.actor_id,
                "team": lambda entry: entry.team,
                "model": lambda entry: entry.metadata["model"],
                "day": lambda entry: entry.timestamp.date().isoformat(),
            }[by]
            assert Counter(map(value, recent)) == Counter({g.value: g.events for g in found.groups if g.events})
            for group in found.groups:
                own = [entry for entry in recent if value(entry) == group.value]
                assert Counter(entry.event_type for entry in own) == Counter(group.by_type)
                assert Counter(entry.outcome for entry in own) == Counter(group.by_outcome)
                ends = [entry for entry in own if entry.event_type in RESULT_TYPES]
                assert (len(ends), sum(entry.outcome == "success" for entry in ends)) == (group.ended, group.ended_well)
                charged = sum(entry.event_type == "video_generation_completed" for entry in own)
                assert group.charges == ({"video units": Decimal("1.25") * charged} if charged else {})
                if own:
                    times = [entry.timestamp for entry in own]
                    assert (min(times), max(times)) == (group.first, group.last)
        for group in activity_by(audit.index.rows, "actor", days=30, now=now).groups:
            one = activity(audit.entries(), group.value, days=30, now=now, subjects=audit.subjects)
            assert (one.total_events, one.acts, one.previous.total_events) == (group.events, group.acts, group.previous)
            assert (one.success_rate, sum((one.unusual or {}).values())) == (group.success_rate, group.unusual)


def test_groups_of_a_month():
    """Two people of two teams, one of them at night: as a scan counts, and as each one's own summary says."""
    habit = [("prompt_submitted", "a@example.com", "red", day, 10) for day in range(28, 40)]
    night = [("prompt_submitted", "a@example.com", "red", 3, 3), ("policy_violation", "a@example.com", "red", 3, 2)]
    others = [("video_generation_completed", "b@example.com", "blue", day, 12) for day in (1, 2, 35, 100)]
    check([*habit, *night, *others])


@pytest.mark.slow
@settings(max_examples=12, suppress_health_check=[HealthCheck.too_slow])
@given(EVENTS)
def test_groups_of_random_months(events):
    """The same, of random events."""
    check(events)


def test_a_team_that_stopped_is_shown():
    """Nothing in the period, something before: a line that says so."""
    now = dt.datetime.now(dt.UTC)
    with memory_log() as audit:
        write(audit, now, [("x_thing", "a@example.com", "red", 40, 10)])
        (group,) = audit.activity_by("team").groups
        assert ("red", 0, 1, None) == (group.value, group.events, group.previous, group.success_rate)


@pytest.mark.parametrize("by, days", [("x", 30), ("team", 0), ("team", 36_501)])
def test_questions_that_are_none(by, days):
    """Unknown groupings and periods are refused."""
    with memory_log() as audit, pytest.raises(UsageError):
        audit.activity_by(by, days)


def test_an_empty_log():
    """Nothing happened: no groups, for any grouping."""
    with memory_log() as audit:
        assert [()] * len(GROUPINGS) == [audit.activity_by(by).groups for by in GROUPINGS]
