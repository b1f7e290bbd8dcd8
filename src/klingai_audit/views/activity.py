"""One person's activity: totals by type, outcome and day, charges, unusual hours, against the period before.

Allowed callers: views, log, cli.
"""

from __future__ import annotations

import datetime as dt
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from klingai_audit.errors import UsageError
from klingai_audit.event.types import END_TYPES
from klingai_audit.privacy.subjects import RESERVED, SubjectTable, is_pseudonym, mask_id
from klingai_audit.views.charge import ChargeSum
from klingai_audit.views.entry import EntryView, People
from klingai_audit.views.generations import Generations
from klingai_audit.views.plan import Filter
from klingai_audit.views.query import query
from klingai_audit.views.rhythm import BASELINE, NOT_BEGUN, Rhythm

__all__ = ["MAX_DAYS", "NO_ACTS", "RESULT_TYPES", "Activity", "Former", "activity", "rate"]

RESULT_TYPES: Final = END_TYPES | {"rate_limit_exceeded", "policy_violation", "access_denied"}
"""Event types that say how an order came out."""

NO_ACTS: Final = NOT_BEGUN | {"api_key_used"}
"""Event types that are no acts: what is only seen, and what is noted beside an act."""

MAX_DAYS: Final = 36_500
"""Longest period in days (a century), so that a typo is a message and not an overflow."""


@dataclass(frozen=True, kw_only=True)
class Former:
    """The period of the same length before: what to compare with."""

    total_events: int
    by_outcome: Mapping[str, int]
    success_rate: float | None
    charges: Mapping[str, str]

    def to_json(self) -> dict[str, Any]:
        """Return the members as JSON values."""
        return {
            "total_events": self.total_events,
            "by_outcome": dict(self.by_outcome),
            "success_rate": self.success_rate,
            "charges": dict(self.charges),
        }


@dataclass(frozen=True, kw_only=True)
class Activity:
    """What one actor did in the last `period_days` days of 24 hours.

    `actor_id` is the stored id (a pseudonym), None if nobody by that id ever entered the log; `actor` the mask.
    Days in `by_day` are UTC days of `timestamp`. Charges are decimal texts per unit, never added across units.
    `success_rate`: of the tasks that ended and the calls that were refused, the share that ended well; None if there
    are none. `unusual` counts by hour of the day (UTC) what was begun outside the person's usual hours
    (`views.rhythm`); None where too little is known to say.

    `total_events` counts entries, `acts` what the person did: an intent and its outcome are one act, and what is
    only seen (a task's new status, its end) or noted beside an act (`api_key_used`) is none. `generations` counts
    orders begun in the period by how they came out: success, failure, blocked, unknown (which includes those that
    have not ended).
    """

    actor_id: str | None
    actor: str
    period_days: int
    total_events: int
    acts: int
    generations: Mapping[str, int]
    by_type: Mapping[str, int]
    by_outcome: Mapping[str, int]
    by_day: Mapping[str, int]
    charges: Mapping[str, str]
    first_activity: dt.datetime | None
    last_activity: dt.datetime | None
    success_rate: float | None = None
    unusual: Mapping[int, int] | None = None
    previous: Former | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the members as JSON values, in the order of docs."""
        return {
            "actor_id": self.actor_id,
            "actor": self.actor,
            "period_days": self.period_days,
            "total_events": self.total_events,
            "acts": self.acts,
            "generations": dict(self.generations),
            "by_type": dict(self.by_type),
            "by_outcome": dict(self.by_outcome),
            "by_day": dict(self.by_day),
            "charges": dict(self.charges),
            "first_activity": _json_time(self.first_activity),
            "last_activity": _json_time(self.last_activity),
            "success_rate": self.success_rate,
            "unusual_hours": None if self.unusual is None else {str(h): n for h, n in sorted(self.unusual.items())},
            "previous": None if self.previous is None else self.previous.to_json(),
        }


def activity(
    lines: Iterable[bytes],
    actor: str,
    *,
    days: int = 30,
    subjects: SubjectTable | None = None,
    now: dt.datetime | None = None,
) -> Activity:
    """Count one actor's events of the last `days` days.

    Args: `actor` is a raw id, a mask or a pseudonym; `lines` are stored entries without LF in log order.
    Raises: UsageError if `days` is not in 1..36500, if the person cannot be looked up, or if a mask stands for more
    than one person; Malformed for a line that is no entry.
    """
    if not 1 <= days <= MAX_DAYS:
        raise UsageError(f"days is {days}.", do=f"Use a number from 1 to {MAX_DAYS}.")
    moment = now or dt.datetime.now(dt.UTC)
    people = People(subjects)
    period = dt.timedelta(days=days)
    since = moment - period
    tally, before, rhythm, begun = _Tally(), _Tally(), Rhythm(), Counter[int]()
    ids: set[str] = set()
    wanted = Filter(actor=actor, since=since - max(period, BASELINE))
    for entry in query(lines, wanted, subjects, now=moment):
        when = entry.timestamp
        if entry.actor_id is not None:
            ids.add(entry.actor_id)
        starts = entry.event_type not in NOT_BEGUN
        if when >= since:
            tally.add(entry)
            begun[when.hour] += starts
            continue
        if when >= since - period:
            before.add(entry)
        if starts and when >= since - BASELINE:
            rhythm.add(when)
    if len(ids) > 1 and people.pseudonym(actor) is None:
        raise UsageError(
            f"{len(ids)} people share this mask.", do=f"Give one of their pseudonyms: {', '.join(sorted(ids))}."
        )
    stored = next(iter(ids), None) or _stored(actor, people)
    usual = rhythm.usual()
    return Activity(
        actor_id=stored,
        actor=people.mask(stored) if stored is not None else _shown(actor),
        period_days=days,
        total_events=tally.types.total(),
        acts=tally.acts,
        generations=tally.generations.count(),
        by_type=dict(tally.types.most_common()),
        by_outcome=dict(tally.outcomes.most_common()),
        by_day=dict(sorted(tally.days.items())),
        charges=tally.charges.to_json(),
        first_activity=tally.first,
        last_activity=tally.last,
        success_rate=tally.success_rate,
        unusual=None if usual is None else {hour: n for hour, n in begun.items() if n and hour not in usual},
        previous=Former(
            total_events=before.types.total(),
            by_outcome=dict(before.outcomes.most_common()),
            success_rate=before.success_rate,
            charges=before.charges.to_json(),
        ),
    )


def rate(well: int, all_of: int) -> float | None:
    """Return a share with four decimals; None of nothing."""
    return round(well / all_of, 4) if all_of else None


class _Tally:
    def __init__(self) -> None:
        self.types: Counter[str] = Counter()
        self.outcomes: Counter[str] = Counter()
        self.days: Counter[str] = Counter()
        self.charges = ChargeSum()
        self.acts = 0
        self.generations = Generations()
        self.first: dt.datetime | None = None
        self.last: dt.datetime | None = None
        self.ended = 0
        self.ended_well = 0

    @property
    def success_rate(self) -> float | None:
        return rate(self.ended_well, self.ended)

    def add(self, entry: EntryView) -> None:
        self.types[entry.event_type] += 1
        self.outcomes[entry.outcome] += 1
        if entry.event_type in RESULT_TYPES and entry.outcome != "unknown":
            self.ended += 1
            self.ended_well += entry.outcome == "success"
        self.acts += _is_act(entry)
        self.generations.add(entry)
        moment = entry.timestamp
        self.days[moment.date().isoformat()] += 1
        self.charges.add(entry)
        self.first = moment if self.first is None else min(self.first, moment)
        self.last = moment if self.last is None else max(self.last, moment)


def _is_act(entry: EntryView) -> bool:
    """Tell whether an entry is the first word of something that its actor did."""
    return entry.event_type not in NO_ACTS and "intent" not in entry.metadata


def _stored(actor: str, people: People) -> str | None:
    """Return the stored id of someone without an entry in the period."""
    if is_pseudonym(actor) or actor in RESERVED:
        return actor
    return people.pseudonym(actor)


def _shown(actor: str) -> str:
    """Return what may be printed for somebody whom the log does not know: never the raw id."""
    return actor if "***" in actor else mask_id(actor)


def _json_time(moment: dt.datetime | None) -> str | None:
    return None if moment is None else moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
