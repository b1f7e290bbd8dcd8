"""The head of a report (what, how long, verdict, figures) and its sections, made of blocks; nothing is counted here."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from klingai_audit.kling.rows import UNKNOWN_PACK
from klingai_audit.report import blocks, sections, trailing
from klingai_audit.report.blocks import number, shown
from klingai_audit.report.scope import Scope

__all__ = ["blocks_of", "make_page"]

_ATTENTION: Final[dict[str, tuple[str, blocks.Tone]]] = {
    "failed": ("failed", "bad"),
    "partly": ("in part", "warn"),
    "not_checked": ("not checked", "dim"),
    "not_configured": ("not configured", "dim"),
}


def make_page(scope: Scope, data: Mapping[str, Any]) -> dict[str, Any]:
    """Return everything that the templates show, as plain values."""
    over_time = sections.time_line(data)
    parts = [*sections.make_sections(data), *trailing.make_sections(data)]
    summary = data["summary"]
    return {
        "title": "Audit report",
        "origin": shown(scope.origin, 100),
        "since": data["period"]["since"].replace("T", " ").removesuffix("Z"),
        "until": data["period"]["until"].replace("T", " ").removesuffix("Z"),
        "until_iso": data["period"]["until"],
        "days": f"{scope.days:,} {'day' if scope.days == 1 else 'days'}",
        "size": f"{scope.size:,}",
        "root": scope.root,
        "made_by": data["made_by"],
        "empty": scope.size == 0,
        "verdict": _verdict(summary, scope),
        "figures": _figures(summary),
        "over_time": None if over_time is None else blocks.plain_block(over_time, "over-time"),
        "attention": [
            {"state": _ATTENTION[item["state"]][0], "tone": _ATTENTION[item["state"]][1], "id": item["check"],
             "name": item["name"], "words": item["words"]}
            for item in summary["attention"]
        ],
        "controls": [
            {"words": words, "tone": tone, "count": data["controls_by_verdict"][name]}
            for name, (words, tone) in trailing.VERDICT_WORDS.items()
        ],
        "controls_total": sum(data["controls_by_verdict"].values()),
        "sections": [blocks.plain(part) for part in parts],
    }  # fmt: skip


def blocks_of(page: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield every block of a page, the chart of the summary first."""
    if page["over_time"] is not None:
        yield page["over_time"]
    for section in page["sections"]:
        yield from section["blocks"]


def _verdict(summary: Mapping[str, Any], scope: Scope) -> dict[str, str]:
    if scope.size == 0:
        return {
            "tone": "dim",
            "words": "The log is empty.",
            "more": "There is nothing to verify and nothing to report.",
        }
    if not summary["holds"]:
        more = "Do not repair anything: copy the files as they are, then run klingai-audit verify. See section 1."
        return {"tone": "bad", "words": summary["verdict"], "more": more}
    more = "It cannot tell what the log never saw."
    if summary["not_ruled_out"]:
        more = f"Not ruled out: {'; '.join(summary['not_ruled_out'])}. {more}"
    if not summary["acts"]:
        more = f"No act is recorded in this period. {more}"
    return {"tone": "good", "words": summary["verdict"], "more": more}


def _figures(summary: Mapping[str, Any]) -> list[dict[str, str]]:
    charges: Sequence[tuple[str, str]] = list(summary["charges"].items())
    unknown = summary["charges_unknown"]
    figures = [
        _figure("Events", number(summary["events"]), f"{number(summary['acts'])} of them acts"),
        _figure("People and services", number(summary["people_and_services"]), "that acted in the period"),
        _figure(
            "Generations",
            number(summary["generations_succeeded"]),
            f"and {number(summary['generations_failed'])} failed, {number(summary['refused'])} refusals",
        ),
        _figure("Security events", number(summary["security_events"]), "refusals, suspicions, failed checks"),
        _figure(
            "Open",
            number(summary["open_tasks"] + summary["acts_without_outcome"]),
            f"{number(summary['open_tasks'])} without an end, {number(summary['acts_without_outcome'])} "
            "without an outcome",
        ),
    ]
    open_words = f"{number(unknown)} more tasks with unknown charge" if unknown else "no task with unknown charge"
    if not charges:
        return [*figures, _figure("Charges", "–", open_words)]
    unit, amount = max(charges, key=lambda item: (item[0] != f"{UNKNOWN_PACK} units", float(item[1])))
    others = ", ".join(f"{number(value)} {shown(name, 24)}" for name, value in charges if name != unit)
    return [
        *figures,
        _figure(shown(unit, 24).capitalize(), number(amount), "; ".join(filter(None, (others, open_words)))),
    ]


def _figure(label: str, value: str, more: str) -> dict[str, str]:
    return {"label": label, "value": value, "note": more}
