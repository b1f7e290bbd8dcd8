"""The simulator's time: one that tests move by hand, one that follows the real clock."""

from __future__ import annotations

import threading
import time
from typing import Protocol

from klingai_audit.errors import UsageError


class Clock(Protocol):
    """What the simulator asks of a clock."""

    @property
    def speed(self) -> float:
        """How many simulated seconds of rendering fit into one second of this clock."""
        ...

    def now_ms(self) -> int:
        """Milliseconds since 1970-01-01T00:00:00Z."""
        ...


class ManualClock:
    """Stands still until `advance`; thread-safe.

    Starts at `start_ms` (milliseconds since the epoch), by default the present, so that
    tokens signed by a client with the real time are valid.
    """

    speed = 1.0

    def __init__(self, start_ms: int | None = None) -> None:
        self._now_ms = time.time_ns() // 1_000_000 if start_ms is None else start_ms
        self._lock = threading.Lock()

    def now_ms(self) -> int:
        """Milliseconds since the epoch, as last set."""
        with self._lock:
            return self._now_ms

    def advance(self, seconds: float) -> None:
        """Move forward by `seconds` (fractions count to the millisecond).

        Raises: UsageError: `seconds` is negative.
        """
        if seconds < 0:
            raise UsageError("the simulator's clock only moves forward")
        with self._lock:
            self._now_ms += round(seconds * 1000)


class RealClock:
    """Follows the system's clock; `speed` shortens rendering, never the calendar.

    With `speed=100` a task that renders for 30 seconds is done after 0.3 seconds, while its
    times stay true. Raises: UsageError: `speed` is not positive.
    """

    def __init__(self, speed: float = 1.0) -> None:
        if speed <= 0:
            raise UsageError("the simulator's speed must be positive")
        self._speed = speed

    @property
    def speed(self) -> float:
        """Simulated rendering seconds per second."""
        return self._speed

    def now_ms(self) -> int:
        """Milliseconds since the epoch, from the system."""
        return time.time_ns() // 1_000_000
