"""Events of the log itself: they hold nothing of users and need no privacy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from msgspec import UNSET

from klingai_audit.event.context import OWN_ACTOR
from klingai_audit.event.record import EncodedEvent, Event, encode_event, format_time, new_event_id

__all__ = ["own_event"]


def own_event(
    event_type: str, metadata: Mapping[str, Any], now_ns: int, *, event_id: str | None = None
) -> EncodedEvent:
    """Return the encoded event by which the log records an act of its own at `now_ns` (Unix nanoseconds).

    `event_id` is drawn here unless it is given.
    """
    event = Event(
        event_id=event_id or new_event_id(now_ns),
        timestamp=format_time(now_ns),
        event_type=event_type,
        actor_id=OWN_ACTOR,
        actor_type="system",
        outcome="success",
        metadata=dict(metadata) if metadata else UNSET,
    )
    return encode_event(event)
