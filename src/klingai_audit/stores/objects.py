"""A log in a bucket, `s3://bucket/prefix`, `gs://…` or `az://…`: C2SP tlog-tiles, and a head that elects the writer.

Layout and bytes: docs/object-layout.md. The commit is a compare-and-swap of the object `head`
(`objects_commit`). Tiles, bundles and the public `checkpoint` follow, by whoever finds the head ahead of them
(`objects_publish`). Tested on SeaweedFS; other services need create-only and If-Match puts, which `create` tries out.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import os
import secrets
import threading
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar

from klingai_audit.errors import AuditUnavailable, HeadConflict, LogDamaged, Malformed, UnsupportedStorage, UsageError
from klingai_audit.ledger.store import LogFile, StoredDay
from klingai_audit.stores.objects_client import Bucket, Refused, Unsure
from klingai_audit.stores.objects_commit import ObjectTransaction, trimmed
from klingai_audit.stores.objects_driver import Driver, open_bucket
from klingai_audit.stores.objects_files import Files
from klingai_audit.stores.objects_format import (
    CHECKPOINT,
    HEAD,
    HeadObject,
    Staged,
    Staging,
    kept_path,
    note_size,
    parse_head,
    staging_path,
    token_path,
)
from klingai_audit.stores.objects_keeper import ObjectKeeper, locked_until
from klingai_audit.stores.objects_publish import Finisher, ObjectPublication
from klingai_audit.stores.objects_tiles import Moved, Tiles
from klingai_audit.stores.objects_turns import Turns
from klingai_audit.stores.urls import RemoteUrl

__all__ = ["MAX_TAIL", "ObjectStore"]

MAX_TAIL: Final = 500
"""Batches that lie in staging objects at most: a writer that finds more puts them into tiles first."""

_LONG_TAIL: Final = 8
_TURNS: Final = 5
_T = TypeVar("_T")


class ObjectStore:
    """See `klingai_audit.ledger.batches.BatchStore`. `make` opens another bucket than the one that `url` names."""

    publishes: Final = False
    publish_interval: Final = 1.0

    def __init__(self, url: str, make: Callable[[Driver], Any] | None = None) -> None:
        remote = RemoteUrl(url)
        self.url = remote.shown
        if remote.bucket is None:
            raise UsageError(
                f"{self.url} does not name a bucket.",
                do="Write s3://bucket/prefix (or gs://, az://); credentials and endpoint come from the environment.",
            )
        self.bucket = Bucket(make or partial(open_bucket, url=self.url), self.url)
        self.tiles = Tiles(self.bucket)
        self.files = Files(self)
        self.finisher = Finisher(self)
        self.turns = Turns(self.bucket)
        self.entries_committed = 0
        self._known: HeadObject | None = None
        self._is_public = False
        self._renew_locks()
        _STORES.add(self)

    def _renew_locks(self) -> None:
        self._mutex = threading.RLock()
        self._publish_mutex = threading.RLock()
        self._keep_mutex = threading.RLock()

    # --- life -------------------------------------------------------------------------------------

    @property
    def requests(self) -> Mapping[str, int]:
        """How many requests of each kind this object made: put, get, list, delete, head."""
        return dict(self.bucket.requests)

    @property
    def puts_per_1000(self) -> float:
        """PUT requests for each 1,000 entries that this object committed; 0 before the first."""
        return 1000 * self.bucket.requests["put"] / self.entries_committed if self.entries_committed else 0.0

    def exists(self) -> bool:
        if self.bucket.get(HEAD) is not None or self.bucket.get(CHECKPOINT) is not None:
            return True
        return next(self.bucket.listed("tile"), None) is not None

    def create(self) -> None:
        """Find out whether the server refuses what it has to refuse. Raises: UnsupportedStorage, AuditUnavailable."""
        if self.bucket.get(HEAD) is not None:
            return
        failed: Exception | None = None
        for _ in range(_TURNS):
            try:
                self._try_out(staging_path(secrets.token_hex(32)))  # what a crash leaves is swept like any other
            except (Refused, Unsure) as exc:  # of an answer that was lost there is none the next time
                failed = exc
            else:
                return
        raise self._unsupported("does not take a put on condition of a version") from failed

    def _try_out(self, path: str) -> None:
        """Put, and put again on conditions that do not hold. Raises: as `create`; Refused, Unsure (of a good one)."""
        try:
            self.bucket.put_new(path, b"1")  # nobody else knows the name: if it is there, this put it there
            if self.bucket.put_new(path, b"2"):
                raise self._unsupported("replaces an object that a put was only to create")
            found = self.bucket.get(path)
            if found is None or found.data != b"1":
                raise self._unsupported("does not show what was just written")
            self.bucket.swap(path, b"3", found.tag)
            try:
                self.bucket.swap(path, b"4", found.tag)
            except Refused:
                pass
            else:
                raise self._unsupported("replaces an object although it is another version by now")
        finally:
            with contextlib.suppress(AuditUnavailable):
                self.bucket.delete([path])

    def _unsupported(self, why: str) -> UnsupportedStorage:
        return UnsupportedStorage(
            f"The server behind {self.url} {why}.",
            do="A log needs conditional puts (If-None-Match and If-Match). Use another service or a newer version.",
        )

    def after_fork(self) -> None:
        self._renew_locks()
        self.bucket.after_fork()
        self.tiles.after_fork()
        self.files.after_fork()
        self.finisher.after_fork()

    def close(self) -> None:
        self.bucket.close()

    # --- writing ----------------------------------------------------------------------------------

    @contextlib.contextmanager
    def transaction(self) -> Iterator[ObjectTransaction]:
        with self._mutex:
            self.turns.begin()
            yield ObjectTransaction(self)

    @contextlib.contextmanager
    def publication(self) -> Iterator[ObjectPublication]:
        with self._publish_mutex:
            yield ObjectPublication(self)

    @contextlib.contextmanager
    def keeper(self, scratch: Path) -> Iterator[ObjectKeeper]:
        with self._keep_mutex:
            yield ObjectKeeper(self)

    def tail_of(self, head: HeadObject | None) -> tuple[int, Sequence[Staged]]:
        """Return (tiled, tail) for a head that follows `head`. Raises: HeadConflict, AuditUnavailable, LogDamaged."""
        if head is None:
            return 0, ()
        tiled, tail = trimmed(head, self.finisher.finished)
        if len(tail) >= _LONG_TAIL and self.finisher.learn():
            tiled, tail = trimmed(head, self.finisher.finished)
        if len(tail) >= MAX_TAIL:
            try:
                self.finisher.finish(head, head.size)
            except Moved as exc:
                raise HeadConflict(f"Another writer of {self.url} moved the head.") from exc
            tiled, tail = trimmed(head, self.finisher.finished)
        return tiled, tail

    def committed(self, before: HeadObject | None, now: HeadObject, staging: Staging, size: int) -> None:
        """Take note of a batch of `size` bytes that this object committed."""
        self.tiles.remember(now.tail[-1], staging, size)
        self.finisher.dropped(staged for staged in (before.tail if before else ()) if staged not in now.tail)
        self.entries_committed += now.size - staging.begin
        self.known(now)

    # --- reading ----------------------------------------------------------------------------------

    def known(self, head: HeadObject) -> None:
        """Remember a head that was read: below it nothing changes."""
        self._known = head

    def look(self) -> HeadObject | None:
        """Return the head as it is now; of an archive, which has none, what its checkpoint says.

        Raises: AuditUnavailable, LogDamaged.
        """
        head = None if self._is_public else self.bucket.read(HEAD, lambda found: parse_head(found.data, self.url))
        if head is None:
            return self._archived()
        self.known(head)
        return head

    def public(self) -> ObjectStore:
        """Return the log as everybody else reads it: by `checkpoint`, tiles and bundles alone. For reading only.

        Readers of this object take what the head names, so what was done to a bundle may be hidden from them.
        """
        made = ObjectStore(self.url)
        made.bucket, made._is_public = self.bucket, True
        made.tiles, made.files = Tiles(self.bucket), Files(made)
        return made

    def _archived(self) -> HeadObject | None:
        """Everything of an archive lies in tiles and bundles, as far as its checkpoint goes; nobody writes to it."""
        note = self.read_checkpoint()
        try:
            size = 0 if note is None else note_size(note)
        except Malformed:
            return None
        return None if note is None else HeadObject(note, size, size, ())

    def covering(self, end: int | None) -> HeadObject | None:
        """Return a head that covers entries below `end`, or the newest; None for an empty log."""
        known = self._known
        return known if known is not None and end is not None and end <= known.size else self.look()

    def steadily(self, head: HeadObject, act: Callable[[HeadObject], _T]) -> _T:
        """Do `act` under a head; again under a newer one if objects moved. Raises: LogDamaged, AuditUnavailable."""
        for _ in range(_TURNS):
            try:
                return act(head)
            except Moved as exc:
                newer = self.look()
                if newer is None or newer == head:
                    raise self.missing(exc) from exc
                head = newer
        raise AuditUnavailable(f"The objects of {self.url} move too fast to be read.", do="Try again.")

    def missing(self, exc: Moved) -> LogDamaged:
        """Return the error for an object that the head names and nobody has."""
        return LogDamaged(f"The object {exc} of {self.url} is gone.", kind_of_damage="entry_missing")

    def last_line(self, head: HeadObject) -> bytes:
        """Return the line of the last entry of a head. Raises: LogDamaged, AuditUnavailable."""

        def read(now: HeadObject) -> bytes:
            return next(self.tiles.lines(now, head.size - 1, head.size))

        return self.steadily(head, read)

    def read_checkpoint(self) -> bytes | None:
        found = self.bucket.get(CHECKPOINT)
        return None if found is None else found.data

    def read_kept(self, size: int) -> bytes | None:
        found = self.bucket.get(kept_path(size))
        if found is not None:
            return found.data
        head = self.look()
        if head is None or size > head.size:
            return None
        found_in = [staged for staged in head.tail if staged.begin < size <= staged.end]
        try:
            return self.tiles.staging(found_in[0]).kept.get(size) if found_in else None
        except Moved:  # it lies beside the tiles by now
            found = self.bucket.get(kept_path(size))
            return None if found is None else found.data

    def read_token(self, size: int) -> bytes | None:
        found = self.bucket.get(token_path(size))
        return None if found is None else found.data

    def find_end(self, event_id: str) -> int | None:
        """No telling: views fold entries of the same id."""
        return None

    def read_hashes(self, level: int, begin: int, end: int) -> bytes:
        head = self.covering(end << 8 * level) if begin < end else None
        if head is None:
            return b""
        return self.steadily(head, lambda now: self.tiles.hashes(now, level, begin, end))

    def read_entries(self, begin: int, end: int | None = None) -> Iterator[bytes]:
        head = None if end is not None and end <= begin else self.covering(end)
        if head is None:
            return
        at, stop = begin, head.size if end is None else min(end, head.size)
        turns = 0
        while at < stop:
            try:
                for line in self.tiles.lines(head, at, stop):
                    yield line
                    at += 1
                    turns = 0
            except Moved as exc:
                newer, turns = self.look(), turns + 1
                if newer is None or newer == head or turns > _TURNS:
                    raise self.missing(exc) from exc
                head = newer

    def locate(self, seq: int) -> tuple[str, int] | None:
        return self.files.locate(seq)

    def old_days(self) -> list[StoredDay]:
        return self.files.old_days()

    def inspect(self) -> tuple[LogFile, ...]:
        return self.files.inspect()

    def view(self, name: str) -> contextlib.AbstractContextManager[memoryview]:
        return self.files.view(name)

    def locked_until(self, begin: int, end: int) -> dt.datetime | None:
        """Return until when (UTC) entries of `[begin, end)` lie under Object Lock and are not purged; None if none do.

        The first and the last bundle are asked, as locks of one bucket grow later with time. Raises: AuditUnavailable.
        """
        return locked_until(self, begin, end)


_STORES: Final[weakref.WeakSet[ObjectStore]] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    for store in list(_STORES):
        store.after_fork()


os.register_at_fork(after_in_child=_after_fork_in_child)
