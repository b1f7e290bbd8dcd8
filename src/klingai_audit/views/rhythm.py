"""A person's usual hours, and acts outside of them.

An hour of the day (UTC) is usual for a person who did something in it, or in the hour before or after, on at least two
days of the 90 days before the period. Only somebody who did something on at least five of those days has usual hours;
of others nothing is said. What counts is what people begin: ends and changes of tasks come when they come.
Allowed callers: views.
"""

from __future__ import annotations

import datetime as dt
from typing import Final

from klingai_audit.event.types import END_TYPES

__all__ = ["BASELINE", "MIN_DAYS", "MIN_DAYS_OF_HOUR", "NOT_BEGUN", "Rhythm"]

BASELINE: Final = dt.timedelta(days=90)
"""How far back the usual hours are looked for, counted from the beginning of the period."""

MIN_DAYS: Final = 5
"""Days on which somebody must have done something to have usual hours."""

MIN_DAYS_OF_HOUR: Final = 2
"""Days on which an hour, or one beside it, must have been used to be usual."""

NOT_BEGUN: Final = END_TYPES | {"task_status_changed"}
"""Event types that do not say when a person acted."""


class Rhythm:
    """When one person acts: days by hour of the day, of a baseline."""

    def __init__(self) -> None:
        self._days: list[set[dt.date]] = [set() for _ in range(24)]

    def add(self, moment: dt.datetime) -> None:
        """Take in something that the person began."""
        self._days[moment.hour].add(moment.date())

    def usual(self) -> frozenset[int] | None:
        """Return the usual hours of the day; None if too little is known."""
        if len(set().union(*self._days)) < MIN_DAYS:
            return None
        return frozenset(
            hour
            for hour in range(24)
            if len(self._days[hour - 1] | self._days[hour] | self._days[(hour + 1) % 24]) >= MIN_DAYS_OF_HOUR
        )
