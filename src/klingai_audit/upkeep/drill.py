"""The drill: attack a copy of the real log in every way we know and see that verification catches it."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from klingai_audit.config import Places, open_reader, state_folder, trusted_key
from klingai_audit.errors import LogDamaged, UsageError
from klingai_audit.ledger.keys import KeyFolder
from klingai_audit.trust.verdict import Finding, Verdict
from klingai_audit.trust.verify import verify
from klingai_audit.upkeep.attacks import ATTACKS, Attack
from klingai_audit.upkeep.copy import Impossible, LogCopy
from klingai_audit.upkeep.stamp_attacks import stamp_attacks
from klingai_audit.upkeep.thefts import thefts

__all__ = ["DrillResult", "Drilled", "Progress", "drill"]

MAX_BYTES: Final = 1 << 30
"""Largest log that is drilled: each attack reads a copy in full."""

Progress = Callable[[int, int], None]
"""Called with (attacks tried, attacks in all)."""


@dataclass(frozen=True, slots=True)
class Drilled:
    """What became of one attack: `finding` is what shows it best, `kinds` all kinds that were reported.

    `skipped` is why it could not be tried on this log, else None.
    """

    attack: str
    words: str
    caught: bool
    kinds: tuple[str, ...]
    finding: Finding | None
    skipped: str | None = None

    def as_json(self) -> dict[str, Any]:
        """Return the members of one attack in JSON output."""
        place = None if self.finding is None else {k: v for k, v in self.finding.as_json().items() if k != "severity"}
        return {"attack": self.attack, "words": self.words, "caught": self.caught, "finding": place}


@dataclass(frozen=True, slots=True)
class DrillResult:
    """All attacks of one drill in order."""

    attacks: tuple[Drilled, ...]

    @property
    def tried(self) -> tuple[Drilled, ...]:
        """The attacks that this log offered something for."""
        return tuple(attack for attack in self.attacks if attack.skipped is None)

    @property
    def caught(self) -> int:
        """How many were detected and called by a right name."""
        return sum(attack.caught for attack in self.tried)

    @property
    def missed(self) -> tuple[str, ...]:
        """Names of attacks that went unnoticed or were called something else."""
        return tuple(attack.attack for attack in self.tried if not attack.caught)

    def to_json(self, *, full: bool = False) -> dict[str, Any]:
        """Return `mutations, caught, missed[], skipped[]`; with `full` also each attack."""
        skipped = [
            {"attack": attack.attack, "why": attack.skipped} for attack in self.attacks if attack.skipped is not None
        ]
        result: dict[str, Any] = {
            "mutations": len(self.tried),
            "caught": self.caught,
            "missed": list(self.missed),
            "skipped": skipped,
        }
        if full:
            result["attacks"] = [attack.as_json() for attack in self.tried]
        return result


def drill(
    places: Places, *, key: str | None = None, attacks: Sequence[Attack] | None = None, progress: Progress | None = None
) -> DrillResult:
    """Attack a copy of the log; the log itself is only read.

    `key` is the trusted vkey or a file with it (default: as for `verify`). The copy lies in a temporary folder
    and is removed. Raises: LogNotFound; NoTrustedKey; LogDamaged if the log is not whole to begin with;
    UsageError for a log of over 1 GiB.
    """
    trusted = trusted_key(places, key)
    store = open_reader(places).store
    size = sum(file.size for file in store.inspect())
    if size > MAX_BYTES:
        raise UsageError(f"The log has {size:,} bytes; a drill copies and reads up to {MAX_BYTES:,}.")
    remembered = state_folder(places).read_head()
    with tempfile.TemporaryDirectory(prefix="klingai-audit-drill-") as base:
        copy = LogCopy(Path(places.log), Path(base))

        def judge() -> Verdict:
            return verify(copy.store, key=trusted.vkey, key_source=trusted.source, remembered=remembered, patience=0.0)

        _refuse_damaged(judge())
        plan = [*ATTACKS, *stamp_attacks(copy, _keys(places)), *thefts(_keys(places), remembered=bool(remembered))]
        if attacks is not None:
            plan = list(attacks)
        results = []
        for number, attack in enumerate(plan):
            if progress is not None:
                progress(number, len(plan))
            results.append(_try(attack, copy, judge))
            copy.restore()
        _refuse_damaged(judge())
    return DrillResult(tuple(results))


def _keys(places: Places) -> KeyFolder:
    return KeyFolder(places.keys)


def _try(attack: Attack, copy: LogCopy, judge: Callable[[], Verdict]) -> Drilled:
    try:
        attack.act(copy)
    except Impossible as reason:
        return Drilled(attack.name, attack.words, caught=False, kinds=(), finding=None, skipped=str(reason))
    broken = judge().broken
    fitting = [finding for finding in broken if finding.kind in attack.expects]
    kinds = tuple(dict.fromkeys(finding.kind for finding in broken))
    best = next(iter(fitting or broken), None)
    return Drilled(attack.name, attack.words, caught=bool(fitting), kinds=kinds, finding=best)


def _refuse_damaged(verdict: Verdict) -> None:
    if not verdict.integrity_ok:
        raise LogDamaged(
            f"The log is not whole, so a drill would show nothing: {verdict.broken[0].message}",
            kind_of_damage=verdict.broken[0].kind,
        )
