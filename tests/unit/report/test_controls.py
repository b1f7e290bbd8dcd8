"""The control table and its rules: people's part is never green, a gap makes "partly", the strictest wins."""

from __future__ import annotations

import datetime as dt
import itertools
import re

import pytest

from klingai_audit.errors import UsageError
from klingai_audit.event.types import EVENT_TYPES
from klingai_audit.report.checks import Check, field_check
from klingai_audit.report.controls import VERDICTS, count, frameworks, judge, strictest
from klingai_audit.report.scope import FRAMEWORKS, Scope, read_frameworks

UNTIL = dt.datetime(2026, 11, 1, tzinfo=dt.UTC)
EARLY = "2020-01-01T00:00:00.000000Z"
IDS = tuple(f"S{number}" for number in range(1, 13))
FULL = {
    "entries": 10,
    "share": dict.fromkeys(("actor_id", "event_type", "timestamp", "outcome", "origin", "resource"), 1.0),
}
PLENTY = dict.fromkeys(EVENT_TYPES, 5)


def scope(*named: str, high_risk: bool = False) -> Scope:
    return Scope(
        days=90, since=UNTIL - dt.timedelta(days=90), until=UNTIL, size=10, root="00", origin="o", frameworks=named,
        high_risk=high_risk,
    )  # fmt: skip


def checks(**states: str) -> dict[str, Check]:
    return {name: Check(name, states.get(name, "passed"), "a reason.") for name in IDS}


def verdicts(rows):
    return {row["control_id"]: row["verdict"] for row in rows}


def test_the_table_names_checks_and_events_that_there_are():
    """Every control names known checks and event types, and its ids are unique."""
    controls = [(item.id, control) for item in frameworks() for control in item.control]
    ids = [(name, control.clause) for name, control in controls]
    named = {check for _, control in controls for check in control.checks}
    events = {event for _, control in controls for event in control.events}
    assert (len(ids), set(), set()) == (len(set(ids)), named - set(IDS), events - set(EVENT_TYPES))


def test_the_table_has_every_framework_that_the_option_takes():
    """The option's names are those of the table, in its order."""
    assert tuple(item.id for item in frameworks()) == FRAMEWORKS


def test_no_word_promises_more_than_evidence():
    """Neither "compliant" nor "certified" stands anywhere in the table."""
    text = repr(frameworks()).lower()
    assert [] == re.findall(r"complian\w*|certified|tamper-?proof|immutable|anonymous", text)


def test_organisational_controls_are_never_supported():
    """Even where everything passes, what a person has to show needs that person, with a list of what to attach."""
    rows = judge(scope("pci", "nist", "gdpr"), checks(), PLENTY, FULL, EARLY)
    human = [row for row in rows if row["kind"] == "organisational"]
    assert ({"needs_human"}, True) == ({row["verdict"] for row in human}, all(row["attach"] for row in human))


def test_technical_controls_are_supported_when_all_passes():
    """With every check passed and the period covered, technical controls are supported, mixed ones partly."""
    rows = judge(scope("pci", "asvs"), checks(), PLENTY, FULL, EARLY)
    by_kind = {kind: {row["verdict"] for row in rows if row["kind"] == kind} for kind in ("technical", "mixed")}
    assert {"technical": {"supported"}, "mixed": {"partly"}} == by_kind


def test_a_broken_log_supports_nothing_that_rests_on_integrity():
    """A failed S1 makes each control that names it not supported."""
    rows = judge(scope("pci", "nist"), checks(S1="failed"), PLENTY, FULL, EARLY)
    resting = {row["verdict"] for row in rows if "S1" in row["self_checks"]}
    assert {"not_supported"} == resting


def test_a_known_gap_makes_partly_and_is_printed():
    """Incomplete entries make a control that rests on them partly supported, and the reason says why."""
    rows = judge(scope("pci"), checks(S3="partly"), PLENTY, FULL, EARLY)
    row = next(row for row in rows if row["clause"] == "10.2.1.4")
    assert ("partly", ["S3 in part: a reason."]) == (row["verdict"], row["reasons"])


def test_completeness_is_asked_wherever_entries_are_the_evidence():
    """A control whose table row names events but not S3 rests on S3 all the same."""
    rows = judge(scope(), checks(), PLENTY, FULL, EARLY)
    assert all("S3" in row["self_checks"] for row in rows if row["event_classes"] and row["verdict"] != "out_of_scope")


def test_a_log_younger_than_the_period_covers_it_in_part():
    """A log that begins within the period supports nothing wholly."""
    rows = judge(scope("pci", "asvs"), checks(), PLENTY, FULL, "2026-10-20T00:00:00.000000Z")
    assert "supported" not in {row["verdict"] for row in rows}


@pytest.mark.parametrize(
    "clause,verdict",
    [("10.2.1.5", "not_supported"), ("10.2.1.4", "partly")],
)
def test_no_entry_is_no_evidence(clause, verdict):
    """Acts that somebody has to declare and nobody did are not supported; captured ones that never came are partly."""
    rows = judge(scope("pci"), checks(), {}, FULL, EARLY)
    assert verdict == next(row["verdict"] for row in rows if row["clause"] == clause)


def test_conditions_have_to_be_declared():
    """HIPAA, China, SEC and high-risk articles are out of scope unless they are named."""
    everything = verdicts(judge(scope(), checks(), PLENTY, FULL, EARLY))
    declared = verdicts(judge(scope("hipaa", "euai", high_risk=True), checks(), PLENTY, FULL, EARLY))
    assert ("out_of_scope", "out_of_scope", "out_of_scope", "supported", "supported") == (
        everything["hipaa:164.312(c)(1), (2)"],
        everything["euai:19"],
        everything["china:Cybersecurity Law"],
        declared["hipaa:164.312(c)(1), (2)"],
        declared["euai:19"],
    )


def test_article_50_is_always_looked_at():
    """Labelling duties need no declaration of high risk."""
    rows = verdicts(judge(scope("euai"), checks(), PLENTY, FULL, EARLY))
    assert ("needs_human", "needs_human") == (rows["euai:50(1), (3), (4)"], rows["euai:50(2)"])


@pytest.mark.parametrize(
    "named,least,by,hot",
    [
        (("pci", "soc2"), 400, "SOC 2 observation window", 90),
        (("pci", "hipaa"), 2190, "HIPAA Security Rule 164.316(b)(2)(i)", 90),
        (("sec", "hipaa"), 2192, "SEC 17a-4(f) 17a-4(a), (b)", 731),
        (("gdpr", "iso27001"), None, None, None),
        ((), 400, "SOC 2 observation window", 90),
    ],
)
def test_the_strictest_period_wins_and_is_named(named, least, by, hot):
    """Of all periods in force the longest counts; conditions that nobody declared count nothing."""
    found = strictest(scope(*named))
    assert (least, by, hot) == (found["min_days"], found["min_days_by"], found["hot_days"])


def test_fields_are_judged_as_the_control_names_them():
    """A control that needs the actor only does not suffer from missing origins."""
    coverage = {"entries": 10, "share": {**FULL["share"], "origin": 0.5}}
    states = {fields: field_check(coverage, fields).state for fields in ((), ("actor_id",), ("origin",))}
    assert {(): "partly", ("actor_id",): "passed", ("origin",): "partly"} == states


@pytest.mark.parametrize("share,words", [(0.9997, "99.9 %"), (0.5, "50 %"), (0.0, "0 %"), (0.00004, "0 %")])
def test_nearly_all_is_not_all(share, words):
    """A share is cut, never rounded up to 100 %."""
    check = field_check({"entries": 10, "share": {"origin": share}}, ())
    assert (f"Origin in {words} of entries.", "failed" if share == 0 else "partly") == (check.words, check.state)


def test_every_combination_of_states_has_a_verdict():
    """Whatever the checks say, each control gets exactly one of the five verdicts and a reason."""
    for states in itertools.product(("passed", "partly", "failed", "not_configured", "not_checked"), repeat=2):
        rows = judge(scope(), checks(S1=states[0], S3=states[1]), PLENTY, FULL, EARLY)
        assert len(rows) == sum(count(rows).values())
        assert all(row["verdict"] in VERDICTS and row["reasons"] for row in rows)


def test_names_of_frameworks_are_read_leniently():
    """Commas, case, blanks, repeats and common other names are understood; the order is the report's."""
    assert ("pci", "iso27001", "euai") == read_frameworks(["ISO, pci", "EU-AI-Act", "pci"])


def test_unknown_frameworks_are_refused():
    """A name that is none is a usage error that lists those there are."""
    with pytest.raises(UsageError) as caught:
        read_frameworks(["soc3"])
    assert "soc2" in caught.value.do
