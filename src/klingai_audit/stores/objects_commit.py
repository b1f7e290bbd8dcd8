"""The writing half of the object store: a staging object, then a compare-and-swap of `head`, which is the commit.

Any answer to the swap but success means: unknown. Then the head is read. It names our staging object, or it still is
the version that we saw (the same swap is tried again: what a late first one does is refused, or is ours), or it went
on: then the log's leaf hashes in our place tell whether they are ours. They tell it for ever, however late we ask.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, Literal

from klingai_audit.errors import AuditUnavailable, HeadConflict, LogDamaged
from klingai_audit.ledger.batches import CommitUnknown, SignedBatch, StoredHead
from klingai_audit.stores.objects_client import PATIENCE_S, Found, Refused, Unsure
from klingai_audit.stores.objects_format import (
    CHECKPOINT,
    HEAD,
    HeadObject,
    Staged,
    Staging,
    encode_head,
    encode_staging,
    parse_head,
    parse_staging,
    staging_path,
)

if TYPE_CHECKING:
    from klingai_audit.stores.objects import ObjectStore

__all__ = ["UNKNOWN_S", "ObjectTransaction", "trimmed"]

UNKNOWN_S: Final = 60.0
"""How long a server is asked that may have committed a batch, in seconds."""

_PAUSE_S: Final = 0.05
_MAX_PAUSE_S: Final = 1.0

_Fate = Literal["there", "lost", "open"]


class ObjectTransaction:
    """See `klingai_audit.ledger.batches.BatchTransaction`."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store
        self._bucket = store.bucket
        self._looked = False
        self._found: Found | None = None
        self._seen: HeadObject | None = None
        self._head: StoredHead | None = None

    def head(self) -> StoredHead | None:
        if not self._looked:
            looked = self._bucket.read(HEAD, self._parse)
            if looked is not None:
                self._found, self._seen = looked
                self._head = StoredHead(self._seen.note, self._store.last_line(self._seen))
                self._store.known(self._seen)
                self._store.turns.saw(self._seen.note)
            elif self._bucket.get(CHECKPOINT) is not None:
                raise LogDamaged(
                    f"{self._store.url} has a checkpoint, but the object `head` is gone.",
                    kind_of_damage="checkpoint_missing",
                )
            self._looked = True
        return self._head

    def now_ns(self) -> int | None:
        return None

    def append(self, batch: SignedBatch) -> None:
        self.head()
        size = 0 if self._seen is None else self._seen.size
        if batch.begin != size:
            raise HeadConflict(f"{self._store.url} does not end after {batch.begin} entries, but after {size}.")
        name, data = encode_staging(batch)
        staged = Staged(name, batch.begin, batch.end, batch.day)
        # 1. Nobody knows of this object until the head names it. Its name is the digest of bytes with a random id in
        # them, so one that is there already was put by this very request.
        if not self._bucket.put_new(staging_path(name), data):
            self._bucket.read(staging_path(name), lambda found: parse_staging(found.data, staged))
        # 2. The commit.
        tiled, tail = self._store.tail_of(self._seen)
        head = encode_head(tiled, [*tail, staged], batch.note)
        if not self._swapped(head, batch, staged):
            with contextlib.suppress(AuditUnavailable):
                self._bucket.delete([staging_path(name)])
            self._store.turns.lost()
            raise HeadConflict(f"Another writer of {self._store.url} was faster.")
        self._store.turns.won(batch.note)
        staging = Staging(batch.id, batch.begin, batch.day, list(batch.entries), list(batch.hashes), dict(batch.kept))
        self._store.committed(self._seen, HeadObject(batch.note, batch.end, tiled, (*tail, staged)), staging, len(data))

    def _swapped(self, head: bytes, batch: SignedBatch, staged: Staged) -> bool:
        """Put the new head; True if the batch is committed, False if it never will be.

        Raises: CommitUnknown, AuditUnavailable (surely not committed).
        """
        tag = None if self._found is None else self._found.tag
        deadline, pause, unsure = time.monotonic() + UNKNOWN_S, _PAUSE_S, False
        while True:
            try:
                self._bucket.swap(HEAD, head, tag)
            except Refused:
                denied, reason = False, "the server refused it"
            except Unsure as exc:
                denied, reason = exc.denied, exc.reason
                unsure = unsure or not denied
            else:
                return True
            fate = self._fate(batch, staged, deadline)
            if fate != "open":
                return fate == "there"
            if denied and not unsure:
                raise self._bucket.unavailable("writing head", reason, denied=True)
            if time.monotonic() + pause > deadline:
                raise self._unknown(reason)
            time.sleep(pause)
            pause = min(2 * pause, _MAX_PAUSE_S)

    def _fate(self, batch: SignedBatch, staged: Staged, deadline: float) -> _Fate:
        """See in the log what became of a batch. Raises: CommitUnknown, LogDamaged."""
        while True:
            left = max(0.0, deadline - time.monotonic())
            try:
                return self._look(batch, staged, min(left, PATIENCE_S))
            except AuditUnavailable as exc:
                if time.monotonic() >= deadline:
                    raise self._unknown("the server cannot be asked") from exc
            time.sleep(min(_MAX_PAUSE_S, left))

    def _look(self, batch: SignedBatch, staged: Staged, patience: float) -> _Fate:
        looked = self._bucket.read(HEAD, self._parse, patience=patience)
        if looked is None:
            if self._found is None:
                return "open"
            raise LogDamaged(f"The object `head` of {self._store.url} is gone.", kind_of_damage="checkpoint_missing")
        found, now = looked
        if self._found is not None and found.tag == self._found.tag:
            return "open"
        self._store.known(now)
        if staged in now.tail:
            return "there"
        if now.size < batch.end:
            return "lost"
        return "there" if self._store.read_hashes(0, batch.begin, batch.end) == batch.leaves else "lost"

    def _parse(self, found: Found) -> tuple[Found, HeadObject]:
        return found, parse_head(found.data, self._store.url)

    def _unknown(self, reason: str) -> CommitUnknown:
        return CommitUnknown(
            f"Whether a batch was committed to {self._store.url} is unknown: {reason}.",
            do="When the server is back, the log tells: look for its events there before they are logged again.",
        )


def trimmed(head: HeadObject, finished: int) -> tuple[int, Sequence[Staged]]:
    """Return what the next head says of tiles and tail, when everything up to `finished` lies in tiles."""
    tiled = max(head.tiled, min(finished, head.size))
    return tiled, [staged for staged in head.tail if staged.end > tiled]
