"""The control table as data (controls.toml), and the verdict on each control from checks and entries.

The rules: what a person has to show is never told as supported; a known gap makes "partly" and is named; where
frameworks ask for different periods the longest counts, and the report says whose it is. A verdict says what the
evidence in this log supports, nothing else.
"""

from __future__ import annotations

import tomllib
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.resources import files
from typing import Any, Final, Literal

import msgspec

from klingai_audit.report.checks import Check, field_check
from klingai_audit.report.scope import Scope, instant

__all__ = [
    "VERDICTS",
    "Control",
    "Framework",
    "Verdict",
    "applies",
    "chosen",
    "count",
    "describe",
    "frameworks",
    "judge",
    "strictest",
]

Verdict = Literal["supported", "partly", "not_supported", "needs_human", "out_of_scope"]
VERDICTS: Final[tuple[Verdict, ...]] = ("supported", "partly", "not_supported", "needs_human", "out_of_scope")
"""Verdicts on a control, in the order of the report."""

_EDITORIAL: Final = "the entries exist only where somebody declares the act"


class Control(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One demand of a framework; members as explained in controls.toml."""

    clause: str
    demand: str
    evidence: str
    kind: Literal["technical", "organisational", "mixed"]
    checks: tuple[str, ...] = ()
    events: tuple[str, ...] = ()
    fields: tuple[str, ...] = ()
    declared: bool = False
    attach: tuple[str, ...] = ()
    scope: str = ""
    high_risk: bool = False
    min_days: int = 0
    hot_days: int = 0
    cadence: str = ""


class Framework(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One framework: its edition, how well its text is known here (`source`), and how long it wants logs kept."""

    id: str
    name: str
    edition: str
    source: str
    note: str
    retention_clause: str
    control: tuple[Control, ...]
    scope: str = ""
    min_days: int = 0
    hot_days: int = 0


class _Table(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    framework: tuple[Framework, ...]


@cache
def frameworks() -> tuple[Framework, ...]:
    """Return the whole table, in the order of the report."""
    text = files("klingai_audit.report").joinpath("controls.toml").read_text("utf-8")
    return msgspec.convert(tomllib.loads(text), _Table).framework


def applies(framework: Framework, scope: Scope) -> bool:
    """Tell whether a framework's condition is declared to hold: by naming it."""
    return not framework.scope or framework.id in scope.frameworks


def chosen(scope: Scope) -> tuple[Framework, ...]:
    """Return the frameworks of a report: those named, or all."""
    return tuple(item for item in frameworks() if not scope.frameworks or item.id in scope.frameworks)


def strictest(scope: Scope) -> dict[str, Any]:
    """Return the longest periods that the frameworks in force ask for, in days, and whose they are."""
    demands = []
    for item in chosen(scope):
        in_force = applies(item, scope) and (item.id != "euai" or scope.high_risk)
        if in_force and item.min_days:
            demands.append((item.min_days, item.hot_days, f"{item.name} {item.retention_clause}"))
    keep = max(demands, default=(0, 0, ""), key=lambda one: one[0])
    hot = max(demands, default=(0, 0, ""), key=lambda one: one[1])
    return {
        "min_days": keep[0] or None,
        "min_days_by": keep[2] or None,
        "hot_days": hot[1] or None,
        "hot_days_by": hot[2] if hot[1] else None,
        "asked": [{"by": by, "min_days": least, "hot_days": quick or None} for least, quick, by in demands],
    }


def judge(
    scope: Scope,
    checks: Mapping[str, Check],
    events: Mapping[str, int],
    coverage: Mapping[str, Any],
    first: str | None,
) -> list[dict[str, Any]]:
    """Return one object per control, its verdict and why.

    `events` counts the period's entries by type, `coverage` their fields; `first` is the log's first time, None for an
    empty log.
    """
    late = first is None or first > scope.since.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    return [
        _row(framework, control, scope, _asked(control, checks, coverage), events, late)
        for framework in chosen(scope)
        for control in framework.control
    ]


def _asked(control: Control, checks: Mapping[str, Check], coverage: Mapping[str, Any]) -> list[Check]:
    """Return the checks of a control: completeness always where entries are the evidence, fields as it names them."""
    ids = control.checks if not control.events or "S3" in control.checks else ("S3", *control.checks)
    return [field_check(coverage, control.fields) if name == "S5" and control.fields else checks[name] for name in ids]


def count(rows: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """Return verdict → number of controls."""
    found = Counter(row["verdict"] for row in rows)
    return {name: found[name] for name in VERDICTS}


def _row(
    framework: Framework,
    control: Control,
    scope: Scope,
    asked: Sequence[Check],
    events: Mapping[str, int],
    late: bool,  # noqa: FBT001  # one fact of the log
) -> dict[str, Any]:
    verdict, reasons = _verdict(framework, control, scope, asked, events, late)
    queries = dict.fromkeys(query for check in asked for query in check.queries)
    return {
        "control_id": f"{framework.id}:{control.clause}",
        "framework": framework.name,
        "edition": framework.edition,
        "clause": control.clause,
        "demand": control.demand,
        "kind": control.kind,
        "evidence": control.evidence,
        "event_classes": list(control.events),
        "entries": {name: events.get(name, 0) for name in control.events},
        "required_fields": list(control.fields),
        "self_checks": [check.id for check in asked],
        "retention_min_days": control.min_days or None,
        "hot_min_days": control.hot_days or None,
        "cadence": control.cadence or None,
        "evidence_query_ids": [*(["Q2"] if control.events else []), *queries],
        "verdict": verdict,
        "reasons": reasons,
        "attach": list(control.attach),
        "proof_refs": [_draw(control, scope)] if control.events else [],
        "source": framework.source,
    }


def _draw(control: Control, scope: Scope) -> str:
    """Return the command that draws a sample of a control's entries, with their proofs."""
    types = " ".join(f"--type {name}" for name in control.events)
    edges = f"--since {instant(scope.since)} --until {instant(scope.until)} --at {scope.size}"
    return f"klingai-audit sample --seed SEED {types} {edges} -o sample.csv"


def describe(scope: Scope) -> list[dict[str, Any]]:
    """Return what is to be known of each framework of the report; `applies` is false where nobody declared it."""
    return [
        {
            "id": item.id,
            "name": item.name,
            "edition": item.edition,
            "source": item.source,
            "note": item.note,
            "applies": applies(item, scope),
            "applies_if": item.scope or None,
        }
        for item in chosen(scope)
    ]


def _verdict(
    framework: Framework,
    control: Control,
    scope: Scope,
    asked: Sequence[Check],
    events: Mapping[str, int],
    late: bool,  # noqa: FBT001  # one fact of the log
) -> tuple[Verdict, list[str]]:
    if not applies(framework, scope):
        return "out_of_scope", [f"Applies only if {framework.scope}; declare it with --framework {framework.id}."]
    if control.high_risk and not scope.high_risk:
        return "out_of_scope", [f"Applies only if {control.scope}; declare it with --high-risk."]
    if control.kind == "organisational":
        return "needs_human", ["Not a matter of this log."]
    return _technical(control, asked, events, late)


def _technical(
    control: Control,
    asked: Sequence[Check],
    events: Mapping[str, int],
    late: bool,  # noqa: FBT001  # one fact of the log
) -> tuple[Verdict, list[str]]:
    reasons = [check.reason for check in asked if check.state != "passed"]
    failed = any(check.state == "failed" for check in asked)
    some = any(check.state in ("passed", "partly") for check in asked)
    found = sum(events.get(name, 0) for name in control.events)
    if control.events and not found:
        where = f" ({_EDITORIAL})" if control.declared else ""
        reasons.append(f"No entry of these types in the period{where}: {', '.join(control.events)}.")
    elif control.events:
        some = True
    if failed:
        return "not_supported", reasons
    if control.events and not found and control.declared:
        return "not_supported", reasons
    if not some:
        return "not_supported", reasons
    if late:
        reasons.append("The log begins after the period does.")
    if control.kind == "mixed":
        reasons.append("A part is for a person to show.")
    if reasons:
        return "partly", reasons
    passed = ", ".join(check.id for check in asked)
    more = f"; {found:,} {'entry' if found == 1 else 'entries'} of these types" if control.events else ""
    return "supported", [f"{passed} passed{more}."]
