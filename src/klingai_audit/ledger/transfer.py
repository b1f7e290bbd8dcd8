"""Copying a log from one store into another, byte for byte: the same entries, tree, checkpoints and time stamps.

May be stopped anywhere and done again: what the target holds of this log already stays. Until the last entry is there
the target has no head that any writer or reader accepts, so nobody takes up half a log.
"""

from __future__ import annotations

import datetime as dt
import secrets
from bisect import bisect_right
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Final, NamedTuple, cast

from klingai_audit.errors import HeadConflict, LogDamaged, Malformed, UsageError
from klingai_audit.ledger.batches import BatchStore, SignedBatch, takes_batches
from klingai_audit.ledger.ends import end_id_of
from klingai_audit.ledger.line import KEPT_INTERVAL, PURGED_PREFIX, parse_members
from klingai_audit.ledger.purged import line_hash
from klingai_audit.ledger.store import SealedStore, Store
from klingai_audit.ledger.tree import GrowingTree
from klingai_audit.tlog.checkpoint import Checkpoint, parse_checkpoint
from klingai_audit.tlog.merkle import root_at
from klingai_audit.tlog.note import SignerKey, format_note, parse_note, signed_note
from klingai_audit.tlog.tile import node_reader

__all__ = ["Progress", "transfer"]

Progress = Callable[[int, int], None]
"""Called with (entries copied, entries in all)."""

_BATCH_BYTES: Final = 8 << 20
_HASH: Final = 32
_MOVING: Final = "klingai-audit/migration"
"""Name of the key that signs heads of a half-copied log: nobody's."""


class _Piece(NamedTuple):
    """Entries `[begin, begin + len(lines))` of one day, with their leaf hashes."""

    begin: int
    lines: list[bytes]
    leaves: bytes
    day: dt.date

    @property
    def end(self) -> int:
        return self.begin + len(self.lines)


def transfer(source: Store, target: Store, note: bytes, *, final: bool, progress: Progress | None = None) -> int:
    """Copy what lies under the checkpoint `note`, whose signatures the caller checked; return the entries copied.

    With `final` that checkpoint is published in the target. Without, the target gets a beginning that nobody takes up,
    while writers go on in the source.
    Durable on return. Raises: UsageError (the target holds something else), LogDamaged (the source does not lead to
    the checkpoint's root), AuditUnavailable.
    """
    checkpoint = parse_checkpoint(parse_note(note).text)
    target.create()
    copier = _Batches if takes_batches(target) else _Lines
    with_kept = _small(source, checkpoint.size)
    copied = copier(source, target, checkpoint, with_kept).copy(note if final else None, progress)
    if final:
        with target.publication() as publication:
            for size, kept in with_kept.items():
                if target.read_kept(size) is None:
                    publication.put_kept(size, kept)
                token = source.read_token(size)
                if token is not None and target.read_token(size) is None:
                    publication.put_token(size, token)
            if target.read_checkpoint() != note:
                publication.put_checkpoint(note)
    return copied


def _small(source: Store, size: int) -> dict[int, bytes]:
    """Return the kept checkpoints of up to `size` entries."""
    found: dict[int, bytes] = {}
    for file in source.inspect():
        digits = file.name.removeprefix("checkpoints/")
        if file.kind == "kept" and digits.isdigit() and int(digits) <= size:
            note = source.read_kept(int(digits))
            if note is not None:
                found[int(digits)] = note
    return found


class _Copy:
    """What both kinds of targets have in common: pieces of the source that were checked, and the tree over them."""

    def __init__(self, source: Store, target: Store, until: Checkpoint, kept: dict[int, bytes]) -> None:
        self.source = source
        self.target = target
        self.until = until
        self.kept = kept

    def other(self) -> UsageError:
        """What is raised where the target holds anything else than a beginning of this log."""
        return UsageError(f"There is something else at {self.target.url} already.", do="Name a place where nothing is.")

    def check_root(self, tree: GrowingTree) -> None:
        """Refuse a source whose entries do not lead to its signed root. Raises: LogDamaged."""
        if tree.root() != self.until.root:
            raise LogDamaged(
                f"The tree hashes of {self.source.url} do not lead to the root of its {self.until.size} entries.",
                kind_of_damage="tree_changed",
            )

    def pieces(self, begin: int) -> Iterator[_Piece]:
        """Yield entries from `begin` on, at most 4,096 and about 8 MiB at once, none over a day's end."""
        days = self.source.old_days()
        begins, day, seq = [one.begin for one in days], dt.date.min, begin
        lines: list[bytes] = []
        held = 0
        for line in self.source.read_entries(begin, self.until.size):
            members = parse_members(line)
            if members is not None:
                now = dt.date.fromisoformat(members.logged_at[:10])
            else:  # purged: its file tells the day
                at = bisect_right(begins, seq) - 1
                now = days[at].day if at >= 0 and seq < days[at].end else day
            now = max(now, day)
            if lines and (now != day or held > _BATCH_BYTES or seq % KEPT_INTERVAL == 0):
                yield self._checked(seq - len(lines), lines, day)
                lines, held = [], 0
            lines.append(line)
            held, day, seq = held + len(line), now, seq + 1
        if lines:
            yield self._checked(seq - len(lines), lines, day)
        if seq < self.until.size:
            raise LogDamaged(f"{self.source.url} ends at entry {seq}.", kind_of_damage="tail_cut")

    def _checked(self, begin: int, lines: list[bytes], day: dt.date) -> _Piece:
        leaves = b"".join(map(line_hash, lines))
        if leaves != self.source.read_hashes(0, begin, begin + len(lines)):
            raise LogDamaged(
                f"Entries from {begin} on in {self.source.url} are not those that were signed.",
                kind_of_damage="entry_changed",
            )
        return _Piece(begin, lines, leaves, day)


class _Batches(_Copy):
    """Into a store that takes a head with each batch."""

    def copy(self, final: bytes | None, progress: Progress | None) -> int:
        store = cast("BatchStore", self.target)
        begin = self._begin(store)
        tree = GrowingTree.load(begin, self.source.read_hashes)
        moving = SignerKey.generate(_MOVING)
        ends: set[str] = set()
        if final is not None:
            self._check_purged(begin)
        for piece in self.pieces(begin):
            if piece.end == self.until.size and final is None:
                break  # left for the checkpoint that makes it whole
            tree.extend(piece.leaves)
            _marks, hashes = tree.take()
            last = final if piece.end == self.until.size else None
            if last is not None:
                self.check_root(tree)
            transient = signed_note(Checkpoint(self.until.origin, piece.end, tree.root()).text(), moving)
            batch = SignedBatch(
                id=secrets.token_hex(16),
                begin=piece.begin,
                entries=piece.lines,
                leaves=piece.leaves,
                hashes=hashes,
                day=piece.day,
                note=format_note(transient) if last is None else last,
                published=last is not None,
                kept=[(size, self.kept[size]) for size in sorted(self.kept) if piece.begin < size <= piece.end],
                ends=self._ends(store, piece, ends),
            )
            self._commit(store, batch)
            if progress is not None:
                progress(piece.end, self.until.size)
        return tree.size - begin

    def _check_purged(self, end: int) -> None:
        """See that what was purged in the source was so already when it was copied. Raises: UsageError."""
        for seq, line in enumerate(self.source.read_entries(0, end)):
            if line.startswith(PURGED_PREFIX) and next(iter(self.target.read_entries(seq, seq + 1)), b"") != line:
                raise UsageError(
                    f"Entry {seq} was purged in {self.source.url} after it was copied to {self.target.url}.",
                    do="Empty the new place and migrate again.",
                )

    def _begin(self, store: BatchStore) -> int:
        """Return how many entries of this log are there already."""
        with store.transaction() as txn:
            head = txn.head()
        if head is None:
            return 0
        try:
            there = parse_checkpoint(parse_note(head.note).text)
        except Malformed as exc:
            raise self.other() from exc
        same = there.origin == self.until.origin and there.size <= self.until.size
        if not same or root_at(there.size, node_reader(self.source.read_hashes)) != there.root:
            raise self.other()
        return there.size

    def _commit(self, store: BatchStore, batch: SignedBatch) -> None:
        with store.transaction() as txn:
            head = txn.head()
            there = 0 if head is None else parse_checkpoint(parse_note(head.note).text).size
            if there != batch.begin:
                raise HeadConflict(
                    f"Something else writes to {store.url}.", do="Let one migration run at a time; do it again."
                )
            txn.append(batch)

    def _ends(self, store: BatchStore, piece: _Piece, known: set[str]) -> list[tuple[str, int]]:
        """Return the end events of a piece, the first of each id."""
        found = []
        for seq, line in enumerate(piece.lines, piece.begin):
            event_id = end_id_of(line)
            if event_id is not None and event_id not in known:
                known.add(event_id)
                if store.find_end(event_id) is None:
                    found.append((event_id, seq))
        return found


class _Lines(_Copy):
    """Into a store that is signed afterwards: a folder."""

    def copy(self, final: bytes | None, progress: Progress | None) -> int:
        store = cast("SealedStore", self.target)
        if final is None:  # its checkpoint comes last in any case
            return 0
        begin, tree = 0, GrowingTree()
        with store.transaction() as txn:
            begin = self._begin(store)
            if txn.pull(begin).torn:
                txn.cut(begin)
                txn.pull(begin)
            for piece in self.pieces(begin):
                txn.append(piece.lines, piece.begin, piece.day)
                if progress is not None:
                    progress(piece.end, self.until.size)
        with store.publication() as publication:
            for at in range(0, self.until.size, KEPT_INTERVAL):
                tree.extend(self.source.read_hashes(0, at, min(at + KEPT_INTERVAL, self.until.size)))
                for level, first, hashes in tree.take()[1]:
                    publication.put_hashes(level, first, hashes)
            self.check_root(tree)
            publication.sync_hashes()
        return self.until.size - begin

    def _begin(self, store: Store) -> int:
        """Return how many entries of this log are there already. Raises: UsageError if there is anything else."""
        if store.read_checkpoint() not in (None, self.source.read_checkpoint()):
            raise self.other()
        seq, lines = 0, store.read_entries(0)
        while some := list(islice(lines, KEPT_INTERVAL)):
            expected = self.source.read_hashes(0, seq, seq + len(some))
            if b"".join(map(line_hash, some)) != expected:
                raise self.other()
            seq += len(some)
        return seq
