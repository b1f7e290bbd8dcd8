"""What waits in the spool: entries that are not in the log yet."""

from __future__ import annotations

from typing import TYPE_CHECKING

from klingai_audit.cli.session import Session

if TYPE_CHECKING:
    from klingai_audit.ledger.spool import Look

_NAMES = ("files", "records", "bytes", "oldest")


def tell_waiting(session: Session) -> Look | None:
    """Say on stderr how much waits in the spool, if anything does, and return it."""
    from klingai_audit.capture.spool import FOLDER
    from klingai_audit.ledger.spool import look_at

    try:
        look = look_at(session.places.state / FOLDER)
    except OSError as exc:
        session.remark(f"The spool cannot be read: {exc.strerror}")
        return None
    if not look.records:
        return None
    session.remark(
        f"{look.records:,} records wait in the spool and are not in the log; the oldest is of {look.oldest}.",
        spool=dict(zip(_NAMES, look, strict=True)),
    )
    return look
