"""Sections about what was done: integrity, activity, models, costs, security, open ends."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from klingai_audit.report import charts
from klingai_audit.report.blocks import MAX_ROWS, Block, Cell, Section, cell, chart, moment, note, number, shown, table
from klingai_audit.report.data import OUTCOMES

__all__ = ["make_sections", "source_of", "time_line"]

_BARS: Final = 10
_STATES: Final[dict[str, Cell]] = {
    "ruled_out": Cell("ruled out", "good"),
    "detected": Cell("detected", "bad"),
    "not_ruled_out": Cell("not ruled out", "warn"),
    "not_checked": Cell("not checked", "dim"),
}


def make_sections(data: Mapping[str, Any]) -> list[Section]:
    """Return the sections in their order."""
    return [_integrity(data), _activity(data), _models(data), _costs(data), _security(data), _tasks(data)]


def source_of(data: Mapping[str, Any], *ids: str) -> str:
    """Return what stands under a table: its questions, with population and tree size."""
    wanted = [query for query in data["queries"] if query["id"] in ids]
    names = ", ".join(query["id"] for query in wanted)
    populations = dict.fromkeys(f"{query['population']:,}" for query in wanted)
    return f"{names} · population {' and '.join(populations)} · tree size {data['log']['tree_size']:,}"


def _integrity(data: Mapping[str, Any]) -> Section:
    integrity = data["integrity"]
    threats = [
        [shown(threat["words"]), _STATES[threat["state"]], shown(threat["by"], 240)] for threat in integrity["threats"]
    ]
    parts: list[Block] = []
    if integrity["broken"]:
        rows = [
            [cell(finding["kind"], "bad"), _place(finding), shown(finding["message"], 240)]
            for finding in integrity["broken"][:MAX_ROWS]
        ]
        total = sum(integrity["broken_by_kind"].values())
        parts.append(table("Findings", ["Kind", "Place", "What was found"], rows, total=total))
    parts.append(
        table(
            "What somebody could have done, and whether it shows",
            ["Threat", "State", "By what"],
            threats,
            source=f"verification of the whole log · tree size {data['log']['tree_size']:,}",
        )
    )
    silences = integrity["silences"]
    if silences:
        rows = [[number(item["seq"]), shown(item["message"], 240)] for item in silences[:MAX_ROWS]]
        parts.append(table("Silences with a writer open", ["Entry>", "What was found"], rows, total=len(silences)))
    lead = (
        f"{integrity['words']} Which key "
        "was trusted, and which earlier state this machine remembers, stands in the last section where it is "
        "part of the report."
    )
    return Section("integrity", "Integrity", lead, parts)


def _place(finding: Mapping[str, Any]) -> str:
    seq, end = finding["seq"], finding["seq_end"]
    parts = []
    if seq is not None:
        parts.append(f"seq {seq}" if end is None or end <= seq + 1 else f"seq {seq}–{end - 1}")
    if finding["file"]:
        parts.append(shown(finding["file"], 40) + (f":{finding['line']}" if finding["line"] else ""))
    return ", ".join(parts) or "the log"


def _activity(data: Mapping[str, Any]) -> Section:
    totals = data["totals"]
    if not totals["events"]:
        return Section("activity", "Activity", "No event in the period.")
    counted = ", ".join(f"{number(totals['outcomes'][name])} {name}" for name in OUTCOMES if totals["outcomes"][name])
    lead = (
        f"{number(totals['events'])} events, of which {number(totals['acts'])} are acts ({counted or 'none'}), "
        f"{number(totals['own'])} entries of the log about itself, and the rest announcements of acts. "
        f"First {moment(totals['first'])}, last {moment(totals['last'])} UTC."
    )
    acts = [(row, sum(row[name] for name in OUTCOMES)) for row in totals["by_type"] if row["category"] != "log"]
    acts = [(row, count) for row, count in acts if count]
    people = [row for row in totals["by_actor"] if sum(row[name] for name in OUTCOMES)]
    types = charts.bars(
        "typ",
        [(shown(row["event_type"], 34), count) for row, count in sorted(acts, key=lambda item: -item[1])[:_BARS]],
        f"Acts by type, the {min(_BARS, len(acts))} most frequent of {len(acts)}.",
    )
    who = charts.stacked(
        "act",
        [(shown(row["actor"], 30), row) for row in people[:_BARS]],
        OUTCOMES,
        f"Acts by actor and outcome, the {min(_BARS, len(people))} most active of {len(people)}.",
    )
    parts: list[Block] = []
    if acts:
        parts += [chart("Acts by type", types, source=source_of(data, "Q2"))]
    if people:
        parts += [chart("Acts by actor", who, source=source_of(data, "Q3"))]
    parts += [_by_type(data), _by_actor(data)]
    return Section("activity", "Activity", lead, parts)


def time_line(data: Mapping[str, Any]) -> Block | None:
    """Return the chart of acts over time, which stands in the summary; None without an act."""
    totals, activity = data["totals"], data["activity"]
    if not totals["acts"]:
        return None
    counted = ", ".join(f"{number(totals['outcomes'][name])} {name}" for name in OUTCOMES if totals["outcomes"][name])
    drawn = charts.time_line("tim", activity, f"Acts per {activity['step']}, by outcome: {counted}.")
    return chart(f"Acts per {activity['step']}", drawn, source=source_of(data, "Q4"), half=False)


def _by_type(data: Mapping[str, Any]) -> Block:
    rows = data["totals"]["by_type"]
    return table(
        "Events by type",
        ["Type", "Category", "Events>", "Success>", "Failure>", "Blocked>", "Unknown>"],
        [
            [cell(row["event_type"]), cell(row["category"], "dim"), number(row["events"]), *_outcomes(row)]
            for row in rows[:MAX_ROWS]
        ],
        source=source_of(data, "Q2"),
        total=len(rows),
    )


def _by_actor(data: Mapping[str, Any]) -> Block:
    rows = data["totals"]["by_actor"]
    return table(
        "Events by actor",
        ["Actor", "Pseudonym", "Events>", "Success>", "Failure>", "Blocked>", "Unknown>", "Last (UTC)"],
        [
            [
                cell(row["actor"]),
                Cell(shown(row["actor_id"], 14), "dim", mono=True),
                number(row["events"]),
                *_outcomes(row),
                moment(row["last"], seconds=False),
            ]
            for row in rows[:MAX_ROWS]
        ],
        source=source_of(data, "Q3"),
        total=len(rows),
    )


def _outcomes(row: Mapping[str, int]) -> list[str]:
    return [number(row[name]) if row[name] else "·" for name in OUTCOMES]


def _models(data: Mapping[str, Any]) -> Section:
    models = data["models"]
    rows = models["by_model"]
    if not rows:
        return Section("models", "Generations by model", "No task ended in the period.")
    ended = models["succeeded"] + models["failed"]
    lead = f"{number(ended)} tasks ended in the period, {number(models['succeeded'])} of them well."
    drawn = charts.stacked(
        "mod",
        [(shown(row["model"], 30), {"success": row["succeeded"], "failure": row["failed"]}) for row in rows[:_BARS]],
        ("success", "failure"),
        f"Ended tasks by model, the {min(_BARS, len(rows))} most used of {len(rows)}.",
    )
    listed = table(
        "Ended tasks by model",
        ["Model", "Succeeded>", "Failed>", "Share well>"],
        [
            [
                cell(row["model"] or "not stated"),
                number(row["succeeded"]),
                number(row["failed"]),
                f"{100 * row['succeeded'] / max(1, row['succeeded'] + row['failed']):.1f} %",
            ]
            for row in rows[:MAX_ROWS]
        ],
        source=source_of(data, "Q5"),
        total=len(rows),
    )
    return Section(
        "models", "Generations by model", lead, [chart("Ended tasks", drawn, source=source_of(data, "Q5")), listed]
    )


def _costs(data: Mapping[str, Any]) -> Section:
    costs = data["costs"]
    units: Sequence[str] = costs["units"]
    unknown = costs["open"]
    lead = (
        "Pack units of different types are worth different money, so each type stands for itself and is never added to "
        f"another or to cash. {number(costs['charged'])} ended tasks state a charge; {number(unknown)} ended "
        "well and state "
        "none: they are counted as open, not as 0."
    )
    if not units:
        return Section("costs", "Cost", lead, [])
    source = source_of(data, "Q6", "Q7")
    parts = [_charges(f"Charges by {by}", by, costs[f"by_{by}"], units, source) for by in ("team", "model")]
    totals = table(
        "Charges in the period",
        ["Unit", "Charged>"],
        [[cell(unit), number(costs["totals"][unit])] for unit in units]
        + [[cell("open (tasks)", "warn"), number(unknown)]],
        source=source,
    )
    return Section("costs", "Cost", lead, [totals, *parts])


def _charges(title: str, by: str, rows: Sequence[Mapping[str, Any]], units: Sequence[str], source: str) -> Block:
    columns = units[:4]
    if len(units) > len(columns):
        source += f" · {len(units) - len(columns):,} more units in the JSON and CSV forms"
    return table(
        title,
        [by.capitalize(), "Tasks>", *(f"{shown(unit, 20)}>" for unit in columns), "Open>"],
        [
            [
                cell(row[by] or "not stated"),
                number(row["tasks"]),
                *(number(row["charges"].get(unit)) if unit in row["charges"] else "·" for unit in columns),
                number(row["open"]) if row["open"] else "·",
            ]
            for row in rows[:MAX_ROWS]
        ],
        source=source,
        total=len(rows),
    )


def _security(data: Mapping[str, Any]) -> Section:
    found = data["security"]
    lead = (
        f"{number(found['total'])} refusals, rate limits, violations, suspicions and failed checks."
        if found["total"]
        else "No refusal, rate limit, violation, suspicion or failed check in the period."
    )
    counts = table(
        "By type",
        ["Type", "Events>", "Actors>", "Last (UTC)"],
        [
            [cell(row["event_type"]), number(row["events"]), number(row["actors"]), moment(row["last"])]
            for row in found["by_type"]
        ],
        source=source_of(data, "Q8"),
    )
    latest = table(
        "Newest",
        ["Entry>", "Time (UTC)", "Type", "Actor", "Action", "Code or rule"],
        [
            [
                number(row["seq"]), moment(row["timestamp"]), cell(row["event_type"]), cell(row["actor"]),
                cell(row["action"]), shown(row["detail"], 40),
            ]
            for row in found["latest"]
        ],
        source=source_of(data, "Q9"),
        total=found["total"],
    )  # fmt: skip
    return Section("security", "Security events", lead, [counts, latest] if found["total"] else [])


def _tasks(data: Mapping[str, Any]) -> Section:
    tasks = data["tasks"]
    waiting = [row for row in tasks["intents"] if row["overdue"]]
    lead = (
        f"Over the whole log up to the end of the period: {number(tasks['open'])} tasks have no end, "
        f"{number(tasks['overdue'])} "
        f"announced acts have no outcome although it was due, {number(tasks['pending'])} are not due yet."
    )
    parts = [
        table(
            "Tasks without an end",
            ["Entry>", "Began (UTC)", "Task", "Model", "Actor"],
            [
                [number(row["seq"]), moment(row["timestamp"]), Cell(shown(row["task_id"], 40), mono=True),
                 cell(row["model"]),
                 cell(row["actor"])]
                for row in tasks["tasks"][:MAX_ROWS]
            ],
            source=source_of(data, "Q10"),
            total=tasks["open"],
        ),
        table(
            "Announced acts without an outcome",
            ["Entry>", "Announced (UTC)", "Type", "Action", "Actor"],
            [
                [number(row["seq"]), moment(row["timestamp"]), cell(row["event_type"]), cell(row["action"]),
                 cell(row["actor"])]
                for row in waiting[:MAX_ROWS]
            ],
            source=source_of(data, "Q11"),
            total=tasks["overdue"],
        ),
    ]  # fmt: skip
    if tasks["unknown_orders"]:
        rows = [[number(row["seq"]), moment(row["timestamp"]), *(cell(row[n]) for n in ("action", "model", "actor"))]
                for row in tasks["unknown_orders"][:MAX_ROWS]]  # fmt: skip
        parts.append(
            table("Orders with an unknown outcome", ["Entry>", "Ordered (UTC)", "Action", "Model", "Actor"], rows,
                  source=source_of(data, "Q28"), total=tasks["unknown"])
        )  # fmt: skip
    if tasks["ended_twice"]:
        rows = [[Cell(shown(row["task_id"], 40), mono=True), number(row["first_seq"]), number(row["last_seq"])]
                for row in tasks["ended_twice"][:MAX_ROWS]]  # fmt: skip
        parts.append(
            table("Tasks with two different ends", ["Task", "First>", "Last>"], rows, source=source_of(data, "Q12"),
                  total=tasks["two_ends"])
        )  # fmt: skip
    if not any((tasks["open"], waiting, tasks["two_ends"], tasks["unknown"])):
        parts = [note("Every task has its end, every announced act its outcome.")]
    return Section("tasks", "Open tasks and acts", lead, parts)
