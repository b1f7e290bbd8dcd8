"""The growing tree of one log: peaks for the root, and the hashes that the store has yet to write."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from klingai_audit.errors import LogDamaged
from klingai_audit.ledger.line import KEPT_INTERVAL
from klingai_audit.tlog.hashing import fold_subtree
from klingai_audit.tlog.merkle import CompactRange

__all__ = ["GrowingTree", "HashWrite"]

_WIDTH: Final = 256
_BITS: Final = 8
_HASH: Final = 32

HashWrite = tuple[int, int, bytes]
"""Tile level, index of the first hash, 32-byte hashes one after another."""


class GrowingTree:
    """The tree over all entries so far, and the hashes that the store does not hold yet.

    `marks` are sizes with their roots at which a checkpoint has to be kept, in order.
    """

    def __init__(self) -> None:
        self._range = CompactRange()
        self._unwritten: dict[int, tuple[int, bytearray]] = {}
        self.marks: list[tuple[int, bytes]] = []

    @classmethod
    def load(cls, size: int, read: Callable[[int, int, int], bytes]) -> GrowingTree:
        """Rebuild the tree of `size` entries from stored hashes `read(level, begin, end)`.

        Reads at most 255 hashes a level. Raises: LogDamaged if hashes are missing.
        """
        tree = cls()
        peaks: list[tuple[int, bytes]] = []
        for level in range(1 if size == 0 else (size.bit_length() + 7) // 8):
            count = size >> (8 * level)
            begin = count - count % _WIDTH
            hashes = read(level, begin, count)
            if len(hashes) != (count - begin) * _HASH:
                raise LogDamaged(
                    f"tree/{level} holds fewer than the {count} hashes that the checkpoint of size {size} covers.",
                    kind_of_damage="tree_short",
                )
            peaks[:0] = _peaks_of_partial(level, hashes)
        tree._range = CompactRange(size, tuple(peak for _, peak in peaks))
        return tree

    @property
    def size(self) -> int:
        """Number of leaves."""
        return self._range.size

    def root(self) -> bytes:
        """Return the 32-byte RFC 6962 root over all entries so far."""
        return self._range.root()

    def extend(self, leaf_hashes: bytes, named: tuple[int, ...] = ()) -> None:
        """Append leaf hashes (32 bytes each); note the roots at sizes in `named` and at kept multiples."""
        size, end = self.size, self.size + len(leaf_hashes) // _HASH
        next_multiple = (size // KEPT_INTERVAL + 1) * KEPT_INTERVAL
        stops = sorted({*range(next_multiple, end + 1, KEPT_INTERVAL), *named})
        begin = size
        for stop in stops:
            self._add(leaf_hashes[(begin - size) * _HASH : (stop - size) * _HASH])
            self.marks.append((stop, self._range.root()))
            begin = stop
        self._add(leaf_hashes[(begin - size) * _HASH :])

    def take(self) -> tuple[list[tuple[int, bytes]], list[HashWrite]]:
        """Hand over the marks and the hashes that the store has yet to hold, lowest level first; forget both."""
        writes = [(level, begin, bytes(hashes)) for level, (begin, hashes) in sorted(self._unwritten.items())]
        self._unwritten.clear()
        marks, self.marks = self.marks, []
        return marks, writes

    def put_back(self, marks: list[tuple[int, bytes]], writes: list[HashWrite]) -> None:
        """Take back what did not reach the store."""
        self.marks[:0] = marks
        for level, begin, hashes in writes:
            _, later = self._unwritten.get(level, (begin, bytearray()))
            self._unwritten[level] = (begin, bytearray(hashes) + later)

    def _add(self, leaf_hashes: bytes) -> None:
        size = self._range.size
        # Of the subtrees that became complete, those over whole tiles are the hashes of the level above.
        for level, hashes in enumerate(self._range.extend(leaf_hashes)[::_BITS]):
            self._unwritten.setdefault(level, (size >> _BITS * level, bytearray()))[1].extend(hashes)


def _peaks_of_partial(level: int, hashes: bytes) -> list[tuple[int, bytes]]:
    """Peaks inside one partial tile, largest first: the binary digits of its width."""
    peaks: list[tuple[int, bytes]] = []
    offset, width = 0, len(hashes) // _HASH
    for bit in range(7, -1, -1):
        if width & (1 << bit):
            span = hashes[offset * _HASH : (offset + (1 << bit)) * _HASH]
            peaks.append((8 * level + bit, fold_subtree(span)))
            offset += 1 << bit
    return peaks
