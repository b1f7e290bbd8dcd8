"""Search the log: filters over a stream of entries.

Works on any iterable of stored entries, in log order; of an `Indexed` log only those are read that the index does not
rule out. A line is looked at as raw bytes first and decoded only if it
can match, so a scan of a million entries stays tolerable without an index. Every view folds by `event_id`: the first
entry of an event is the event; later ones with the same id (several pollers saw the same end) are left out.
Allowed callers: views, log, upkeep, cli.
"""

from __future__ import annotations

import datetime as dt
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Final

from klingai_audit.errors import StorageError
from klingai_audit.index.lines import Stale
from klingai_audit.privacy.subjects import SubjectTable
from klingai_audit.views.entry import EntryView, People
from klingai_audit.views.indexed import Indexed
from klingai_audit.views.plan import Filter, Plan

__all__ = ["Filter", "matcher", "query"]

_EVENT_ID: Final = slice(24, 60)
_VERSION_AT: Final = 38
_END_VERSION: Final = b"8"  # UUIDv8: end events, the only ids that several writers make alike by design


def query(
    lines: Iterable[bytes],
    filter: Filter,
    subjects: SubjectTable | None = None,
    *,
    now: dt.datetime | None = None,
) -> Iterator[EntryView]:
    """Yield the entries that match, in log order (or newest first).

    Args: `lines` are stored entries without LF in log order; `now` is what relative times count from (default: this
    machine's clock). The filter is checked before this returns, the scan happens while iterating.
    Raises: UsageError for an unknown type, category, outcome, time or limit, or for a person who cannot be looked up
    because there is no subject table; Malformed (while iterating) for a line that is no entry.
    """
    moment = now or dt.datetime.now(dt.UTC)
    plan = Plan(filter, People(subjects), moment)
    if isinstance(lines, Indexed):
        newest = filter.reverse and plan.limit is not None
        narrowed = lines.narrowed(filter, plan.people, moment, newest=newest)
        if narrowed is not None:
            return _by_index(lines, narrowed, plan, filter, newest=newest)
    return _by_scan(lines, plan, filter)


def matcher(filter: Filter, subjects: SubjectTable | None = None) -> Callable[[bytes], bool]:
    """Return what tells of one stored entry whether it matches, whatever its event id. Raises: as `query`."""
    plan = Plan(filter, People(subjects), dt.datetime.now(dt.UTC))
    return lambda line: _read(line, plan) is not None


def _by_scan(lines: Iterable[bytes], plan: Plan, filter: Filter) -> Iterator[EntryView]:
    found = _scan(lines, plan) if filter.duplicates else _scan_folded(lines, plan)
    return _newest_first(found, plan.limit) if filter.reverse else _first(found, plan.limit)


def _by_index(
    lines: Indexed, narrowed: Iterator[bytes], plan: Plan, filter: Filter, *, newest: bool
) -> Iterator[EntryView]:
    """Yield what a scan would; if index and log turn out to disagree, the scan goes on where this came to."""
    count = 0
    found = (
        _first(_scan_down(lines, narrowed, plan, filter), plan.limit) if newest else _by_scan(narrowed, plan, filter)
    )
    try:
        for entry in found:
            yield entry
            count += 1
    except (Stale, StorageError) as exc:
        if isinstance(exc, Stale):
            lines.distrust()
        yield from islice(_by_scan(lines, plan, filter), count, None)


def _scan_down(lines: Indexed, narrowed: Iterator[bytes], plan: Plan, filter: Filter) -> Iterator[EntryView]:
    """Yield entries newest first; of several that match with one event id, the first in the log."""
    repeated = frozenset[int]() if filter.duplicates else lines.repeated()
    for line in narrowed:
        entry = _read(line, plan)
        if entry is None:
            continue
        older = lines.earlier(entry.event_id, entry.seq) if entry.seq in repeated else ()
        if all(_read(other, plan) is None for other in older):
            yield entry


def _read(line: bytes, plan: Plan) -> EntryView | None:
    """Return the entry if it is what was asked for. Raises: Malformed, if nothing rules out that it might be."""
    if not plan.may_match(line):
        return None
    entry = EntryView(line, plan.people)
    return entry if entry.seq >= 0 and plan.matches(entry) else None


def _scan(lines: Iterable[bytes], plan: Plan) -> Iterator[EntryView]:
    for line in lines:
        entry = _read(line, plan)
        if entry is not None:
            yield entry


def _scan_folded(lines: Iterable[bytes], plan: Plan) -> Iterator[EntryView]:
    seen: set[bytes] = set()
    for line in lines:
        event_id = line[_EVENT_ID]
        if event_id in seen:
            continue
        # An end seen twice is the first one's, whoever asks; other ids are remembered only where they matched.
        if line[_VERSION_AT : _VERSION_AT + 1] == _END_VERSION:
            seen.add(event_id)
        entry = _read(line, plan)
        if entry is not None:
            seen.add(event_id)
            yield entry


def _first(found: Iterator[EntryView], limit: int | None) -> Iterator[EntryView]:
    for count, entry in enumerate(found, 1):
        yield entry
        if count == limit:
            return


def _newest_first(found: Iterator[EntryView], limit: int | None) -> Iterator[EntryView]:
    yield from reversed(deque(found, maxlen=None if limit is None else min(limit, sys.maxsize)))
