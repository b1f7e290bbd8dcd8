"""A batch store in memory, as simple as the contract allows: the reference for stores with servers."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator

from klingai_audit.errors import HeadConflict
from klingai_audit.ledger.batches import SignedBatch, StoredHead
from klingai_audit.stores.memory import MemoryPublication, MemoryStore

__all__ = ["BatchMemory", "BatchMemoryTransaction"]


class BatchMemory(MemoryStore):
    """Entries, hashes and head in this process. `before` is called with each batch before it is committed.

    Writers do not wait for each other: who builds on an old head gets HeadConflict, as with a bucket.
    """

    url = "memory-batches:"

    def __init__(self, *, publishes: bool = True, now_ns: Callable[[], int] | None = None) -> None:
        super().__init__()
        self.publishes = publishes
        self.publish_interval = 0.0
        self.now_ns = now_ns
        self.note: bytes | None = None
        self.batches: dict[str, tuple[int, int]] = {}
        self.ends: dict[str, int] = {}
        self.before: Callable[[SignedBatch], None] = lambda batch: None
        self.commits = threading.RLock()

    @contextlib.contextmanager
    def transaction(self) -> Iterator[BatchMemoryTransaction]:  # type: ignore[override]
        yield BatchMemoryTransaction(self)

    def find_end(self, event_id: str) -> int | None:
        return self.ends.get(event_id)

    def exists(self) -> bool:
        return self.note is not None


class BatchMemoryTransaction:
    """See `klingai_audit.ledger.batches.BatchTransaction`."""

    def __init__(self, store: BatchMemory) -> None:
        self._store = store
        with store.commits:
            self._head = None if store.note is None else StoredHead(store.note, store.entries[-1])

    def head(self) -> StoredHead | None:
        return self._head

    def now_ns(self) -> int | None:
        return None if self._store.now_ns is None else self._store.now_ns()

    def append(self, batch: SignedBatch) -> None:
        store = self._store
        store.before(batch)
        with store.commits:
            if store.note != (None if self._head is None else self._head.note):
                raise HeadConflict("Another writer was faster.")
            if batch.begin != len(store.entries):
                raise HeadConflict("The batch does not begin where the log ends.")
            store.entries += batch.entries
            store.days += [batch.day] * len(batch.entries)
            publication = MemoryPublication(store)
            for level, begin, hashes in batch.hashes:
                publication.put_hashes(level, begin, hashes)
            for size, note in batch.kept:
                publication.put_kept(size, note)
            store.ends |= dict(batch.ends)
            store.batches[batch.id] = batch.begin, batch.end
            store.note = batch.note
            if store.publishes and batch.published:
                store.checkpoint = batch.note
