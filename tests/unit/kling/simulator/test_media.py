"""The results are genuine video files: read here box by box and bit by bit, and by ffprobe where it is installed."""

from __future__ import annotations

import hashlib
import json
import shutil
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from klingai_audit.kling.simulator.media import render

SIZES = {"16:9": (96, 54), "9:16": (54, 96), "1:1": (64, 64)}
CONTAINERS = (b"moov", b"trak", b"mdia", b"minf", b"dinf", b"stbl")


def _boxes(data: bytes, begin: int = 0, end: int | None = None) -> Iterator[tuple[str, int, bytes]]:
    """Yield path, offset of the payload and payload of every box."""
    end = len(data) if end is None else end
    while begin < end:
        size, kind = struct.unpack_from(">I4s", data, begin)
        assert 8 <= size <= end - begin
        yield kind.decode(), begin + 8, data[begin + 8 : begin + size]
        if kind in CONTAINERS:
            for path, offset, payload in _boxes(data, begin + 8, begin + size):
                yield f"{kind.decode()}/{path}", offset, payload
        begin += size


class _Bits:
    """Reads a NAL unit's payload, emulation prevention removed."""

    def __init__(self, unit: bytes) -> None:
        payload = unit[1:].replace(b"\x00\x00\x03", b"\x00\x00")
        self._bits = "".join(f"{byte:08b}" for byte in payload)
        self.at = 0

    def u(self, width: int) -> int:
        self.at += width
        return int(self._bits[self.at - width : self.at], 2)

    def ue(self) -> int:
        zeros = self._bits.index("1", self.at) - self.at
        self.at += zeros
        return self.u(zeros + 1) - 1

    def align(self) -> None:
        rest = -self.at % 8
        assert "1" not in self._bits[self.at : self.at + rest]
        self.at += rest

    def at_end(self) -> bool:
        """Whether only the stop bit and its zeros are left."""
        rest = self._bits[self.at :]
        return len(rest) <= 8 and rest == "1" + "0" * (len(rest) - 1)


def _file(ratio: str = "16:9", seconds: int = 3, seed: bytes = b"seed") -> bytes:
    return render(seed, ratio, 24 * seconds + 1)


def _table(payload: bytes, skip: int) -> tuple[int, ...]:
    """The 32-bit numbers of a table box after its flags and `skip` more bytes."""
    return struct.unpack(f">{(len(payload) - 4 - skip) // 4}I", payload[4 + skip :])


@pytest.mark.parametrize("ratio", SIZES)
@pytest.mark.parametrize("seconds", [3, 15])
def test_the_boxes_describe_every_sample(ratio: str, seconds: int) -> None:
    """Brand, durations, sizes, key pictures and offsets agree with the bytes that follow."""
    data, frames = _file(ratio, seconds), 24 * seconds + 1
    boxes = {path: (offset, payload) for path, offset, payload in _boxes(data)}
    assert [path for path in boxes if "/" not in path] == ["ftyp", "moov", "mdat"]
    assert len(data) <= 100 * 1024
    timescale, duration = struct.unpack_from(">II", boxes["moov/mvhd"][1], 12)
    assert (timescale, duration) == (24, frames)
    table = "moov/trak/mdia/minf/stbl/"
    sizes = _table(boxes[table + "stsz"][1], 8)
    assert _table(boxes[table + "stts"][1], 4) == (frames, 1)
    assert len(sizes) == frames
    assert _table(boxes[table + "stss"][1], 4) == tuple(range(1, frames + 1, 48))
    assert _table(boxes[table + "stco"][1], 4) == (boxes["mdat"][0],)
    assert sum(sizes) == len(boxes["mdat"][1])
    width, height = struct.unpack_from(">II", boxes["moov/trak/tkhd"][1], len(boxes["moov/trak/tkhd"][1]) - 8)
    assert (width >> 16, height >> 16) == SIZES[ratio]


@pytest.mark.parametrize("ratio", SIZES)
def test_every_picture_is_valid_h264(ratio: str) -> None:
    """The parameter set gives the size; each picture has all its macroblocks and ends where its NAL unit ends."""
    boxes = {path: payload for path, _, payload in _boxes(_file(ratio))}
    entry = boxes["moov/trak/mdia/minf/stbl/stsd"]
    at = entry.index(b"avcC") + 10
    (length,) = struct.unpack_from(">H", entry, at)
    columns, rows = _read_sps(entry[at + 2 : at + 2 + length], SIZES[ratio])
    media, at, kinds = boxes["mdat"], 0, []
    while at < len(media):
        (length,) = struct.unpack_from(">I", media, at)
        kinds.append(_read_picture(media[at + 4 : at + 4 + length], columns * rows))
        at += 4 + length
    assert kinds == [5 if index % 48 == 0 else 1 for index in range(73)]


def _read_sps(unit: bytes, size: tuple[int, int]) -> tuple[int, int]:
    bits = _Bits(unit)
    assert (unit[0] & 31, bits.u(8), bits.u(8), bits.u(8)) == (7, 66, 0xC0, 30)
    assert [bits.ue() for _ in range(4)] == [0, 0, 2, 1]
    assert bits.u(1) == 0
    columns, rows = bits.ue() + 1, bits.ue() + 1
    assert bits.u(3) == 0b111
    left, right, top, bottom = (2 * bits.ue() for _ in range(4))
    assert (16 * columns - left - right, 16 * rows - top - bottom) == size
    assert bits.u(1) == 0
    assert bits.at_end()
    return columns, rows


def _read_picture(unit: bytes, macroblocks: int) -> int:
    """Check one slice; return its NAL unit type."""
    bits, kind = _Bits(unit), unit[0] & 31
    assert b"\x00\x00\x00" not in unit
    assert (bits.ue(), bits.ue(), bits.ue()) == (0, 7 if kind == 5 else 5, 0)
    bits.u(4)
    if kind == 5:
        assert bits.ue() in (0, 1)
        assert bits.u(2) == 0
    else:
        assert bits.u(3) == 0
    assert (bits.ue(), bits.ue()) == (0, 1)
    for _ in range(macroblocks):
        if kind == 5:
            assert bits.ue() == 25
            bits.align()
            bits.at += 8 * 384
        else:
            assert (bits.ue(), bits.ue()) == (0, 0)
            bits.ue()
            bits.ue()
            assert bits.ue() == 0
    assert bits.at_end()
    return kind


def test_files_of_different_seeds_differ() -> None:
    """Two hundred tasks have two hundred digests; one task has always the same."""
    digests = {hashlib.sha256(_file(seed=str(number).encode())).digest() for number in range(200)}
    assert len(digests) == 200
    assert hashlib.sha256(_file(seed=b"7")).digest() in digests


@pytest.mark.skipif(shutil.which("ffprobe") is None, reason="only on systems with ffprobe: the real player's opinion")
@pytest.mark.parametrize("ratio", SIZES)
def test_a_real_player_decodes_every_frame(ratio: str, tmp_path: Path) -> None:
    """The probe finds H.264 of the stated size and length, decodes each frame and has nothing to complain about."""
    path = tmp_path / "result.mp4"
    path.write_bytes(_file(ratio))
    command = ["ffprobe", "-v", "warning", "-count_frames", "-of", "json", "-show_streams", str(path)]
    probed = subprocess.run(command, capture_output=True, check=True, text=True, timeout=60)
    (stream,) = json.loads(probed.stdout)["streams"]
    assert probed.stderr == ""
    assert (stream["codec_name"], stream["width"], stream["height"]) == ("h264", *SIZES[ratio])
    assert (stream["nb_read_frames"], stream["duration"]) == ("73", "3.041667")
