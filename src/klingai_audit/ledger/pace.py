"""The clock rule: steps of the wall clock become entries, jumps of over a day are refused (docs/format.md)."""

from __future__ import annotations

import datetime as dt
from typing import Any, Final

from klingai_audit.errors import AuditUnavailable
from klingai_audit.ledger.clock import Clock

__all__ = ["ClockWatch", "parse_logged_at"]

_SECOND: Final = 10**9
BACK_TOLERANCE_NS: Final = 5 * _SECOND
AHEAD_TOLERANCE_NS: Final = 300 * _SECOND
AHEAD_REFUSED_NS: Final = 86_400 * _SECOND
REPORT_INTERVAL_NS: Final = 3_600 * _SECOND


class ClockWatch:
    """Compares the wall clock with the last entry and with the time since boot; one per process."""

    def __init__(self, clock: Clock, *, accept: bool = False) -> None:
        self._clock = clock
        self._accept = accept
        self._at_commit: tuple[int, int] | None = None
        self._reported_at: int | None = None

    def check(self, now_ns: int, last_ns: int) -> dict[str, Any] | None:
        """Return metadata for a `clock_stepped` entry if the clock stepped and none is due to be held back.

        Raises: AuditUnavailable if the clock gained more than a day since this process's last commit.
        """
        boot = self._clock.boot_ns()
        step: dict[str, Any] | None = None
        if self._at_commit is not None:
            gained = (now_ns - self._at_commit[0]) - (boot - self._at_commit[1])
            if gained > AHEAD_REFUSED_NS and not self._accept:
                raise AuditUnavailable(
                    f"The wall clock jumped ahead by {gained // _SECOND} s since the last entry of this process.",
                    do="Set the clock right, or accept it with AuditLog.open(accept_clock=True).",
                )
            if gained > AHEAD_TOLERANCE_NS:
                step = {"direction": "ahead", "seconds": gained // _SECOND}
        if last_ns - now_ns > BACK_TOLERANCE_NS:
            step = {"direction": "back", "seconds": (last_ns - now_ns) // _SECOND}
        if step is None or (self._reported_at is not None and boot - self._reported_at < REPORT_INTERVAL_NS):
            return None
        self._reported_at = boot
        return step

    def committed(self, now_ns: int) -> None:
        """Note that a batch was committed at this wall time."""
        self._at_commit = (now_ns, self._clock.boot_ns())


def parse_logged_at(text: str) -> int:
    """Return the nanoseconds since the epoch of a 27-character UTC time."""
    moment = dt.datetime.fromisoformat(text)
    return int(moment.replace(microsecond=0).timestamp()) * _SECOND + moment.microsecond * 1_000
