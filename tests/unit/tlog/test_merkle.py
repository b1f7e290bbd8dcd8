"""Roots and proofs: known answers, and every pair of small sizes against the slow reference."""

from __future__ import annotations

import base64

import pytest

from klingai_audit.errors import InvalidProof, Malformed, UsageError
from klingai_audit.tlog import (
    EMPTY_ROOT,
    CompactRange,
    build_consistency,
    build_inclusion,
    hash_leaves,
    leaf_hash,
    node_hash,
    node_reader,
    peaks_at,
    root_at,
    verify_consistency,
    verify_inclusion,
)
from tests.reference import merkle as reference
from tests.unit.tlog import vectors

SIZES = [*range(71), 127, 128, 129, 130]
ENTRIES = [b"entry %d" % i for i in range(max(SIZES) + 1)]
LEAVES = [reference.leaf(entry) for entry in ENTRIES]


def reader(leaves):
    """Answers complete subtrees from a list of leaf hashes, with the reference's roots."""
    return lambda level, index: reference.root(leaves[index << level : (index + 1) << level])


def ranged(leaves):
    made = CompactRange()
    made.extend(b"".join(leaves))
    return made


def test_known_leaf_hashes():
    """Spec 12.1: the CT leaf inputs."""
    assert vectors.LEAVES == [leaf_hash(entry) for entry in vectors.ENTRIES]
    assert b"".join(vectors.LEAVES) == hash_leaves(vectors.ENTRIES)


@pytest.mark.parametrize("size", range(9))
def test_known_roots(size):
    """Spec 12.2: appended one by one, in bulk, from peaks and from a node reader."""
    expected = bytes.fromhex(vectors.CT["roots"][size])
    single = CompactRange()
    for leaf in vectors.LEAVES[:size]:
        single.append(leaf)
    bulk = ranged(vectors.LEAVES[:size])
    assert [expected] * 4 == [
        single.root(),
        bulk.root(),
        CompactRange(size, bulk.peaks).root(),
        root_at(size, reader(vectors.LEAVES)),
    ]


def test_known_inner_nodes():
    """Spec 12.2: the nodes between leaves and root of the eight."""
    ones, twos = vectors.hexes(vectors.CT["level_1"]), vectors.hexes(vectors.CT["level_2"])
    assert ones == [node_hash(vectors.LEAVES[at], vectors.LEAVES[at + 1]) for at in (0, 2, 4, 6)]
    assert twos == [node_hash(ones[at], ones[at + 1]) for at in (0, 2)]
    assert bytes.fromhex(vectors.CT["roots"][8]) == node_hash(*twos)


@pytest.mark.parametrize("case", vectors.CT["inclusion"], ids=lambda case: f"{case['index']}-{case['size']}")
def test_known_inclusion_proofs(case):
    """Spec 12.3: reproduced and verified."""
    index, size, proof = case["index"], case["size"], tuple(vectors.hexes(case["proof"]))
    assert proof == build_inclusion(index, size, reader(vectors.LEAVES))
    verify_inclusion(index, size, vectors.LEAVES[index], proof, bytes.fromhex(vectors.CT["roots"][size]))


@pytest.mark.parametrize("case", vectors.CT["consistency"], ids=lambda case: f"{case['old']}-{case['new']}")
def test_known_consistency_proofs(case):
    """Spec 12.4: reproduced and verified."""
    old, new, proof = case["old"], case["new"], tuple(vectors.hexes(case["proof"]))
    assert proof == build_consistency(old, new, reader(vectors.LEAVES))
    roots = vectors.hexes(vectors.CT["roots"])
    verify_consistency(old, new, roots[old], roots[new], proof)


@pytest.mark.parametrize("size", [int(size) for size in vectors.INTEGERS["roots"]])
def test_known_large_roots(size, integer_levels):
    """Spec 12.5: up to 70,000 entries, by compact range and by tile levels."""
    expected = bytes.fromhex(vectors.INTEGERS["roots"][str(size)])
    made = CompactRange()
    made.extend(integer_levels[0][: 32 * (size // 3)])
    made.extend(integer_levels[0][32 * (size // 3) : 32 * size])
    read = node_reader(lambda level, begin, end: integer_levels[level][32 * begin : 32 * end])
    assert (size, expected) == (made.size, made.root())
    assert (expected, made.peaks) == (root_at(size, read), peaks_at(size, read))


@pytest.mark.parametrize("index", [0, 1, 255, 256, 32767, 65535, 65536, 69887, 69888, 69998, 69999])
def test_large_inclusion_proofs_verify(index, integer_levels):
    """Proofs built from tile levels lead to the known root of 70,000, and the neighbour's leaf does not."""
    root = bytes.fromhex(vectors.INTEGERS["roots"]["70000"])
    read = node_reader(lambda level, begin, end: integer_levels[level][32 * begin : 32 * end])
    proof = build_inclusion(index, 70_000, read)
    verify_inclusion(index, 70_000, leaf_hash(index.to_bytes(8, "big")), proof, root)
    with pytest.raises(InvalidProof):
        verify_inclusion(index, 70_000, leaf_hash((index ^ 1).to_bytes(8, "big")), proof, root)


@pytest.mark.parametrize("size", [int(size) for size in vectors.INTEGERS["roots"]])
def test_inclusion_proofs_at_the_known_sizes(size, integer_levels):
    """First, last and middle entries of every known tree, and the edges of tiles; no other place, no other entry."""
    root = bytes.fromhex(vectors.INTEGERS["roots"][str(size)])
    read = node_reader(lambda level, begin, end: integer_levels[level][32 * begin : 32 * end])
    for index in {0, 1, 254, 255, 256, 65_534, 65_535, 65_536, size // 2, size - 2, size - 1} & {*range(size)}:
        leaf = leaf_hash(index.to_bytes(8, "big"))
        proof = build_inclusion(index, size, read)
        verify_inclusion(index, size, leaf, proof, root)
        for at, other in ((index ^ 1, leaf), (index, leaf_hash((index + 1).to_bytes(8, "big"))), (size, leaf)):
            with pytest.raises(InvalidProof):
                verify_inclusion(at, size, other, proof, root)


@pytest.mark.parametrize("old", [int(size) for size in vectors.INTEGERS["roots"]])
def test_large_consistency_proofs_verify(old, integer_levels):
    """Between every two known roots."""
    read = node_reader(lambda level, begin, end: integer_levels[level][32 * begin : 32 * end])
    roots = {int(size): bytes.fromhex(root) for size, root in vectors.INTEGERS["roots"].items()}
    for new in (size for size in roots if size >= old):
        verify_consistency(old, new, roots[old], roots[new], build_consistency(old, new, read))


@pytest.mark.parametrize("case", vectors.load("litewitness.json")["consistency"], ids=lambda case: f"{case['new']}")
def test_litewitness_proofs(case):
    """Spec 12.9: arbitrary hashes verify; the last hash byte changed to ...ABA= does not."""
    roots = {head["size"]: base64.b64decode(head["root"]) for head in vectors.load("litewitness.json")["heads"]}
    old, new, proof = case["old"], case["new"], [base64.b64decode(item) for item in case["proof"]]
    verify_consistency(old, new, roots[old], roots[new], proof)
    changed = [*proof[:-1], proof[-1][:-1] + b"\x10"]
    with pytest.raises(InvalidProof):
        verify_consistency(old, new, roots[old], roots[new], changed)


@pytest.mark.parametrize("size", [size for size in SIZES if size])
def test_every_inclusion_proof_of_small_trees(size):
    """Equal to the reference, of the predicted length, verified; refused for another leaf."""
    leaves, root, read = LEAVES[:size], reference.root(LEAVES[:size]), reader(LEAVES[:size])
    for index in range(size):
        proof = build_inclusion(index, size, read)
        assert reference.inclusion(index, leaves) == list(proof)
        assert reference.inclusion_length(index, size) == len(proof)
        verify_inclusion(index, size, leaves[index], proof, root)
        with pytest.raises(InvalidProof):
            verify_inclusion(index, size, LEAVES[index + 1], proof, root)


@pytest.mark.parametrize("new", SIZES)
def test_every_consistency_proof_of_small_trees(new):
    """Equal to the reference, of the predicted length, verified; refused for an edited first entry."""
    leaves, read = LEAVES[:new], reader(LEAVES[:new])
    edited = [LEAVES[-1], *LEAVES[1:new]]
    for old in range(new + 1):
        proof = build_consistency(old, new, read)
        assert reference.consistency(old, leaves) == list(proof)
        assert reference.consistency_length(old, new) == len(proof)
        verify_consistency(old, new, reference.root(leaves[:old]), reference.root(leaves), proof)
        if old:
            with pytest.raises(InvalidProof):
                verify_consistency(old, new, reference.root(edited[:old]), reference.root(leaves), proof)


def test_every_index_and_size_agrees_with_the_reference_verifier():
    """A true proof offered under every small index and size: both verifiers give the same answer."""
    root = reference.root(LEAVES[:13])
    for index in range(13):
        proof = reference.inclusion(index, LEAVES[:13])
        for claimed in range(-1, 18):
            for size in range(-1, 18):
                arguments = (claimed, size, LEAVES[index], proof, root)
                assert verdict(reference.verify_inclusion, arguments) == verdict(verify_inclusion, arguments)


def test_every_pair_of_sizes_agrees_with_the_reference_verifier():
    """A true consistency proof offered under every small pair of sizes: both verifiers give the same answer."""
    for old in range(12):
        proof, roots = (
            reference.consistency(old, LEAVES[:11]),
            (reference.root(LEAVES[:old]), reference.root(LEAVES[:11])),
        )
        for m in range(-1, 17):
            for n in range(-1, 17):
                arguments = (m, n, *roots, proof)
                assert verdict(reference.verify_consistency, arguments) == verdict(verify_consistency, arguments)


def verdict(verify, arguments):
    try:
        verify(*arguments)
    except (InvalidProof, ValueError):
        return "reject"
    return "accept"


def test_size_zero_follows_c2sp():
    """From size 0 an empty proof and the empty root suffice, and nothing else does."""
    root = reference.root(LEAVES[:5])
    verify_consistency(0, 5, EMPTY_ROOT, root, [])
    verify_consistency(0, 0, EMPTY_ROOT, EMPTY_ROOT, [])
    for arguments in ((0, 5, root, root, []), (0, 5, EMPTY_ROOT, root, [root]), (0, 0, root, root, [])):
        with pytest.raises(InvalidProof):
            verify_consistency(*arguments)


def test_a_root_mismatch_names_both_roots():
    """The exception is the exhibit: the root reached and the root claimed."""
    other = reference.root(LEAVES[1:9])
    proof = reference.inclusion(3, LEAVES[:8])
    with pytest.raises(InvalidProof) as caught:
        verify_inclusion(3, 8, LEAVES[3], proof, other)
    assert reference.root(LEAVES[:8]).hex() in str(caught.value)
    assert other.hex() in str(caught.value)


@pytest.mark.parametrize("size", SIZES)
def test_extending_is_appending_one_by_one(size):
    """Every split of a small batch gives the reference's peaks."""
    for first in {0, min(1, size), size // 2, max(size - 1, 0), size}:
        made, slow = ranged(LEAVES[:first]), reference.CompactRange()
        made.extend(b"".join(LEAVES[first:size]))
        for leaf in LEAVES[:size]:
            slow.push(leaf)
        assert (size, slow.peaks(), reference.root(LEAVES[:size])) == (made.size, made.peaks, made.root())


def test_an_empty_batch_changes_nothing():
    """Extending by nothing keeps size and peaks."""
    made = ranged(LEAVES[:6])
    before = (made.size, made.peaks)
    made.extend(b"")
    assert before == (made.size, made.peaks)


def test_a_copy_is_independent():
    """Appending to the copy leaves the original alone."""
    made = ranged(LEAVES[:5])
    twin = made.copy()
    twin.append(LEAVES[5])
    assert (5, reference.root(LEAVES[:5])) == (made.size, made.root())
    assert (6, reference.root(LEAVES[:6])) == (twin.size, twin.root())


def test_peaks_handed_in_are_not_shared():
    """The range keeps its own list; peaks come out as a tuple."""
    peaks = list(ranged(LEAVES[:3]).peaks)
    made = CompactRange(3, peaks)
    made.append(LEAVES[3])
    assert 2 == len(peaks)
    assert isinstance(made.peaks, tuple)


@pytest.mark.parametrize(
    "size, peaks",
    [
        (-1, []),
        (-1, [bytes(32)]),
        (0, [bytes(32)]),
        (1, []),
        (3, [bytes(32)]),
        (4, [bytes(32)] * 2),
        (1, [bytes(31)]),
        (1, [b""]),
    ],
)
def test_impossible_ranges_are_refused(size, peaks):
    """One peak of 32 bytes for every binary digit 1."""
    with pytest.raises(Malformed):
        CompactRange(size, peaks)


@pytest.mark.parametrize("length", [1, 31, 33])
def test_cut_leaves_are_refused_and_change_nothing(length):
    """A batch of a broken length and a leaf of another length leave the range as it was."""
    made = ranged(LEAVES[:5])
    before = (made.size, made.peaks)
    with pytest.raises(Malformed):
        made.extend(bytes(32) + bytes(length))
    with pytest.raises(Malformed):
        made.append(bytes(length))
    assert before == (made.size, made.peaks)


@pytest.mark.parametrize("index, size", [(0, 0), (-1, 4), (4, 4), (9, 4), (0, -1)])
def test_inclusion_is_not_built_outside_the_tree(index, size):
    """The caller's mistake is told as one."""
    with pytest.raises(UsageError):
        build_inclusion(index, size, reader(LEAVES))


@pytest.mark.parametrize("old, new", [(5, 4), (-1, 4), (-2, -1)])
def test_consistency_is_not_built_backwards(old, new):
    """The caller's mistake is told as one."""
    with pytest.raises(UsageError):
        build_consistency(old, new, reader(LEAVES))


def test_negative_sizes_have_no_root():
    """The caller's mistake is told as one."""
    for ask in (root_at, peaks_at):
        with pytest.raises(UsageError):
            ask(-1, reader(LEAVES))


def test_a_reader_that_answers_short_is_found_out():
    """A node that is not 32 bytes never enters a proof or a root."""
    for build in (
        lambda read: build_inclusion(2, 7, read),
        lambda read: build_consistency(3, 7, read),
        lambda read: root_at(7, read),
    ):
        with pytest.raises(Malformed):
            build(lambda level, index: b"short")


def test_repr_shows_size_and_root():
    """A range in a log line or debugger says which tree it is."""
    assert f"CompactRange(size=3, root={reference.root(LEAVES[:3]).hex()})" == repr(ranged(LEAVES[:3]))
