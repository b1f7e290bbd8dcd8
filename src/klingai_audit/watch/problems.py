"""What a watch alerts about: problems that are open until they are gone, and findings that happen once.

A problem says what kind of thing was found and where, in words of our own; never what an entry holds.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Final, Literal

import msgspec

from klingai_audit.detect.engine import Found
from klingai_audit.errors import KlingAuditError
from klingai_audit.reconcile.result import KINDS, Difference
from klingai_audit.trust.verdict import FINDING_KINDS, Verdict

__all__ = [
    "TOLD_NOTES",
    "Alert",
    "Change",
    "Level",
    "Problem",
    "exit_code_of",
    "failed",
    "of_difference",
    "of_found",
    "of_verdict",
    "state",
]

Level = Literal["broken", "unreachable", "finding", "note"]
"""`broken`: evidence does not hold; `unreachable`: a check could not be made; `finding`: somebody has to look; `note`:
worth knowing."""

Change = Literal["new", "again", "gone"]
"""`new`: for the first time; `again`: it was gone and is back."""

_EXITS: Final[Mapping[Level, int]] = MappingProxyType({"broken": 4, "unreachable": 3, "finding": 1, "note": 0})

TOLD_NOTES: Final = frozenset({"heartbeat_gap", "open_gap", "clock_step", "lines_set_aside", "migration_ignored"})
"""Notes of a verification that are worth an alert."""


class Problem(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One thing that a check found. `key` is equal when the same is found again; entries `[seq, seq_end)`, if any.

    `source` is the check: verify, detect, reconcile, witness, timestamp, heartbeat. `once` tells that it is never gone,
    `failure` that the check itself could not be made: it is gone when the check is made again.
    """

    source: str
    kind: str
    level: Level
    text: str
    key: str
    seq: int | None = None
    seq_end: int | None = None
    once: bool = False
    failure: bool = False


class Alert(msgspec.Struct, frozen=True, kw_only=True):
    """A change that is told: of which problem, and how it changed."""

    change: Change
    problem: Problem


def exit_code_of(problems: Iterable[Problem]) -> int:
    """Return 4 if evidence does not hold, else 3 if a check could not be made, else 1 for a finding, else 0."""
    return max((_EXITS[problem.level] for problem in problems), default=0)


def of_verdict(verdict: Verdict) -> list[Problem]:
    """Return the problems that a verification found: all that is broken, and some notes; equal kinds are one range."""
    grouped: dict[str, list[tuple[int | None, int | None]]] = {}
    for finding in verdict.findings:
        if finding.severity == "broken" or finding.kind in TOLD_NOTES:
            grouped.setdefault(finding.kind, []).append((finding.seq, finding.seq_end))
    made = []
    for kind, places in grouped.items():
        begins = [seq for seq, _ in places if seq is not None]
        ends = [end for _, end in places if end is not None]
        first, last = min(begins, default=None), max(ends, default=None)
        info = FINDING_KINDS[kind]
        level: Level = "broken" if info.severity == "broken" else "note"
        key = _digest("verify", kind, *(str(seq) for seq in sorted(begins)))
        made.append(
            Problem(source="verify", kind=kind, level=level, text=info.meaning, key=key, seq=first, seq_end=last)
        )
    return made


def of_found(found: Found) -> Problem:
    """Return the problem that a detection rule found; only the rule is named."""
    return Problem(
        source="detect",
        kind=found.rule.id,
        level="finding",
        text="A detection rule fired.",
        key=found.id,
        seq=min(found.seqs, default=None),
        seq_end=max(found.seqs) + 1 if found.seqs else None,
        once=True,
    )


def of_difference(found: Difference) -> Problem:
    """Return the problem that a reconciliation found."""
    return Problem(
        source="reconcile",
        kind=found.kind,
        level="broken",
        text=f"Log and provider disagree: {KINDS[found.kind].meaning}.",
        key=_digest("reconcile", found.kind, found.task_id or "", found.external_task_id or "", str(found.seqs)),
        seq=min(found.seqs, default=None),
        seq_end=max(found.seqs) + 1 if found.seqs else None,
        once=True,
    )


def failed(source: str, error: KlingAuditError) -> Problem:
    """Return the problem that a check could not be made; the error's message stays on this machine."""
    level: Level = "broken" if error.exit_code == _EXITS["broken"] else "unreachable"
    text = "A check found that evidence does not hold." if level == "broken" else "A check could not be made."
    key = _digest(source, "failed", error.kind)
    return Problem(source=source, kind=error.kind, level=level, text=text, key=key, failure=True)


def state(source: str, kind: str, level: Level, text: str) -> Problem:
    """Return a problem of which there is at most one of its kind at a time."""
    return Problem(source=source, kind=kind, level=level, text=text, key=_digest(source, kind))


def _digest(*words: str) -> str:
    return hashlib.sha256("\0".join(words).encode("utf-8", "replace")).hexdigest()[:32]
