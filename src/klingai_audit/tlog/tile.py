"""Tiles and entry bundles (C2SP tlog-tiles), and node hashes answered from flat tile levels.

A tile of level L holds up to 256 hashes, each over 256**L entries. Stores keep a level as one flat run of
hashes, so a range reader is all that `node_reader` needs; paths and bundles are for export and other software.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from typing import Literal

from klingai_audit.errors import Malformed, UsageError
from klingai_audit.tlog.hashing import fold_subtree
from klingai_audit.tlog.merkle import NodeReader
from klingai_audit.tlog.strict import HASH_BYTES, MAX_SIZE

__all__ = [
    "HASH_BYTES",
    "MAX_ENTRY_BYTES",
    "MAX_TILE_LEVEL",
    "TILE_HEIGHT",
    "TILE_WIDTH",
    "RangeReader",
    "TileLevel",
    "check_tile",
    "decode_bundle",
    "encode_bundle",
    "new_tiles",
    "node_reader",
    "parse_tile_path",
    "tile_path",
    "tiles_of",
]

TILE_HEIGHT = 8  # binary tree levels per tile
TILE_WIDTH = 256  # hashes in a full tile, entries in a full bundle
MAX_ENTRY_BYTES = 65_535  # C2SP tlog-tiles: an entry in a bundle has a uint16 length prefix
MAX_TILE_LEVEL = 63  # C2SP tlog-tiles

TileLevel = int | Literal["entries"]

RangeReader = Callable[[int, int, int], bytes]
"""`(tile level, begin, end)` -> hashes `[begin, end)` of that level, 32 bytes each, fewer if missing."""

_PATH = re.compile(r"tile/(entries|[0-9]{1,2})/((?:x[0-9]{3}/)*)([0-9]{3})(?:\.p/([0-9]{1,3}))?", re.ASCII)
_MAX_PATH_CHARS = 64  # seven groups of an index below 2**63, and the rest, with room


def tile_path(level: TileLevel, n: int, width: int = TILE_WIDTH) -> str:
    """Return the path of tile or bundle `n` (from 0), `tile/<level>/<index>[.p/<width>]`.

    `width` in `[1, 256]` counts hashes or entries. Raises: UsageError out of range.
    """
    if level != "entries" and not 0 <= level <= MAX_TILE_LEVEL:
        raise UsageError(f"There is no tile level {level}; levels are 0 to {MAX_TILE_LEVEL} and 'entries'.")
    if not (0 <= n <= MAX_SIZE and 1 <= width <= TILE_WIDTH):
        raise UsageError(f"There is no tile {n} of width {width}.")
    groups = [f"{n % 1000:03d}"]
    while n >= 1000:
        n //= 1000
        groups.append(f"x{n % 1000:03d}")
    suffix = "" if width == TILE_WIDTH else f".p/{width}"
    return f"tile/{level}/{'/'.join(reversed(groups))}{suffix}"


def parse_tile_path(path: str) -> tuple[TileLevel, int, int]:
    """Return `(level, n, width)` of a tile path; only what `tile_path` writes is taken. Raises: Malformed."""
    match = _PATH.fullmatch(path) if len(path) <= _MAX_PATH_CHARS else None
    if match is None:
        raise Malformed("That is not the path of a tile.")
    level: TileLevel = "entries" if match[1] == "entries" else int(match[1])
    n = int(match[2].replace("x", "").replace("/", "") + match[3])
    width = int(match[4]) if match[4] else TILE_WIDTH
    try:
        canonical = tile_path(level, n, width)
    except UsageError as exc:
        raise Malformed("That is not the path of a tile.") from exc
    if canonical != path:
        raise Malformed("The path of a tile is not in its canonical form.")
    return level, n, width


def tiles_of(size: int) -> Iterator[tuple[int, int, int]]:
    """Yield `(level, n, width)` of every tile of a tree of `size` entries: by level, then `n`, the partial one last.

    Raises: UsageError for a negative size.
    """
    if size < 0:
        raise UsageError(f"A tree cannot have {size} entries.")
    level = 0
    while size:
        full, partial = divmod(size, TILE_WIDTH)
        for n in range(full):
            yield level, n, TILE_WIDTH
        if partial:
            yield level, full, partial
        size, level = full, level + 1


def new_tiles(old: int, size: int) -> Iterator[tuple[TileLevel, int, int]]:
    """Yield (level, n, width) of each tile and bundle of a tree of `size` entries that one of `old` does not have.

    By level from 0, then bundles; within a level ascending, the partial one last.
    """
    levels: list[tuple[TileLevel, int, int]] = []
    level, before, after = 0, old, size
    while after:
        levels.append((level, before, after))
        level, before, after = level + 1, before // TILE_WIDTH, after // TILE_WIDTH
    for name, had, has in (*levels, ("entries", old, size)):
        for n in range(had // TILE_WIDTH, -(-has // TILE_WIDTH)):
            width = min(TILE_WIDTH, has - n * TILE_WIDTH)
            if n * TILE_WIDTH + width > had:
                yield name, n, width


def check_tile(data: bytes, width: int) -> None:
    """Refuse a tile that does not hold exactly `width` hashes of 32 bytes, 1 to 256. Raises: Malformed."""
    if not 1 <= width <= TILE_WIDTH or len(data) != width * HASH_BYTES:
        raise Malformed(f"A tile of width {width} cannot have {len(data)} bytes.")


def encode_bundle(entries: Sequence[bytes]) -> bytes:
    """Return 1 to 256 entries, each after its length as big-endian uint16.

    Raises: UsageError for another count or an entry above 65,535 bytes.
    """
    if not 1 <= len(entries) <= TILE_WIDTH:
        raise UsageError(f"A bundle holds 1 to {TILE_WIDTH} entries, not {len(entries)}.")
    parts = []
    for entry in entries:
        if len(entry) > MAX_ENTRY_BYTES:
            raise UsageError(f"An entry of {len(entry)} bytes does not fit a bundle; the limit is {MAX_ENTRY_BYTES}.")
        parts.append(len(entry).to_bytes(2, "big"))
        parts.append(entry)
    return b"".join(parts)


def decode_bundle(data: bytes, width: int | None = None) -> list[bytes]:
    """Return the entries of a bundle: exactly `width` of them, or 1 to 256 if `width` is None.

    Raises: Malformed for another count, a cut entry or trailing bytes.
    """
    entries: list[bytes] = []
    at = 0
    while at < len(data):
        begin = at + 2
        at = begin + int.from_bytes(data[at:begin], "big")
        if begin > len(data) or at > len(data):
            raise Malformed(f"Entry {len(entries)} of the bundle is cut short.")
        if len(entries) == TILE_WIDTH:
            raise Malformed(f"A bundle holds at most {TILE_WIDTH} entries.")
        entries.append(data[begin:at])
    if not entries or (width is not None and len(entries) != width):
        raise Malformed(f"The bundle holds {len(entries)} entries, not {'1 or more' if width is None else width}.")
    return entries


def node_reader(read: RangeReader) -> NodeReader:
    """Answer node hashes from flat tile levels: level b comes from tile level b // 8, folding 2**(b % 8) hashes.

    The returned reader raises Malformed if `read` gives too few or too many hashes.
    """

    def read_node(level: int, index: int) -> bytes:
        tile_level, height = divmod(level, TILE_HEIGHT)
        begin, end = index << height, (index + 1) << height
        hashes = read(tile_level, begin, end)
        if len(hashes) != (end - begin) * HASH_BYTES:
            raise Malformed(
                f"Tree level {tile_level} has {len(hashes)} bytes for hashes {begin} to {end - 1}, "
                f"not {(end - begin) * HASH_BYTES}."
            )
        return fold_subtree(hashes)

    return read_node
