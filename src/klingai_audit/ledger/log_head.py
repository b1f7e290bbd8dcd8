"""What the writer thread needs of a head, whichever kind of store it moves."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Protocol

from klingai_audit.event.record import EncodedEvent
from klingai_audit.ledger.keys import KeyFolder
from klingai_audit.ledger.places import Appended
from klingai_audit.ledger.sought import Sought
from klingai_audit.ledger.store import Store

__all__ = ["HEARTBEAT_NS", "LogHead", "OwnEvent"]

HEARTBEAT_NS: Final = 3_600 * 10**9
"""A log that a writer holds open gets an entry at least this often."""

OwnEvent = Callable[[str, Mapping[str, Any]], EncodedEvent]
"""Makes the log's own events: (event type, metadata) → encoded event."""


class LogHead(Protocol):
    """The head of one log as one writer knows it: `size` entries are durable, the first `published` published.

    `sought` are events that are not appended where the log holds them already.
    `publish` may be called beside everything else, the rest by one thread at a time.
    Every method raises: AuditUnavailable (nothing was appended), LogDamaged, InconsistentCheckpoints, SyncFailed.
    """

    keys: KeyFolder
    sought: Sought

    @property
    def store(self) -> Store:
        """Where the log lies."""
        ...

    @property
    def size(self) -> int:
        """Entries that are durable."""
        ...

    @property
    def published(self) -> int:
        """Entries under the newest published checkpoint that this writer knows."""
        ...

    @property
    def publish_interval(self) -> float:
        """The shortest time between the beginnings of two publications that store and keys ask for, in seconds."""
        ...

    def take_up(self, created: Sequence[tuple[EncodedEvent, bool]]) -> list[Appended]:
        """Take up the log where its last writer left it; append (event, once) pairs, the first of them if it is empty.

        `created` are those for an empty log; for another the last of them only. Durable on return.
        """
        ...

    def commit(self, events: Sequence[tuple[EncodedEvent, bool]]) -> list[Appended]:
        """Append (event, once) pairs after what others appended; durable on return; one result for each."""
        ...

    def beat(self) -> list[Appended]:
        """Append a heartbeat if no writer has appended anything for an hour; an idle writer asks every half minute."""
        ...

    def rotate_now(self) -> None:
        """End the current epoch."""
        ...

    def publish(self) -> None:
        """Publish a signed checkpoint over everything that is durable; durable on return."""
        ...

    def own(self, event_type: str, metadata: Mapping[str, Any]) -> tuple[EncodedEvent, bool]:
        """Make one of the log's own events, to be appended."""
        ...

    def close(self) -> None:
        """Release what is open; the next use opens it again."""
        ...

    def after_fork(self) -> None:
        """In a forked child: drop keys, locks and what was inherited open; `take_up` anew."""
        ...
