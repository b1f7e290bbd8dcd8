"""The numbers of a report against a plain recount of the stored lines."""

from __future__ import annotations

import json
from collections import Counter
from decimal import Decimal

import pytest

from klingai_audit.errors import UsageError
from klingai_audit.report import build
from tests.support.reportlog import PEOPLE, Team
from tests.unit.report.conftest import UNTIL, opened

END = ("_generation_completed", "_generation_failed")


@pytest.fixture(scope="module")
def lines(small):
    """Every stored entry, as JSON."""
    return [json.loads(line) for path in sorted(small.glob("*.jsonl")) for line in path.read_bytes().splitlines()]


@pytest.fixture(scope="module")
def facts(report):
    """The report as JSON values."""
    return report.to_json()


@pytest.fixture(scope="module")
def counted(lines, facts):
    """The entries that the report is about: those below its size."""
    return lines[: facts["log"]["tree_size"]]


def is_act(entry):
    own = entry["event_type"].startswith(("log_", "signing_", "report_"))
    return not own and entry.get("metadata", {}).get("phase") != "intent"


def test_the_members_that_the_recipes_know_are_there(facts, counted):
    """Period, totals, types, actors, first and last stand at the top and are those of a recount."""
    times = sorted(entry["timestamp"] for entry in counted)
    assert {
        "period_days": 10,
        "total_events": len(counted),
        "event_types": dict(Counter(entry["event_type"] for entry in counted)),
        "unique_actors": len({entry["actor_id"] for entry in counted}),
        "actors": dict(Counter(entry["actor_id"] for entry in counted)),
        "first_event": times[0],
        "last_event": times[-1],
    } == {name: facts[name] for name in (
        "period_days", "total_events", "event_types", "unique_actors", "actors", "first_event", "last_event"
    )}  # fmt: skip


def test_outcomes_are_those_of_acts(facts, counted):
    """Announcements and the log's own entries are no outcomes."""
    acts = [entry for entry in counted if is_act(entry)]
    found = Counter(entry["outcome"] for entry in acts)
    assert (len(acts), {name: found[name] for name in ("success", "failure", "blocked", "unknown")}) == (
        facts["totals"]["acts"],
        facts["totals"]["outcomes"],
    )


def test_the_time_line_adds_up_to_the_acts(facts):
    """Every act stands on its day, and days without one are there."""
    series = facts["activity"]["series"]
    total = sum(point[name] for point in series for name in ("success", "failure", "blocked", "unknown"))
    assert ("day", 11, facts["totals"]["acts"]) == (facts["activity"]["step"], len(series), total)


def test_charges_are_exact_and_never_added_across_units(facts):
    """Units and cash stand apart; what went well without a charge is open, not 0."""
    costs = facts["costs"]
    assert ({"USD": "0.35", "video units": "6.25"}, 3, 1) == (costs["totals"], costs["charged"], costs["open"])


def test_charges_by_team_are_those_of_a_recount(facts, counted):
    """The sum of each team and unit is that of the ends of its tasks."""
    expected: dict[tuple[str, str], Decimal] = {}
    for entry in counted:
        for charge in entry.get("metadata", {}).get("charge", []) if entry["event_type"].endswith(END) else []:
            unit = f"{charge['package_type']} units" if charge["charge_type"] == "unit" else charge["currency"]
            key = (entry["team"], unit)
            expected[key] = expected.get(key, Decimal(0)) + Decimal(charge["amount"])
    found = {
        (row["team"], unit): Decimal(amount)
        for row in facts["costs"]["by_team"]
        for unit, amount in row["charges"].items()
    }
    assert expected == found


def test_models_count_how_tasks_ended(facts):
    """Succeeded and failed ends by model."""
    found = {row["model"]: (row["succeeded"], row["failed"]) for row in facts["models"]["by_model"]}
    assert {"kling-3.0-turbo": (2, 0), "kling-v2-master": (2, 0), "kling-image-3": (0, 1)} == found


def test_open_ends_are_listed_by_entry(facts, counted):
    """A task without an end and an act without an outcome are named by their entries."""
    ended = {entry["resource_id"] for entry in counted if entry["event_type"].endswith(END)}
    begun = [
        entry["seq"]
        for entry in counted
        if entry["event_type"].endswith("_started") and entry["resource_id"] not in ended
    ]
    answered = {entry.get("metadata", {}).get("intent") for entry in counted}
    intents = [
        entry["seq"]
        for entry in counted
        if entry.get("metadata", {}).get("phase") == "intent" and entry["event_id"] not in answered
    ]
    tasks = facts["tasks"]
    assert (begun, intents, 1, 1) == (
        [row["seq"] for row in tasks["tasks"]],
        [row["seq"] for row in tasks["intents"]],
        tasks["open"],
        tasks["overdue"],
    )


def test_orders_that_nobody_knows_about_are_listed(tmp_path):
    """An order whose answer was lost is named; one whose task turned up later is not."""
    team = Team(tmp_path)
    team.generation(PEOPLE[0], "kling-3.0-turbo", "lost")
    team.generation(PEOPLE[0], "kling-3.0-turbo", "lost")
    first, found = team.audit.query(event_type="video_generation_started")
    team.put("video_generation_started", PEOPLE[0], resource_type="video", resource_id="831", action="find_task",
             correlation_id=found.correlation_id)  # fmt: skip
    tasks = build(team.audit, days=10, until=UNTIL).to_json()["tasks"]
    team.close()
    assert (1, [first.seq]) == (tasks["unknown"], [row["seq"] for row in tasks["unknown_orders"]])


def test_people_are_masks_beside_pseudonyms(facts):
    """No raw id is in the report; whoever has a mask is found by the pseudonym."""
    text = json.dumps(facts)
    shown = {row["actor"] for row in facts["totals"]["by_actor"]}
    assert ("us***@example.com" in shown, "user@example.com" in text, "a lake" in text) == (True, False, False)


def test_every_question_states_population_and_tree_size(facts):
    """Each number's question says what it looked at, and can be asked again as it stands."""
    size = facts["log"]["tree_size"]
    assert all(
        query["tree_size"] == size and query["population"] == size and f"seq < {size}" in query["sql"]
        for query in facts["queries"]
    )


def test_printed_questions_can_be_asked_again(small, facts):
    """The sandbox for users' SQL answers every printed question with as many rows as the report saw."""
    with opened(small) as audit:
        for query in facts["queries"][:4]:
            assert query["rows"] == len(audit.sql(query["sql"]).rows), query["id"]


def test_a_later_report_at_the_same_size_is_the_same(small, report):
    """After more entries, the same period at the same size gives the same JSON and CSV bytes."""
    before = {form: report.render(form).data for form in ("json", "csv")}
    with opened(small) as audit:
        audit.log("x_more", "user@example.com", "thing", "do").wait("published")
        again = build(audit, days=10, until=UNTIL, at=report.scope.size)
        longer = build(audit, days=3650, until=UNTIL)
    after = {form: again.render(form).data for form in ("json", "csv")}
    assert (before, True) == (after, longer.scope.size > report.scope.size)


def test_what_depends_on_the_machine_stands_apart(small, report):
    """Without a size the report has a section about this machine, and the digest of the rest."""
    with opened(small) as audit:
        made = build(audit, days=10, until=UNTIL)
    rendered = made.render("json", recorded=True)
    whole = json.loads(rendered.data)
    machine = whole.pop("this_machine")
    assert (rendered.digest, True, "keys folder", False) == (
        machine["sha256_without_this_section"],
        machine["recorded"],
        machine["key_source"],
        "this_machine" in report.to_json(),
    )


def test_a_saved_report_becomes_an_entry(small, tmp_path):
    """The process that holds the writer records who saved which report, and the file says so."""
    with opened(small) as audit:
        made = build(audit, days=10, until=UNTIL, by="auditor@example.com")
        digest = made.save(tmp_path / "r.json")
        entry = next(iter(audit.query(event_type="report_generated", reverse=True, limit=1)))
    machine = json.loads((tmp_path / "r.json").read_bytes())["this_machine"]
    assert (digest, digest, True, "auditor@example.com", made.scope.size) == (
        entry.metadata["sha256"],
        machine["sha256_without_this_section"],
        machine["recorded"],
        entry.actor("id"),
        entry.metadata["tree_size"],
    )


@pytest.mark.parametrize(
    "wrong",
    [{"days": 0}, {"days": 40_000}, {"until": "soon"}, {"at": 10**9}, {"at": -1}, {"frameworks": ["iso9001"]}],
)
def test_what_cannot_be_is_a_usage_error(small, wrong):
    """A bad period, time, size or framework is refused in a sentence."""
    with opened(small) as audit, pytest.raises(UsageError):
        build(audit, **wrong)


def test_nothing_before_the_first_entry(small):
    """At size 0 the report says that the log is empty; nothing passes by default."""
    with opened(small) as audit:
        made = build(audit, days=10, until=UNTIL, at=0)
    facts = made.to_json()
    states = {check["state"] for check in facts["checks"]}
    assert (0, {}, None, 0) == (
        facts["total_events"],
        facts["event_types"],
        facts["first_event"],
        facts["controls_by_verdict"]["supported"],
    )
    assert "passed" not in states
