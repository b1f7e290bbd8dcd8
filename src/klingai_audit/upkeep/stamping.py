"""Having a log's checkpoints time-stamped: the authority and the roots that the policy names, and one run."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from klingai_audit.errors import UsageError
from klingai_audit.event.own import own_event
from klingai_audit.ledger.clock import SYSTEM_CLOCK, Clock
from klingai_audit.log import AuditLog
from klingai_audit.privacy.policy import Policy
from klingai_audit.stamp.client import TimeAuthority
from klingai_audit.stamp.run import Stamper, Stamping
from klingai_audit.trust.authority import policy_roots, read_roots

__all__ = ["stamp_now", "time_authority"]

_SECOND_NS: Final = 10**9


def time_authority(policy: Policy, keys: Path, url: str | None = None, roots: Path | None = None) -> TimeAuthority:
    """Return the authority to ask: `url` and `roots` if given, else what the policy names. Raises: UsageError."""
    address = url or policy.timestamp.tsa
    if not address:
        raise UsageError(
            "No time stamp authority is named.",
            do="Give --tsa URL, or set it once: klingai-audit policy set timestamp.tsa URL",
        )
    return TimeAuthority(address, policy_roots(policy, keys) if roots is None else read_roots(roots))


def stamp_now(
    audit: AuditLog, authority: TimeAuthority, *, interval: dt.timedelta | None = None, clock: Clock = SYSTEM_CLOCK
) -> Stamping:
    """Publish, have the newest checkpoint stamped if there is news, and name the stamp in an entry; durable on return.

    Nothing is done if only the log's own bookkeeping is new, or the last stamp is younger than `interval`. What a run
    left that was stopped is finished first. Raises: as `Stamper.run`.
    """

    def append(event_type: str, metadata: Mapping[str, Any]) -> int:
        receipt = audit.append(own_event(event_type, metadata, clock.now_ns())).wait("published")
        return -1 if receipt.seq is None else receipt.seq

    def now() -> dt.datetime:
        return dt.datetime.fromtimestamp(clock.now_ns() / _SECOND_NS, dt.UTC)

    def publish() -> None:
        audit.flush("published")

    stamper = Stamper(audit.reader.store, authority, vkey=audit.vkey, publish=publish, append=append, now=now)
    return stamper.run(interval)
