"""What a caller's own event may not be: an end of a task, or an act that changes what the log holds or hides."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from klingai_audit.errors import InvalidEvent
from klingai_audit.event.record import is_end_id
from klingai_audit.event.types import EventType

__all__ = ["ACTS", "refuse_given"]

ACTS: Final[Mapping[str, str]] = MappingProxyType(
    {
        EventType.CONTENT_UNSEALED.value: "unseal",
        EventType.LEGAL_HOLD_RELEASED.value: "hold release",
        EventType.LEGAL_HOLD_SET.value: "hold set",
        EventType.RETENTION_APPLIED.value: "retention apply",
        EventType.SUBJECT_ERASED.value: "erase",
    }
)
"""Types whose entries have effects (who is erased, what may be purged) -> the command that writes them."""


def refuse_given(event_type: str, event_id: str | None) -> None:
    """Refuse what only the log's own acts may write. Raises: InvalidEvent."""
    if event_id is not None and is_end_id(event_id):
        raise InvalidEvent(
            "/event_id: a UUID of version 8 is kept for the ends of tasks.", do="Give a UUIDv7, or leave it out."
        )
    if event_type in ACTS:
        raise InvalidEvent(
            f"/event_type: '{event_type}' is written by the act itself, with what it needs to be one.",
            do=f"Use: klingai-audit {ACTS[event_type]}",
        )
