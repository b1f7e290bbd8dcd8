"""Attacks on what leaves the log: bundles with other entries than the proven ones, made to fit file by file."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import msgspec

from klingai_audit.bundle.archive import build_bundle
from klingai_audit.bundle.check import check_bundle
from klingai_audit.bundle.evidence import Evidence, Proven, gather
from klingai_audit.errors import KlingAuditError, VerificationError
from klingai_audit.ledger.reader import LogReader
from klingai_audit.tlog.keys import VerifierKey
from klingai_audit.upkeep.copy import Impossible, LogCopy, target_of
from klingai_audit.upkeep.drill import Drilled
from klingai_audit.upkeep.forge import edited

__all__ = ["BUNDLE_ATTACKS", "BundleAttack"]


@dataclass(frozen=True, slots=True)
class BundleAttack:
    """One attack on a bundle of the log: call it with a copy of the log and the trusted vkey.

    `change` gets the evidence and the index of a chosen entry in it; every file of the bundle is made to fit what it
    returns.
    """

    name: str
    words: str
    change: Callable[[Evidence, int], Evidence]

    def __call__(self, copy: LogCopy, vkey: str) -> Drilled:
        """Make the bundle, attack it, check it."""
        lines = [line for _, line in copy.all_lines()]
        key = VerifierKey.parse(vkey)
        try:
            seq = target_of(lines)
            evidence = gather(LogReader(copy.store), [seq, *([seq + 1] if seq + 1 < len(lines) else [seq - 1])])
            check_bundle(build_bundle(evidence), key)
            at = next(index for index, one in enumerate(evidence.entries) if one.seq == seq)
            data = build_bundle(self.change(evidence, at))
        except (Impossible, KlingAuditError) as exc:
            why = exc.message if isinstance(exc, KlingAuditError) else str(exc)
            return Drilled(self.name, self.words, caught=False, kinds=(), finding=None, skipped=why)
        try:
            check_bundle(data, key)
        except VerificationError as exc:
            kind = type(exc).__name__
            told = f"{kind}, by the check of the bundle"
            return Drilled(self.name, self.words, caught=True, kinds=(kind,), finding=None, told=told)
        return Drilled(self.name, self.words, caught=False, kinds=(), finding=None)


def _with_entry(evidence: Evidence, at: int, one: Proven) -> Evidence:
    return msgspec.structs.replace(evidence, entries=(*evidence.entries[:at], one, *evidence.entries[at + 1 :]))


def _edited(evidence: Evidence, at: int) -> Evidence:
    one = evidence.entries[at]
    return _with_entry(evidence, at, msgspec.structs.replace(one, entry=edited(one.entry.encode()).decode()))


def _swapped(evidence: Evidence, at: int) -> Evidence:
    other = next(one for one in evidence.entries if one.seq in evidence.chosen and one.seq != evidence.entries[at].seq)
    return _with_entry(evidence, at, msgspec.structs.replace(evidence.entries[at], entry=other.entry))


BUNDLE_ATTACKS = (
    BundleAttack("edit_in_bundle", "hands out a bundle in which an entry is changed", _edited),
    BundleAttack("swap_in_bundle", "hands out a bundle with one entry in another's place", _swapped),
)
"""All of them."""
