"""Purging entries of a log in a bucket: bundles are replaced, in every place where their lines lie.

The head must name no staging object with these lines any more, so it is moved on first. Clients that know nothing of
purged lines fail on these entries and on no others. What lies under Object Lock is not purged before its date.
"""

from __future__ import annotations

import datetime as dt
import logging
from collections.abc import Callable, Mapping
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Final

from klingai_audit.diagnostics import tell
from klingai_audit.errors import AuditUnavailable, LogDamaged
from klingai_audit.ledger.store import PreparedDay, StoredDay
from klingai_audit.stores.objects_client import Refused, Unsure
from klingai_audit.stores.objects_commit import trimmed
from klingai_audit.stores.objects_format import CHECKPOINT, HEAD, HeadObject, encode_head, parse_head
from klingai_audit.stores.objects_publish import rewrite, sweep
from klingai_audit.tlog.tile import TILE_WIDTH, tile_path

if TYPE_CHECKING:
    from klingai_audit.stores.objects import ObjectStore

__all__ = ["ObjectKeeper", "locked_until"]

_UNTIL: Final = (
    "x-amz-object-lock-retain-until-date",
    "x-ms-immutability-policy-until-date",
    "x-goog-retention-expiration",
)
_HOLD: Final = {"x-amz-object-lock-legal-hold": "on", "x-ms-legal-hold": "true"}
_TURNS: Final = 20
_PASSES: Final = 2


class ObjectKeeper:
    """See `klingai_audit.ledger.store.Keeper`. Another process may keep too: each bundle is changed by a swap."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store
        self._changes: dict[dt.date, dict[int, bytes]] = {}

    def prepare(self, day: StoredDay, change: Callable[[int, bytes], bytes]) -> PreparedDay:
        changes, size, seq = dict[int, bytes](), 0, day.begin
        for line in self._store.read_entries(day.begin, day.end):
            new = change(seq, line)
            size += len(new) + 1
            if new != line:
                changes[seq] = new
            seq += 1
        if seq != day.end:
            raise LogDamaged(
                f"{day.name} does not hold the entries {day.begin} to {day.end - 1} that it claims to hold.",
                kind_of_damage="entry_missing",
            )
        for n in sorted({seq // TILE_WIDTH for seq in changes}):
            until = _bundle_locked(self._store, n)
            if until is not None:
                raise AuditUnavailable(
                    f"Entries of {day.day} lie under Object Lock in {self._store.url} until {_told(until)}.",
                    do="Nothing was changed. Purge them after that date.",
                )
        self._changes[day.day] = changes
        return PreparedDay(day, day.name, None, size)

    def put(self, prepared: PreparedDay) -> None:
        changes = self._changes.get(prepared.day.day, {})
        if changes:
            self._move_on(prepared.day.end)
            sweep(self._store)
            bundles = sorted({seq // TILE_WIDTH for seq in changes})
            for _ in range(_PASSES):  # a second look at what another process wrote meanwhile
                self._store.bucket.each(lambda n: self._purge(n, changes), bundles)
            if self._store.bucket.keeps_versions:
                tell(
                    logging.WARNING,
                    "versions_left",
                    "the bucket keeps versions: %d replaced bundles stay there until a lifecycle rule removes them",
                    len(bundles),
                    bundles=len(bundles),
                )
        self._changes.pop(prepared.day.day, None)

    def _purge(self, n: int, changes: Mapping[int, bytes]) -> None:
        here = {seq: changes[seq] for seq in range(n * TILE_WIDTH, (n + 1) * TILE_WIDTH) if seq in changes}
        full = tile_path("entries", n)
        for path in [*(one.path for one in self._store.bucket.listed(f"{full}.p")), full]:
            rewrite(self._store, path, n, here)

    def _move_on(self, end: int) -> None:
        """Let the head name no staging object with entries below `end`, and remove those. Raises: AuditUnavailable."""
        bucket, finisher = self._store.bucket, self._store.finisher
        for _ in range(_TURNS):
            found, public = bucket.get(HEAD), bucket.get(CHECKPOINT)
            if found is None:
                raise LogDamaged(f"The `head` of {self._store.url} is gone.", kind_of_damage="checkpoint_missing")
            head = parse_head(found.data, self._store.url)
            finisher.note(0 if public is None else finisher.size_of(public))
            if head.tiled >= end:
                return
            if finisher.finished < end:
                self._store.steadily(head, lambda now: finisher.finish(now, now.size))
            tiled, tail = trimmed(head, finisher.finished)
            try:
                bucket.swap(HEAD, encode_head(tiled, tail, head.note), found.tag)
            except (Refused, Unsure):
                continue
            self._store.known(HeadObject(head.note, head.size, tiled, tuple(tail)))
            finisher.dropped(staged for staged in head.tail if staged not in tail)
            finisher.clean()
            return
        raise AuditUnavailable(
            f"The head of {self._store.url} was not moved: writers were faster.",
            do="Nothing was purged. Try again.",
        )


def locked_until(store: ObjectStore, begin: int, end: int) -> dt.datetime | None:
    """See `ObjectStore.locked_until`."""
    bundles = sorted({begin // TILE_WIDTH, max(begin, end - 1) // TILE_WIDTH})
    return max((until for n in bundles if (until := _bundle_locked(store, n)) is not None), default=None)


def _bundle_locked(store: ObjectStore, n: int) -> dt.datetime | None:
    """Until when a bundle, or its largest partial one, is under a lock that holds now."""
    full = tile_path("entries", n)
    headers = store.bucket.lock_headers(full)
    if not headers:
        partial = [one.path for one in store.bucket.listed(f"{full}.p")]
        headers = store.bucket.lock_headers(max(partial, key=lambda path: (len(path), path))) if partial else {}
    if any(headers.get(name, "").lower() == value for name, value in _HOLD.items()):
        return dt.datetime.max.replace(tzinfo=dt.UTC)
    dates = [until for name in _UNTIL if (until := _date(headers.get(name, ""))) is not None]
    return max((until for until in dates if until > dt.datetime.now(dt.UTC)), default=None)


def _date(text: str) -> dt.datetime | None:
    for parse in (dt.datetime.fromisoformat, parsedate_to_datetime):
        try:
            date = parse(text)
        except ValueError:
            continue
        return date if date.tzinfo is not None else date.replace(tzinfo=dt.UTC)
    return None


def _told(until: dt.datetime) -> str:
    return "it is released (legal hold)" if until.year == dt.MAXYEAR else f"{until.isoformat(timespec='seconds')}"
