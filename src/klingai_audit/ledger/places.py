"""Where the events of a batch stand: some are in the log already, or earlier in the same batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from klingai_audit.event.record import EncodedEvent

__all__ = ["Appended", "places_of"]


class Appended(NamedTuple):
    """Where an event stands: its index and 32-byte leaf hash; `line` is empty if the log held it already."""

    seq: int
    leaf_hash: bytes
    line: bytes


def places_of(
    events: Sequence[tuple[EncodedEvent, bool]], held: Callable[[str], Appended | None]
) -> Sequence[Appended | int | None]:
    """Tell where each (event, once) stands already: in the log, at an index of this batch, or (None) nowhere yet.

    `held` finds the entry with an event id in the log; it is asked for events that may stand there `once` only.
    """
    if not any(once for _event, once in events):
        return [None] * len(events)
    places: list[Appended | int | None] = []
    first: dict[str, int] = {}
    for index, (event, once) in enumerate(events):
        place: Appended | int | None = None
        if once:
            place = held(event.event_id) or first.get(event.event_id)
        if place is None:
            first.setdefault(event.event_id, index)
        places.append(place)
    return places
