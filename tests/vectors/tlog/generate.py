"""Writes the attack vectors under proofs/, one file per attack, with the slow reference alone.

Run from the repository's root: python -m tests.vectors.tlog.generate
A test compares the files with what this would write; the product never takes part in making them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

from tests.reference import merkle

HERE = Path(__file__).parent / "proofs"
ENTRIES = [bytes.fromhex(text) for text in ("", "00", "10", "2021", "3031", "40414243", "5051525354555657", "60" * 16)]
LEAVES = [merkle.leaf(entry) for entry in ENTRIES]
OTHER = [merkle.leaf(entry + b"!") for entry in ENTRIES]
SEVEN = LEAVES[:7]


def flip(data: bytes, bit: int = 4) -> bytes:
    changed = bytearray(data)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


def inclusion_vectors() -> Iterator[tuple[str, str, str, dict[str, Any]]]:
    """Yield name, want, why, and the arguments of verify_inclusion."""
    path, root = merkle.inclusion(5, LEAVES), merkle.root(LEAVES)

    def case(**changes: Any) -> dict[str, Any]:
        return {"index": 5, "size": 8, "leaf": LEAVES[5], "proof": path, "root": root} | changes

    yield "honest", "accept", "entry 5 of 8", case()
    lifted = {"index": 6, "size": 7, "leaf": LEAVES[6], "proof": merkle.inclusion(6, SEVEN), "root": merkle.root(SEVEN)}
    yield "honest-lifted-leaf", "accept", "the last of 7 entries has no sibling at the lowest level", lifted
    yield (
        "honest-only-entry",
        "accept",
        "a tree of one",
        case(index=0, size=1, leaf=LEAVES[0], proof=[], root=LEAVES[0]),
    )
    smaller = "the proof does not bind the size: sizes of the same path shape share a proof; the checkpoint binds it"
    yield "smaller-size-of-same-shape", "accept", smaller, case(size=7)
    yield "truncated-proof", "reject", "the last hash is left out", case(proof=path[:-1])
    yield "truncated-head", "reject", "the leaf's sibling is left out", case(proof=path[1:])
    yield "empty-proof", "reject", "no hashes at all", case(proof=[])
    yield "trailing-garbage", "reject", "a hash too many at the end", case(proof=[*path, OTHER[0]])
    yield "preceding-garbage", "reject", "a hash too many at the start", case(proof=[OTHER[0], *path])
    yield "trailing-root", "reject", "the root itself is appended", case(proof=[*path, root])
    yield "repeated-hash", "reject", "one hash stands twice", case(proof=[path[0], *path])
    yield "reversed-proof", "reject", "the root's child comes first", case(proof=path[::-1])
    yield "swapped-siblings", "reject", "two hashes changed places", case(proof=[path[1], path[0], path[2]])
    for at in range(3):
        bent = [flip(item) if at == place else item for place, item in enumerate(path)]
        yield f"bit-flip-in-hash-{at}", "reject", "one bit of the proof", case(proof=bent)
    yield "bit-flip-in-leaf", "reject", "one bit of the leaf hash", case(leaf=flip(LEAVES[5]))
    yield "bit-flip-in-root", "reject", "one bit of the root", case(root=flip(root))
    yield "swapped-root-and-leaf", "reject", "root and leaf changed places", case(leaf=root, root=LEAVES[5])
    yield "root-as-leaf", "reject", "the root stands for the entry too", case(leaf=root, proof=[])
    yield "other-tree", "reject", "the proof of the same place in another log", case(proof=merkle.inclusion(5, OTHER))
    yield "other-entry", "reject", "another entry of the same log", case(leaf=LEAVES[4])
    yield "edited-entry", "reject", "the entry was edited after it was logged", case(leaf=OTHER[5])
    yield "neighbours-proof", "reject", "the proof of the entry before", case(proof=merkle.inclusion(4, LEAVES))
    yield "index-plus-one", "reject", "the same proof for the next index", case(index=6)
    yield "index-minus-one", "reject", "the same proof for the index before", case(index=4)
    yield "index-flipped-high-bit", "reject", "the same proof for index 1", case(index=1)
    yield "index-equals-size", "reject", "there is no entry 8", case(index=8)
    yield "index-beyond-size", "reject", "index and size do not meet", case(index=13)
    yield "index-negative", "reject", "Python would count from the end", case(index=-3)
    yield "size-zero", "reject", "an empty tree holds nothing", case(index=0, size=0, proof=[], leaf=LEAVES[0])
    yield "size-negative", "reject", "no such tree", case(index=-5, size=-4)
    yield "size-doubled", "reject", "the path would need one hash more", case(size=16)
    yield "size-halved", "reject", "the index is no longer inside", case(size=4)
    yield "size-plus-one", "reject", "a larger tree has another shape", case(size=9)
    yield "size-six", "reject", "entry 5 of 6 is joined at other levels", case(size=6)
    yield "size-huge", "reject", "2**63 entries need 63 hashes", case(size=2**63)
    inner = merkle.node(LEAVES[4], LEAVES[5])
    yield "inner-node-as-leaf", "reject", "a node's hash poses as an entry", case(leaf=inner, proof=path[1:])
    yield "inner-node-at-its-own-level", "reject", "and with its own index", case(index=2, leaf=inner, proof=path[1:])
    bare = sha256(ENTRIES[5]).digest()
    yield "leaf-without-prefix", "reject", "SHA-256 of the entry without 0x00", case(leaf=bare)
    pair = LEAVES[4] + LEAVES[5]
    forged = [merkle.leaf(pair) if place == 2 else item for place, item in enumerate(path)]
    yield "node-with-leaf-prefix", "reject", "a pair hashed as if it were an entry", case(proof=forged)
    doubled = [*LEAVES[:3], LEAVES[2]]
    yield (
        "duplicated-last-leaf",
        "reject",
        "filling a level by repeating the last entry is not this tree",
        case(index=3, size=4, leaf=LEAVES[2], proof=merkle.inclusion(3, doubled), root=merkle.root(LEAVES[:3])),
    )
    yield "short-hash", "reject", "31 bytes", case(proof=[path[0][:31], *path[1:]])
    yield "long-hash", "reject", "33 bytes", case(proof=[path[0] + b"\x00", *path[1:]])
    yield "moved-boundary", "reject", "31 and 33 bytes", case(proof=[path[0][:31], path[0][31:] + path[1], path[2]])
    yield "empty-leaf", "reject", "no leaf hash", case(leaf=b"")
    yield "empty-root", "reject", "no root", case(root=b"")
    nothing = {"index": 0, "size": 1, "leaf": b"", "proof": [], "root": b""}
    yield "empty-leaf-and-root", "reject", "equal, but not hashes", nothing
    yield "long-leaf-and-root", "reject", "equal, but not hashes", nothing | {"leaf": bytes(33), "root": bytes(33)}


def consistency_vectors() -> Iterator[tuple[str, str, str, dict[str, Any]]]:
    """Yield name, want, why, and the arguments of verify_consistency."""
    path = merkle.consistency(6, LEAVES)
    roots = [merkle.root(LEAVES[:size]) for size in range(9)]

    def case(**changes: Any) -> dict[str, Any]:
        base = {"old_size": 6, "new_size": 8, "old_root": roots[6], "new_root": roots[8], "proof": path}
        return base | changes

    four = case(old_size=4, old_root=roots[4], proof=merkle.consistency(4, LEAVES))
    yield "honest", "accept", "from 6 to 8", case()
    yield "honest-power-of-two", "accept", "the old root is itself the first node", four
    yield "honest-same-size", "accept", "nothing to prove", case(old_size=8, old_root=roots[8], proof=[])
    yield (
        "honest-from-empty",
        "accept",
        "C2SP: any tree extends the empty one",
        case(old_size=0, old_root=roots[0], proof=[]),
    )
    empty = {"old_size": 0, "new_size": 0, "old_root": roots[0], "new_root": roots[0], "proof": []}
    yield "honest-both-empty", "accept", "nothing to prove", empty
    yield "truncated-proof", "reject", "the last hash is left out", case(proof=path[:-1])
    yield "truncated-head", "reject", "the first hash is left out", case(proof=path[1:])
    yield "empty-proof", "reject", "no hashes at all", case(proof=[])
    yield "empty-proof-power-of-two", "reject", "no hashes at all, old size 4", four | {"proof": []}
    yield "trailing-garbage", "reject", "a hash too many at the end", case(proof=[*path, OTHER[0]])
    yield "preceding-garbage", "reject", "a hash too many at the start", case(proof=[OTHER[0], *path])
    yield (
        "preceding-old-root",
        "reject",
        "the old root in front of size 4's proof",
        four | {"proof": [roots[4], *four["proof"]]},
    )
    yield "trailing-new-root", "reject", "the new root at the end", case(proof=[*path, roots[8]])
    yield "reversed-proof", "reject", "the hashes back to front", case(proof=path[::-1])
    yield "swapped-roots", "reject", "old and new root changed places", case(old_root=roots[8], new_root=roots[6])
    yield (
        "swapped-sizes",
        "reject",
        "a log that shrank",
        case(old_size=8, new_size=6, old_root=roots[8], new_root=roots[6]),
    )
    for at in range(len(path)):
        bent = [flip(item) if at == place else item for place, item in enumerate(path)]
        yield f"bit-flip-in-hash-{at}", "reject", "one bit of the proof", case(proof=bent)
    yield "bit-flip-in-old-root", "reject", "one bit", case(old_root=flip(roots[6]))
    yield "bit-flip-in-new-root", "reject", "one bit", case(new_root=flip(roots[8]))
    edited = [*LEAVES[:2], OTHER[2], *LEAVES[3:]]
    rewritten = {"new_root": merkle.root(edited), "proof": merkle.consistency(6, edited)}
    yield "edited-history", "reject", "entry 2 was edited between 6 and 8", case(**rewritten)
    removed = [*LEAVES[:2], *LEAVES[3:], OTHER[0]]
    yield (
        "removed-entry",
        "reject",
        "entry 2 was removed, the rest moved up",
        case(new_root=merkle.root(removed), proof=merkle.consistency(6, removed)),
    )
    swapped = [LEAVES[1], LEAVES[0], *LEAVES[2:]]
    yield (
        "reordered-entries",
        "reject",
        "entries 0 and 1 changed places",
        case(new_root=merkle.root(swapped), proof=merkle.consistency(6, swapped)),
    )
    inserted = [OTHER[0], *LEAVES[:7]]
    yield (
        "inserted-entry",
        "reject",
        "an entry was put in front",
        case(new_root=merkle.root(inserted), proof=merkle.consistency(6, inserted)),
    )
    fork = {"old_size": 8, "old_root": merkle.root(OTHER), "proof": []}
    yield "fork-at-same-size", "reject", "two roots for size 8", case(**fork)
    yield "same-size-with-proof", "reject", "a proof where none belongs", case(old_size=8, old_root=roots[8])
    yield (
        "same-size-with-own-root",
        "reject",
        "the root as proof",
        case(old_size=8, old_root=roots[8], proof=[roots[8]]),
    )
    yield "from-empty-with-proof", "reject", "a proof where none belongs", case(old_size=0, old_root=roots[0])
    yield "from-empty-with-other-root", "reject", "size 0 has one root", case(old_size=0, proof=[])
    yield (
        "empty-with-other-root",
        "reject",
        "equal, but not the empty root",
        empty | {"old_root": bytes(32), "new_root": bytes(32)},
    )
    yield "old-size-plus-one", "reject", "7 instead of 6", case(old_size=7)
    yield "old-size-minus-one", "reject", "5 instead of 6", case(old_size=5)
    yield "old-size-negative", "reject", "no such tree", case(old_size=-6)
    yield "both-sizes-negative", "reject", "no such trees", case(old_size=-8, new_size=-6)
    yield "new-size-doubled", "reject", "16 instead of 8", case(new_size=16)
    yield "new-size-plus-one", "reject", "9 instead of 8", case(new_size=9)
    yield "new-size-is-old-size", "reject", "both 6", case(new_size=6)
    yield "other-tree", "reject", "the proof of another log", case(proof=merkle.consistency(6, OTHER))
    yield "proof-of-other-size", "reject", "the proof from 5", case(proof=merkle.consistency(5, LEAVES))
    yield "short-hash", "reject", "31 bytes", case(proof=[path[0][:31], *path[1:]])
    yield "long-hash", "reject", "33 bytes", case(proof=[path[0] + b"\x00", *path[1:]])
    yield "empty-roots", "reject", "equal, but not hashes", case(old_size=8, old_root=b"", new_root=b"", proof=[])


def encode(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.hex()
    return [encode(item) for item in value] if isinstance(value, list) else value


def vectors() -> Iterator[tuple[str, str]]:
    """Yield the path below proofs/ and the content of every file."""
    for kind, source in (("inclusion", inclusion_vectors()), ("consistency", consistency_vectors())):
        for name, want, why, arguments in source:
            content = {"want": want, "why": why} | {key: encode(value) for key, value in arguments.items()}
            yield f"{kind}/{name}.json", json.dumps(content, indent=2) + "\n"


def main() -> None:
    for name, content in vectors():
        path = HERE / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content, encoding="utf-8")


if __name__ == "__main__":
    main()
