"""When a writer ends an epoch by itself: at midnight, later if nobody signs with the log key just then.

An epoch that was ended has to be signed before anything else is appended. So a writer whose log key is elsewhere asks
first whether it is answered, and puts the rotation off if it is not: entries go on in the old epoch.
"""

from __future__ import annotations

import logging
import time
from typing import Final, Literal

from klingai_audit.diagnostics import tell
from klingai_audit.errors import SignerUnavailable

__all__ = ["RETRY_S", "Rotation", "RotationClock"]

Rotation = Literal["daily", "never"]

RETRY_S: Final = 60.0
"""How long after a rotation was put off it is tried again, in seconds."""

_DAY_NS: Final = 86_400 * 10**9


class RotationClock:
    """Tells one writer when to rotate. Used under the writer lock."""

    def __init__(self, rotation: Rotation) -> None:
        self._daily = rotation == "daily"
        self._again_at: float | None = None

    def is_due(self, now_ns: int, last_ns: int) -> bool:
        """Tell whether the entry to be logged at `now_ns` begins an epoch; `last_ns` is the last entry's time or 0."""
        if self._again_at is not None:
            return time.monotonic() >= self._again_at
        return self._daily and last_ns > 0 and now_ns // _DAY_NS > last_ns // _DAY_NS

    def put_off(self, error: SignerUnavailable) -> None:
        """Note that nobody signs now."""
        if self._again_at is None:
            words = "the epoch goes on, the log's keys are not rotated yet: %s"
            tell(logging.WARNING, "not_rotated", words, error.message)
        self._again_at = time.monotonic() + RETRY_S

    def rotated(self) -> None:
        """Note that an epoch has ended, by whichever writer."""
        self._again_at = None
