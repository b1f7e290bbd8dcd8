"""Which leaf hashes were signed: what a damaged log must have held, as far as checkpoints and tree files prove it.

A root commits to everything before it. So the largest signed size at which either the stored hashes or the
entries have the signed root proves all of that source below it. Above, each stretch between two checkpoints is
tried with few exchanges between the sources (stored hashes, entries, and the links that name them); where none
gives the root, the rest is lost and only a range can be named.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

from klingai_audit.tlog.merkle import CompactRange
from klingai_audit.tlog.tile import HASH_BYTES
from klingai_audit.trust.anchors import Anchor
from klingai_audit.trust.forest import Forest

__all__ = ["Expected", "build_expected"]

_MAX_WAYS: Final = 4096
_MAX_DOUBTFUL: Final = 10
_MAX_HASHED: Final = 1 << 22
_PIECE: Final = 4096
_MAX_BLOCKS: Final = 64
_BLOCK: Final = 1 << 16
_LONGEST_TRIED: Final = 1 << 16

_Leaves = Callable[[int, int], bytes]
"""`(begin, end)` -> leaf hashes of entries `[begin, end)`, 32 bytes each, fewer if there are none."""

_Claimed = Callable[[int, int], Iterable[tuple[int, bytes, bool]]]
"""`(begin, end)` -> (entry, leaf hash, whether the next entry's link states it; else the line hashes to it)."""


@dataclass(slots=True)
class Expected:
    """The proven leaf hashes of entries `[0, proven)`; from there to `size` nothing proves any.

    `lost` is the stretch between two checkpoints in which the first difference lies, None if all is proven.
    `contradicting` are checkpoints with another root than proven entries have.
    """

    size: int
    _stored: _Leaves
    _entries: _Leaves
    proven: int = 0
    lost: tuple[int, int] | None = None
    contradicting: list[Anchor] = field(default_factory=list)
    from_entries: int = 0
    searches: int = 1000
    _exchanged: dict[int, bytes] = field(default_factory=dict)
    _blocks: dict[int, bytes] = field(default_factory=dict)

    def leaf(self, seq: int) -> bytes | None:
        """Return the proven leaf hash of entry `seq`, or None."""
        if not 0 <= seq < self.proven:
            return None
        number = seq // _PIECE
        block = self._blocks.get(number)
        if block is None:
            if len(self._blocks) >= _MAX_BLOCKS:
                self._blocks.clear()
            block = self._blocks[number] = self.leaves(number * _PIECE, min(self.proven, (number + 1) * _PIECE))
        at = seq % _PIECE * HASH_BYTES
        return block[at : at + HASH_BYTES]

    def leaves(self, begin: int, end: int) -> bytes:
        """Return proven leaf hashes `[begin, end)`."""
        middle = min(max(begin, self.from_entries), end)
        found = bytearray(self._entries(begin, middle) if begin < middle else b"")
        found += self._stored(middle, end) if middle < end else b""
        for seq, leaf in self._exchanged.items():
            if begin <= seq < end:
                found[(seq - begin) * HASH_BYTES : (seq - begin + 1) * HASH_BYTES] = leaf
        return bytes(found)

    def find(self, leaf: bytes, near: int) -> int | None:
        """Return the proven entry that has this leaf hash, None if none has; first sought near the place given.

        The whole is searched a thousand times at most.
        """
        for begin, end in ((max(0, near - _PIECE), min(near + _PIECE, self.proven)), (0, self.proven)):
            if end - begin > 2 * _PIECE:
                self.searches -= 1
                if self.searches < 0:
                    return None
            for first in range(begin, end, _BLOCK):
                hashes = self.leaves(first, min(first + _BLOCK, end))
                at = hashes.find(leaf)
                while at >= 0 and at % HASH_BYTES:
                    at = hashes.find(leaf, at + 1)
                if at >= 0:
                    return first + at // HASH_BYTES
        return None

    def is_stored(self, begin: int, end: int) -> bool:
        """Tell whether the proven hashes `[begin, end)` are those that `tree/0` holds."""
        return self.from_entries <= begin and end <= self.proven and not any(begin <= s < end for s in self._exchanged)

    def forest(self, beyond: bytes = b"") -> Forest:
        """Build the tree over the proven entries, and over more of which `beyond` is the leaf hashes."""

        def leaves(begin: int, end: int) -> bytes:
            proven = self.leaves(begin, min(end, self.proven)) if begin < self.proven else b""
            return proven + beyond[max(0, begin - self.proven) * HASH_BYTES : max(0, end - self.proven) * HASH_BYTES]

        tree = Forest(leaves)
        for begin in range(0, self.proven, _PIECE):
            tree.extend(self.leaves(begin, min(begin + _PIECE, self.proven)))
        tree.extend(beyond)
        return tree


def build_expected(
    size: int,
    anchors: Sequence[Anchor],
    stored: _Leaves,
    entries: Forest | None,
    entry_leaves: _Leaves,
    claimed: _Claimed,
) -> Expected:
    """Find out which leaf hashes the `anchors` (by ascending size, none above `size`) prove.

    `stored` reads `tree/0`; `entries` is the tree over the entries if they are whole and in order, and
    `entry_leaves` its leaf hashes; `claimed` is asked for short stretches only.
    """
    expected = Expected(size, stored, entry_leaves)
    by_stored = _matching(anchors, stored)
    by_entries = []
    if entries is not None:
        by_entries = [a for a in anchors if a.size <= entries.size and entries.root(a.size) == a.root]
    from_stored, from_entries = (max((a.size for a in good), default=0) for good in (by_stored, by_entries))
    expected.proven = max(from_stored, from_entries)
    if from_entries >= from_stored:
        expected.from_entries = from_entries
    good = by_entries if expected.from_entries else by_stored
    expected.contradicting = [a for a in anchors if a.size <= expected.proven and a not in good]
    tree = CompactRange()
    for begin in range(0, expected.proven, _PIECE):
        tree.extend(expected.leaves(begin, min(begin + _PIECE, expected.proven)))
    for anchor in anchors:
        if anchor.size <= expected.proven:
            continue
        begin = expected.proven
        if expected.lost is None and _try_stretch(expected, tree, begin, anchor, stored, claimed):
            continue
        expected.lost = expected.lost or (begin, anchor.size)
    return expected


def _matching(anchors: Sequence[Anchor], stored: _Leaves) -> list[Anchor]:
    """Return the anchors whose root the stored leaf hashes have."""
    tree, found = CompactRange(), list[Anchor]()
    for anchor in anchors:
        while tree.size < anchor.size:
            end = min(tree.size + _PIECE, anchor.size)
            hashes = stored(tree.size, end)
            if len(hashes) != (end - tree.size) * HASH_BYTES:
                return found
            tree.extend(hashes)
        if tree.root() == anchor.root:
            found.append(anchor)
    return found


def _try_stretch(
    expected: Expected, tree: CompactRange, begin: int, anchor: Anchor, stored: _Leaves, claimed: _Claimed
) -> bool:
    """Try to prove entries `[begin, anchor.size)` with hashes from any source; extends `expected` and `tree`."""
    count = anchor.size - begin
    if count > _LONGEST_TRIED:
        return False
    kept = stored(begin, anchor.size)
    sources: list[list[bytes | None]] = [[None] * count for _ in ("stored", "link", "own")]
    sources[0][: len(kept) // HASH_BYTES] = [kept[at : at + HASH_BYTES] for at in range(0, len(kept), HASH_BYTES)]
    for seq, leaf, linked in claimed(begin, anchor.size):
        source = sources[1 if linked else 2]
        source[seq - begin] = source[seq - begin] or leaf  # whoever claims it first
    for picked in _combinations(sources):
        grown = tree.copy()
        grown.extend(b"".join(picked))
        if grown.root() == anchor.root:
            tree.extend(b"".join(picked))
            expected.proven = anchor.size
            expected._exchanged |= {  # noqa: SLF001  # this module builds what that class holds
                begin + number: leaf
                for number, leaf in enumerate(picked)
                if leaf != kept[number * HASH_BYTES : (number + 1) * HASH_BYTES]
            }
            return True
    return False


def _combinations(sources: Sequence[Sequence[bytes | None]]) -> Iterator[list[bytes]]:
    """Yield ways to choose one hash for each entry, likelier ones first; none if no source tells of an entry.

    Each source by itself (where it is silent, what the line hashes to), what most sources say, that with one other
    choice, and where few entries are in question all ways.
    """
    choices = [_by_votes(told) for told in zip(*sources, strict=True)]
    if not all(choices):
        return
    for source in sources:
        rows = zip(source, sources[-1], choices, strict=True)
        yield [one or own or options[0] for one, own, options in rows]
    likely = [options[0] for options in choices]
    yield likely
    doubtful = [number for number, options in enumerate(choices) if len(options) > 1]
    left = _MAX_HASHED // len(choices)
    for number in doubtful:
        for other in choices[number][1:]:
            left -= 1
            if left > 0:
                yield [*likely[:number], other, *likely[number + 1 :]]
    if 1 < len(doubtful) <= _MAX_DOUBTFUL:
        ways = itertools.product(*(choices[number] for number in doubtful))
        for way in itertools.islice(ways, max(0, min(left, _MAX_WAYS))):
            picked = list(likely)
            for number, leaf in zip(doubtful, way, strict=True):
                picked[number] = leaf
            yield picked


def _by_votes(told: Sequence[bytes | None]) -> list[bytes]:
    """Return the different hashes, those that most sources tell first."""
    there = [leaf for leaf in told if leaf is not None]
    return sorted(dict.fromkeys(there), key=lambda leaf: -there.count(leaf))
