"""The only hot loops of the room: hashing many leaves, or many pairs of hashes, at once.

Hashes travel concatenated, 32 bytes each, as they lie in tiles: slicing bytes costs less than lists of them.
Source: RFC 6962 section 2.1 (prefix 0x00 for leaves, 0x01 for nodes).
"""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import sha256

from klingai_audit.errors import Malformed
from klingai_audit.tlog.strict import HASH_BYTES

__all__ = ["fold_subtree", "fold_tile", "hash_leaves", "hash_pairs"]

_PAIR_BYTES = 2 * HASH_BYTES
_TILE_BYTES = 256 * HASH_BYTES


def hash_leaves(entries: Iterable[bytes]) -> bytes:
    """Return the leaf hashes of `entries` in order, concatenated (32 bytes each)."""
    return b"".join([sha256(b"\x00" + entry).digest() for entry in entries])


def hash_pairs(hashes: bytes) -> bytes:
    """Hash neighbours of `n` concatenated 32-byte hashes into `n // 2` nodes; an odd last one is left out.

    Raises: Malformed if the length is not a multiple of 32.
    """
    if len(hashes) % HASH_BYTES:
        raise Malformed(f"{len(hashes)} bytes are not a whole number of {HASH_BYTES}-byte hashes.")
    end = len(hashes) - len(hashes) % _PAIR_BYTES
    return b"".join([sha256(b"\x01" + hashes[at : at + _PAIR_BYTES]).digest() for at in range(0, end, _PAIR_BYTES)])


def fold_subtree(hashes: bytes) -> bytes:
    """Return the 32-byte root over `2**k` concatenated hashes. Raises: Malformed for any other count."""
    count, rest = divmod(len(hashes), HASH_BYTES)
    if rest or not count or count & (count - 1):
        raise Malformed(f"{len(hashes)} bytes are not the hashes of a complete subtree.")
    while len(hashes) > HASH_BYTES:
        hashes = hash_pairs(hashes)
    return hashes


def fold_tile(hashes: bytes) -> bytes:
    """Return the root over a full tile (256 hashes, 8,192 bytes). Raises: Malformed for any other length."""
    if len(hashes) != _TILE_BYTES:
        raise Malformed(f"A full tile has {_TILE_BYTES} bytes, not {len(hashes)}.")
    return fold_subtree(hashes)
