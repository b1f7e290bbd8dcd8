"""Bulk hashing equals hashing one by one."""

from __future__ import annotations

from hashlib import sha256

import pytest

from klingai_audit.errors import Malformed
from klingai_audit.tlog import hashing
from tests.reference import merkle as reference

LEAVES = [reference.leaf(bytes([i])) for i in range(256)]


def test_leaves_carry_prefix_zero():
    """SHA-256 over 0x00 and the entry, concatenated in order; an iterator will do."""
    entries = [b"", b"a", b"b" * 1000]
    assert b"".join(sha256(b"\x00" + entry).digest() for entry in entries) == hashing.hash_leaves(iter(entries))


def test_no_leaves_are_no_bytes():
    """Nothing in, nothing out."""
    assert hashing.hash_leaves([]) == b""
    assert hashing.hash_pairs(b"") == b""


@pytest.mark.parametrize("count", [1, 2, 3, 7, 8, 255, 256])
def test_pairs_leave_out_an_odd_last_hash(count):
    """`n // 2` nodes."""
    expected = [reference.node(LEAVES[at], LEAVES[at + 1]) for at in range(0, count - 1, 2)]
    assert b"".join(expected) == hashing.hash_pairs(b"".join(LEAVES[:count]))


@pytest.mark.parametrize("length", [1, 31, 33, 63, 65])
def test_cut_hashes_are_refused(length):
    """A length that is no multiple of 32 is never hashed."""
    with pytest.raises(Malformed):
        hashing.hash_pairs(bytes(length))


@pytest.mark.parametrize("height", range(9))
def test_a_subtree_folds_to_its_root(height):
    """Every power of two up to a tile."""
    assert reference.root(LEAVES[: 1 << height]) == hashing.fold_subtree(b"".join(LEAVES[: 1 << height]))


@pytest.mark.parametrize("length", [0, 16, 31, 3 * 32, 255 * 32, 256 * 32 + 1])
def test_incomplete_subtrees_are_refused(length):
    """Folding would invent nodes that the tree does not have."""
    with pytest.raises(Malformed):
        hashing.fold_subtree(bytes(length))


def test_a_tile_folds_to_its_root():
    """256 hashes, no fewer."""
    assert reference.root(LEAVES) == hashing.fold_tile(b"".join(LEAVES))
    for length in (0, 128 * 32, 255 * 32, 512 * 32):
        with pytest.raises(Malformed):
            hashing.fold_tile(bytes(length))
