"""The tree of a head that another writer committed: it has the signed root and continues what was known."""

from __future__ import annotations

import copy
from typing import Final

from klingai_audit.errors import InvalidProof, LogDamaged, Malformed
from klingai_audit.ledger.store import Store
from klingai_audit.ledger.tree import GrowingTree
from klingai_audit.tlog.merkle import build_inclusion, root_at, verify_inclusion
from klingai_audit.tlog.tile import node_reader

__all__ = ["follow_tree"]

_FOLLOWED: Final = 4_096
"""Up to so many entries of others are taken in by their leaf hashes; after more the tree is read anew."""

_HASH: Final = 32


def follow_tree(store: Store, known: GrowingTree, size: int, root: bytes) -> tuple[GrowingTree, bytes]:
    """Return the tree of `size` entries and the leaf hash of the last; `known` is not changed.

    What the store answers is believed only if it leads to `root` and begins with the `known` tree. Raises:
    LogDamaged, AuditUnavailable.
    """
    if known.size and 0 <= size - known.size <= _FOLLOWED:
        leaves = store.read_hashes(0, known.size, size)
        tree = copy.deepcopy(known)
        tree.extend(leaves)
        tree.take()
        if leaves and tree.size == size and tree.root() == root:
            return tree, leaves[-_HASH:]
    try:
        return _load(store, known, size, root)
    except (Malformed, InvalidProof) as exc:
        raise LogDamaged(f"{store.url}: {exc.message}", kind_of_damage="tree_short") from exc


def _load(store: Store, known: GrowingTree, size: int, root: bytes) -> tuple[GrowingTree, bytes]:
    tree = GrowingTree.load(size, store.read_hashes)
    if tree.root() != root:
        raise LogDamaged(
            f"The tree hashes of {store.url} do not lead to the root signed for its {size} entries.",
            kind_of_damage="tree_changed",
        )
    reader = node_reader(store.read_hashes)
    if known.size and root_at(known.size, reader) != known.root():
        raise LogDamaged(
            f"The first {known.size} entries of {store.url} are not those that were signed.",
            kind_of_damage="history_rewritten",
        )
    last = store.read_hashes(0, size - 1, size)
    verify_inclusion(size - 1, size, last, build_inclusion(size - 1, size, reader), root)
    return tree, last
