"""A clock that moves only when the test says so."""

from __future__ import annotations

import datetime as dt
from typing import Final

from klingai_audit.errors import UsageError

__all__ = ["HandClock"]

_EPOCH: Final = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_MICROSECOND: Final = dt.timedelta(microseconds=1)
_NOON: Final = dt.datetime(2026, 11, 21, 12, tzinfo=dt.UTC)


class HandClock:
    """A log's clock under your control, for `memory_log(clock=…)`; starts at `start` (aware), by default a noon."""

    def __init__(self, start: dt.datetime = _NOON) -> None:
        if start.tzinfo is None:
            raise UsageError("The clock's start has no time zone.", do="Give an aware datetime, best in UTC.")
        self._wall = (start - _EPOCH) // _MICROSECOND * 1_000
        self._boot = 1_000 * 10**9

    def __repr__(self) -> str:
        return f"HandClock({self.now.isoformat()})"

    @property
    def now(self) -> dt.datetime:
        """The wall time, in UTC."""
        return _EPOCH + dt.timedelta(microseconds=self._wall // 1_000)

    def now_ns(self) -> int:
        """Return the wall time in nanoseconds since 1970 UTC."""
        return self._wall

    def boot_ns(self) -> int:
        """Return the time since boot in nanoseconds."""
        return self._boot

    def advance(self, seconds: float) -> None:
        """Let time pass on both clocks. Raises: UsageError: `seconds` is negative."""
        if seconds < 0:
            raise UsageError("Time does not pass backwards.", do="Use step() to set the wall clock back.")
        self._wall += round(seconds * 10**9)
        self._boot += round(seconds * 10**9)

    def step(self, seconds: float) -> None:
        """Set the wall clock ahead or back; the time since boot stays."""
        self._wall += round(seconds * 10**9)
