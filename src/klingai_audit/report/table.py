"""The report as CSV: one number a row, each with its question, population and tree size."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping
from typing import Any, Final

from klingai_audit.report.data import OUTCOMES
from klingai_audit.views.inert import inert

__all__ = ["HEAD", "draw_csv", "harmless"]

HEAD: Final = ("section", "subject", "measure", "value", "query", "population", "tree_size")
"""Columns of the CSV form."""

_FORMULA: Final = ("=", "+", "-", "@", "\t", "\r")
_Row = tuple[str, object, str, object, str]


def draw_csv(data: Mapping[str, Any]) -> bytes:
    """Return the report as CSV in UTF-8 with CR LF (RFC 4180)."""
    populations = {query["id"]: query["population"] for query in data["queries"]}
    size = data["log"]["tree_size"]
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow(HEAD)
    for section, subject, measure, value, query in _rows(data):
        writer.writerow(
            [section, harmless(subject), harmless(measure), harmless(value), query, populations.get(query, size), size]
        )
    return out.getvalue().encode()


def harmless(value: object) -> str:
    """Return a value as text that no spreadsheet takes for a formula and no terminal for a command."""
    if value is None:
        return ""
    if isinstance(value, int | float):
        return str(value)
    text = inert(str(value))
    return f"'{text}" if text.startswith(_FORMULA) else text


def _rows(data: Mapping[str, Any]) -> Iterator[_Row]:
    yield from (("report", "", name, data[name], "") for name in ("made_by", "period_days", "command", "people"))
    yield from (("report", "", f"period_{edge}", data["period"][edge], "") for edge in ("since", "until"))
    yield from (("report", "", name, data["log"][name], "") for name in ("origin", "tree_size", "root"))
    yield "integrity", "", "holds", str(data["integrity"]["holds"]).lower(), ""
    for threat in data["integrity"]["threats"]:
        yield "integrity", threat["threat"], "state", threat["state"], ""
    for finding in data["integrity"]["broken"]:
        yield "integrity", finding["kind"], "message", finding["message"], ""
    yield from _activity(data)
    yield from _money(data)
    yield from _lists(data)
    if "processing" in data:
        yield from _processing(data["processing"])
    yield from _quality(data)


def _activity(data: Mapping[str, Any]) -> Iterator[_Row]:
    totals = data["totals"]
    for name in ("events", "acts", "own", "first", "last"):
        yield "totals", "", name, totals[name], "Q1"
    for row in totals["by_type"]:
        for name in ("events", *OUTCOMES):
            yield "type", row["event_type"], name, row[name], "Q2"
    for row in totals["by_actor"]:
        yield "actor", row["actor_id"], "shown_as", row["actor"], ""
        for name in ("events", *OUTCOMES, "first", "last"):
            yield "actor", row["actor_id"], name, row[name], "Q3"
    for point in data["activity"]["series"]:
        for name in OUTCOMES:
            yield f"{data['activity']['step']}", point["from"], name, point[name], "Q4"
    for row in data["models"]["by_model"]:
        for name in ("succeeded", "failed"):
            yield "model", row["model"], name, row[name], "Q5"


def _money(data: Mapping[str, Any]) -> Iterator[_Row]:
    costs = data["costs"]
    for unit, amount in costs["totals"].items():
        yield "charges", "", unit, amount, "Q7"
    yield "charges", "", "tasks_with_charge", costs["charged"], "Q6"
    yield "charges", "", "open_tasks", costs["open"], "Q6"
    for by in ("team", "model"):
        for row in costs[f"by_{by}"]:
            yield f"charges_by_{by}", row[by], "tasks", row["tasks"], "Q6"
            yield f"charges_by_{by}", row[by], "open_tasks", row["open"], "Q6"
            for unit, amount in row["charges"].items():
                yield f"charges_by_{by}", row[by], unit, amount, "Q7"


def _lists(data: Mapping[str, Any]) -> Iterator[_Row]:
    for row in data["security"]["by_type"]:
        for name in ("events", "actors", "last"):
            yield "security", row["event_type"], name, row[name], "Q8"
    for name in ("open", "two_ends"):
        yield "tasks", "", name, data["tasks"][name], "Q10" if name == "open" else "Q12"
    for name in ("overdue", "pending"):
        yield "tasks", "", f"intents_{name}", data["tasks"][name], "Q11"
    for row in data["tasks"]["tasks"]:
        yield "open_task", row["task_id"], "seq", row["seq"], "Q10"
    yield "tasks", "", "orders_unknown", data["tasks"]["unknown"], "Q28"
    for row in data["tasks"]["intents"]:
        yield "open_intent", row["event_type"], "seq", row["seq"], "Q11"
    for row in data["administration"]["by_type"]:
        yield "administration", row["event_type"], "events", row["events"], "Q13"
    for row in data["access"]["by_type"]:
        yield "access", f"{row['event_type']} {row['actor']}", "events", row["events"], "Q15"
    last = data["reconciliation"]["last"]
    yield "reconciliation", "", "last", "never" if last is None else last["timestamp"], "Q17"
    for name in ("state", "oldest", "newest", "purged"):
        yield "retention", "", name, data["retention"][name], "Q18"
    for row in data["life"]["by_type"]:
        yield "life", row["event_type"], "events", row["events"], "Q20"
    for name, count in data["coverage"]["fields"].items():
        yield "coverage", name, "entries", count, "Q23"


def _processing(found: Mapping[str, Any]) -> Iterator[_Row]:
    for row in found["data"]:
        for name in ("form", "where", "purpose", "entries", "distinct"):
            yield "personal_data", row["what"], name, row[name], "Q40"
    for row in found["purposes"]:
        for name in ("purpose", "entries"):
            yield "purpose", row["category"], name, row[name], "Q41"
    for row in found["recipients"]:
        yield "recipient", f"{row['event_type']} {row['actor']} {row['destination']}", "entries", row["entries"], "Q42"
    for row in found["acts"]:
        yield "act", f"{row['event_type']} {row['about'] or ''}", "seq", row["seq"], "Q43"
    for name, value in found["scan"].items():
        yield "scan", "entries", name, str(value).lower() if isinstance(value, bool) else value, "Q25"
    for words in found["needs_human"]:
        yield "needs_human", words, "state", "needs_human", ""


def _quality(data: Mapping[str, Any]) -> Iterator[_Row]:
    for check in data["checks"]:
        query = next(iter(check["evidence_query_ids"]), "")
        yield "check", check["id"], "state", check["state"], query
        yield "check", check["id"], "why", check["words"], query
    for row in data["controls"]:
        yield "control", row["control_id"], "verdict", row["verdict"], ""
        yield "control", row["control_id"], "why", " ".join(row["reasons"]), ""
    for query in data["queries"]:
        yield "query", query["id"], "sql", query["sql"], query["id"]
