"""The clocks a writer reads; tests hand in their own."""

from __future__ import annotations

import time
from typing import Final, Protocol

__all__ = ["SYSTEM_CLOCK", "Clock", "SystemClock"]


class Clock(Protocol):
    """Wall time and the time since boot, both in nanoseconds."""

    def now_ns(self) -> int:
        """Nanoseconds since the Unix epoch by the wall clock; may step."""
        ...

    def boot_ns(self) -> int:
        """Nanoseconds since boot, suspended time included where the system can tell; never steps."""
        ...


class SystemClock:
    """The machine's clocks."""

    _boot_clock = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)

    def now_ns(self) -> int:
        return time.time_ns()

    def boot_ns(self) -> int:
        return time.clock_gettime_ns(self._boot_clock)


SYSTEM_CLOCK: Final = SystemClock()
