"""The self-checks: each passes only on evidence, and says what is missing."""

from __future__ import annotations

import copy
import datetime as dt

import pytest

from klingai_audit.report.checks import run_checks

BEGIN, END = "2026-08-22T00:00:00.000000Z", "2026-09-11T00:00:00.000000Z"


@pytest.fixture
def facts(report):
    """The sections of the report on the small log, to be bent."""
    return copy.deepcopy(report.to_json())


def state(report, facts, name):
    return run_checks(report.scope, facts)[name].state


def run(begin, end, outcome="success", unexplained=0):
    return {"seq": 5, "timestamp": "2026-09-09T00:00:00.000000Z", "outcome": outcome, "begin": begin, "end": end,
            "unexplained": unexplained, "counts": {}}  # fmt: skip


def test_the_small_log(report, facts):
    """What an ordinary log with an open act shows."""
    states = {name: check.state for name, check in run_checks(report.scope, facts).items()}
    assert {
        "S1": "passed", "S2": "not_configured", "S3": "partly", "S4": "not_checked", "S5": "passed", "S6": "passed",
        "S7": "not_configured", "S8": "partly", "S9": "passed", "S10": "partly", "S11": "passed",
        "S12": "not_configured",
    } == states  # fmt: skip


def test_every_check_gives_a_reason(report, facts):
    """No check stands without a sentence that ends in a full stop."""
    assert all(check.words.endswith(".") and len(check.words) > 5 for check in run_checks(report.scope, facts).values())


def test_completeness_passes_without_gaps(report, facts):
    """With every act answered, no silence and no open gap, completeness passes; open tasks are listed."""
    facts["tasks"]["overdue"], facts["integrity"]["silences"] = 0, []
    check = run_checks(report.scope, facts)["S3"]
    assert ("passed", True) == (check.state, check.words.endswith("1 open task is listed."))


@pytest.mark.parametrize(
    "section,member,value,expected",
    [
        ("sequence", "missing", 2, "failed"),
        ("integrity", "holds", False, "failed"),
        ("tasks", "two_ends", 1, "partly"),
        ("tasks", "unknown", 1, "partly"),
        ("life", "open_gaps", 1, "partly"),
        ("integrity", "silences", [{}], "partly"),
    ],
)
def test_completeness_names_each_gap(report, facts, section, member, value, expected):
    """Holes fail; double ends, open gaps and silences make it partial."""
    facts["tasks"]["overdue"], facts["integrity"]["silences"] = 0, []
    facts[section][member] = value
    assert expected == state(report, facts, "S3")


@pytest.mark.parametrize(
    "runs,expected",
    [
        ([run(BEGIN, END)], "passed"),
        ([run("2026-09-05T00:00:00.000000Z", END), run(BEGIN, "2026-09-05T00:00:00.000000Z")], "passed"),
        ([run("2026-09-06T00:00:00.000000Z", END), run(BEGIN, "2026-09-05T00:00:00.000000Z")], "partly"),
        ([run("2026-09-05T00:00:00.000000Z", END)], "partly"),
        ([run(None, None)], "partly"),
        ([run("nonsense", "0000")], "partly"),
        ([run(BEGIN, END, "failure", 3)], "failed"),
        ([run(BEGIN, END, "success", 1)], "failed"),
        ([], "not_checked"),
    ],
)
def test_reconciliation_has_to_cover_the_period(report, facts, runs, expected):
    """Comparisons without differences pass where they reach over the period together."""
    facts["reconciliation"] = {"last": runs[0] if runs else None, "runs": runs}
    assert expected == state(report, facts, "S4")


def test_an_old_comparison_says_nothing_of_the_period(report, facts):
    """A comparison from before the period is none."""
    old = run(BEGIN, END) | {"timestamp": "2026-01-01T00:00:00.000000Z"}
    facts["reconciliation"] = {"last": old, "runs": [old]}
    assert "not_checked" == state(report, facts, "S4")


@pytest.mark.parametrize(
    "section,member,value,name,expected",
    [
        ("anchors", "total", 0, "S2", "not_configured"),
        ("life", "clock_steps", [{}], "S6", "partly"),
        ("life", "ahead", 3, "S6", "partly"),
        ("leakage", "total", 1, "S9", "failed"),
        ("leakage", "prompts", 1, "S9", "failed"),
        ("leakage", "too_many", True, "S9", "partly"),
        ("life", "open_gaps", 1, "S11", "partly"),
        ("integrity", "holds", False, "S1", "failed"),
    ],
)
def test_what_makes_a_check_not_pass(report, facts, section, member, value, name, expected):
    """One wrong fact is enough."""
    facts[section][member] = value
    assert expected == state(report, facts, name)


def test_the_oldest_record_is_told_in_days(report, facts):
    """Retention is not configured, but how far the log reaches back is said."""
    facts["retention"]["oldest"] = (report.scope.until - dt.timedelta(days=33)).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    check = run_checks(report.scope, facts)["S7"]
    assert (33, True) == (check.detail["oldest_days"], "33 days old" in check.words)


def test_anchors_are_told_with_their_age(report, facts):
    """Entries that name a time stamp make anchoring known, but not proven to be out of the operator's hands."""
    last = "2026-09-09T00:00:00.000000Z"
    facts["anchors"] = {"total": 2, "by_type": [{"event_type": "checkpoint_timestamped", "events": 2, "last": last}]}
    check = run_checks(report.scope, facts)["S2"]
    assert ("partly", True) == (check.state, "the newest on 2026-09-09" in check.words)
