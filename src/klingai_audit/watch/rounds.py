"""What a watch is to do, and what each of its rounds came to."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass, field
from typing import Any

from klingai_audit.watch.problems import Alert, Problem

__all__ = ["Job", "Round", "Settings"]


@dataclass(frozen=True, slots=True)
class Settings:
    """How often each check is made, None for never; `heartbeat` is how long writers may be silent.

    With `record` checks write into the log, and the checks that cannot do without (witness, reconcile) are made.
    """

    quick: dt.timedelta | None = dt.timedelta(minutes=5)
    full: dt.timedelta | None = dt.timedelta(hours=24)
    detect: dt.timedelta | None = dt.timedelta(minutes=15)
    witness: dt.timedelta | None = dt.timedelta(minutes=1)
    reconcile: dt.timedelta | None = dt.timedelta(hours=24)
    heartbeat: dt.timedelta | None = None
    record: bool = False


@dataclass(frozen=True, slots=True)
class Job:
    """What was done in a round: which check, in how many seconds, with what outcome or error."""

    name: str
    seconds: float
    words: str
    quiet: bool = False
    recorded: bool = False
    failed: bool = False

    def to_json(self) -> dict[str, Any]:
        """Return the members as JSON values."""
        told = {"job": self.name, "result": self.words, "failed": self.failed, "recorded": self.recorded}
        return {**told, "seconds": round(self.seconds, 3)}


@dataclass(slots=True)
class Round:
    """What one round came to. `undelivered` are messages that wait, by receiver; `trouble` says why, and what
    could not be remembered.
    """

    time: dt.datetime
    jobs: list[Job] = field(default_factory=list)
    alerts: list[Alert] = field(default_factory=list)
    open: tuple[Problem, ...] = ()
    delivered: list[str] = field(default_factory=list)
    trouble: list[str] = field(default_factory=list)
    undelivered: dict[str, int] = field(default_factory=dict)
    exit_code: int = 0
    late: bool = False
    """What was done could not be remembered."""

    @property
    def quiet(self) -> bool:
        """Tell whether there is nothing worth a line."""
        return all(job.quiet for job in self.jobs) and not (self.alerts or self.delivered or self.trouble)

    def to_json(self) -> dict[str, Any]:
        """Return what `watch --json` prints of this round."""
        return {
            "time": self.time.isoformat(timespec="seconds").replace("+00:00", "Z"),
            "jobs": [job.to_json() for job in self.jobs],
            "alerts": [{"change": alert.change, **_shown(alert.problem)} for alert in self.alerts],
            "open": [_shown(problem) for problem in self.open],
            "delivered": self.delivered,
            "undelivered": self.undelivered,
            "trouble": self.trouble,
            "exit": self.exit_code,
        }


def _shown(problem: Problem) -> dict[str, Any]:
    names = ("source", "kind", "level", "seq", "seq_end", "text")
    return {name: getattr(problem, name) for name in names}
