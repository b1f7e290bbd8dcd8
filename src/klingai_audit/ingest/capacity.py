"""How much may be under way at once: requests, bytes of their bodies, events that are not durable yet."""

from __future__ import annotations

from dataclasses import dataclass
from types import TracebackType
from typing import Final, Self

from klingai_audit.ingest.wire import Refused
from klingai_audit.ledger.appender import MAX_QUEUE

__all__ = ["Capacity", "Lease", "Limits"]

_RETRY_S: Final = "1"


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of one endpoint.

    `body_bytes` of one body, packed and unpacked; `events` of one request; `waiting_events`, `waiting_bytes` and
    `requests` of all requests together; `body_seconds` for a body to arrive; `wait_seconds` for entries to become
    durable, and again for a checkpoint.
    """

    body_bytes: int = 4 << 20
    events: int = 1_000
    waiting_events: int = MAX_QUEUE * 4 // 5
    waiting_bytes: int = 64 << 20
    requests: int = 256
    body_seconds: float = 30.0
    wait_seconds: float = 8.0


class Capacity:
    """What is under way; used by one event loop only."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.requests = 0
        self.bytes = 0
        self.events = 0

    def lease(self) -> Lease:
        """Take the place of one request. Raises: Refused (429)."""
        if self.requests >= self.limits.requests or self.events >= self.limits.waiting_events:
            raise _full()
        return Lease(self)


class Lease:
    """What one request takes; a context manager that gives it back, all but events that `keep` has kept."""

    def __init__(self, capacity: Capacity) -> None:
        self._capacity = capacity
        self._bytes = 0
        self._events = 0
        capacity.requests += 1

    def add_bytes(self, count: int) -> None:
        """Take bytes of memory. Raises: Refused (429)."""
        if self._capacity.bytes + count > self._capacity.limits.waiting_bytes:
            raise _full()
        self._capacity.bytes += count
        self._bytes += count

    def add_events(self, count: int) -> None:
        """Take places in the queue of the log. Raises: Refused (429)."""
        if self._capacity.events + count > self._capacity.limits.waiting_events:
            raise _full()
        self._capacity.events += count
        self._events += count

    def keep(self) -> int:
        """Leave the events counted, as they are still in the queue; returns how many to give back later."""
        kept, self._events = self._events, 0
        return kept

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._capacity.requests -= 1
        self._capacity.bytes -= self._bytes
        self._capacity.events -= self._events


def _full() -> Refused:
    return Refused(
        429,
        "full",
        "As much is under way as may be.",
        do="Send it again after the time in Retry-After, with the same event ids.",
        headers=(("Retry-After", _RETRY_S),),
    )
