"""Pages of an answer: sorted, limited, with a cursor that goes on where the last page ended.

A cursor pins the number of entries and the moment that the first page was taken at, so later pages neither skip nor
repeat an entry while the log grows. Allowed callers: views, log, cli.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import heapq
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, fields, replace
from itertools import islice
from typing import Final, Literal

from klingai_audit.errors import UsageError
from klingai_audit.event.types import EventType
from klingai_audit.privacy.subjects import SubjectTable
from klingai_audit.views.entry import EntryView
from klingai_audit.views.plan import Filter
from klingai_audit.views.query import query

__all__ = ["SORTS", "Cursor", "Page", "Sort", "take_page", "with_fingerprints"]

Sort = Literal["seq", "timestamp"]
SORTS: Final = ("seq", "timestamp")
"""What a page may be sorted by: order in the log, or when it happened (then order in the log)."""

_CURSOR: Final = re.compile(r"1\.([0-9]{1,15})\.([0-9]{1,15})\.([0-9]{1,18})\.([0-9a-f]{16})", re.ASCII)
_EPOCH: Final = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_MICROSECOND: Final = dt.timedelta(microseconds=1)
_FINGERPRINT: Final = re.compile(r"[0-9a-f]{16}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Cursor:
    """Where to go on: after entry `seq`, in the first `size` entries, with times counted from `now`."""

    size: int
    seq: int
    now: dt.datetime
    question: str

    def __str__(self) -> str:
        return f"1.{self.size}.{self.seq}.{(self.now - _EPOCH) // _MICROSECOND}.{self.question}"

    @classmethod
    def parse(cls, text: str) -> Cursor:
        """Read a cursor that an earlier page ended with. Raises: UsageError."""
        found = _CURSOR.fullmatch(text)
        if found is not None:
            size, seq, now = map(int, found.groups()[:3])
            try:
                return cls(size, seq, _EPOCH + dt.timedelta(microseconds=now), found[4])
            except OverflowError:
                pass
        raise UsageError("That is not a cursor.", do="Give the one that the page before ended with, or leave it out.")


@dataclass(frozen=True, slots=True)
class Page:
    """Entries in the order asked for, and the cursor of the next page, None after the last."""

    entries: tuple[EntryView, ...]
    cursor: str | None


def take_page(
    read: Callable[[int], Iterable[bytes]],
    read_one: Callable[[int], bytes],
    size: int,
    wanted: Filter,
    subjects: SubjectTable | None = None,
    *,
    sort: Sort = "seq",
    cursor: str | None = None,
    now: dt.datetime | None = None,
) -> Page:
    """Return one page of what matches `wanted`, at most `wanted.limit` entries of it.

    Args: `read(n)` gives the first n stored entries in log order, `read_one` one of them; `size` is the number of
    entries now, used unless a cursor pins another; `now` is what relative times count from on a first page.
    Raises: UsageError, for a filter as `query` does, for a sort that is none and for a cursor of another question.
    """
    if sort not in SORTS:
        raise UsageError(f"sort {sort!r} is unknown.", do=f"Use one of: {', '.join(SORTS)}; for others: query --sql")
    moment, after = now or dt.datetime.now(dt.UTC), None
    question = _digest(wanted, sort)
    if cursor is not None:
        pinned = Cursor.parse(cursor)
        if pinned.question != question:
            raise UsageError(
                "The cursor belongs to another question.", do="Repeat the filters, the sort and the order."
            )
        if not pinned.seq < pinned.size <= size:
            raise UsageError("The cursor belongs to another log.", do="Begin again without it.")
        size, moment, after = pinned.size, pinned.now, EntryView(read_one(pinned.seq))
    limit = wanted.limit
    # Folding needs the log from its beginning, so a page is a scan; what lies before the cursor is left out after it.
    found = query(read(size), replace(wanted, limit=None, reverse=False), subjects, now=moment)
    chosen = list(_chosen(found, sort, after, None if limit is None else limit + 1, newest=wanted.reverse))
    if limit is None or len(chosen) <= limit:
        return Page(tuple(chosen), None)
    return Page(tuple(chosen[:limit]), str(Cursor(size, chosen[limit - 1].seq, moment, question)))


def with_fingerprints(lines: Iterable[bytes], keys: Iterable[str]) -> tuple[str, ...]:
    """Return the names and fingerprints `keys`, with every fingerprint that was declared under one of the names."""
    asked = tuple(dict.fromkeys(keys))
    names = {key for key in asked if not _FINGERPRINT.fullmatch(key)}
    if not names:
        return asked
    rotated = query(lines, Filter(event_type=EventType.API_KEY_ROTATED))
    declared = (entry.resource_id for entry in rotated if entry.metadata.get("name") in names)
    return tuple(dict.fromkeys((*asked, *(found for found in declared if found))))


def _chosen(
    found: Iterator[EntryView], sort: Sort, after: EntryView | None, count: int | None, *, newest: bool
) -> Iterable[EntryView]:
    key = _by_seq if sort == "seq" else _by_time
    if after is not None:
        edge = key(after)
        found = (entry for entry in found if (key(entry) < edge if newest else key(entry) > edge))
    if sort == "seq" and not newest:
        return islice(found, count)
    if count is None:
        return sorted(found, key=key, reverse=newest)
    return heapq.nlargest(count, found, key=key) if newest else heapq.nsmallest(count, found, key=key)


def _by_seq(entry: EntryView) -> tuple[dt.datetime, int]:
    return _EPOCH, entry.seq


def _by_time(entry: EntryView) -> tuple[dt.datetime, int]:
    return entry.timestamp, entry.seq


def _digest(wanted: Filter, sort: Sort) -> str:
    """Return 16 hex digits that are equal for equal questions; how many a page holds is no part of the question."""
    told = [sort, *(_plain(getattr(wanted, field.name)) for field in fields(wanted) if field.name != "limit")]
    return hashlib.sha256(repr(told).encode("utf-8", "surrogatepass")).hexdigest()[:16]


def _plain(value: object) -> object:
    if value is None or isinstance(value, str | bool | int):
        return value
    return str(value) if isinstance(value, dt.date) else tuple(value) if isinstance(value, Iterable) else repr(value)
