"""Logs that went on in another store: the old place takes no more entries (docs/format.md, section 9.4).

A migration ends the log in one store with a `log_migrated` entry of phase `out`; the copy of that entry in the other
store is followed by one of phase `in`, and only by it. So a writer that finds an `out` at the end of its log is in the
place that was left, or came before the migration was finished.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec

from klingai_audit.errors import LogMigrated
from klingai_audit.event.record import EncodedEvent
from klingai_audit.ledger.line import is_migration

__all__ = ["PHASE_IN", "PHASE_OUT", "is_taken_up", "moved_to", "refuse_moved", "takes_up"]

PHASE_OUT: Final = "out"
"""Phase of the entry that ends a log in one store."""

PHASE_IN: Final = "in"
"""Phase of the entry that takes it up in another."""


class _Metadata(msgspec.Struct):
    phase: str = ""
    to: str = ""


class _Entry(msgspec.Struct):
    metadata: _Metadata = msgspec.field(default_factory=_Metadata)


_DECODER: Final = msgspec.json.Decoder(_Entry)


def moved_to(last: bytes) -> str | None:
    """Return where a log with this last entry went on; None if it goes on here."""
    metadata = _metadata(last)
    return metadata.to if metadata.phase == PHASE_OUT else None


def _metadata(entry: bytes) -> _Metadata:
    if not is_migration(entry):
        return _Metadata()
    try:
        return _DECODER.decode(entry).metadata
    except msgspec.MsgspecError:
        return _Metadata()


def is_taken_up(entry: bytes) -> bool:
    """Tell whether an entry takes a log up that was left elsewhere."""
    return _metadata(entry).phase == PHASE_IN


def takes_up(events: Sequence[tuple[EncodedEvent, bool]]) -> bool:
    """Tell whether events begin with the one that takes a migrated log up; nothing may stand before it."""
    return bool(events) and _metadata(events[0][0].body).phase == PHASE_IN


def refuse_moved(last: bytes, url: str, events: Sequence[tuple[EncodedEvent, bool]] = ()) -> None:
    """Refuse to append after the `last` entry if the log at `url` went on elsewhere.

    Unless `events` begin with the entry that takes it up. Raises: LogMigrated.
    """
    target = moved_to(last)
    if target is None or takes_up(events):
        return
    raise LogMigrated(
        f"The log at {url} was migrated: it goes on at {target}, and nothing is written here any more.",
        do="Name the new place: --log or KLINGAI_AUDIT_LOG. If the migration was stopped, run it again, and it is "
        "completed: klingai-audit migrate FROM TO",
    )
