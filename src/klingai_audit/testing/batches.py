"""What a head hands to a store: entries in order, the hashes of their tree, checkpoints over them, signed.

For tests of stores, which sign nothing and check no signature. The lines are real entries, linked to each other.
"""

from __future__ import annotations

import copy
import datetime as dt
import secrets
from collections.abc import Iterable, Mapping
from typing import Any, Final

from klingai_audit.errors import UsageError
from klingai_audit.event.record import Event, encode_event, format_time, new_event_id
from klingai_audit.ledger.batches import BatchTransaction, SignedBatch, StoredHead, takes_batches
from klingai_audit.ledger.line import splice
from klingai_audit.ledger.store import SealedPublication, Store
from klingai_audit.ledger.tree import GrowingTree
from klingai_audit.tlog.checkpoint_text import Checkpoint, parse_checkpoint
from klingai_audit.tlog.keys import SignerKey
from klingai_audit.tlog.merkle import EMPTY_ROOT, leaf_hash
from klingai_audit.tlog.note import parse_note, sign_note

__all__ = ["DAY", "NEXT_DAY", "BatchMaker", "commit", "derive"]

DAY: Final = dt.date(2026, 11, 21)
NEXT_DAY: Final = dt.date(2026, 11, 22)

_ORIGIN: Final = "log.example.com/contract"
_SIGNERS: Final = (SignerKey(_ORIGIN, bytes(32)), SignerKey(f"{_ORIGIN}/epoch-0", bytes(31) + b"\1"))


class BatchMaker:
    """A log as its writer knows it: `size` entries under the signed head `note`; makes batches that continue it.

    `lines` and `days` are those entries and the UTC days they belong to, for a maker that began with the log.
    """

    def __init__(self) -> None:
        self.lines: list[bytes] = []
        self.days: list[dt.date] = []
        self.note = b""
        self._tree = GrowingTree()
        self._prev = EMPTY_ROOT

    @classmethod
    def of(cls, store: Store, head: StoredHead | None) -> BatchMaker:
        """Return a maker that continues a head that somebody else may have committed; its `lines` begin there."""
        maker = cls()
        if head is not None:
            size = parse_checkpoint(parse_note(head.note).text).size
            maker._tree = GrowingTree.load(size, store.read_hashes)
            maker._prev, maker.note = leaf_hash(head.last), head.note
        return maker

    @property
    def size(self) -> int:
        """Entries so far."""
        return self._tree.size

    @property
    def root(self) -> bytes:
        """The 32-byte root over those entries."""
        return self._tree.root()

    def batch(
        self,
        count: int = 1,
        day: dt.date = DAY,
        *,
        keep: bool = False,
        once: int = 0,
        metadata: Mapping[str, Any] | None = None,
    ) -> SignedBatch:
        """Make a batch of `count` entries of a day; it is not part of the log until `accept`.

        With `keep` the checkpoint over it is one to be kept; of the first `once` entries the log holds one each.
        """
        tree, prev, lines, ids = copy.deepcopy(self._tree), self._prev, list[bytes](), list[str]()
        midnight = int(dt.datetime(day.year, day.month, day.day, tzinfo=dt.UTC).timestamp()) * 10**9
        logged_at = format_time(midnight + 12 * 3_600 * 10**9)
        for seq in range(tree.size, tree.size + count):
            ids.append(new_event_id())
            event = Event(
                event_id=ids[-1],
                timestamp=logged_at,
                event_type="x_contract",
                actor_id="p_0123456789abcdefghijkl",
                actor_type="user",
                outcome="success",
                metadata=dict(metadata or {"n": seq, "token": secrets.token_hex(8)}),
            )
            lines.append(splice(encode_event(event).body, seq, logged_at.encode(), prev))
            prev = leaf_hash(lines[-1])
        leaves = self.leaves(lines)
        tree.extend(leaves, (tree.size + count,) if keep else ())
        marks, hashes = tree.take()
        return SignedBatch(
            id=secrets.token_hex(16),
            begin=self.size,
            entries=lines,
            leaves=leaves,
            hashes=hashes,
            day=day,
            note=_sign(tree.size, tree.root()),
            published=True,
            kept=[(size, _sign(size, root)) for size, root in marks],
            ends=[(event_id, self.size + number) for number, event_id in enumerate(ids[:once])],
        )

    def accept(self, batch: SignedBatch) -> None:
        """Take a batch for committed: the next one continues it."""
        self._tree.extend(batch.leaves)
        self._tree.take()
        self._prev = batch.leaves[-32:]
        self.lines += batch.entries
        self.days += [batch.day] * len(batch.entries)
        self.note = batch.note

    @staticmethod
    def leaves(lines: Iterable[bytes]) -> bytes:
        """Return the leaf hashes of lines, 32 bytes each."""
        return b"".join(map(leaf_hash, lines))

    def replay(self, batches: Iterable[SignedBatch]) -> None:
        """Accept batches that several writers committed, in the order of their places. Raises: UsageError (a gap)."""
        for batch in sorted(batches, key=lambda batch: batch.begin):
            if batch.begin != self.size:
                raise UsageError(f"Of these batches none begins at entry {self.size}, one at {batch.begin}.")
            self.accept(batch)

    def put(self, store: Store, count: int = 1, day: dt.date = DAY, *, keep: bool = False) -> SignedBatch:
        """Make a batch, bring it into a store of either kind with all that belongs to it, and accept it."""
        batch = self.batch(count, day, keep=keep)
        if takes_batches(store):
            with store.transaction() as txn:
                commit(txn, batch)
            if not store.publishes:
                with store.publication() as publication:
                    publication.put_checkpoint(batch.note)
        else:
            _put_sealed(store, batch)
        self.accept(batch)
        return batch


def commit(txn: BatchTransaction, batch: SignedBatch) -> None:
    """Commit a batch as a head does: it looks at the head first. Raises: as `BatchTransaction.append`."""
    txn.head()
    txn.append(batch)


def _put_sealed(store: Any, batch: SignedBatch) -> None:
    with store.transaction() as txn:
        txn.pull(batch.begin)
        txn.append(batch.entries, batch.begin, batch.day)
    with store.publication() as publication:
        derive(publication, batch)


def derive(publication: SealedPublication, batch: SignedBatch) -> None:
    """Write what is derived from a batch: hashes, checkpoints to keep, the published checkpoint."""
    publication.settle()
    for level, begin, hashes in batch.hashes:
        publication.put_hashes(level, begin, hashes)
    publication.sync_hashes()
    for size, note in batch.kept:
        publication.put_kept(size, note)
    publication.put_checkpoint(batch.note)


def _sign(size: int, root: bytes) -> bytes:
    return sign_note(Checkpoint(_ORIGIN, size, root).text(), *_SIGNERS)
