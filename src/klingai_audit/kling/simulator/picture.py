"""Real pictures: small PNG files. Source: PNG specification (ISO/IEC 15948) sections 5 and 11."""

from __future__ import annotations

import hashlib
import struct
import zlib
from functools import lru_cache

LONG_SIDE = 96
CELL = 12
"""Side of one square of the mosaic, in pixels."""


@lru_cache(maxsize=64)
def render(seed: bytes, aspect_ratio: str) -> bytes:
    """A PNG of 96 pixels on its longer side; the same arguments give the same bytes, other seeds another mosaic."""
    width, height = _size(aspect_ratio)
    columns = -(-width // CELL)
    noise = hashlib.shake_256(seed).digest(3 * columns * -(-height // CELL))
    rows = bytearray()
    for row in range(height):
        start = row // CELL * columns
        line = b"".join(noise[3 * (start + cell) : 3 * (start + cell) + 3] * CELL for cell in range(columns))
        rows += b"\x00" + line[: 3 * width]
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    parts = [_chunk(b"IHDR", head), _chunk(b"IDAT", zlib.compress(bytes(rows), 9)), _chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def _size(aspect_ratio: str) -> tuple[int, int]:
    across, down = (int(part) for part in aspect_ratio.split(":"))
    longer = max(across, down)
    return LONG_SIDE * across // longer, LONG_SIDE * down // longer


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
