"""The RFC 6962 tree: compact range, roots, inclusion and consistency proofs.

Pure functions over 32-byte hashes; whoever holds the hashes hands in a `NodeReader`. `verify_…` returns None or
raises. Steps are numbered as in RFC 9162 sections 2.1.3.2 and 2.1.4.2. The bulk loops are in `hashing`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from hashlib import sha256

from klingai_audit.errors import InvalidProof, Malformed, UsageError
from klingai_audit.tlog.hashing import hash_pairs
from klingai_audit.tlog.strict import HASH_BYTES, check_hash

__all__ = [
    "EMPTY_ROOT",
    "CompactRange",
    "NodeReader",
    "build_consistency",
    "build_inclusion",
    "leaf_hash",
    "node_hash",
    "peaks_at",
    "root_at",
    "verify_consistency",
    "verify_inclusion",
]

EMPTY_ROOT = sha256(b"").digest()  # root of the tree of size 0: SHA-256 of nothing, without a prefix byte

NodeReader = Callable[[int, int], bytes]
"""`(level, index)` -> the 32-byte root of entries `[index << level, (index + 1) << level)`; complete subtrees only."""


def leaf_hash(entry: bytes) -> bytes:
    """Return SHA-256(0x00 || entry), 32 bytes."""
    return sha256(b"\x00" + entry).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """Return SHA-256(0x01 || left || right), 32 bytes, for two 32-byte hashes."""
    return sha256(b"\x01" + left + right).digest()


def _fold(peaks: Iterable[bytes]) -> bytes:
    """Return the root over peaks given smallest first; EMPTY_ROOT for none."""
    root = b""
    for peak in peaks:
        root = node_hash(peak, root) if root else peak
    return root or EMPTY_ROOT


class CompactRange:
    """All that appending needs of a tree: its size and the roots of its perfect subtrees.

    `size` counts leaves; `peaks` are 32-byte roots, largest subtree (most entries) first, one for each binary
    digit 1 of `size`. Not for use by two threads at once.
    """

    __slots__ = ("_peaks", "_size")

    def __init__(self, size: int = 0, peaks: Sequence[bytes] = ()) -> None:
        """Start from a known state. Raises: Malformed if `peaks` cannot belong to `size`."""
        if size < 0 or len(peaks) != size.bit_count():
            raise Malformed(f"A tree of {size} entries does not have {len(peaks)} peaks.")
        for peak in peaks:
            check_hash(peak, "A peak")
        self._size = size
        self._peaks = list(peaks)

    @property
    def size(self) -> int:
        """Number of leaves."""
        return self._size

    @property
    def peaks(self) -> tuple[bytes, ...]:
        """Roots of the perfect subtrees, 32 bytes each, largest first."""
        return tuple(self._peaks)

    def append(self, leaf: bytes) -> None:
        """Add one 32-byte leaf hash. Raises: Malformed for another length."""
        check_hash(leaf, "A leaf hash")
        peak, rest = leaf, self._size
        while rest & 1:
            peak = node_hash(self._peaks.pop(), peak)
            rest >>= 1
        self._peaks.append(peak)
        self._size += 1

    def extend(self, hashes: bytes) -> list[bytes]:
        """Add concatenated 32-byte leaf hashes in order, level by level.

        Returns the roots of the perfect subtrees that became complete, concatenated: item `k` those over `2**k`
        leaves, item 0 is `hashes`. Raises: Malformed if the length is not a multiple of 32, which changes nothing.
        """
        if len(hashes) % HASH_BYTES:
            raise Malformed(f"{len(hashes)} bytes are not a whole number of {HASH_BYTES}-byte hashes.")
        size, level = self._size + len(hashes) // HASH_BYTES, self._size
        lowest: list[bytes] = []
        complete: list[bytes] = []
        while hashes:
            complete.append(hashes)
            if level & 1:
                hashes = self._peaks.pop() + hashes
            if len(hashes) // HASH_BYTES & 1:
                lowest.append(hashes[-HASH_BYTES:])
            hashes = hash_pairs(hashes)
            level >>= 1
        self._peaks.extend(reversed(lowest))
        self._size = size
        return complete

    def root(self) -> bytes:
        """Return the 32-byte tree root; EMPTY_ROOT at size 0."""
        return _fold(reversed(self._peaks))

    def copy(self) -> CompactRange:
        """Return an independent copy."""
        return CompactRange(self._size, self._peaks)

    def __repr__(self) -> str:
        return f"CompactRange(size={self._size}, root={self.root().hex()})"


def _check_proof_hashes(hashes: Iterable[bytes]) -> None:
    if any(len(item) != HASH_BYTES for item in hashes):
        raise InvalidProof(f"Every hash of a Merkle proof has {HASH_BYTES} bytes; one has not.")


def _climb(fn: int, sn: int) -> tuple[int, int]:
    """Skip the levels at which node `fn`, the last of its level, is lifted without a sibling."""
    while fn and not fn & 1:
        fn, sn = fn >> 1, sn >> 1
    return fn, sn


def verify_inclusion(index: int, size: int, leaf: bytes, proof: Sequence[bytes], root: bytes) -> None:
    """Prove that leaf hash `leaf` stands at `index` (from 0) of the tree of `size` entries with `root`.

    `proof` runs from the leaf's sibling upwards; all hashes have 32 bytes.
    Raises: InvalidProof. Source: RFC 9162 section 2.1.3.2.
    """
    # 1. The index lies in the tree and every hash is a hash.
    if not 0 <= index < size:
        raise InvalidProof(f"Entry {index} does not exist in a tree of {size} entries.")
    _check_proof_hashes((leaf, root, *proof))
    # 2. and 3. fn is the node on the path at the current level, sn the level's last node.
    fn, sn, at = index, size - 1, leaf
    # 4. Join the siblings from the bottom up.
    for sibling in proof:
        if sn == 0:
            raise InvalidProof(f"The inclusion proof for entry {index} of {size} is too long.")
        if fn & 1 or fn == sn:
            at = node_hash(sibling, at)
            fn, sn = _climb(fn, sn)
        else:
            at = node_hash(at, sibling)
        fn, sn = fn >> 1, sn >> 1
    # 5. The path ended at the top, and at this root.
    if sn:
        raise InvalidProof(f"The inclusion proof for entry {index} of {size} is too short.")
    if at != root:
        raise InvalidProof(f"The inclusion proof for entry {index} of {size} leads to {at.hex()}, not to {root.hex()}.")


def verify_consistency(old_size: int, new_size: int, old_root: bytes, new_root: bytes, proof: Sequence[bytes]) -> None:
    """Prove that the tree of `new_size` begins with the same entries as the tree of `old_size`.

    Equal sizes need equal roots and an empty proof; old size 0 needs the empty root and an empty proof (C2SP).
    Raises: InvalidProof. Source: RFC 9162 section 2.1.4.2; C2SP tlog-witness for size 0.
    """
    # 1. The sizes are in order, every hash is a hash, and an empty tree has the empty root.
    if not 0 <= old_size <= new_size:
        raise InvalidProof(f"A tree of {new_size} entries cannot extend one of {old_size}.")
    _check_proof_hashes((old_root, new_root, *proof))
    if (old_size == 0 and old_root != EMPTY_ROOT) or (new_size == 0 and new_root != EMPTY_ROOT):
        raise InvalidProof("A tree of 0 entries is given with another root than the empty one.")
    # 2. Cases that need no proof.
    if old_size in (0, new_size):
        if proof:
            raise InvalidProof(f"From {old_size} to {new_size} entries the consistency proof must be empty.")
        if old_size and old_root != new_root:
            raise InvalidProof(f"Two roots for the same {old_size} entries: {old_root.hex()} and {new_root.hex()}.")
        return
    if not proof:
        raise InvalidProof(f"The consistency proof from {old_size} to {new_size} is missing.")
    # 3. An old tree that is one perfect subtree is its own first node.
    path = list(proof) if old_size & (old_size - 1) else [old_root, *proof]
    # 4. Start where the old tree's last node and the new tree part.
    fn, sn = old_size - 1, new_size - 1
    while fn & 1:
        fn, sn = fn >> 1, sn >> 1
    # 5. Climb; the old root takes only what lies left of the old end.
    old_at = new_at = path[0]
    for sibling in path[1:]:
        if sn == 0:
            raise InvalidProof(f"The consistency proof from {old_size} to {new_size} is too long.")
        if fn & 1 or fn == sn:
            old_at, new_at = node_hash(sibling, old_at), node_hash(sibling, new_at)
            fn, sn = _climb(fn, sn)
        else:
            new_at = node_hash(new_at, sibling)
        fn, sn = fn >> 1, sn >> 1
    # 6. Both roots are reached, at the top.
    if sn:
        raise InvalidProof(f"The consistency proof from {old_size} to {new_size} is too short.")
    for at, root, size in ((old_at, old_root, old_size), (new_at, new_root, new_size)):
        if at != root:
            raise InvalidProof(
                f"The consistency proof from {old_size} to {new_size} leads to {at.hex()} for size {size}, "
                f"not to {root.hex()}."
            )


def _split(begin: int, end: int) -> int:
    """Return where `[begin, end)`, two entries or more, is split: after the largest power of two below its length."""
    return begin + (1 << (end - begin - 1).bit_length() - 1)


def _peaks(begin: int, end: int, read: NodeReader) -> list[bytes]:
    """Read the perfect subtrees of `[begin, end)`, largest first; `begin` is a multiple of the first one's size."""
    peaks = []
    while begin < end:
        level = (end - begin).bit_length() - 1
        node = read(level, begin >> level)
        check_hash(node, f"Node {begin >> level} of level {level}")
        peaks.append(node)
        begin += 1 << level
    return peaks


def _root_of(begin: int, end: int, read: NodeReader) -> bytes:
    return _fold(reversed(_peaks(begin, end, read)))


def peaks_at(size: int, read: NodeReader) -> tuple[bytes, ...]:
    """Return the peaks of the first `size` entries, largest first, 32 bytes each, as `CompactRange` takes them.

    Raises: UsageError for a negative size; what `read` raises.
    """
    if size < 0:
        raise UsageError(f"A tree cannot have {size} entries.")
    return tuple(_peaks(0, size, read))


def root_at(size: int, read: NodeReader) -> bytes:
    """Return the 32-byte root of the first `size` entries. Raises: as `peaks_at`."""
    return _fold(reversed(peaks_at(size, read)))


def build_inclusion(index: int, size: int, read: NodeReader) -> tuple[bytes, ...]:
    """Build the inclusion proof of entry `index` in the tree of `size` entries, sibling of the leaf first.

    Raises: UsageError unless 0 <= index < size; what `read` raises. Source: RFC 6962 section 2.1.1.
    """
    if not 0 <= index < size:
        raise UsageError(f"Entry {index} does not exist in a tree of {size} entries.")
    begin, end, path = 0, size, []
    while end - begin > 1:
        middle = _split(begin, end)
        if index < middle:
            path.append(_root_of(middle, end, read))
            end = middle
        else:
            path.append(_root_of(begin, middle, read))
            begin = middle
    return tuple(reversed(path))


def build_consistency(old_size: int, new_size: int, read: NodeReader) -> tuple[bytes, ...]:
    """Build the consistency proof from `old_size` to `new_size` entries; empty for old size 0 and for equal sizes.

    Raises: UsageError unless 0 <= old_size <= new_size; what `read` raises. Source: RFC 6962 section 2.1.2.
    """
    if not 0 <= old_size <= new_size:
        raise UsageError(f"A tree of {new_size} entries cannot extend one of {old_size}.")
    begin, end, path = 0, new_size, []
    if old_size == 0:
        return ()
    while old_size != end:
        middle = _split(begin, end)
        if old_size <= middle:
            path.append(_root_of(middle, end, read))
            end = middle
        else:
            path.append(_root_of(begin, middle, read))
            begin = middle
    if begin:  # the old tree is not one perfect subtree, so the verifier does not have this node yet
        path.append(_root_of(begin, end, read))
    return tuple(reversed(path))
