"""Activity of everybody, grouped by person, team, project, key, model or day, against the period before. By the index.

Events of the log itself (actor `klingai-audit`) are left out. Equal event ids count once. Definitions of success rate
and unusual hours are those of one person's activity. Allowed callers: views, log, report, cli.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, Final

from klingai_audit.errors import UsageError
from klingai_audit.event.context import OWN_ACTOR, UNKNOWN_ACTOR
from klingai_audit.privacy.subjects import SubjectTable
from klingai_audit.views.activity import MAX_DAYS, NO_ACTS, RESULT_TYPES, rate
from klingai_audit.views.entry import People
from klingai_audit.views.rhythm import BASELINE, MIN_DAYS, MIN_DAYS_OF_HOUR, NOT_BEGUN

__all__ = ["GROUPINGS", "Group", "Grouped", "Rows", "activity_by"]

GROUPINGS: Final[Mapping[str, str]] = {
    "actor": "actor_id",
    "team": "team",
    "project": "project",
    "key": "api_key",
    "model": "model",
    "day": "CAST(CAST(timestamp AS DATE) AS VARCHAR)",
}
"""What activity can be grouped by -> the column of `events`; `day` is a UTC day."""

Rows = Callable[[str, Sequence[Any]], list[tuple[Any, ...]]]
"""A SELECT over `events` and its parameters -> its rows."""


@dataclass(slots=True, kw_only=True)
class Group:
    """One group; `value` is None where entries state none. Members as in `views.activity.Activity`.

    `unusual` counts what people began outside their own usual hours, as far as those are known.
    """

    value: str | None
    events: int = 0
    acts: int = 0
    previous: int = 0
    by_type: dict[str, int] = field(default_factory=dict)
    by_outcome: dict[str, int] = field(default_factory=dict)
    ended: int = 0
    ended_well: int = 0
    unusual: int = 0
    charges: dict[str, Decimal] = field(default_factory=dict)
    first: dt.datetime | None = None
    last: dt.datetime | None = None

    @property
    def success_rate(self) -> float | None:
        """Of the tasks that ended and the calls that were refused, the share that ended well; None of none."""
        return rate(self.ended_well, self.ended)


@dataclass(frozen=True, kw_only=True)
class Grouped:
    """Activity of [since, until), of `days` days of 24 hours, in groups: the busiest first, days in their order."""

    by: str
    days: int
    since: dt.datetime
    until: dt.datetime
    groups: tuple[Group, ...]
    people: People

    def shown(self, group: Group) -> str:
        """Return a group's value as people read it: a mask for a person, `–` where there is none."""
        if group.value is None:
            return "–"
        return self.people.mask(group.value) if self.by == "actor" else group.value

    def to_json(self) -> dict[str, Any]:
        """Return everything as JSON values, in the order of docs."""
        return {
            "by": self.by,
            "period_days": self.days,
            "since": _json_time(self.since),
            "until": _json_time(self.until),
            "groups": [
                {
                    self.by: group.value,
                    **({"actor_shown": self.shown(group)} if self.by == "actor" else {}),
                    "total_events": group.events,
                    "acts": group.acts,
                    "previous_events": group.previous,
                    "by_type": group.by_type,
                    "by_outcome": group.by_outcome,
                    "success_rate": group.success_rate,
                    "unusual_hours": group.unusual,
                    "charges": {unit: format(group.charges[unit], "f") for unit in sorted(group.charges)},
                    "first_activity": _json_time(group.first),
                    "last_activity": _json_time(group.last),
                }
                for group in self.groups
            ],
        }


def activity_by(
    rows: Rows,
    by: str,
    *,
    days: int = 30,
    subjects: SubjectTable | None = None,
    now: dt.datetime | None = None,
) -> Grouped:
    """Count everybody's events of the last `days` days; `rows` answers a SELECT over `events` (`Index.rows`).

    Raises: UsageError if `days` is not in 1..36500, or for a grouping that there is not.
    """
    if not 1 <= days <= MAX_DAYS:
        raise UsageError(f"days is {days}.", do=f"Use a number from 1 to {MAX_DAYS}.")
    if by not in GROUPINGS:
        raise UsageError(f"Activity cannot be grouped by {by!r}.", do=f"Use one of: {', '.join(GROUPINGS)}.")
    until = now or dt.datetime.now(dt.UTC)
    since = until - dt.timedelta(days=days)
    before = since - dt.timedelta(days=days)
    groups: dict[str | None, Group] = {}

    def group_of(value: str | None) -> Group:
        return groups.setdefault(value, Group(value=value))

    column = GROUPINGS[by]
    for value, kind, outcome, former, count, first, last in rows(
        _COUNTS.format(column=column), _naive(since, before, until)
    ):
        if former:
            if by != "day":
                group_of(value).previous += count
            continue
        group = group_of(value)
        group.events += count
        group.by_type[kind] = group.by_type.get(kind, 0) + count
        group.by_outcome[outcome] = group.by_outcome.get(outcome, 0) + count
        if kind in RESULT_TYPES and outcome != "unknown":
            group.ended += count
            group.ended_well += count if outcome == "success" else 0
        group.first = first if group.first is None else min(group.first, first)
        group.last = last if group.last is None else max(group.last, last)
    for value, count in rows(_ACTS.format(column=column), _naive(since, until)):
        group_of(value).acts = count
    for value, unit, amount in rows(_CHARGES.format(column=column), _naive(since, until)):
        group_of(value).charges[unit] = amount.normalize() + 0
    for value, count in rows(_UNUSUAL.format(column=column), _naive(since - BASELINE, since, since, until)):
        group_of(value).unusual = count
    made = [_tidy(group) for group in groups.values()]
    made.sort(key=(lambda group: (group.value or "",)) if by == "day" else _busiest)
    return Grouped(by=by, days=days, since=since, until=until, groups=tuple(made), people=People(subjects))


_NOT_BEGUN: Final = ", ".join(f"'{name}'" for name in sorted(NOT_BEGUN))
_NO_ACTS: Final = ", ".join(f"'{name}'" for name in sorted(NO_ACTS))
_PEOPLE: Final = f"first AND actor_id IS DISTINCT FROM '{OWN_ACTOR}'"
_BEGUN: Final = f"first AND actor_id NOT IN ('{OWN_ACTOR}', '{UNKNOWN_ACTOR}') AND event_type NOT IN ({_NOT_BEGUN})"
_COUNTS: Final = (
    "SELECT {column}, event_type, outcome, timestamp < ?, count(*), min(timestamp), max(timestamp) FROM events"  # noqa: S608  names of ours
    f" WHERE {_PEOPLE} AND timestamp >= ? AND timestamp < ? GROUP BY ALL"
)
_ACTS: Final = (
    "SELECT {column}, count(*) FROM events"  # noqa: S608  names of ours
    f" WHERE {_PEOPLE} AND event_type NOT IN ({_NO_ACTS}) AND NOT json_exists(metadata, '$.intent')"
    " AND timestamp >= ? AND timestamp < ? GROUP BY ALL"
)
_CHARGES: Final = (
    "SELECT value, charge.unit, sum(charge.amount) FROM (SELECT {column} AS value, unnest(charges) AS charge"  # noqa: S608  names of ours
    f" FROM events WHERE {_PEOPLE} AND timestamp >= ? AND timestamp < ?) GROUP BY ALL"
)
_UNUSUAL: Final = (
    "WITH acts AS (SELECT DISTINCT actor_id, hour(timestamp) AS h, CAST(timestamp AS DATE) AS d FROM events"  # noqa: S608  names of ours
    f" WHERE {_BEGUN} AND timestamp >= ? AND timestamp < ?),"
    f" known AS (SELECT actor_id FROM acts GROUP BY actor_id HAVING count(DISTINCT d) >= {MIN_DAYS}),"
    " usual AS (SELECT actor_id, (h + shift) % 24 AS h FROM acts, (VALUES (23), (24), (25)) AS near(shift)"
    f" GROUP BY ALL HAVING count(DISTINCT d) >= {MIN_DAYS_OF_HOUR})"
    " SELECT {column}, count(*) FROM events"
    f" WHERE {_BEGUN} AND timestamp >= ? AND timestamp < ?"
    " AND actor_id IN (SELECT actor_id FROM known)"
    " AND (actor_id, hour(timestamp)) NOT IN (SELECT (actor_id, h) FROM usual) GROUP BY ALL"
)


def _naive(*moments: dt.datetime) -> list[dt.datetime]:
    return [moment.astimezone(dt.UTC).replace(tzinfo=None) for moment in moments]


def _tidy(group: Group) -> Group:
    group.by_type = dict(sorted(group.by_type.items(), key=lambda pair: (-pair[1], pair[0])))
    group.by_outcome = dict(sorted(group.by_outcome.items(), key=lambda pair: (-pair[1], pair[0])))
    return group


def _busiest(group: Group) -> tuple[Any, ...]:
    return (-group.events, group.value is None, group.value or "")


def _json_time(moment: dt.datetime | None) -> str | None:
    return None if moment is None else moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
