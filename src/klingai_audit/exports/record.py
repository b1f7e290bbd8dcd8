"""What is exported: an entry beside the place in the signed tree that proves it. Pure but for reading the log.

Nothing leaves that the published checkpoint does not cover, and nothing whose leaf hash is not the tree's.
Allowed callers: exports and cli.
"""

from __future__ import annotations

import base64
import datetime as dt
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, NamedTuple

from klingai_audit.errors import LogDamaged, Malformed
from klingai_audit.ledger.line import PURGED_PREFIX, seq_of
from klingai_audit.ledger.purged import line_hash
from klingai_audit.ledger.reader import LogReader
from klingai_audit.tlog.checkpoint import parse_checkpoint
from klingai_audit.tlog.merkle import root_at
from klingai_audit.tlog.note import parse_note
from klingai_audit.tlog.tile import node_reader
from klingai_audit.views.entry import EntryView
from klingai_audit.views.times import format_instant

__all__ = ["Batch", "Position", "Record", "Source", "TreeHead"]

BATCH_ENTRIES: Final = 500
"""Most entries that are handed to a destination at once."""

BATCH_BYTES: Final = 1 << 20
"""A batch ends with the entry that brings it to so many stored bytes."""

_TIMESTAMP: Final = slice(75, 102)
_HASH: Final = 32


class Position(NamedTuple):
    """How far an export has come: entries `[…, seq)` are done; `leaf` is the 32-byte hash of entry `seq - 1`.

    At the beginning of the log there is no such entry, and `leaf` is None.
    """

    seq: int
    leaf: bytes | None


@dataclass(frozen=True, slots=True)
class TreeHead:
    """The published checkpoint under which records are exported: its origin, size, 32-byte root, and the signed note.

    Signatures are not checked here; `verify` does that.
    """

    origin: str
    size: int
    root: bytes
    note: bytes

    @classmethod
    def read(cls, reader: LogReader) -> TreeHead:
        """Return the log's present head. Raises: LogNotFound, Malformed."""
        note = reader.checkpoint_note()
        checkpoint = parse_checkpoint(parse_note(note).text)
        return cls(checkpoint.origin, checkpoint.size, checkpoint.root, note)

    @property
    def root_text(self) -> str:
        """The root as 44 characters of base64, as in a checkpoint."""
        return base64.b64encode(self.root).decode("ascii")


@dataclass(frozen=True, slots=True)
class Record:
    """One entry on its way out: its view, its 32-byte leaf hash, and the head that covers it."""

    entry: EntryView
    leaf: bytes
    head: TreeHead

    @property
    def seq(self) -> int:
        """Index in the log, from 0."""
        return self.entry.seq

    @property
    def leaf_hash(self) -> str:
        """SHA-256(0x00 ‖ stored bytes) as 64 hex digits."""
        return self.leaf.hex()


class Batch(NamedTuple):
    """Records to hand over, in order (perhaps none), and the position that is reached with them."""

    records: list[Record]
    position: Position


class Source:
    """A log as exports read it: entries of a time range under published heads.

    `since` and `until` bound the entries' `timestamp`, half-open; None is no bound. One thread at a time.
    """

    def __init__(
        self, reader: LogReader, *, since: dt.datetime | None = None, until: dt.datetime | None = None
    ) -> None:
        self.reader = reader
        self._since = b"" if since is None else format_instant(since)
        self._until = b"~" if until is None else format_instant(until)

    def head(self) -> TreeHead:
        """Return the present head; its root is that of the stored tree. Raises: LogNotFound, Malformed, LogDamaged."""
        head = TreeHead.read(self.reader)
        try:
            root = root_at(head.size, node_reader(self.reader.store.read_hashes))
        except Malformed as exc:
            raise LogDamaged(f"{self.reader.store.url}: {exc.message}", kind_of_damage="tree_short") from exc
        if root != head.root:
            raise LogDamaged(
                f"The tree of {self.reader.store.url} does not have the root that its checkpoint of size {head.size} "
                "names. Nothing was exported.",
                kind_of_damage="root_mismatch",
            )
        return head

    def position(self, seq: int) -> Position:
        """Return the position before entry `seq`, which is at most the present size. Raises: LogDamaged."""
        return Position(seq, self._hashes(seq - 1, seq) if seq else None)

    def check(self, position: Position, head: TreeHead, where: str) -> None:
        """Check that the log of `head` is the one that was exported up to `position`; `where` says who remembers it.

        Raises: LogDamaged: it is shorter, or the last exported entry is another one.
        """
        told = f"The log is not the one that was exported up to entry {position.seq - 1} ({where})"
        if position.seq > head.size:
            raise LogDamaged(f"{told}: it has {head.size} entries.", kind_of_damage="rollback")
        if self.position(position.seq) != position:
            raise LogDamaged(f"{told}: that entry is another one now.", kind_of_damage="history_rewritten")

    def batches(self, begin: int, head: TreeHead) -> Iterator[Batch]:
        """Yield entries `[begin, head.size)` in batches, each entry checked against the tree's leaf hash.

        Raises (while iterating): LogDamaged, Malformed.
        """
        records: list[Record] = []
        seq, weight, leaf = begin, 0, b""
        leaves = memoryview(b"")
        for line in self.reader.lines(begin, head.size):
            if not leaves:
                leaves = memoryview(self._hashes(seq, min(seq + BATCH_ENTRIES, head.size)))
            leaf, leaves = bytes(leaves[:_HASH]), leaves[_HASH:]
            purged = line.startswith(PURGED_PREFIX)
            if line_hash(line) != leaf or not (purged or seq_of(line) == seq):
                raise LogDamaged(
                    f"Entry {seq} is not the one that was signed. Nothing from there on was exported.",
                    kind_of_damage="entry_changed",
                )
            if not purged and self._since <= line[_TIMESTAMP] < self._until:
                records.append(Record(EntryView(line), leaf, head))
            seq, weight = seq + 1, weight + len(line)
            if not leaves or weight >= BATCH_BYTES:
                yield Batch(records, Position(seq, leaf))
                records, weight = [], 0
        if seq < head.size:
            raise LogDamaged(
                f"The log ends with entry {seq - 1}, its checkpoint covers {head.size} entries.",
                kind_of_damage="tail_cut",
            )
        if records or weight:
            yield Batch(records, Position(seq, leaf))

    def unsigned_tail(self, head: TreeHead) -> int:
        """Count the lines after the head's last entry: acknowledged perhaps, but under no published checkpoint."""
        return sum(1 for _line in self.reader.lines(head.size))

    def _hashes(self, begin: int, end: int) -> bytes:
        hashes = self.reader.store.read_hashes(0, begin, end)
        if len(hashes) != (end - begin) * _HASH:
            raise LogDamaged(
                f"The tree of {self.reader.store.url} ends before entry {end - 1}.", kind_of_damage="tree_short"
            )
        return hashes
