"""Tiles, bundles, paths, and nodes from flat levels."""

from __future__ import annotations

import base64
import hashlib

import pytest

from klingai_audit.errors import Malformed, UsageError
from klingai_audit.tlog import (
    MAX_ENTRY_BYTES,
    check_tile,
    decode_bundle,
    encode_bundle,
    hash_leaves,
    node_reader,
    parse_tile_path,
    root_at,
    tile_path,
    tiles_of,
)
from tests.reference import merkle as reference
from tests.unit.tlog import vectors

PATHS = [
    ((0, 0, 256), "tile/0/000"),
    ((0, 0, 112), "tile/0/000.p/112"),
    ((0, 255, 256), "tile/0/255"),
    ((1, 999, 1), "tile/1/999.p/1"),
    ((0, 1000, 256), "tile/0/x001/000"),
    (("entries", 1234067, 256), "tile/entries/x001/x234/067"),
    (("entries", 1234067, 8), "tile/entries/x001/x234/067.p/8"),
    ((63, 3057500, 255), "tile/63/x003/x057/500.p/255"),
    ((0, 2**63 - 1, 256), "tile/0/x009/x223/x372/x036/x854/x775/807"),
]


@pytest.mark.parametrize("parts, path", PATHS)
def test_known_paths_both_ways(parts, path):
    """Spec section 5."""
    assert path == tile_path(*parts)
    assert parts == parse_tile_path(path)


@pytest.mark.parametrize("parts", [(-1, 0), (64, 0), (0, -1), (0, 2**63), (0, 0, 0), (0, 0, 257), (0, 0, -1)])
def test_impossible_tiles_have_no_path(parts):
    """The caller's mistake is told as one."""
    with pytest.raises(UsageError):
        tile_path(*parts)


@pytest.mark.parametrize(
    "path",
    [
        "",
        "tile",
        "tile/0",
        "tile/0/",
        "tile/0/0",
        "tile/0/00",
        "tile/0/0000",
        "/tile/0/000",
        "tile/0/000/",
        "tile/00/000",
        "tile/64/000",
        "tile/-1/000",
        "tile/1a/000",
        "tile/0/x000/000",
        "tile/0/001/000",
        "tile/0/x001/x000",
        "tile/0/X001/000",
        "tile/0/000.p",
        "tile/0/000.p/",
        "tile/0/000.p/0",
        "tile/0/000.p/256",
        "tile/0/000.p/257",
        "tile/0/000.p/01",
        "tile/0/000.p/+1",
        "tile/0/000\n",
        "tile/0/000.p/1\n",
        "tile/entry/000",
        "tile/Entries/000",
        "tile/0/\u0660\u0660\u0660",
        "tile/\u0660/000",
        "tile/0/x009/x223/x372/x036/x854/x775/808",
        "tile/0/" + "x001/" * 2000 + "000",
        "tile/0/../000",
        "tile//000",
    ],
)
def test_other_paths_are_refused(path):
    """Only what tile_path writes."""
    with pytest.raises(Malformed):
        parse_tile_path(path)


def test_the_tiles_of_the_known_tree():
    """Spec 12.5: 273 full and 112 wide; one full and 17 wide; one wide."""
    tiles = list(tiles_of(70_000))
    assert [(0, n, 256) for n in range(273)] + [(0, 273, 112), (1, 0, 256), (1, 1, 17), (2, 0, 1)] == tiles


@pytest.mark.parametrize(
    "size, expected", [(0, []), (1, [(0, 0, 1)]), (255, [(0, 0, 255)]), (256, [(0, 0, 256), (1, 0, 1)])]
)
def test_the_tiles_of_small_trees(size, expected):
    """No empty tile, and a level exists only above a full tile."""
    assert expected == list(tiles_of(size))


def test_a_negative_size_has_no_tiles():
    """The caller's mistake is told as one."""
    with pytest.raises(UsageError):
        list(tiles_of(-1))


@pytest.mark.parametrize("path", vectors.INTEGERS["sha256"])
def test_known_tile_files(path, integer_levels):
    """Spec 12.5: the digest of every named file of the tree of 70,000."""
    level, n, width = parse_tile_path(path)
    begin = 256 * n
    if level == "entries":
        data = encode_bundle(vectors.integer_entries()[begin : begin + width])
        assert vectors.integer_entries()[begin : begin + width] == decode_bundle(data, width)
    else:
        data = integer_levels[level][32 * begin : 32 * (begin + width)]
        check_tile(data, width)
        assert (level, n, width) in set(tiles_of(70_000))
    assert vectors.INTEGERS["sha256"][path] == hashlib.sha256(data).hexdigest()


def test_the_known_top_tile(integer_levels):
    """Spec 12.5: the only hash of level 2 is the root of the first 65,536."""
    assert bytes.fromhex(vectors.INTEGERS["tile/2/000.p/1"]) == integer_levels[2]


def test_the_tessera_bundle():
    """Spec 12.7: the entries bundle of size 2."""
    known = bytes.fromhex(vectors.load("tessera.json")["bundle_2"])
    assert known == encode_bundle([b"one", b"two"])
    assert [b"one", b"two"] == decode_bundle(known, 2)


@pytest.mark.parametrize("entries", [[b""], [b"", b"a", b""], [bytes(MAX_ENTRY_BYTES)], [b"x"] * 256])
def test_bundles_both_ways(entries):
    """Empty entries, the longest entry and the fullest bundle."""
    data = encode_bundle(entries)
    assert entries == decode_bundle(data)
    assert entries == decode_bundle(data, len(entries))


def test_the_longest_entry_has_a_full_length_prefix():
    """C2SP: 65,535 bytes, the largest uint16."""
    assert b"\xff\xff" == encode_bundle([bytes(MAX_ENTRY_BYTES)])[:2]


@pytest.mark.parametrize("entries", [[], [b"x"] * 257, [bytes(MAX_ENTRY_BYTES + 1)]])
def test_impossible_bundles_are_not_written(entries):
    """The caller's mistake is told as one."""
    with pytest.raises(UsageError):
        encode_bundle(entries)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x00",
        b"\x00\x01",
        b"\x00\x02a",
        b"\x00\x01a\x00",
        b"\x00\x01ab",
        b"\xff\xff" + bytes(65534),
        b"\x00\x00" * 257,
    ],
    ids=["empty", "half-length", "no-entry", "cut-entry", "cut-length", "trailing", "one-short", "257-entries"],
)
def test_broken_bundles_are_refused(data):
    """Cut lengths, cut entries, trailing bytes, too many entries."""
    with pytest.raises(Malformed):
        decode_bundle(data)


@pytest.mark.parametrize("width", [0, 1, 3, 256])
def test_bundles_of_another_width_are_refused(width):
    """Two entries where another number is due."""
    with pytest.raises(Malformed):
        decode_bundle(encode_bundle([b"one", b"two"]), width)


@pytest.mark.parametrize(
    "length, width", [(0, 0), (31, 1), (33, 1), (32, 2), (64, 1), (257 * 32, 257), (8192, 255), (0, 1)]
)
def test_tiles_of_another_length_are_refused(length, width):
    """Exactly width times 32 bytes, 1 to 256 wide."""
    with pytest.raises(Malformed):
        check_tile(bytes(length), width)


def test_nodes_come_from_the_tile_level_below():
    """Level b is asked of tile level b // 8, and only the range that it needs."""
    leaves = [reference.leaf(bytes([i % 256, i // 256])) for i in range(1024)]
    levels, asked = reference.tile_levels(leaves), []

    def read(level, begin, end):
        asked.append((level, begin, end))
        return levels[level][32 * begin : 32 * end]

    read_node = node_reader(read)
    for level, index in [(0, 5), (3, 2), (7, 1), (8, 3), (9, 1), (10, 0)]:
        assert reference.root(leaves[index << level : (index + 1) << level]) == read_node(level, index)
    assert [(0, 5, 6), (0, 16, 24), (0, 128, 256), (1, 3, 4), (1, 2, 4), (1, 0, 4)] == asked


@pytest.mark.parametrize("answer", [b"", bytes(32), bytes(127), bytes(160)])
def test_short_and_long_answers_are_refused(answer):
    """A reader that has lost hashes, or gives too many, is found out."""
    with pytest.raises(Malformed):
        node_reader(lambda level, begin, end: answer)(2, 0)


def test_the_tessera_log_by_tiles():
    """Spec 12.7: the published roots of the small log, read from a flat level."""
    known = vectors.load("tessera.json")
    level = hash_leaves(known["words"].encode().split())
    read = node_reader(lambda _, begin, end: level[32 * begin : 32 * end])
    expected = {int(size): base64.b64decode(root) for size, root in known["roots"].items()}
    assert expected == {size: root_at(size, read) for size in expected}


@pytest.mark.parametrize("width", [1, 2, 255, 256])
def test_tiles_of_their_length_pass(width):
    """The narrowest and the full tile included."""
    assert check_tile(bytes(32 * width), width) is None
