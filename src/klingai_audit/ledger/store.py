"""The contract between the ledger and a store; a store's author needs nothing else.

A store keeps entries (opaque lines), tree hashes and checkpoints. It appends a batch atomically against
an expected head and answers ranges. It signs nothing, checks no seal and understands no entry.

There are two kinds, which read alike. To a `SealedStore` (a folder, memory) a batch is appended with a seal in its
last entry, and signed soon after; a `BatchStore` (`batches`: a database, a bucket) takes the signed checkpoint
with each batch.

Concurrency: every method of `Store` may be called from any thread and process at any time. A
`Transaction` belongs to the thread that opened it and excludes every other transaction of the log; a
`Publication` excludes every other publication, so that entries are appended while a checkpoint is being synced.
Whoever needs both opens the transaction first. A `Keeper` excludes every other keeper; writers go on beside it.
Errors: `AuditUnavailable` (nothing of the batch is or will become visible, the store stays usable),
`SyncFailed` (unknown what is durable: the writer must stop), `HeadConflict` (another writer won).
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from klingai_audit.errors import AuditUnavailable

__all__ = [
    "FileKind",
    "Keeper",
    "LogFile",
    "PreparedDay",
    "Publication",
    "Pulled",
    "SealedPublication",
    "SealedStore",
    "Store",
    "StoredDay",
    "SyncFailed",
    "Transaction",
]

FileKind = Literal["entries", "tree", "checkpoint", "cosigned", "kept", "token", "stray"]


class SyncFailed(AuditUnavailable):
    """A sync failed: what is durable is unknown; this log is closed in this process and for every writer."""


@dataclass(frozen=True, slots=True)
class LogFile:
    """One file of a log as `inspect` found it.

    `name` is relative to the log with `/` as separator; `path` is None for stores without files;
    `identity` changes when another file takes the name.
    """

    name: str
    kind: FileKind
    size: int
    path: Path | None
    identity: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Pulled:
    """What lies in the store beyond a size the caller knows.

    `entries` are complete lines without LF; `torn` is what follows the last LF (empty if nothing); `before` is
    the line just before them (None at the beginning of the log, or when nothing new was there to look at).
    """

    entries: list[bytes]
    torn: bytes
    before: bytes | None = None


@dataclass(frozen=True, slots=True)
class StoredDay:
    """The entries `[begin, end)` that were logged on one UTC day, as far as their lines claim it.

    `name` is the file they lie in, `sealed` tells whether it was sealed; a store without files says True.
    """

    day: dt.date
    begin: int
    end: int
    name: str
    sealed: bool


@dataclass(frozen=True, slots=True)
class PreparedDay:
    """A day as it is to lie in the store: made, durable, and not in its place yet.

    `sha256` is the digest of the sealed file `name` of `size` bytes, in hex; None for a store without files.
    """

    day: StoredDay
    name: str
    sha256: str | None
    size: int


class Transaction(Protocol):
    """Exclusive access to the head of one log."""

    def pull(self, begin: int, *, counted: bool = False) -> Pulled:
        """Return all lines from entry `begin` on, acknowledged or not.

        The place of `begin` may be found by what lines claim as `seq`; the caller checks `before`, and asks again
        with `counted` (lines are counted from the day's first) if it is not the line it knows.
        Raises: LogDamaged if the store holds fewer than `begin` lines.
        """
        ...

    def cut(self, size: int) -> None:
        """Remove everything after the first `size` lines, torn bytes too; durable on return.

        Only for lines that no writer acknowledged; the caller has put them aside first. Raises: HeadConflict (there
        is more than was pulled: pull again), AuditUnavailable, SyncFailed.
        """
        ...

    def remove(self, foreign: Sequence[tuple[int, int | None]]) -> None:
        """Take foreign bytes out from between lines of the last pull; each file whole old or whole new; durable.

        `foreign` are (index of a line among those pulled, how many of its first bytes go, None for the line), in
        order. The caller has put them aside first, and pulls again. Raises: HeadConflict (there is more than was
        pulled), AuditUnavailable, SyncFailed.
        """
        ...

    def append(self, entries: Sequence[bytes], begin: int, day: dt.date) -> None:
        """Append `entries` as entries `[begin, begin + len)`, all or none; durable on return with all before them.

        `day` is the UTC day of the batch, never before the last batch's. Raises: HeadConflict (the log does not
        end at `begin`: pull again), AuditUnavailable (cut back, nothing remains), SyncFailed, LogDamaged.
        """
        ...

    def settle(self) -> None:
        """Make all lines durable that were pulled: whoever wrote them may have died before that was done."""
        ...


class Publication(Protocol):
    """Exclusive access to checkpoints: the published one and those that are kept."""

    def put_kept(self, size: int, note: bytes) -> None:
        """Keep the signed checkpoint of `size` for good; durable on return; the same bytes again are fine."""
        ...

    def put_token(self, size: int, token: bytes) -> None:
        """Put a time stamp beside the kept checkpoint of `size`, which is there; durable on return.

        One that is there already stays as it is, unless it has the same bytes. Raises: HeadConflict.
        """
        ...

    def put_checkpoint(self, note: bytes) -> None:
        """Replace the published checkpoint; durable on return; hashes up to its size were synced before."""
        ...


class SealedPublication(Publication, Protocol):
    """The same where tree hashes are derived after entries were appended."""

    def settle(self) -> None:
        """As `Transaction.settle`: nothing is signed that could still vanish."""
        ...

    def put_hashes(self, level: int, begin: int, hashes: bytes) -> None:
        """Write 32-byte hashes `[begin, …)` of tile level `level`, replacing what stood there and after it."""
        ...

    def sync_hashes(self) -> None:
        """Make all hashes put so far durable."""
        ...


class Keeper(Protocol):
    """Exclusive right to seal days that no writer appends to any more, and to purge entries in them."""

    def prepare(self, day: StoredDay, change: Callable[[int, bytes], bytes]) -> PreparedDay:
        """Make the sealed form of a day; `change` gets `seq` and line and returns the line to keep. Nothing moves yet.

        Raises: AuditUnavailable, LogDamaged (the day does not hold the entries it claims to).
        """
        ...

    def put(self, prepared: PreparedDay) -> None:
        """Put a prepared day in its place: whole old or whole new after a crash; durable on return.

        Old lines may lie beside the new ones after a crash; `put` again removes them. Raises: AuditUnavailable.
        """
        ...


class Store(Protocol):
    """A place for one log: what both kinds of stores can. `url` never holds a password."""

    url: str

    def exists(self) -> bool:
        """Tell whether anything of a log (entries or a checkpoint) is there."""
        ...

    def create(self) -> None:
        """Prepare an empty log; idempotent. Raises: UnsupportedStorage, AuditUnavailable."""
        ...

    def publication(self) -> AbstractContextManager[Publication]:
        """Exclude every other publisher until exit."""
        ...

    def old_days(self) -> list[StoredDay]:
        """Return all days but the newest, which is the writers'. Raises: AuditUnavailable."""
        ...

    def keeper(self, scratch: Path) -> AbstractContextManager[Keeper]:
        """Exclude every other keeper until exit; what is prepared lies in the folder `scratch` meanwhile."""
        ...

    def read_checkpoint(self) -> bytes | None:
        """Return the published checkpoint's bytes, or None."""
        ...

    def read_kept(self, size: int) -> bytes | None:
        """Return the kept checkpoint of `size`, or None."""
        ...

    def read_token(self, size: int) -> bytes | None:
        """Return the time stamp beside the kept checkpoint of `size`, or None."""
        ...

    def read_hashes(self, level: int, begin: int, end: int) -> bytes:
        """Return hashes `[begin, end)` of tile level `level` as `32 * (end - begin)` bytes, fewer if missing."""
        ...

    def read_entries(self, begin: int, end: int | None = None) -> Iterator[bytes]:
        """Yield lines `[begin, end)` without LF in order; stops early where the log ends; a torn line is left out."""
        ...

    def locate(self, seq: int) -> tuple[str, int] | None:
        """Return the file name and 1-based line number of entry `seq`, or None."""
        ...

    def inspect(self) -> tuple[LogFile, ...]:
        """List everything found in the log's place: entry files by day, then the rest by name. Raises: OSError."""
        ...

    def view(self, name: str) -> AbstractContextManager[memoryview]:
        """Give the whole file `name` of `inspect` as read-only bytes (mapped where possible). Raises: OSError."""
        ...

    def after_fork(self) -> None:
        """In a forked child: drop inherited descriptors and cached positions."""
        ...

    def close(self) -> None:
        """Release descriptors; reading methods may be called again."""
        ...


class SealedStore(Store, Protocol):
    """A store whose batches are sealed, and signed later."""

    def transaction(self, *, recovering: bool = False) -> AbstractContextManager[Transaction]:
        """Exclude every other writer until exit; refused after a failed sync unless `recovering`."""
        ...

    def publication(self) -> AbstractContextManager[SealedPublication]:
        """Exclude every other publisher until exit."""
        ...

    def recover_sync(self, keep: Callable[[str, bytes], None], *, covered: int = 0) -> None:
        """After a failed sync: rewrite the last entry file from what can be read, sync, and clear the mark.

        `keep` first gets the file's name and what it holds beyond the log's first `covered` entries.
        """
        ...
