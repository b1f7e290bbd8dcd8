"""The growing tree: roots, marks, what the store has yet to hold, and taking it up from stored hashes."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from klingai_audit.errors import LogDamaged
from klingai_audit.ledger.tree import GrowingTree
from tests.reference.merkle import root as ref_root_of_hashes

LEAVES = [hashlib.sha256(b"\0%d" % n).digest() for n in range(140_000)]


class Files:
    """Hashes as a store would hold them."""

    def __init__(self) -> None:
        self.levels: dict[int, bytearray] = {}

    def put(self, tree: GrowingTree) -> list[tuple[int, bytes]]:
        marks, writes = tree.take()
        for level, begin, hashes in writes:
            self.levels.setdefault(level, bytearray())[begin * 32 :] = hashes
        return marks

    def read(self, level: int, begin: int, end: int) -> bytes:
        return bytes(self.levels.get(level, b"")[begin * 32 : end * 32])


@given(st.lists(st.integers(min_value=0, max_value=700), max_size=6))
@settings(max_examples=60)
def test_any_batches_give_the_same_tree(batches: list[int]) -> None:
    """However entries arrive and whenever hashes are written, root and files are those of the reference."""
    tree, files, size = GrowingTree(), Files(), 0
    for count in batches:
        tree.extend(b"".join(LEAVES[size : size + count]))
        size += count
        if size % 2:
            files.put(tree)
    files.put(tree)
    assert ref_root_of_hashes(LEAVES[:size]) == tree.root()
    assert b"".join(LEAVES[:size]) == bytes(files.levels.get(0, b""))
    parents = [ref_root_of_hashes(LEAVES[i : i + 256]) for i in range(0, size - size % 256, 256)]
    assert b"".join(parents) == bytes(files.levels.get(1, b""))
    assert tree.root() == GrowingTree.load(size, files.read).root()


@pytest.mark.parametrize("size", [0, 1, 255, 256, 257, 4095, 4096, 65_535, 65_536, 65_537, 131_073])
def test_a_tree_goes_on_from_stored_hashes(size: int) -> None:
    """Loaded at any size, it grows as if it had never stopped."""
    whole, files = GrowingTree(), Files()
    whole.extend(b"".join(LEAVES[:size]))
    files.put(whole)
    loaded = GrowingTree.load(size, files.read)
    for tree in (whole, loaded):
        tree.extend(b"".join(LEAVES[size : size + 300]))
    assert whole.root() == loaded.root()
    files.put(loaded)
    assert b"".join(LEAVES[: size + 300]) == bytes(files.levels[0])


def test_marks_are_exact() -> None:
    """Roots are noted at multiples of 4,096 and at named sizes, once each and in order."""
    tree = GrowingTree()
    tree.extend(b"".join(LEAVES[:4_000]), (17,))
    tree.extend(b"".join(LEAVES[4_000:9_000]), (4_096, 8_999))
    marks, _ = tree.take()
    assert [17, 4_096, 8_192, 8_999] == [size for size, _ in marks]
    for size, root in marks:
        assert ref_root_of_hashes(LEAVES[:size]) == root
    assert ([], []) == tree.take()


def test_what_was_not_written_comes_back() -> None:
    """After a failed publish nothing is forgotten, whatever was appended meanwhile."""
    tree, files = GrowingTree(), Files()
    tree.extend(b"".join(LEAVES[:300]), (5,))
    marks, writes = tree.take()
    tree.extend(b"".join(LEAVES[300:600]), (301,))
    tree.put_back(marks, writes)
    assert [5, 301] == [size for size, _ in files.put(tree)]
    assert b"".join(LEAVES[:600]) == bytes(files.levels[0])


def test_missing_hashes_are_damage() -> None:
    """A tree that cannot be taken up says which file is short."""
    tree, files = GrowingTree(), Files()
    tree.extend(b"".join(LEAVES[:300]))
    files.put(tree)
    del files.levels[0][-32:]
    with pytest.raises(LogDamaged) as caught:
        GrowingTree.load(300, files.read)
    assert "tree_short" == caught.value.kind_of_damage
