"""Redirects of one call: several exchanges, one act. For clients that show their redirects one by one.

A client's outermost call makes a `Trail`; each audited exchange within it asks the trail whether it follows a
redirect. When the call ends, redirects that nobody followed end their acts where they stand.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import httpx2  # noqa: F401  its decoders undo, for a watch, what a caller reads undecoded

from klingai_audit.capture.attempt import Attempt
from klingai_audit.capture.facts import Exchange, Sink
from klingai_audit.capture.watch import Watch

__all__ = ["HopWatch", "Trail"]


class HopWatch(Watch):
    """A watch that knows if its reply is a redirect, and can end there.

    `stops`: the client's call is over, so that no redirect will be followed any more.
    """

    stops = False

    @property
    def redirects(self) -> bool:
        """Whether the reply points elsewhere."""
        return self._redirects

    def reads_decoded(self) -> None:
        """The caller reads what the content encoding stood for, so that is what will be fed."""
        if self._encoding:
            response = self._response
            super().__init__(self.attempt, _Plain(self._status, self._headers))
            self._response = response

    def settled(self) -> Exchange:
        """The facts of a redirect that is not followed."""
        return self._whole()

    def _stops_here(self) -> bool:
        return self.stops


class _Plain:
    """Status and headers of a reply whose encoding is undone already."""

    def __init__(self, status: int, headers: Mapping[str, str]) -> None:
        self.status_code = status
        encoded = ("content-encoding", "content-length")
        self.headers = {name: value for name, value in headers.items() if name.lower() not in encoded}


class Trail:
    """The acts of one call that wait for their next hop, one per log. Used by one thread or task at a time."""

    def __init__(self) -> None:
        self._waiting: dict[int, tuple[Attempt, HopWatch]] = {}

    def follow(self, sink: Sink) -> Attempt | None:
        """Return the attempt whose redirect the next exchange follows, or None."""
        attempt, _ = self._waiting.pop(id(sink), (None, None))
        if attempt is None or attempt.ended or not attempt.waits_for_hop:
            return None
        attempt.next_hop()
        return attempt

    def wait(self, sink: Sink, attempt: Attempt, watch: HopWatch) -> None:
        """Keep an attempt whose reply may be followed; nothing if it is no redirect."""
        if watch.redirects:
            self._waiting[id(sink)] = (attempt, watch)

    def settle(self) -> None:
        """End what waits for a hop that will not come."""
        for attempt, watch in self._left():
            attempt.finished(watch.settled())

    async def asettle(self) -> None:
        """Do the same without blocking the loop."""
        for attempt, watch in self._left():
            attempt.finished(watch.settled())

    def _left(self) -> Iterator[tuple[Attempt, HopWatch]]:
        while self._waiting:
            _, (attempt, watch) = self._waiting.popitem()
            watch.stops = True
            if attempt.waits_for_hop and not attempt.ended:
                yield attempt, watch
