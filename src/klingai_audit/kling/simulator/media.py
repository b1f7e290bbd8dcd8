"""Real results: small MP4 files (H.264) that any player opens. Source: ISO/IEC 14496-12, 14496-15.

A file is at most 100 KiB, has the ordered length at 24 frames per second and no sound; its
picture is drawn from the seed, so files of different seeds differ.
"""

from __future__ import annotations

import hashlib
import struct
from functools import lru_cache

from klingai_audit.kling.simulator.h264 import CONSTRAINTS, LEVEL_3, PROFILE_BASELINE, Format, Macroblock
from klingai_audit.kling.simulator.tasks import FRAMES_PER_SECOND

FORMATS = {"16:9": Format(96, 54), "9:16": Format(54, 96), "1:1": Format(64, 64)}
KEY_INTERVAL = 2 * FRAMES_PER_SECOND
UNITY_MATRIX = struct.pack(">9i", 0x10000, 0, 0, 0, 0x10000, 0, 0, 0, 0x40000000)


@lru_cache(maxsize=64)
def render(seed: bytes, aspect_ratio: str, frames: int) -> bytes:
    """A whole MP4 file of `frames` pictures; the same arguments give the same bytes."""
    picture = FORMATS[aspect_ratio]
    samples, keys = _pictures(seed, picture, frames)
    head = _box(b"ftyp", b"isom", struct.pack(">I", 0x200), b"isomiso2avc1mp41")
    placed = _movie(picture, samples, keys, offset=0)
    movie = _movie(picture, samples, keys, offset=len(head) + len(placed) + 8)
    return head + movie + _box(b"mdat", *samples)


def _pictures(seed: bytes, picture: Format, frames: int) -> tuple[list[bytes], list[int]]:
    """Length-prefixed pictures and the 1-based numbers of the key ones."""
    samples, keys = [], []
    for index in range(frames):
        number, since_key = divmod(index, KEY_INTERVAL)
        if since_key == 0:
            keys.append(index + 1)
            unit = picture.key_picture(number, _Drawing(seed + number.to_bytes(4, "big"), picture).macroblock)
        else:
            step = 1 if since_key < KEY_INTERVAL // 2 else -1
            unit = picture.panned_picture(since_key, step, 0)
        samples.append(struct.pack(">I", len(unit)) + unit)
    return samples, keys


class _Drawing:
    """A mirrored mosaic whose shades come from the seed's hash."""

    def __init__(self, seed: bytes, picture: Format) -> None:
        self._columns = picture.columns
        self._noise = hashlib.shake_256(seed).digest(4 * picture.columns * picture.rows + 2)

    def macroblock(self, column: int, row: int) -> Macroblock:
        mirrored = min(column, self._columns - 1 - column)
        start = 4 * (row * self._columns + mirrored)
        shades = [40 + shade * 180 // 256 for shade in self._noise[start : start + 4]]
        if mirrored != column:
            shades = [shades[1], shades[0], shades[3], shades[2]]
        upper = bytes([shades[0]] * 8 + [shades[1]] * 8) * 8
        lower = bytes([shades[2]] * 8 + [shades[3]] * 8) * 8
        tint = 64 + (self._noise[-2] + 9 * row) % 128, 64 + (self._noise[-1] + 9 * mirrored) % 128
        return upper + lower, bytes([tint[0]] * 64), bytes([tint[1]] * 64)


def _box(kind: bytes, *parts: bytes) -> bytes:
    payload = b"".join(parts)
    return struct.pack(">I", 8 + len(payload)) + kind + payload


def _full_box(kind: bytes, flags: int, *parts: bytes) -> bytes:
    return _box(kind, struct.pack(">I", flags), *parts)


def _movie(picture: Format, samples: list[bytes], keys: list[int], offset: int) -> bytes:
    count, rate = len(samples), FRAMES_PER_SECOND
    movie_head = _full_box(
        b"mvhd", 0, struct.pack(">IIIIIH10x", 0, 0, rate, count, 0x10000, 0x100), UNITY_MATRIX, bytes(24),
        struct.pack(">I", 2),
    )  # fmt: skip
    size = struct.pack(">II", picture.width << 16, picture.height << 16)
    track_head = _full_box(b"tkhd", 3, struct.pack(">IIIII16x", 0, 0, 1, 0, count), UNITY_MATRIX, size)
    media_head = _full_box(b"mdhd", 0, struct.pack(">IIIIHH", 0, 0, rate, count, 0x55C4, 0))
    handler = _full_box(b"hdlr", 0, bytes(4), b"vide", bytes(12), b"VideoHandler\x00")
    information = _box(
        b"minf",
        _full_box(b"vmhd", 1, bytes(8)),
        _box(b"dinf", _full_box(b"dref", 0, struct.pack(">I", 1), _full_box(b"url ", 1))),
        _sample_table(picture, samples, keys, offset),
    )
    track = _box(b"trak", track_head, _box(b"mdia", media_head, handler, information))
    return _box(b"moov", movie_head, track)


def _sample_table(picture: Format, samples: list[bytes], keys: list[int], offset: int) -> bytes:
    count = len(samples)
    return _box(
        b"stbl",
        _full_box(b"stsd", 0, struct.pack(">I", 1), _sample_entry(picture)),
        _full_box(b"stts", 0, struct.pack(">III", 1, count, 1)),
        _full_box(b"stss", 0, struct.pack(f">I{len(keys)}I", len(keys), *keys)),
        _full_box(b"stsc", 0, struct.pack(">IIII", 1, 1, count, 1)),
        _full_box(b"stsz", 0, struct.pack(f">II{count}I", 0, count, *map(len, samples))),
        _full_box(b"stco", 0, struct.pack(">II", 1, offset)),
    )


def _sample_entry(picture: Format) -> bytes:
    sps, pps = picture.sps(), picture.pps()
    configuration = _box(
        b"avcC",
        bytes([1, PROFILE_BASELINE, CONSTRAINTS, LEVEL_3, 0xFF, 0xE1]),
        struct.pack(">H", len(sps)), sps, b"\x01", struct.pack(">H", len(pps)), pps,
    )  # fmt: skip
    return _box(
        b"avc1",
        struct.pack(">6xH16xHHIIIH", 1, picture.width, picture.height, 0x480000, 0x480000, 0, 1),
        bytes(32),
        struct.pack(">Hh", 0x18, -1),
        configuration,
    )
