"""Several damages to one log at once: on what both verifiers must agree then (docs/format.md, section 10.1)."""

from __future__ import annotations

import random
from collections.abc import Iterable
from pathlib import Path

from klingai_audit.standalone import klingai_audit_verify as alone
from tests.support.both import Answer, Files, ask_both, differences, mutate
from tests.support.logsmith import Smith, write_files

__all__ = ["contradictions", "damaged"]


def contradictions(package: Answer, single: Answer) -> list[str]:
    """In what the two differ, where both prove all that was signed; else whether one of them would mislead.

    Then both must call the log broken, and neither may rule out what the other detects.
    """
    signed = "ruled_out" in (package.states["foreign_key"], single.states["foreign_key"])
    if signed and "history_rewritten" not in package.kinds | single.kinds:
        return differences(package, single)
    found = [
        name for name, told in (("package", package), ("single file", single)) if not told.kinds & set(alone.BROKEN)
    ]
    found = [f"nothing is broken for the {name}" for name in found]
    for threat, state in package.states.items():
        if {state, single.states[threat]} == {"ruled_out", "detected"}:
            found.append(f"{threat} is {state} for the package and {single.states[threat]} for the single file")
    return found


def damaged(
    folder: Path, smith: Smith, whole: Files, seeds: Iterable[int], edits: int, policy: bytes | None = None
) -> list[tuple[int, list[str], list[str]]]:
    """Damage a log `edits` times for each seed; return where the two contradict each other."""
    found = []
    for seed in seeds:
        luck, files = random.Random(seed), dict(whole)
        what = [mutate(files, luck) for _ in range(edits)]
        place = write_files(folder / str(seed) / "audit", files)
        compared = contradictions if edits > 1 else differences
        told = compared(*ask_both(place, smith.log_key.vkey, smith.now, witnesses=policy))
        found += [(seed, what, told)] if told else []
    return found
