"""What lies under a server's lock, and is not purged before a date: entries of the log itself, and copies of it."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from klingai_audit.ledger.store import Store, StoredDay

__all__ = ["ARCHIVED", "Archive", "archives_in", "locked_until"]

ARCHIVED: Final = b'log_exported"'
"""How the type of the entries that tell of archives stands in their bytes, at byte 118."""

_TYPE_AT: Final = 118


@dataclass(frozen=True)
class Archive:
    """A copy of the first `entries` entries at `to`, of which nothing can be purged until `until`."""

    to: str
    entries: int
    until: dt.datetime


def archives_in(lines: Iterable[bytes], today: dt.date) -> tuple[Archive, ...]:
    """Return the archives that entries among these tell of and whose lock has not ended, one for each place."""
    from klingai_audit.views.entry import EntryView

    found: dict[str, Archive] = {}
    for line in lines:
        told = EntryView(line).metadata if line.startswith(ARCHIVED, _TYPE_AT) else {}
        if told.get("command") != "archive":
            continue
        to, entries, until = str(told.get("to")), told.get("tree_size"), _moment(told.get("retain_until"))
        if isinstance(entries, int) and until is not None and until.date() > today:
            known = found.get(to, Archive(to, 0, until))
            found[to] = Archive(to, max(known.entries, entries), max(known.until, until))
    return tuple(found[to] for to in sorted(found))


def locked_until(store: Store, day: StoredDay, today: dt.date) -> dt.datetime | None:
    """Return until when (UTC) a store lets nobody purge entries of a day; None if it does, or locks nothing.

    Raises: AuditUnavailable.
    """
    ask = getattr(store, "locked_until", None)
    until: dt.datetime | None = None if ask is None else ask(day.begin, day.end)
    return until if until is not None and until.date() >= today else None


def _moment(text: object) -> dt.datetime | None:
    try:
        moment = dt.datetime.fromisoformat(str(text))
    except ValueError:
        return None
    return None if moment.tzinfo is None else moment
