"""Trees of any shape: the compact range, tiles and proofs against the slow reference."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from klingai_audit.errors import InvalidProof
from klingai_audit.tlog import (
    CompactRange,
    build_consistency,
    build_inclusion,
    check_tile,
    decode_bundle,
    encode_bundle,
    hash_leaves,
    node_reader,
    parse_tile_path,
    peaks_at,
    root_at,
    tile_path,
    tiles_of,
    verify_consistency,
    verify_inclusion,
)
from tests.reference import merkle as reference

MAX_TREE = 1300  # five full tiles and some, so that level 1 takes part
LEAVES = [reference.leaf(i.to_bytes(2, "big")) for i in range(MAX_TREE)]
LEVELS = reference.tile_levels(LEAVES)
sizes = st.one_of(
    st.integers(0, MAX_TREE), st.integers(0, 20), st.sampled_from([255, 256, 257, 511, 512, 513, 767, 768, 1024])
)
hashes = st.binary(min_size=32, max_size=32)


def tiles_until(size):
    """A reader that has no more than a tree of `size` entries may use: complete subtrees only."""

    def read(level, begin, end):
        assert end <= size >> 8 * level, "a hash of an incomplete subtree was asked for"
        return LEVELS[level][32 * begin : 32 * end]

    return node_reader(read)


@st.composite
def pairs(draw):
    new = draw(sizes)
    return draw(
        st.one_of(st.integers(0, new), st.sampled_from([size for size in (0, 1, 256, 512, new) if size <= new]))
    ), new


@settings(deadline=None)
@given(st.lists(st.binary(max_size=50), max_size=80), st.lists(st.integers(0, 80), max_size=5))
def test_any_batches_give_the_reference_tree(entries, cuts):
    """However appends are batched, size, peaks and root are those of the definition."""
    made, slow, bounds = (
        CompactRange(),
        reference.CompactRange(),
        sorted({0, len(entries), *(min(c, len(entries)) for c in cuts)}),
    )
    for begin, end in pairwise(bounds):
        made.extend(hash_leaves(entries[begin:end]))
    leaves = [reference.leaf(entry) for entry in entries]
    for leaf in leaves:
        slow.push(leaf)
    assert (len(entries), slow.peaks(), reference.root(leaves)) == (made.size, made.peaks, made.root())


@settings(deadline=None)
@given(sizes, st.integers(0, 300), st.integers(0, 3))
def test_a_range_continues_from_its_peaks(size, more, single):
    """State kept as size and peaks, then leaves one by one and in bulk, is the tree over all of them."""
    end = min(size + more + single, MAX_TREE)
    made = CompactRange(size, peaks_at(size, tiles_until(size)))
    for leaf in LEAVES[size : min(size + single, end)]:
        made.append(leaf)
    made.extend(b"".join(LEAVES[made.size : end]))
    assert (end, reference.root(LEAVES[:end])) == (made.size, made.root())
    assert root_at(end, tiles_until(end)) == made.root()


@settings(deadline=None)
@given(st.data())
def test_inclusion_proofs_from_tiles_are_the_references(data):
    """Built from flat tile levels of just that size, equal to the definition, verified; refused elsewhere."""
    size = data.draw(sizes.filter(bool))
    index = data.draw(st.integers(0, size - 1))
    proof, root = build_inclusion(index, size, tiles_until(size)), reference.root(LEAVES[:size])
    assert reference.inclusion(index, LEAVES[:size]) == list(proof)
    verify_inclusion(index, size, LEAVES[index], proof, root)
    other = data.draw(st.integers(0, MAX_TREE - 1).filter(lambda at: at != index))
    with pytest.raises(InvalidProof):
        verify_inclusion(index, size, LEAVES[other], proof, root)
    with pytest.raises(InvalidProof):
        verify_inclusion(other, size, LEAVES[index], proof, root)


@settings(deadline=None)
@given(pairs())
def test_consistency_proofs_from_tiles_are_the_references(pair):
    """Built from flat tile levels of just that size, equal to the definition, verified."""
    old, new = pair
    proof = build_consistency(old, new, tiles_until(new))
    assert reference.consistency(old, LEAVES[:new]) == list(proof)
    verify_consistency(old, new, reference.root(LEAVES[:old]), reference.root(LEAVES[:new]), proof)


@settings(deadline=None)
@given(pairs().filter(lambda pair: 0 < pair[0]), st.data())
def test_any_edit_breaks_consistency(pair, data):
    """Whichever early entry is replaced, no proof that the edited log can build is accepted."""
    old, new = pair
    at = data.draw(st.integers(0, old - 1))
    edited = [*LEAVES[:at], reference.leaf(b"edited"), *LEAVES[at + 1 : new]]
    proof = reference.consistency(old, edited)
    with pytest.raises(InvalidProof):
        verify_consistency(old, new, reference.root(LEAVES[:old]), reference.root(edited), proof)


def answer(verify, *arguments):
    try:
        verify(*arguments)
    except (InvalidProof, ValueError):
        return "reject"
    return "accept"


@settings(deadline=None)
@given(st.integers(-2, 40), st.integers(-2, 40), st.data())
def test_verifiers_agree_on_any_inclusion_claim(index, size, data):
    """True, mixed up or invented hashes: product and reference give the same answer."""
    pool = st.sampled_from([*LEAVES[:4], *(reference.root(LEAVES[:n]) for n in range(1, 6)), bytes(31), b""])
    leaf, root, proof = data.draw(pool), data.draw(pool), data.draw(st.lists(pool, max_size=7))
    if data.draw(st.booleans()) and 0 <= index < size:
        proof, leaf, root = reference.inclusion(index, LEAVES[:size]), LEAVES[index], reference.root(LEAVES[:size])
        index, size = index + data.draw(st.integers(-2, 2)), size + data.draw(st.integers(-3, 3))
    claim = (index, size, leaf, proof, root)
    assert answer(reference.verify_inclusion, *claim) == answer(verify_inclusion, *claim)


@settings(deadline=None)
@given(st.integers(-2, 40), st.integers(-2, 40), st.data())
def test_verifiers_agree_on_any_consistency_claim(old, new, data):
    """True, mixed up or invented hashes: product and reference give the same answer."""
    pool = st.sampled_from([*(reference.root(LEAVES[:n]) for n in range(6)), bytes(31), b""])
    roots, proof = (data.draw(pool), data.draw(pool)), data.draw(st.lists(pool, max_size=7))
    if data.draw(st.booleans()) and 0 <= old <= new:
        proof, roots = (
            reference.consistency(old, LEAVES[:new]),
            (reference.root(LEAVES[:old]), reference.root(LEAVES[:new])),
        )
        old, new = old + data.draw(st.integers(-2, 2)), new + data.draw(st.integers(-2, 2))
    claim = (old, new, *roots, proof)
    assert answer(reference.verify_consistency, *claim) == answer(verify_consistency, *claim)


@settings(deadline=None)
@given(sizes)
def test_tiles_cover_every_hash_once(size):
    """Cut at the tiles of a size, each level gives back exactly its published hashes, and no tile is empty."""
    levels = {}
    for level, n, width in tiles_of(size):
        data = LEVELS[level][32 * 256 * n : 32 * (256 * n + width)]
        check_tile(data, width)
        levels[level] = levels.get(level, b"") + data
    lengths = {level: size >> 8 * level for level in range(3) if size >> 8 * level}
    assert {level: LEVELS[level][: 32 * length] for level, length in lengths.items()} == levels


@given(
    st.one_of(st.just("entries"), st.integers(0, 63)),
    st.one_of(st.integers(0, 2**63 - 1), st.integers(0, 2000)),
    st.integers(1, 256),
)
def test_tile_paths_both_ways(level, n, width):
    """Every tile has one path, every such path one tile."""
    assert (level, n, width) == parse_tile_path(tile_path(level, n, width))


@given(st.lists(st.binary(max_size=300), min_size=1, max_size=256))
def test_bundles_both_ways(entries):
    """Any entries, empty ones included; the lengths are not part of what is hashed."""
    data = encode_bundle(entries)
    assert entries == decode_bundle(data) == decode_bundle(data, len(entries))
    assert hash_leaves(entries) == hash_leaves(decode_bundle(data))
