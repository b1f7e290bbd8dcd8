"""What the place of the keys means for the threats that come from whoever has them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

from klingai_audit.ledger.custody import Custody, KeyPlace, custody_of
from klingai_audit.trust.verdict import ThreatName

if TYPE_CHECKING:
    from pathlib import Path

    from klingai_audit.trust.verdict import Threat, Verdict

__all__ = ["with_custody"]

_MEANING: Final[Mapping[ThreatName, Mapping[KeyPlace, str]]] = {
    "key_holder": {
        "file": "; the log key and the epoch key lie together on this machine, so whoever administers it holds both",
        "external": (
            "; the log key is kept elsewhere: whoever administers this machine alone has to have it sign, and a "
            "signer that remembers what it signed does not take that back"
        ),
        "absent": "; neither key lies on this machine",
    },
    "key_theft": {
        "file": "; the log key and the epoch key lie together on this machine, so one theft takes both",
        "external": (
            "; the log key is kept elsewhere: what is stolen from this machine signs only as long as the thief can "
            "have its signer sign"
        ),
        "absent": "; neither key lies on this machine",
    },
}


def with_custody(verdict: Verdict, keys: Path) -> Verdict:
    """Return the verdict with where the private keys lie by this keys folder, and what that means for misused keys."""
    custody = custody_of(keys)
    threats = tuple(_told(threat, custody) for threat in verdict.threats)
    return dataclasses.replace(verdict, custody=custody, threats=threats)


def _told(threat: Threat, custody: Custody) -> Threat:
    words = _MEANING.get(threat.threat, {}).get(custody.log_key, "")
    if threat.state != "not_ruled_out" or not words or (custody.epoch_key == "file") is (custody.log_key == "absent"):
        return threat
    return dataclasses.replace(threat, by=threat.by + words)
