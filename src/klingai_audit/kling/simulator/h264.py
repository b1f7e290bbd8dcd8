"""A tiny H.264 encoder: constrained baseline, uncoded key pictures, pictures in between that pan.

Source: ITU-T H.264 sections 7.3 (syntax), 7.4.2.1.1 (cropping), 9.1 (Exp-Golomb codes).
Key pictures are I_PCM macroblocks (samples as they are, no transform); every other picture
is one motion vector for the whole picture and no residual.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

MB = 16
I_PCM = 25
FRAME_NUM_BITS = 4
PROFILE_BASELINE, CONSTRAINTS, LEVEL_3 = 66, 0xC0, 30
NAL_SPS, NAL_PPS, NAL_IDR, NAL_NON_IDR = 0x67, 0x68, 0x65, 0x41

Macroblock = tuple[bytes, bytes, bytes]
"""256 luma samples in raster order, then 64 of each chroma component; values 1..255."""


class Bits:
    """A bit string under construction, most significant bit first."""

    def __init__(self) -> None:
        self._done = bytearray()
        self._value = 0
        self._count = 0

    def u(self, value: int, width: int) -> None:
        """Append `value` in `width` bits."""
        self._value = self._value << width | value
        self._count += width
        while self._count >= 8:
            self._count -= 8
            self._done.append(self._value >> self._count & 0xFF)
        self._value &= (1 << self._count) - 1

    def ue(self, *values: int) -> None:
        """Append unsigned Exp-Golomb codes."""
        for value in values:
            self.u(value + 1, 2 * (value + 1).bit_length() - 1)

    def se(self, *values: int) -> None:
        """Append signed Exp-Golomb codes."""
        for value in values:
            self.ue(2 * value - 1 if value > 0 else -2 * value)

    def align(self) -> None:
        """Append zero bits up to the next byte."""
        if self._count:
            self.u(0, 8 - self._count)

    def samples(self, data: bytes) -> None:
        """Append whole bytes. Requires: aligned."""
        self._done += data

    def end(self) -> bytes:
        """The bytes, closed by the stop bit and zeros."""
        self.u(1, 1)
        self.align()
        return bytes(self._done)


def nal(header: int, payload: bytes) -> bytes:
    """A NAL unit without start code; emulation prevention bytes are put in."""
    return bytes([header]) + re.sub(rb"\x00\x00(?=[\x00-\x03])", b"\x00\x00\x03", payload, flags=re.DOTALL)


@dataclass(frozen=True, slots=True)
class Format:
    """Size of the visible picture in pixels, both even."""

    width: int
    height: int

    @property
    def columns(self) -> int:
        """Macroblocks per row."""
        return -(-self.width // MB)

    @property
    def rows(self) -> int:
        """Rows of macroblocks."""
        return -(-self.height // MB)

    def sps(self) -> bytes:
        """Sequence parameter set."""
        bits = Bits()
        bits.u(PROFILE_BASELINE, 8)
        bits.u(CONSTRAINTS, 8)
        bits.u(LEVEL_3, 8)
        bits.ue(0, FRAME_NUM_BITS - 4, 2, 1)  # id, frame_num width, order count type, reference frames
        bits.u(0, 1)
        bits.ue(self.columns - 1, self.rows - 1)
        bits.u(0b11, 2)  # frames only, direct 8x8 inference
        bits.u(1, 1)
        bits.ue(0, (self.columns * MB - self.width) // 2, 0, (self.rows * MB - self.height) // 2)
        bits.u(0, 1)
        return nal(NAL_SPS, bits.end())

    @staticmethod
    def pps() -> bytes:
        """Picture parameter set: CAVLC, deblocking controlled per slice."""
        bits = Bits()
        bits.ue(0, 0)
        bits.u(0, 2)
        bits.ue(0, 0, 0)
        bits.u(0, 3)
        bits.se(0, 0, 0)
        bits.u(0b100, 3)
        return nal(NAL_PPS, bits.end())

    def key_picture(self, number: int, macroblock: Callable[[int, int], Macroblock]) -> bytes:
        """An IDR picture; `macroblock(column, row)` gives the samples, `number` counts key pictures."""
        bits = Bits()
        bits.ue(0, 7, 0)
        bits.u(0, FRAME_NUM_BITS)
        bits.ue(number % 2)  # neighbouring IDR pictures must differ
        bits.u(0, 2)
        bits.se(0)
        bits.ue(1)
        for row in range(self.rows):
            for column in range(self.columns):
                bits.ue(I_PCM)
                bits.align()
                for plane in macroblock(column, row):
                    bits.samples(plane)
        return nal(NAL_IDR, bits.end())

    def panned_picture(self, frame_num: int, dx: int, dy: int) -> bytes:
        """The previous picture moved by whole pixels; `frame_num` counts since the key picture."""
        bits = Bits()
        bits.ue(0, 5, 0)
        bits.u(frame_num % (1 << FRAME_NUM_BITS), FRAME_NUM_BITS)
        bits.u(0, 3)
        bits.se(0)
        bits.ue(1)
        vector = (4 * dx, 4 * dy)  # quarter pixels; all later macroblocks predict it exactly
        for _ in range(self.columns * self.rows):
            bits.ue(0, 0)
            bits.se(*vector)
            bits.ue(0)
            vector = (0, 0)
        return nal(NAL_NON_IDR, bits.end())
