"""The drill: attack a copy of the real log in every way we know and see that verification catches it.

What no evidence on this machine could show is tried too: there the verdict must say "not ruled out" and what to
switch on. What this log offers nothing for is listed with the reason, and counts as nothing.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from klingai_audit.config import Places, known_mldsa_key, open_reader, state_folder, trusted_key
from klingai_audit.errors import KlingAuditError, LogDamaged, UsageError
from klingai_audit.ledger.keys import KeyFolder, read_public_key
from klingai_audit.ledger.mirror import copy_log
from klingai_audit.trust.verdict import Finding, Threat, Verdict
from klingai_audit.trust.verify import verify
from klingai_audit.upkeep.attacks import ATTACKS, Attack, Eyes
from klingai_audit.upkeep.copy import Impossible, LogCopy
from klingai_audit.upkeep.purge_attacks import purge_attacks
from klingai_audit.upkeep.quantum_attacks import quantum_attacks
from klingai_audit.upkeep.stamp_attacks import stamp_attacks
from klingai_audit.upkeep.thefts import thefts
from klingai_audit.upkeep.witness_attacks import witness_attacks
from klingai_audit.upkeep.witnessing import read_policy

__all__ = ["DrillResult", "Drilled", "Other", "Progress", "all_attacks", "drill"]

MAX_BYTES: Final = 1 << 30
"""Largest log that is drilled: each attack reads a copy in full."""

Progress = Callable[[int, int], None]
"""Called with (attacks tried, attacks in all)."""


@dataclass(frozen=True, slots=True)
class Drilled:
    """What became of one attack: `finding` is what shows it best, `kinds` all kinds that were reported.

    `skipped` is why it could not be tried on this log, else None. `told` says in words what showed an attack on
    something else than the log's files. `open` are the threats that the verdict rightly calls not ruled out where
    nobody could detect the attack; such a one is neither caught nor missed.
    """

    attack: str
    words: str
    caught: bool
    kinds: tuple[str, ...]
    finding: Finding | None
    skipped: str | None = None
    told: str = ""
    open: tuple[Threat, ...] = field(default=())

    def as_json(self) -> dict[str, Any]:
        """Return the members of one attack in JSON output."""
        place = None if self.finding is None else {k: v for k, v in self.finding.as_json().items() if k != "severity"}
        return {"attack": self.attack, "words": self.words, "caught": self.caught, "finding": place, "told": self.told}


@dataclass(frozen=True, slots=True)
class DrillResult:
    """All attacks of one drill in order."""

    attacks: tuple[Drilled, ...]

    @property
    def tried(self) -> tuple[Drilled, ...]:
        """The attacks that this log offered something for and that have to be detected."""
        return tuple(attack for attack in self.attacks if attack.skipped is None and not attack.open)

    @property
    def open(self) -> tuple[Drilled, ...]:
        """The attacks that nobody could detect, of which the verdict says that they are not ruled out."""
        return tuple(attack for attack in self.attacks if attack.open)

    @property
    def caught(self) -> int:
        """How many were detected and called by a right name."""
        return sum(attack.caught for attack in self.tried)

    @property
    def missed(self) -> tuple[str, ...]:
        """Names of attacks that went unnoticed or were called something else."""
        return tuple(attack.attack for attack in self.tried if not attack.caught)

    def to_json(self, *, full: bool = False) -> dict[str, Any]:
        """Return `mutations, caught, missed[], skipped[], open[]`; with `full` also each attack."""
        skipped = [
            {"attack": attack.attack, "why": attack.skipped} for attack in self.attacks if attack.skipped is not None
        ]
        result: dict[str, Any] = {
            "mutations": len(self.tried),
            "caught": self.caught,
            "missed": list(self.missed),
            "skipped": skipped,
            "open": [{"attack": attack.attack, "threats": [t.threat for t in attack.open]} for attack in self.open],
        }
        if full:
            result["attacks"] = [attack.as_json() for attack in self.tried]
        return result


Other = Callable[[LogCopy, str], Drilled]
"""An attack on something made from the log: gets the copy and the trusted vkey, and says what became of it."""


def all_attacks(keys: KeyFolder, here: Eyes) -> list[Attack]:
    """Return every attack on a log's files in order; `here` is what this machine knows besides the log's key."""
    return [
        *ATTACKS,
        *purge_attacks(),
        *stamp_attacks(keys),
        *thefts(keys, here),
        *witness_attacks(keys, here),
        *quantum_attacks(keys),
    ]


def drill(
    places: Places,
    *,
    key: str | None = None,
    attacks: Sequence[Attack] | None = None,
    others: Sequence[Other] = (),
    progress: Progress | None = None,
) -> DrillResult:
    """Attack a copy of the log; the log itself is only read.

    `key` is the trusted vkey or a file with it (default: as for `verify`). `others` are tried on the whole copy after
    the `attacks` on its files. The copy lies in a temporary folder and is removed. Raises: LogNotFound; NoTrustedKey;
    LogDamaged if the log is not whole to begin with; UsageError for a log of over 1 GiB; Malformed for a witness
    policy that is none.
    """
    trusted = trusted_key(places, key)
    store = open_reader(places).store
    size = sum(file.size for file in store.inspect())
    if size > MAX_BYTES:
        raise UsageError(f"The log has {size:,} bytes; a drill copies and reads up to {MAX_BYTES:,}.")
    here = _what_is_known(places)
    with tempfile.TemporaryDirectory(prefix="klingai-audit-drill-") as base:
        far = any(file.path is None for file in store.inspect())
        source = copy_log(store, Path(base) / "source").folder if far else places.need_folder("A drill")
        copy = LogCopy(source, Path(base))

        def judge(eyes: Eyes | None = None) -> Verdict:
            with_what = eyes or here
            return verify(
                copy.store,
                key=trusted.vkey,
                key_source=trusted.source,
                epoch_key=with_what.epoch_key,
                mldsa_key=with_what.mldsa_key,
                remembered=with_what.remembered,
                witnesses=with_what.witnesses,
                require_witness=with_what.demanded,
                patience=0.0,
            )

        _refuse_damaged(judge())
        plan = all_attacks(KeyFolder(places.keys), here) if attacks is None else list(attacks)
        results = []
        for number, attack in enumerate(plan):
            if progress is not None:
                progress(number, len(plan) + len(others))
            results.append(_try(attack, copy, judge))
            copy.restore()
        _refuse_damaged(judge())
        results += [other(copy, trusted.vkey) for other in others]
    return DrillResult(tuple(results))


def _what_is_known(places: Places) -> Eyes:
    """Return what `verify` would have here besides the log's key."""
    first_epoch = witnesses = None
    with contextlib.suppress(KlingAuditError, OSError):
        first_epoch = read_public_key(places.keys / "epoch-0.pub").format()
    with contextlib.suppress(OSError):
        witnesses = read_policy(places.keys)
    known = known_mldsa_key(places)
    mldsa_key = None if known is None else known.vkey
    return Eyes(state_folder(places).read_head(), first_epoch, mldsa_key, witnesses)


def _try(attack: Attack, copy: LogCopy, judge: Callable[[Eyes | None], Verdict]) -> Drilled:
    try:
        eyes = attack.act(copy)
    except Impossible as reason:
        return Drilled(attack.name, attack.words, caught=False, kinds=(), finding=None, skipped=str(reason))
    verdict = judge(eyes)
    broken = verdict.broken
    kinds = tuple(dict.fromkeys(finding.kind for finding in broken))
    left = tuple(threat for threat in verdict.threats if threat.threat in attack.leaves)
    if left and not broken and all(threat.state == "not_ruled_out" and threat.do for threat in left):
        return Drilled(attack.name, attack.words, caught=False, kinds=kinds, finding=None, open=left)
    # What nobody need detect may be caught all the same by what else this log has, such as time stamps.
    fitting = [finding for finding in broken if attack.leaves or finding.kind in attack.expects]
    best = next(iter(fitting or broken), None)
    return Drilled(attack.name, attack.words, caught=bool(fitting), kinds=kinds, finding=best)


def _refuse_damaged(verdict: Verdict) -> None:
    if not verdict.integrity_ok:
        raise LogDamaged(
            f"The log is not whole, so a drill would show nothing: {verdict.broken[0].message}",
            kind_of_damage=verdict.broken[0].kind,
        )
