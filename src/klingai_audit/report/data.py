"""Every number of a report about what was done: asked of the index here and nowhere else.

Events are counted once (equal ids are folded) by the time at which they happened. Intents are no acts yet: they count
as events, but not among outcomes. Counts of the log's own entries stand apart.
"""

from __future__ import annotations

import datetime as dt
from collections import Counter
from decimal import Decimal
from typing import Any, Final

from klingai_audit.event.types import END_TYPES, EVENT_TYPES
from klingai_audit.report.ask import Asker, iso, named, quoted
from klingai_audit.report.scope import Scope
from klingai_audit.views.entry import People

__all__ = [
    "LATEST",
    "OUTCOMES",
    "activity",
    "administration",
    "by_name",
    "costs",
    "models",
    "opened",
    "security",
    "shown",
    "totals",
]

OUTCOMES: Final = ("success", "failure", "blocked", "unknown")
"""Outcomes in the order of the report."""

LATEST: Final = 20
"""How many single entries a section lists."""

_ACT: Final = "phase IS DISTINCT FROM 'intent' AND category <> 'log'"
_ENDS: Final = quoted(END_TYPES)
_WELL: Final = quoted(name for name in END_TYPES if name.endswith("_completed"))
_REFUSED: Final = ("access_denied", "policy_violation", "rate_limit_exceeded")
_STARTED: Final = (*(name for name in EVENT_TYPES if name.endswith("_generation_started")), "task_submitted")
_SECURITY: Final = (*_REFUSED, "suspicious_activity", "verification_failed", "auth_event")
_ADMIN: Final = (
    *("user_added", "user_removed", "budget_modified", "policy_updated", "settings_changed", "api_key_rotated"),
    *("subject_erased", "legal_hold_set", "legal_hold_released", "log_imported"),
)
_LONG: Final = {"hour": 2, "day": 120, "week": 800}
"""Steps of the time line: each up to so many days, then months."""


def totals(ask: Asker) -> dict[str, Any]:
    """Count the period as a whole, by type and by actor."""
    (events, acts, own, first, last), *_ = ask.ask(
        "Q1",
        "events of the period, acts among them, entries of the log about itself, first and last",
        f"SELECT count(*), count(*) FILTER ({_ACT}), count(*) FILTER (category = 'log'), min(timestamp), "
        "max(timestamp) "
        "{period}",
        "period",
    )
    columns = ", ".join(f"count(*) FILTER ({_ACT} AND outcome = '{name}')" for name in OUTCOMES)
    types = ask.ask(
        "Q2",
        "events by type, with the outcomes of acts",
        f"SELECT event_type, any_value(category), count(*), {columns} {{period}} GROUP BY event_type ORDER BY "
        "3 DESC, 1",
        "period",
    )
    actors = ask.ask(
        "Q3",
        "events by actor, with the outcomes of acts",
        f"SELECT actor_id, any_value(actor_type ORDER BY seq), count(*), {columns}, min(timestamp), max(timestamp) "
        "{period} GROUP BY actor_id ORDER BY 3 DESC, 1",
        "period",
    )
    names = ("events", *OUTCOMES)
    return {
        "events": events,
        "acts": acts,
        "own": own,
        "first": iso(first),
        "last": iso(last),
        "outcomes": {name: sum(row[3 + i] for row in types) for i, name in enumerate(OUTCOMES)},
        "by_type": named(("event_type", "category", *names), types),
        "by_actor": named(("actor_id", "actor_type", *names, "first", "last"), actors),
    }


def activity(ask: Asker, scope: Scope) -> dict[str, Any]:
    """Count acts over time, by outcome; empty steps are filled."""
    step = next((name for name, most in _LONG.items() if scope.days <= most), "month")
    rows = ask.ask(
        "Q4",
        f"acts per {step} and outcome",
        f"SELECT date_trunc('{step}', timestamp) AS step, outcome, count(*) {{period}} AND {_ACT} GROUP BY ALL "
        "ORDER BY 1, 2",
        "period",
    )
    found = {(_aware(moment), outcome): count for moment, outcome, count in rows}
    series = [
        {"from": moment.strftime("%Y-%m-%dT%H:%M:%SZ"), **{name: found.get((moment, name), 0) for name in OUTCOMES}}
        for moment in _steps(step, scope)
    ]
    return {"step": step, "series": series}


def _aware(moment: dt.datetime | dt.date) -> dt.datetime:
    return dt.datetime(*moment.timetuple()[:5], tzinfo=dt.UTC)


def _steps(step: str, scope: Scope) -> list[dt.datetime]:
    """Return the beginnings of all steps that the period touches."""
    moment = _floor(step, scope.since)
    found = []
    while moment < scope.until:
        found.append(moment)
        try:
            moment = _floor(step, moment + {"hour": dt.timedelta(hours=1), "day": dt.timedelta(days=1)}.get(
                step, dt.timedelta(days=7 if step == "week" else 32)
            ))  # fmt: skip
        except OverflowError:
            break
    return found


def _floor(step: str, moment: dt.datetime) -> dt.datetime:
    moment = moment.replace(minute=0, second=0, microsecond=0)
    if step == "hour":
        return moment
    moment = moment.replace(hour=0)
    if step == "week":
        return moment - dt.timedelta(days=min(moment.weekday(), (moment - _first_day()).days))
    return moment.replace(day=1) if step == "month" else moment


def _first_day() -> dt.datetime:
    return dt.datetime.min.replace(tzinfo=dt.UTC)


def models(ask: Asker) -> dict[str, Any]:
    """Count generations that ended, by model, and what was refused before it began."""
    rows = ask.ask(
        "Q5",
        "ends of tasks by model",
        f"SELECT model, count(*) FILTER (outcome = 'success'), count(*) FILTER (outcome <> 'success') {{period}} "
        f"AND event_type IN {_ENDS} AND phase IS NULL GROUP BY model ORDER BY 2 DESC, 3 DESC, 1",
        "period",
    )
    return {
        "by_model": named(("model", "succeeded", "failed"), rows),
        "succeeded": sum(row[1] for row in rows),
        "failed": sum(row[2] for row in rows),
    }


def costs(ask: Asker) -> dict[str, Any]:
    """Add up what the ends of tasks state to have been charged: each unit for itself, exactly.

    `open` counts ends that went well and state no charge: unknown, not 0.
    """
    ended = f"{{period}} AND event_type IN {_ENDS} AND phase IS NULL"
    tasks = ask.ask(
        "Q6",
        "ended tasks by team and model, those that state a charge, and those that went well and state none",
        "SELECT team, model, count(*), count(*) FILTER (charges IS NOT NULL), "
        f"count(*) FILTER (charges IS NULL AND outcome = 'success') {ended} GROUP BY ALL ORDER BY ALL",
        "period",
    )
    charges = ask.ask(
        "Q7",
        "charges as the ends of tasks state them, by team, model and unit",
        "SELECT team, model, x.unit, sum(x.amount) FROM "  # noqa: S608  names of ours
        f"(SELECT team, model, unnest(charges) AS x {ended}) GROUP BY ALL ORDER BY ALL",
        "period",
    )
    sums: dict[str, Decimal] = {}
    groups: dict[str, dict[str | None, dict[str, Any]]] = {"team": {}, "model": {}}
    for team, model, count, _, unknown in tasks:
        for by, name in (("team", team), ("model", model)):
            group = groups[by].setdefault(name, {"tasks": 0, "open": 0, "charges": {}})
            group["tasks"] += count
            group["open"] += unknown
    for team, model, unit, amount in charges:
        sums[unit] = sums.get(unit, Decimal(0)) + amount
        for by, name in (("team", team), ("model", model)):
            stated = groups[by][name]["charges"]
            stated[unit] = stated.get(unit, Decimal(0)) + amount
    return {
        "units": sorted(sums),
        "totals": {unit: _plain(sums[unit]) for unit in sorted(sums)},
        "charged": sum(row[3] for row in tasks),
        "open": sum(row[4] for row in tasks),
        **{f"by_{by}": _charged(by, groups[by]) for by in groups},
    }


def _charged(by: str, groups: dict[str | None, dict[str, Any]]) -> list[dict[str, Any]]:
    order = sorted(groups.items(), key=lambda item: (-item[1]["tasks"], item[0] is None, item[0] or ""))
    return [
        {by: name, **group, "charges": {unit: _plain(group["charges"][unit]) for unit in sorted(group["charges"])}}
        for name, group in order
    ]


def _plain(amount: Decimal) -> str:
    text = format(amount, "f")
    return text.rstrip("0").rstrip(".") if "." in text else text


def security(ask: Asker, people: People, scope: Scope) -> dict[str, Any]:
    """Count refusals, suspicions and failed logons, and list the newest."""
    bad = f"event_type IN {quoted(_SECURITY)} AND (event_type <> 'auth_event' OR outcome <> 'success')"
    counts = ask.ask(
        "Q8",
        "security events by type",
        f"SELECT event_type, count(*), count(DISTINCT actor_id), max(timestamp) {{period}} AND {bad} GROUP BY "
        "event_type "
        "ORDER BY 2 DESC, 1",
        "period",
    )
    latest = ask.ask(
        "Q9",
        f"the newest {LATEST} security events",
        "SELECT seq, timestamp, event_type, actor_id, action, coalesce(code, "
        f"json_extract_string(metadata, '$.rule')) {{period}} AND {bad} ORDER BY seq DESC LIMIT {LATEST}",
        "period",
    )
    return {
        "total": sum(row[1] for row in counts),
        "by_type": named(("event_type", "events", "actors", "last"), counts),
        "latest": shown(
            named(("seq", "timestamp", "event_type", "actor_id", "action", "detail"), latest), people, scope
        ),
    }


def opened(ask: Asker, people: People, scope: Scope) -> dict[str, Any]:
    """List tasks without an end and acts without an outcome, over the whole log up to the end of the period."""
    tasks = ask.ask(
        "Q10",
        "tasks that began and did not end",
        "WITH begun AS (SELECT task_id, min(seq) AS seq, min(timestamp) AS timestamp, "  # noqa: S608  names of ours
        "min_by(actor_id, seq) AS actor_id, min_by(model, seq) AS model {log} "
        f"AND event_type IN {quoted(_STARTED)} AND phase IS NULL AND task_id IS NOT NULL GROUP BY task_id), "
        f"ended AS (SELECT DISTINCT task_id {{log}} AND event_type IN {_ENDS} AND task_id IS NOT NULL "
        "AND phase IS NULL) "
        "SELECT seq, timestamp, task_id, actor_id, model FROM begun ANTI JOIN ended USING (task_id) ORDER BY seq",
        "log",
    )
    intents = ask.ask(
        "Q11",
        "announced acts without an outcome",
        "WITH intents AS (SELECT seq, timestamp, event_id, correlation_id, event_type, action, actor_id, "
        "coalesce(TRY_CAST(json_extract_string(metadata, '$.deadline_s') AS DOUBLE), 0) AS deadline_s {log} "
        "AND phase = 'intent'), later AS (SELECT seq, correlation_id, event_type, "
        "json_extract_string(metadata, '$.intent') AS intent {log} AND phase IS NULL AND category <> 'log'), "
        "caused AS (SELECT correlation_id, max(seq) AS seq FROM later WHERE intent IS NULL "
        "AND event_type <> 'api_key_used' AND correlation_id IS NOT NULL GROUP BY correlation_id) "
        "SELECT i.seq, i.timestamp, i.event_type, i.action, i.actor_id, i.deadline_s FROM intents i "
        "LEFT JOIN (SELECT DISTINCT intent FROM later WHERE intent IS NOT NULL) l ON l.intent = i.event_id "
        "LEFT JOIN caused c ON c.correlation_id = i.correlation_id AND c.seq > i.seq "
        "WHERE l.intent IS NULL AND c.seq IS NULL ORDER BY i.seq",
        "log",
    )
    twice = ask.ask(
        "Q12",
        "tasks with two different ends",
        f"SELECT task_id, min(seq), max(seq) {{log}} AND event_type IN {_ENDS} AND phase IS NULL AND task_id "
        "IS NOT NULL "
        "AND substr(CAST(event_id AS VARCHAR), 15, 1) = '8' GROUP BY task_id HAVING count(DISTINCT event_id) > "
        "1 ORDER BY 2",
        "log",
    )
    lost = ask.ask(
        "Q28",
        "orders of which nobody knows whether they were accepted",
        f"WITH lost AS (SELECT seq, timestamp, action, actor_id, model, correlation_id {{log}} "  # noqa: S608  names of ours
        f"AND event_type IN {quoted(_STARTED)} AND phase IS NULL AND outcome = 'unknown' AND task_id IS NULL), "
        "known AS (SELECT DISTINCT correlation_id {log} AND task_id IS NOT NULL AND correlation_id IS NOT NULL) "
        "SELECT seq, timestamp, action, actor_id, model FROM lost ANTI JOIN known USING (correlation_id) ORDER BY seq",
        "log",
    )
    waiting = named(("seq", "timestamp", "event_type", "action", "actor_id", "deadline_s"), intents)
    for intent, row in zip(waiting, intents, strict=True):
        intent["overdue"] = _overdue(row[1], row[5], scope.until)
    return {
        "open": len(tasks),
        "overdue": sum(intent["overdue"] for intent in waiting),
        "pending": sum(not intent["overdue"] for intent in waiting),
        "two_ends": len(twice),
        "unknown": len(lost),
        "tasks": shown(named(("seq", "timestamp", "task_id", "actor_id", "model"), tasks), people, scope),
        "unknown_orders": shown(named(("seq", "timestamp", "action", "actor_id", "model"), lost), people, scope),
        "intents": shown(waiting, people, scope),
        "ended_twice": named(("task_id", "first_seq", "last_seq"), twice),
    }


def _overdue(moment: dt.datetime, seconds: float, until: dt.datetime) -> bool:
    try:
        return moment.replace(tzinfo=dt.UTC) + dt.timedelta(seconds=seconds) < until
    except OverflowError:
        return seconds < 0


def administration(ask: Asker, people: People, scope: Scope) -> dict[str, Any]:
    """Count administrative acts and list the newest."""
    kinds = quoted(_ADMIN)
    counts = ask.ask(
        "Q13",
        "administrative acts by type",
        f"SELECT event_type, count(*), max(timestamp) {{period}} AND event_type IN {kinds} GROUP BY event_type "
        "ORDER BY 2 DESC, 1",
        "period",
    )
    latest = ask.ask(
        "Q14",
        f"the newest {LATEST} administrative acts",
        "SELECT seq, timestamp, event_type, actor_id, resource_type, resource_id, action {period} "
        f"AND event_type IN {kinds} ORDER BY seq DESC LIMIT {LATEST}",
        "period",
    )
    names = ("seq", "timestamp", "event_type", "actor_id", "resource_type", "resource_id", "action")
    rows = shown(named(names, latest), people, scope)
    for row in rows:
        if row["resource_type"] == "user" and scope.people == "mask" and row["resource_id"]:
            row["resource_id"] = people.mask(row["resource_id"])
    return {
        "total": sum(row[1] for row in counts),
        "by_type": named(("event_type", "events", "last"), counts),
        "latest": rows,
    }


def shown(rows: list[dict[str, Any]], people: People, scope: Scope) -> list[dict[str, Any]]:
    """Add `actor`, the mask of `actor_id` or the pseudonym itself, to every row."""
    for row in rows:
        stored = row["actor_id"]
        row["actor"] = stored if stored is None or scope.people == "pseudonym" else people.mask(stored)
    return rows


def by_name(rows: list[dict[str, Any]]) -> dict[str, int]:
    """Return event type → events of `totals`."""
    return Counter({row["event_type"]: row["events"] for row in rows})
