"""`timestamp`: have the newest checkpoint stamped by a time stamp authority."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from klingai_audit.cli.session import Session, SessionArgument, open_log
from klingai_audit.views.inert import inert

if TYPE_CHECKING:
    from klingai_audit.stamp.run import Stamping


def timestamp(
    *,
    tsa: Annotated[
        str | None, Parameter(help="Address of the RFC 3161 authority. Default: timestamp.tsa of the policy.")
    ] = None,
    roots: Annotated[
        Path | None, Parameter(help="Its root certificates (PEM). Default: timestamp.roots of the policy.")
    ] = None,
    interval: Annotated[
        str | None,
        Parameter(help="Do nothing if the last stamp is younger than this: 30m, 12h, 1d."),
    ] = None,
    session: SessionArgument,
) -> None:
    """Have the newest checkpoint stamped, keep the stamp beside it, and name both in an entry.

    Does nothing if only the log's own bookkeeping is new. Finishes what a stopped run left. Needs the extra `trust`.
    """
    from klingai_audit.privacy.policy import parse_span
    from klingai_audit.trust.authority import require_extra
    from klingai_audit.upkeep.stamping import stamp_now, time_authority

    require_extra()
    span = None if interval is None else parse_span(interval, "--interval")
    with open_log(session) as audit:
        authority = time_authority(audit.policy, session.places.keys, tsa, roots)
        done = stamp_now(audit, authority, interval=span)
    _tell(session, done, checked=authority.roots is not None)


def _tell(session: Session, done: Stamping, *, checked: bool) -> None:
    if session.as_json:
        session.emit(_told(done, checked=checked))
        return
    for stamp in done.stamps:
        session.say(
            "The first ", (f"{stamp.size:,}", "bold"), f" entries existed by {stamp.gen_time}, says {inert(stamp.tsa)}."
        )
        session.say((f"  checkpoints/{stamp.size:020}.tsr, named in entry {stamp.seq}", "dim"))
    if not done.stamps:
        session.say(f"Nothing was stamped: {done.why}.")
    elif not checked:
        session.say(("Who issued it was not checked: no roots were given (--roots PEM).", "yellow"))


def _told(done: Stamping, *, checked: bool) -> dict[str, Any]:
    stamps = [
        {"size": stamp.size, "gen_time": stamp.gen_time, "tsa": stamp.tsa, "token": stamp.token, "seq": stamp.seq}
        for stamp in done.stamps
    ]
    return {"result": done.why, "size": done.size, "stamps": stamps, "checked": checked if stamps else None}
