"""Real sounds: WAV with a tone, MP3 with silence. Source: RIFF/WAVE; ISO/IEC 11172-3 section 2.4.

Both have the length that was asked for; other seeds give another title, and most another tone.
"""

from __future__ import annotations

import hashlib
import io
import math
import struct
import wave
from functools import lru_cache

SAMPLES_PER_SECOND = 8000
LOUDNESS = 8000
MP3_FRAME_BYTES, MP3_FRAME_SECONDS = 96, 0.024
_MP3_HEAD = b"\xff\xfb\x14\xc0"
"""Layer III of MPEG-1 without CRC: 32 kbit/s, 48 kHz, mono. What follows is zero: no bits for any band."""


@lru_cache(maxsize=16)
def wav(seed: bytes, seconds: float) -> bytes:
    """A WAV file: 16 bit, 8 kHz, mono, one tone of 200 to 455 Hz, then a title made from the seed."""
    pitch = 200 + hashlib.sha256(seed).digest()[0]
    # A whole number of samples after which the tone repeats: one second, as the pitch is whole.
    second = struct.pack(
        f"<{SAMPLES_PER_SECOND}h",
        *(
            round(LOUDNESS * math.sin(2 * math.pi * pitch * at / SAMPLES_PER_SECOND))
            for at in range(SAMPLES_PER_SECOND)
        ),
    )
    count = round(seconds * SAMPLES_PER_SECOND)
    file = io.BytesIO()
    with wave.open(file, "wb") as out:
        out.setparams((1, 2, SAMPLES_PER_SECOND, count, "NONE", "not compressed"))
        out.writeframes((second * math.ceil(seconds + 1))[: 2 * count])
    title = b"INFO" + _chunk(b"INAM", _title(seed) + b"\x00\x00")
    return _chunk(b"RIFF", file.getvalue()[8:] + _chunk(b"LIST", title))


def _chunk(kind: bytes, data: bytes) -> bytes:
    return kind + struct.pack("<I", len(data)) + data


def _title(seed: bytes) -> bytes:
    return hashlib.sha256(seed).hexdigest()[:16].encode()


def mp3(seed: bytes, seconds: float) -> bytes:
    """An MP3 file: an ID3v2.3 title made from the seed, then silent frames of 24 ms."""
    title = b"\x00" + _title(seed)
    frame = b"TIT2" + struct.pack(">IH", len(title), 0) + title
    tag = b"ID3\x03\x00\x00" + bytes(len(frame) >> shift & 0x7F for shift in (21, 14, 7, 0)) + frame
    silence = _MP3_HEAD.ljust(MP3_FRAME_BYTES, b"\x00")
    return tag + silence * max(1, round(seconds / MP3_FRAME_SECONDS))
