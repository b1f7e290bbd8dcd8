"""Where the events of a batch stand: some are in the log already, or earlier in the same batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from klingai_audit.event.record import EncodedEvent

if TYPE_CHECKING:
    from klingai_audit.ledger.sought import Sought

__all__ = ["Appended", "places_of"]


class Appended(NamedTuple):
    """Where an event stands: its index and 32-byte leaf hash; `line` is empty if the log held it already."""

    seq: int
    leaf_hash: bytes
    line: bytes


def places_of(
    events: Sequence[tuple[EncodedEvent, bool]],
    held: Callable[[str], Appended | None],
    sought: Sought | None = None,
    size: int = 0,
) -> Sequence[Appended | int | None]:
    """Tell where each (event, once) stands already: in the log, at an index of this batch, or (None) nowhere yet.

    `held` finds the entry with an event id in the log; it is asked for events that may stand there `once` only.
    Those that are `sought` are looked for among the first `size` entries.
    """
    seek = sought if sought is not None and sought.active else None
    if seek is None and not any(once for _event, once in events):
        return [None] * len(events)
    places: list[Appended | int | None] = []
    first: dict[str, int] = {}
    for index, (event, once) in enumerate(events):
        place: Appended | int | None = None
        if once:
            place = held(event.event_id)
        if place is None and seek is not None:
            place = seek.find(event.event_id, size)
        if place is None and (once or (seek is not None and event.event_id in seek)):
            place = first.get(event.event_id)
        if place is None:
            first.setdefault(event.event_id, index)
        places.append(place)
    return places
