"""Entries that a question may be about, found by the index instead of a scan.

The index narrows, the log answers: what it finds is read again from the log and goes through the same tests as in a
scan, so both give the same entries. Where the index cannot be had or contradicts the log, the scan takes over.
Allowed callers: views, log, report, cli.
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final

from klingai_audit.errors import Malformed, StorageError
from klingai_audit.event.types import END_TYPES, EVENT_TYPES, canonical_type
from klingai_audit.index.lines import Stale
from klingai_audit.ledger.line import seq_of
from klingai_audit.views.entry import People
from klingai_audit.views.plan import CUSTOM_CATEGORY, Filter, stored_ids
from klingai_audit.views.times import parse_instant

if TYPE_CHECKING:
    from klingai_audit.index import Index
    from klingai_audit.ledger.reader import LogReader

__all__ = ["WORTH_AN_INDEX", "Indexed"]

WORTH_AN_INDEX: Final = 50_000
"""Entries from which on an index is made to answer a question; a smaller log is scanned in less time."""

_EVENT_ID: Final = slice(24, 60)
_UUID: Final = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


class Indexed(Iterable[bytes]):
    """The entries `[0, end)` of a log in order: as a scan, or as few of them as a filter leaves.

    `open_index` is called once, when a filter is worth it, and gives an index that is up to date; `end` None means the
    log's durable end.
    """

    def __init__(self, reader: LogReader, open_index: Callable[[], Index], end: int | None = None) -> None:
        self._reader = reader
        self._open = open_index
        self._end = end
        self._index: Index | None = None

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._reader.entries(0, self._end))

    def narrowed(
        self, wanted: Filter, people: People, now: dt.datetime, *, newest: bool = False
    ) -> Iterator[bytes] | None:
        """Return the entries that the filter does not rule out, in log order or newest first.

        None where a scan is the way: the log is small, nothing narrows, or there is no index to be had. Left out
        besides are later entries of an end that was seen before, unless duplicates are wanted.
        Raises, while iterating: `klingai_audit.index.lines.Stale`, StorageError.
        """
        clauses = _Clauses(wanted, people, now)
        if not clauses.narrow and not newest:
            return None
        try:
            if (self._end or self._reader.size) < WORTH_AN_INDEX:
                return None
            index = self._opened()
        except (StorageError, Malformed):
            return None
        if wanted.actor is not None and "***" in wanted.actor:
            clauses.mask(wanted.actor, index, people)
        if self._end is not None and self._end < index.size:
            clauses.need("seq < ?", self._end)
        return index.lines(*clauses.resolve(index), newest=newest, fold=not wanted.duplicates)

    def _opened(self) -> Index:
        if self._index is None:
            self._index = self._open()
        return self._index

    def of_event(self, event_id: str) -> Iterable[bytes]:
        """Return entries among which are all with this event id, in log order."""
        if (self._end or self._reader.size) >= WORTH_AN_INDEX:
            try:
                return list(self._opened().lines("event_id = ?", [event_id]))
            except (Stale, StorageError, Malformed):
                self.distrust()
        return self

    def find_event(self, event_id: str, *, made: bool = True) -> int | None:
        """Return the first entry with an event id (in lower case), None if there is none.

        What the index finds is compared with the log; where it finds nothing, the log is scanned, and at once if none
        is `made`: one scan takes less time than making an index.
        """
        wanted = event_id.encode()
        found = self.of_event(event_id) if made else self
        for lines in (found, self) if found is not self else (self,):
            for line in lines:
                seq = seq_of(line) if line[_EVENT_ID] == wanted else None
                if seq is not None and [line] == list(self._reader.entries(seq, seq + 1)):
                    return seq
        return None

    def repeated(self) -> frozenset[int]:
        """Return the entries whose event id stands in an earlier one."""
        return self._opened().repeats

    def earlier(self, event_id: str, seq: int) -> Iterator[bytes]:
        """Yield the entries before `seq` with an event id, in log order."""
        return self._opened().lines("event_id = ? AND seq < ?", [event_id, seq])

    def distrust(self) -> None:
        """Let the index be made anew: it and the log do not agree."""
        try:
            self._opened().discard()
            self._index = None
        except (StorageError, Malformed):
            return


class _Clauses:
    """The part of a filter that the index answers better than a scan: what matches fulfils it, other entries may too.

    Text is looked for in whole lines, which a scan does as fast.
    """

    def __init__(self, wanted: Filter, people: People, now: dt.datetime) -> None:
        self._all: list[str] = []
        self.params: list[Any] = []
        self._any: list[tuple[str, str]] = []
        self._members(wanted, people)
        self._kinds(wanted)
        for name, moment in (("since", wanted.since), ("until", wanted.until)):
            if moment is not None:
                at = parse_instant(moment, edge="since" if name == "since" else "until", now=now)
                self.need(f"timestamp {'>=' if name == 'since' else '<'} ?", at.replace(tzinfo=None))
        self.narrow = bool(self._all or self._any)

    def need(self, clause: str, *params: Any) -> None:
        """Demand one more thing."""
        self._all.append(clause)
        self.params += params

    def mask(self, mask: str, index: Index, people: People) -> None:
        """Demand one of the actors that are shown as `mask`."""
        stored = [row[0] for row in index.rows("SELECT DISTINCT actor_id FROM events WHERE actor_id IS NOT NULL")]
        wanted = mask.strip().casefold()
        self._one_of("actor_id", [one for one in stored if people.mask(one).casefold() == wanted])

    def resolve(self, index: Index) -> tuple[str, list[Any]]:
        """Return the condition and its parameters.

        Alternatives are looked up one by one: the engine can pass over whole segments for each, not for all at once.
        """
        if self._any:
            found: set[int] = set()
            for column, value in self._any:
                found.update(row[0] for row in index.rows(f"SELECT seq FROM stored WHERE {column} = ?", [value]))  # noqa: S608
            self._all.append(f"seq IN ({', '.join(map(str, sorted(found)))})" if found else "FALSE")
            self._any = []
        return " AND ".join(self._all), self.params

    def _one_of(self, column: str, values: Sequence[str]) -> None:
        self.need(f"{column} IN ({_marks(values)})", *values)

    def _members(self, wanted: Filter, people: People) -> None:
        for column, value in (
            ("team", wanted.team),
            ("project", wanted.project),
            ("correlation_id", wanted.correlation),
            ("model", wanted.model),
        ):
            if value is not None:
                self.need(f"{column} = ?", value)
        if wanted.actor is not None and (ids := stored_ids(wanted.actor, people)) is not None:
            self._one_of("actor_id", sorted(ids))
        if wanted.task is not None:
            columns = ["resource_id", "task_id", "external_task_id"]
            columns += ["event_id"] if _UUID.fullmatch(wanted.task) else []
            self._any = [(column, wanted.task) for column in columns]
        if wanted.key is not None:
            keys = [wanted.key] if isinstance(wanted.key, str) else list(wanted.key)
            marks = _marks(keys)
            self.need(f"(resource_type = 'api_key' OR api_key IN ({marks}) OR api_key_name IN ({marks}))", *keys, *keys)
        if wanted.resource is not None:
            self._resource(wanted.resource, people)

    def _resource(self, resource: str, people: People) -> None:
        kind, slash, name = resource.partition("/")
        person = people.pseudonym(name if slash and kind == "user" else resource) if people.readable else None
        ids = [resource, *([name] if slash else []), *([person] if person is not None else [])]
        self.need(f"(resource_id IN ({_marks(ids)}) OR resource_type = ?)", *ids, resource)

    def _kinds(self, wanted: Filter) -> None:
        if wanted.category is not None:
            names = _several(wanted.category)
            types = [name for name, info in EVENT_TYPES.items() if info.category in names]
            others = f" OR event_type NOT IN ({_marks(EVENT_TYPES)})" if CUSTOM_CATEGORY in names else ""
            self.need(f"(event_type IN ({_marks(types)}){others})", *types, *(EVENT_TYPES if others else ()))
        if wanted.event_type is not None:
            self._one_of("event_type", [canonical_type(name) for name in _several(wanted.event_type)])
        if wanted.outcome is not None:
            self._one_of("outcome", _several(wanted.outcome))
        if wanted.cost is not None:
            self._one_of("event_type", sorted(END_TYPES))


def _marks(values: Iterable[str]) -> str:
    return ", ".join("?" for _ in values) or "NULL"


def _several(value: str | Iterable[str]) -> list[str]:
    return [value] if isinstance(value, str) else list(value)
