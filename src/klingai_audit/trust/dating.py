"""What time stamps and the clocks of witnesses say about threats, in words.

These are back-dating, and rewriting by who holds or stole the keys.
"""

from __future__ import annotations

import datetime as dt
from typing import Final

from klingai_audit.trust.stamps import Stamped, moment_of
from klingai_audit.trust.verdict import Threat
from klingai_audit.trust.witnessed import Witnessed

__all__ = ["DATED_WITHIN", "back_dating", "since_stamped"]

DATED_WITHIN: Final = dt.timedelta(hours=48)
"""Up to which distance between an entry and its time stamp back-dating counts as ruled out, unless policy says else."""

_CLOCK: Final = "logged_at never decreases and each entry lies on its day; the writer's clock itself is not proven"
_WITNESS: Final = "Have it cosigned now: klingai-audit witness submit"
_STAMP: Final = "Have checkpoints time-stamped: klingai-audit timestamp --tsa URL --roots PEM"


def back_dating(stamped: Stamped, witnessed: Witnessed, size: int, within: dt.timedelta) -> Threat:
    """Return the threat of dating entries back as time stamps and witnesses leave it; `size` is the signed size."""
    if not stamped.count and not stamped.rounds:
        return Threat("back_dating", "not_ruled_out", _CLOCK, f"{_STAMP}, or keep dated copies of them elsewhere.")
    many = f"{stamped.count} time stamps are" if stamped.count > 1 else "one time stamp is"
    enough = stamped.dated and (stamped.lag is None or stamped.lag <= within)
    if stamped.unchecked and not (stamped.rounds and enough):
        by = f"{many} kept, made of the checkpoints beside them; who issued them was not checked: {stamped.unchecked}"
        do = "Verify with the authority's roots: klingai-audit verify --tsa-roots PEM"
        if "library" in stamped.unchecked:
            do = "pip install 'klingai-audit[trust]', and verify again."
        return Threat("back_dating", "not_checked", by, do)
    told = []
    if stamped.count and not stamped.unchecked:
        told.append(f"{many} in order, the last {_by_whom(stamped)} over the first {stamped.size} of {size} entries")
    if stamped.rounds:
        told.append(_by_rounds(witnessed, size))
    by = "; ".join(told)
    if not stamped.dated:
        return Threat("back_dating", "not_checked", f"{by}; the log itself is not in order", "")
    if stamped.lag is None:
        return Threat("back_dating", "ruled_out", by)
    if enough:
        return Threat("back_dating", "ruled_out", f"{by}; no entry is dated back by more than {_span(stamped.lag)}")
    begin, end = stamped.stretch
    by += f"; entries {begin} to {end - 1} may be dated back by up to {_span(stamped.lag)}"
    now = "Stamp the log now: klingai-audit timestamp" if stamped.count else _WITNESS
    do = now if stamped.tail else "Stamp more often; what is past stays so."
    return Threat("back_dating", "not_ruled_out", by, do)


def _by_rounds(witnessed: Witnessed, size: int) -> str:
    """Say what the clocks of witnesses tell, trusted as far as the policy trusts them."""
    seen, seconds = witnessed.rounds[-1]
    moment = f"{moment_of(seconds):%Y-%m-%d %H:%M:%S} UTC"
    who = f"by the clocks of {', '.join(witnessed.names)} (asked for: {witnessed.quorum})"
    return f"{who} the first {seen} of {size} entries existed on {moment}"


def since_stamped(stamped: Stamped) -> str:
    """Return what holds for those who can sign, beginning with `;`, empty if the time stamps prove nothing."""
    if not stamped.count or stamped.unchecked or stamped.gen_time is None:
        return ""
    return f"; the first {stamped.size} entries cannot have been rewritten since they were stamped {_by_whom(stamped)}"


def _by_whom(stamped: Stamped) -> str:
    moment = "" if stamped.gen_time is None else f" on {stamped.gen_time:%Y-%m-%d %H:%M:%S} UTC"
    return f"by {stamped.tsa}{moment}"


def _span(lag: dt.timedelta) -> str:
    minutes = max(1, -(-lag // dt.timedelta(minutes=1)))
    if minutes < 120:
        return f"{minutes} min"
    hours = -(-minutes // 60)
    return f"{hours} h" if hours < 72 else f"{-(-hours // 24)} days"
