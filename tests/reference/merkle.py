"""A slow, obvious reference of the RFC 6962 tree, straight from the definitions; tests compare the product with it.

It shares no code with the product: recursive where the product climbs, over lists of leaf hashes where the product
reads subtrees. Verifiers raise ValueError.
"""

from __future__ import annotations

from hashlib import sha256


def leaf(entry: bytes) -> bytes:
    return sha256(b"\x00" + entry).digest()


def node(left: bytes, right: bytes) -> bytes:
    return sha256(b"\x01" + left + right).digest()


def split(n: int) -> int:
    """The largest power of two strictly below n."""
    k = 1
    while 2 * k < n:
        k *= 2
    return k


def root(leaves: list[bytes]) -> bytes:
    """MTH of RFC 6962 section 2.1, over leaf hashes."""
    if not leaves:
        return sha256(b"").digest()
    if len(leaves) == 1:
        return leaves[0]
    k = split(len(leaves))
    return node(root(leaves[:k]), root(leaves[k:]))


def inclusion(m: int, leaves: list[bytes]) -> list[bytes]:
    """PATH of RFC 6962 section 2.1.1."""
    if len(leaves) == 1:
        return []
    k = split(len(leaves))
    if m < k:
        return [*inclusion(m, leaves[:k]), root(leaves[k:])]
    return [*inclusion(m - k, leaves[k:]), root(leaves[:k])]


def consistency(m: int, leaves: list[bytes]) -> list[bytes]:
    """PROOF of RFC 6962 section 2.1.2; empty for m = 0."""
    return subproof(m, leaves, whole=True) if m else []


def subproof(m: int, leaves: list[bytes], *, whole: bool) -> list[bytes]:
    if m == len(leaves):
        return [] if whole else [root(leaves)]
    k = split(len(leaves))
    if m <= k:
        return [*subproof(m, leaves[:k], whole=whole), root(leaves[k:])]
    return [*subproof(m - k, leaves[k:], whole=False), root(leaves[:k])]


def inclusion_length(index: int, size: int) -> int:
    inner = (index ^ (size - 1)).bit_length()
    return inner + (index >> inner).bit_count()


def consistency_length(m: int, n: int) -> int:
    if m in (0, n):
        return 0
    zeros = (m & -m).bit_length() - 1
    inner = ((m - 1) ^ (n - 1)).bit_length() - zeros
    return (m & (m - 1) != 0) + inner + ((m - 1) >> (inner + zeros)).bit_count()


def check_hashes(*hashes: bytes) -> None:
    if any(len(item) != 32 for item in hashes):
        raise ValueError("not a hash")


def verify_inclusion(index: int, size: int, at: bytes, proof: list[bytes], want: bytes) -> None:
    check_hashes(at, want, *proof)
    if not 0 <= index < size:
        raise ValueError("index outside the tree")
    if root_by_inclusion(index, size, at, proof) != want:
        raise ValueError("another root")


def root_by_inclusion(index: int, size: int, at: bytes, proof: list[bytes]) -> bytes:
    if size == 1:
        if proof:
            raise ValueError("too long")
        return at
    if not proof:
        raise ValueError("too short")
    k, lower, sibling = split(size), proof[:-1], proof[-1]
    if index < k:
        return node(root_by_inclusion(index, k, at, lower), sibling)
    return node(sibling, root_by_inclusion(index - k, size - k, at, lower))


def verify_consistency(m: int, n: int, old_root: bytes, new_root: bytes, proof: list[bytes]) -> None:
    check_hashes(old_root, new_root, *proof)
    if not 0 <= m <= n:
        raise ValueError("sizes out of order")
    for size, given in ((m, old_root), (n, new_root)):
        if size == 0 and given != root([]):
            raise ValueError("not the empty root")
    if m == 0:
        if proof:
            raise ValueError("too long")
        return
    if roots_by_consistency(m, n, old_root, proof, whole=True) != (old_root, new_root):
        raise ValueError("another root")


def roots_by_consistency(m: int, n: int, old_root: bytes, proof: list[bytes], *, whole: bool) -> tuple[bytes, bytes]:
    if m == n:
        if len(proof) != (0 if whole else 1):
            raise ValueError("wrong length")
        at = old_root if whole else proof[0]
        return at, at
    if not proof:
        raise ValueError("too short")
    k, lower, sibling = split(n), proof[:-1], proof[-1]
    if m <= k:
        old, new = roots_by_consistency(m, k, old_root, lower, whole=whole)
        return old, node(new, sibling)
    old, new = roots_by_consistency(m - k, n - k, old_root, lower, whole=False)
    return node(sibling, old), node(sibling, new)


class CompactRange:
    """Peaks by pushing one leaf at a time, as RFC 6962 logs describe it."""

    def __init__(self) -> None:
        self.stack: list[tuple[int, bytes]] = []

    def push(self, item: bytes) -> None:
        self.stack.append((1, item))
        while len(self.stack) > 1 and self.stack[-1][0] == self.stack[-2][0]:
            (size, right), (_, left) = self.stack.pop(), self.stack.pop()
            self.stack.append((2 * size, node(left, right)))

    def peaks(self) -> tuple[bytes, ...]:
        return tuple(peak for _, peak in self.stack)


def tile_levels(leaves: list[bytes]) -> list[bytes]:
    """Flat tile levels: level L holds the roots of every complete run of 256**L leaves, concatenated."""
    levels, width = [], 1
    while width <= len(leaves):
        levels.append(b"".join(root(leaves[at : at + width]) for at in range(0, len(leaves) - width + 1, width)))
        width *= 256
    return levels
