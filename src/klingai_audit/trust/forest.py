"""The recomputed tree: what the scan's reports add up to, and what the stored hashes must be.

Only the roots of every 256 entries are kept (32 bytes for 256 entries); single leaf hashes come from `tree/0`
where the scan found it equal to the entries.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from klingai_audit.errors import Malformed
from klingai_audit.tlog.hashing import fold_tile
from klingai_audit.tlog.merkle import CompactRange, node_hash, peaks_at
from klingai_audit.tlog.tile import HASH_BYTES, TILE_HEIGHT, TILE_WIDTH, RangeReader
from klingai_audit.trust.chunk import Report

__all__ = ["Forest", "hashes_at"]

_TILE_BYTES: Final = TILE_WIDTH * HASH_BYTES


def hashes_at(size: int, level: int) -> int:
    """Return how many hashes tile level `level` has for `size` entries."""
    return size >> (8 * level)


class Forest:
    """The tree over all entries added so far; `levels[L]` holds the hashes of tile level L, from 1 up."""

    def __init__(self, read_leaves: Callable[[int, int], bytes]) -> None:
        """`read_leaves(begin, end)` gives leaf hashes of entries added before, 32 bytes each."""
        self.size = 0
        self.levels: list[bytearray] = [bytearray(), bytearray()]
        self._read_leaves = read_leaves
        self._pending = bytearray()
        self._nodes: dict[tuple[int, int], bytes] = {}

    @classmethod
    def resume(cls, size: int, read: RangeReader, read_leaves: Callable[[int, int], bytes]) -> Forest:
        """Start with the stored hashes `read(level, begin, end)` of the first `size` entries, taken as they are.

        Raises: Malformed if hashes are missing.
        """
        forest = cls(read_leaves)
        forest.size = size
        level = 1
        while count := hashes_at(size, level):
            hashes = read(level, 0, count)
            if len(hashes) != count * HASH_BYTES:
                raise Malformed(f"Tree level {level} holds fewer than {count} hashes.")
            forest.levels[level:] = [bytearray(hashes), bytearray()]
            level += 1
        forest._pending += read(0, size - size % TILE_WIDTH, size)
        if len(forest._pending) != size % TILE_WIDTH * HASH_BYTES:
            raise Malformed(f"Tree level 0 holds fewer than {size} hashes.")
        return forest

    def add(self, report: Report) -> None:
        """Add the leaves of a sound report; its first entry is the next one."""
        self.extend(report.head)
        if report.tiles:
            self._push(1, report.tiles)
            self.size += len(report.tiles) // HASH_BYTES * TILE_WIDTH
        self.extend(report.tail)

    def extend(self, leaves: bytes) -> None:
        """Add leaf hashes, 32 bytes each."""
        self.size += len(leaves) // HASH_BYTES
        self._pending += leaves
        whole = len(self._pending) - len(self._pending) % _TILE_BYTES
        if whole:
            tiles = range(0, whole, _TILE_BYTES)
            self._push(1, b"".join([fold_tile(bytes(self._pending[at : at + _TILE_BYTES])) for at in tiles]))
            del self._pending[:whole]

    def _push(self, level: int, hashes: bytes) -> None:
        if not hashes:
            return
        if level == len(self.levels):
            self.levels.append(bytearray())
        row = self.levels[level]
        first = len(row) // _TILE_BYTES
        row += hashes
        tiles = range(first * _TILE_BYTES, len(row) - _TILE_BYTES + 1, _TILE_BYTES)
        self._push(level + 1, b"".join([fold_tile(bytes(row[at : at + _TILE_BYTES])) for at in tiles]))

    def root(self, size: int) -> bytes:
        """Return the 32-byte root of the first `size` entries, `size` at most that of the forest."""
        rest = size % TILE_WIDTH
        tree = CompactRange(size - rest, peaks_at(size - rest, self._node))
        if rest:
            tree.extend(self._read_leaves(size - rest, size))
        return tree.root()

    def _node(self, level: int, index: int) -> bytes:
        """Root of entries `[index << level, (index + 1) << level)`, `level` at least 8; what is computed is kept."""
        stored, height = divmod(level, TILE_HEIGHT)
        if not height:
            return bytes(self.levels[stored][index * HASH_BYTES : (index + 1) * HASH_BYTES])
        found = self._nodes.get((level, index))
        if found is None:
            found = node_hash(self._node(level - 1, 2 * index), self._node(level - 1, 2 * index + 1))
            self._nodes[level, index] = found
        return found
