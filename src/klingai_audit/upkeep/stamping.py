"""Having a log's checkpoints time-stamped: the authority and the roots that the policy names, and one run."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from klingai_audit.errors import UsageError
from klingai_audit.event.own import own_event
from klingai_audit.ledger.clock import SYSTEM_CLOCK, Clock
from klingai_audit.ledger.reader import LogReader
from klingai_audit.log import AuditLog
from klingai_audit.privacy.policy import Policy
from klingai_audit.stamp.client import TimeAuthority
from klingai_audit.stamp.run import Stamper, Stamping
from klingai_audit.trust.authority import policy_roots, read_roots
from klingai_audit.trust.stamps import is_stamp, read_stamp
from klingai_audit.trust.witnessed import is_quiet

__all__ = ["is_stamp_due", "stamp_now", "time_authority"]

_SECOND_NS: Final = 10**9
_PIECE: Final = 65_536


def time_authority(policy: Policy, keys: Path, url: str | None = None, roots: Path | None = None) -> TimeAuthority:
    """Return the authority to ask: `url` and `roots` if given, else what the policy names. Raises: UsageError."""
    address = url or policy.timestamp.tsa
    if not address:
        raise UsageError(
            "No time stamp authority is named.",
            do="Give --tsa URL, or set it once: klingai-audit policy set timestamp.tsa URL",
        )
    return TimeAuthority(address, policy_roots(policy, keys) if roots is None else read_roots(roots))


def is_stamp_due(reader: LogReader, interval: dt.timedelta, now: dt.datetime) -> bool:
    """Tell whether there is news to stamp and the last stamp is older than `interval`; nothing is written.

    What a stopped run left is not looked for: `verify` names it. Raises: Malformed (an entry that names a stamp).
    """
    size = reader.size
    end = size
    while end > 0:
        begin = max(0, end - _PIECE)
        found = [(seq, line) for seq, line in enumerate(reader.entries(begin, end), begin) if is_stamp(line)]
        if found:
            last = read_stamp(*found[-1])
            old = now - dt.datetime.fromisoformat(last.gen_time) >= interval
            return old and not is_quiet(reader.entries(last.size, size))
        end = begin
    return size > 0


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
