"""Images and sounds as the API takes them: links, or files as raw base64 in the JSON body. Pure but for reading files.

Limits are those of the vendor's pages (fact sheet section 2): images .jpg and .png, up to 10 MB (50 MB in the new
design), each side 300 pixels or more, ratio 1:2.5 to 2.5:1; sounds .mp3, .wav, .m4a and .aac up to 5 MB. There is no
upload: videos are links only.
"""

from __future__ import annotations

import base64
import binascii
import os
from pathlib import Path
from typing import Any, Final

from klingai_audit.errors import StorageError, UsageError

__all__ = ["Media", "decode_base64", "encode_image", "encode_sound", "image_size", "is_link", "link", "sniff"]

Media = str | bytes | os.PathLike[str]
"""A link (`str`), or a local file: its path (`Path`) or its bytes."""

MAX_IMAGE_BYTES: Final = 10_000_000
MAX_NEW_IMAGE_BYTES: Final = 50_000_000
MAX_SOUND_BYTES: Final = 5_000_000
MIN_SIDE: Final = 300
MAX_RATIO: Final = 2.5

_IMAGE_TYPES: Final = ("image/jpeg", "image/png")
_SOUND_TYPES: Final = ("audio/mpeg", "audio/wav", "audio/mp4", "audio/aac")
_START_OF_FRAME: Final = frozenset({*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC})
_MAGIC: Final = (
    (b"\x89PNG\r\n\x1a\n", 0, "image/png"),
    (b"\xff\xd8\xff", 0, "image/jpeg"),
    (b"WEBP", 8, "image/webp"),
    (b"GIF8", 0, "image/gif"),
    (b"WAVE", 8, "audio/wav"),
    (b"ID3", 0, "audio/mpeg"),
    (b"M4A ", 8, "audio/mp4"),
    (b"qt  ", 8, "video/quicktime"),
    (b"ftyp", 4, "video/mp4"),
)


def sniff(data: bytes) -> str | None:
    """The media type that the first bytes of a file tell; None if none."""
    for magic, offset, name in _MAGIC:
        if data[offset : offset + len(magic)] == magic:
            return name
    if len(data) > 1 and data[0] == 0xFF:
        if data[1] & 0xF6 == 0xF0:  # ADTS: layer 0
            return "audio/aac"
        if data[1] & 0xE0 == 0xE0:  # an MPEG frame
            return "audio/mpeg"
    return None


def image_size(data: bytes) -> tuple[int, int] | None:
    """Width and height in pixels of a PNG or JPEG file; None if they cannot be read."""
    if sniff(data) == "image/png" and len(data) >= 24:
        return int.from_bytes(data[16:20], "big"), int.from_bytes(data[20:24], "big")
    at = 2
    while sniff(data) == "image/jpeg" and at + 9 <= len(data) and data[at] == 0xFF:
        if data[at + 1] in _START_OF_FRAME:
            return int.from_bytes(data[at + 7 : at + 9], "big"), int.from_bytes(data[at + 5 : at + 7], "big")
        at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return None


def is_link(text: str) -> bool:
    """Whether a text is a URL rather than base64, which has no colon."""
    return "://" in text[:32]


def decode_base64(text: str) -> bytes | None:
    """The bytes of raw base64, with or without a `data:` prefix; None if it is none."""
    if text.startswith("data:"):
        text = text.partition(",")[2]
    try:
        return base64.b64decode(text, validate=True) or None
    except (binascii.Error, ValueError):
        return None


def encode_image(image: Media, what: str = "image", *, new_design: bool = False) -> str:
    """The value to send for an image: the link as it is, a file as raw base64.

    Raises: UsageError: not a JPEG or PNG, too large, too small, too long or too wide. StorageError: not readable.
    """
    if isinstance(image, str):
        return _text(image, what)
    limit = MAX_NEW_IMAGE_BYTES if new_design else MAX_IMAGE_BYTES
    data = _read(image, what, limit, _IMAGE_TYPES, "a JPEG or PNG file")
    size = image_size(data)
    if size is not None:
        low, high = sorted(size)
        if low < MIN_SIDE or high > low * MAX_RATIO:
            raise UsageError(
                f"The {what} has {size[0]} × {size[1]} pixels.",
                do=f"Each side needs {MIN_SIDE} or more, and the ratio must lie between 1:2.5 and 2.5:1.",
            )
    return base64.b64encode(data).decode("ascii")


def encode_sound(sound: Media, what: str = "sound") -> str:
    """The value to send for a sound: the link as it is, a file as raw base64. Raises: UsageError, StorageError."""
    if isinstance(sound, str):
        return _text(sound, what)
    data = _read(sound, what, MAX_SOUND_BYTES, _SOUND_TYPES, "an MP3, WAV, M4A or AAC file")
    return base64.b64encode(data).decode("ascii")


def link(url: Any, what: str = "video") -> str:
    """The value to send where only links are taken. Raises: UsageError."""
    if not isinstance(url, str) or not url.startswith(("https://", "http://")):
        raise UsageError(
            f"The {what} must be a link.", do="Kling takes no uploads here: put the file where it can read."
        )
    return url


def _text(text: str, what: str) -> str:
    if text.startswith("data:"):
        raise UsageError(
            f"The {what} is a data: URL.", do="Pass the bytes, or a Path; Kling wants base64 without prefix."
        )
    if is_link(text) or decode_base64(text) is not None:
        return text
    raise UsageError(f"The {what} is neither a link nor base64.", do="Pass a local file as Path(…) or as bytes.")


def _read(source: bytes | os.PathLike[str], what: str, limit: int, types: tuple[str, ...], wanted: str) -> bytes:
    if isinstance(source, bytes):
        data = source
    else:
        path = Path(source)
        try:
            size = path.stat().st_size
            data = b"" if size > limit else path.read_bytes()
        except OSError as exc:
            raise StorageError(f"The {what} {path} cannot be read: {exc.strerror}.") from exc
        if size > limit:
            raise _too_large(what, size, limit)
    if len(data) > limit:
        raise _too_large(what, len(data), limit)
    if sniff(data) not in types:
        raise UsageError(f"The {what} is not {wanted}.", do="Convert it first; its name does not matter, its bytes do.")
    return data


def _too_large(what: str, size: int, limit: int) -> UsageError:
    return UsageError(f"The {what} has {size:,} bytes.", do=f"Kling takes up to {limit:,}; make it smaller.")
