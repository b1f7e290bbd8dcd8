"""What a manager reads: the verdict, a handful of figures, and what needs somebody's attention."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from klingai_audit.report.checks import Check

__all__ = ["summarise"]

_ORDER: Final = ("failed", "partly", "not_checked", "not_configured")


def summarise(sections: Mapping[str, Any], checks: Mapping[str, Check]) -> dict[str, Any]:
    """Return the summary as JSON values; `attention` has the worst first."""
    totals, tasks, costs, models = (sections[name] for name in ("totals", "tasks", "costs", "models"))
    actors = [row for row in totals["by_actor"] if row["actor_id"] not in ("klingai-audit", "unknown")]
    attention = [
        {"state": check.state, "check": check.id, "name": check.as_json()["name"], "words": check.words}
        for state in _ORDER
        for check in checks.values()
        if check.state == state
    ]
    return {
        "verdict": sections["integrity"]["words"],
        "holds": sections["integrity"]["holds"],
        "not_ruled_out": [
            threat["words"] for threat in sections["integrity"]["threats"] if threat["state"] == "not_ruled_out"
        ],
        "events": totals["events"],
        "acts": totals["acts"],
        "people_and_services": len(actors),
        "generations_succeeded": models["succeeded"],
        "generations_failed": models["failed"],
        "refused": totals["outcomes"]["blocked"],
        "security_events": sections["security"]["total"],
        "open_tasks": tasks["open"],
        "acts_without_outcome": tasks["overdue"] + tasks["unknown"],
        "charges": costs["totals"],
        "charges_unknown": costs["open"],
        "attention": attention,
    }
