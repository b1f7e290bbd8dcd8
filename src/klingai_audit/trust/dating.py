"""What time stamps say about threats, in words: back-dating, and rewriting by who holds or stole the keys."""

from __future__ import annotations

import datetime as dt
from typing import Final

from klingai_audit.trust.stamps import Stamped
from klingai_audit.trust.verdict import Threat

__all__ = ["DATED_WITHIN", "back_dating", "since_stamped"]

DATED_WITHIN: Final = dt.timedelta(hours=48)
"""Up to which distance between an entry and its time stamp back-dating counts as ruled out, unless policy says else."""

_CLOCK: Final = "logged_at never decreases and each entry lies on its day; the writer's clock itself is not proven"
_STAMP: Final = "Have checkpoints time-stamped: klingai-audit timestamp --tsa URL --roots PEM"


def back_dating(stamped: Stamped, size: int, within: dt.timedelta) -> Threat:
    """Return the threat of dating entries back as the time stamps leave it; `size` is the signed size."""
    if not stamped.count:
        return Threat("back_dating", "not_ruled_out", _CLOCK, f"{_STAMP}, or keep dated copies of them elsewhere.")
    many = f"{stamped.count} time stamps are" if stamped.count > 1 else "one time stamp is"
    if stamped.unchecked:
        by = f"{many} kept, made of the checkpoints beside them; who issued them was not checked: {stamped.unchecked}"
        do = "Verify with the authority's roots: klingai-audit verify --tsa-roots PEM"
        if "library" in stamped.unchecked:
            do = "pip install 'klingai-audit[trust]', and verify again."
        return Threat("back_dating", "not_checked", by, do)
    by = f"{many} in order, the last {_by_whom(stamped)} over the first {stamped.size} of {size} entries"
    if not stamped.dated:
        return Threat("back_dating", "not_checked", f"{by}; the log itself is not in order", "")
    if stamped.lag is None:
        return Threat("back_dating", "ruled_out", by)
    if stamped.lag <= within:
        return Threat("back_dating", "ruled_out", f"{by}; no entry is dated back by more than {_span(stamped.lag)}")
    begin, end = stamped.stretch
    by += f"; entries {begin} to {end - 1} may be dated back by up to {_span(stamped.lag)}"
    do = "Stamp the log now: klingai-audit timestamp" if stamped.tail else "Stamp more often; what is past stays so."
    return Threat("back_dating", "not_ruled_out", by, do)


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
