"""The story of one generation: every entry of one task, in order, with durations and charge.

Entries that name the task give its correlation ids; entries that share those belong to the story unless they name
another task. Allowed callers: views, log, cli.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

from klingai_audit.event.types import END_TYPES, TASK_TYPES
from klingai_audit.privacy.subjects import SubjectTable
from klingai_audit.views.charge import ChargeSum
from klingai_audit.views.entry import EntryView, People
from klingai_audit.views.indexed import Indexed
from klingai_audit.views.plan import TASK_MEMBERS, Filter
from klingai_audit.views.query import query

__all__ = ["Step", "Story", "find_shown", "tell_story"]

_EVENT_ID: Final = slice(24, 60)
_SEQ: Final = re.compile(r"0|[1-9][0-9]{0,15}", re.ASCII)
_UUID: Final = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


@dataclass(frozen=True, slots=True)
class Step:
    """One entry of a story; seconds are by the sources' clocks and may be negative where those disagree."""

    entry: EntryView
    since_start: float
    since_previous: float


@dataclass(frozen=True, slots=True)
class Story:
    """Everything that the log holds about one task, in log order; never empty.

    `task` is the provider's id if one is known, else what was asked for. `end` is the entry that ended it, `seconds`
    lie between the first step and that end; both None while there is none. `charges` are decimal texts per unit.
    """

    task: str
    steps: tuple[Step, ...]
    end: EntryView | None
    seconds: float | None
    charges: dict[str, str]


def find_shown(
    read: Callable[[], Iterable[bytes]],
    read_one: Callable[[int], bytes],
    size: int,
    what: str,
    subjects: SubjectTable | None = None,
) -> EntryView | Story | None:
    """Return what `show WHAT` shows: the entry of that seq or event id, else the story of that task, else None.

    Digits below `size` (the number of entries) are a seq; a correlation id is taken for its task.
    """
    if _SEQ.fullmatch(what) and int(what) < size:
        return EntryView(read_one(int(what)), People(subjects))
    if _UUID.fullmatch(what.lower()):
        what = what.lower()
        event_id = what.encode()
        lines = read()
        for line in lines.of_event(what) if isinstance(lines, Indexed) else lines:
            if line[_EVENT_ID] == event_id:
                return EntryView(line, People(subjects))
    return tell_story(read, what, subjects)


def tell_story(read: Callable[[], Iterable[bytes]], task: str, subjects: SubjectTable | None = None) -> Story | None:
    """Return the story of a provider task id (or of a correlation id), None if no entry names it.

    `read` gives the stored entries in log order, each time from the start.
    """
    named = [*query(read(), Filter(task=task), subjects), *query(read(), Filter(correlation=task), subjects)]
    found = {entry.seq: entry for entry in named}
    for correlation in {entry.correlation_id for entry in named} - {None, task}:
        found.update({entry.seq: entry for entry in query(read(), Filter(correlation=correlation), subjects)})
    own = {task}.union(*map(_names_in, named))
    foreign = set().union(*(_names_in(entry) for entry in found.values() if _task_of(entry) not in own | {None})) - own
    entries = [entry for _, entry in sorted(found.items()) if not foreign & {entry.event_id, *_names_in(entry)}]
    return _story(task, entries) if entries else None


def _story(task: str, entries: list[EntryView]) -> Story:
    start = previous = entries[0].timestamp
    steps = []
    charges = ChargeSum()
    for entry in entries:
        moment = entry.timestamp
        steps.append(Step(entry, (moment - start).total_seconds(), (moment - previous).total_seconds()))
        charges.add(entry)
        previous = moment
    end = next((entry for entry in reversed(entries) if entry.event_type in END_TYPES), None)
    return Story(
        task=next(filter(None, map(_task_of, entries)), task),
        steps=tuple(steps),
        end=end,
        seconds=None if end is None else (end.timestamp - start).total_seconds(),
        charges=charges.to_json(),
    )


def _task_of(entry: EntryView) -> str | None:
    """Return the provider task id that an entry names, if its kind of entry names one."""
    return entry.resource_id if entry.event_type in TASK_TYPES else None


def _names_in(entry: EntryView) -> set[str]:
    """Return every id by which an entry could name its task: the provider's, the caller's, the intent's."""
    told = (entry.metadata.get(name) for name in (*TASK_MEMBERS, "intent"))
    return {name for name in (*told, _task_of(entry), entry.resource_id) if isinstance(name, str)}
