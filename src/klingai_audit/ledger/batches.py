"""The contract of stores that take the signed checkpoint with each batch: a database, a bucket.

The engine's own transaction or compare-and-swap is the commit point: entries, tree hashes and head change together
or not at all. So there is no seal, nothing to recover and never an entry beyond the head. What all stores have in
common stands in `ledger.store`; the head of such a log is moved by `ledger.batch_head`.

Errors of a commit: `HeadConflict` (another writer was faster, nothing of the batch is or will become visible: read
the head anew), `AuditUnavailable` (the same, and it makes no sense to try at once), `CommitUnknown` (the server is
gone and the batch may be there or not, or may appear yet).

Two more methods are asked for where a store has them: `public()` returns the log as others read it, if writers read
something else (verification takes that); `locked_until(begin, end)` returns until when nobody can purge entries of a
range (`retention plan` tells it).
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol, TypeGuard, cast

from klingai_audit.errors import AuditUnavailable, UsageError
from klingai_audit.ledger.store import SealedStore, Store
from klingai_audit.ledger.tree import HashWrite

__all__ = [
    "BatchStore",
    "BatchTransaction",
    "CommitUnknown",
    "SignedBatch",
    "StoredHead",
    "sealed_only",
    "takes_batches",
]


class CommitUnknown(AuditUnavailable):
    """Whether a batch was committed could not be found out in time; looking up its events in the log tells later."""


@dataclass(frozen=True, slots=True)
class StoredHead:
    """The head of a log as its last commit left it.

    `note` is the signed checkpoint of that commit, `last` the line of the last entry, without LF.
    """

    note: bytes
    last: bytes


@dataclass(frozen=True, slots=True)
class SignedBatch:
    """Entries `[begin, begin + len(entries))` with everything that changes with them.

    `id` (32 hex digits, random) names the batch: a writer that lost its connection looks for it. `leaves` are the
    leaf hashes, 32 bytes each; `hashes` those of subtrees that became complete at tile levels 0, 1, … (level 0 are
    the leaves again); `day` the UTC day of the batch, never before the last batch's; `note` the new head, signed;
    `published` tells whether it may be shown to everybody (it has the log key's line); `kept` are (size, note) of
    checkpoints to keep for good; `ends` (event id, `seq`) of entries of which a log holds one each, where the store
    can tell.
    """

    id: str
    begin: int
    entries: Sequence[bytes]
    leaves: bytes
    hashes: Sequence[HashWrite]
    day: dt.date
    note: bytes
    published: bool
    kept: Sequence[tuple[int, bytes]]
    ends: Sequence[tuple[str, int]]

    @property
    def end(self) -> int:
        """Entries of the log after this batch."""
        return self.begin + len(self.entries)


class BatchTransaction(Protocol):
    """One attempt to move the head; belongs to the thread that opened it."""

    def head(self) -> StoredHead | None:
        """Return the head that `append` builds on, None for an empty log; the same during the whole transaction.

        Raises: AuditUnavailable, LogDamaged (a head without its last entry).
        """
        ...

    def now_ns(self) -> int | None:
        """Return the server's wall clock in nanoseconds since the Unix epoch; None if it tells none."""
        ...

    def append(self, batch: SignedBatch) -> None:
        """Commit a batch on `head()`; at most one in a transaction; durable on return.

        A store that lost the connection in the middle looks for the batch's id before it answers.
        Raises: HeadConflict (also for a batch that does not begin where `head()` ends), AuditUnavailable,
        CommitUnknown.
        """
        ...


class BatchStore(Store, Protocol):
    """A store whose commits carry signed checkpoints.

    `publishes` tells whether a commit with `published` replaces the published checkpoint at once; otherwise
    `Publication.put_checkpoint` does, at most every `publish_interval` seconds a process.
    """

    publishes: bool
    publish_interval: float

    def transaction(self) -> AbstractContextManager[BatchTransaction]:
        """Begin an attempt; other writers wait, or win (HeadConflict). Raises: AuditUnavailable."""
        ...

    def find_end(self, event_id: str) -> int | None:
        """Return the `seq` of the entry whose id was among a batch's `ends`; None if there is none, or no telling."""
        ...


def takes_batches(store: Store) -> TypeGuard[BatchStore]:
    """Tell which kind of store this is."""
    return hasattr(store, "publishes")


def sealed_only(store: Store, act: str) -> SealedStore:
    """Return a store of the other kind for an act that has no meaning here. Raises: UsageError."""
    if takes_batches(store):
        raise UsageError(f"{store.url} commits entries and checkpoint together: there is nothing to {act}.")
    return cast("SealedStore", store)
