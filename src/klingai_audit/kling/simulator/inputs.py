"""Media that a caller hands in: addresses and base64. Source: fact sheet section 2, legend and 2.1."""

from __future__ import annotations

import base64
import binascii
import re
import struct
from typing import Literal
from urllib.parse import parse_qsl, urlsplit

MediaKind = Literal["image", "audio", "video"]

MEGABYTE = 1024 * 1024
MIN_SIDE = 300
MAX_RATIO = 2.5
ASSUMED_SECONDS = 5
"""How long an input video or sound is taken to be: nothing is fetched, see `assumed_seconds`."""

_PNG = b"\x89PNG\r\n\x1a\n"
_JPEG_SIZES = frozenset({0xC0, 0xC1, 0xC2, 0xC3, 0xC5, 0xC6, 0xC7, 0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF})


def is_address(value: str) -> bool:
    """Whether `value` is an http(s) address rather than base64."""
    return value.startswith(("http://", "https://"))


def assumed_seconds(address: str) -> float:
    """Length of an input that is not looked at: `seconds=` of its query string, by default 5."""
    if is_address(address):
        try:
            given = dict(parse_qsl(urlsplit(address).query)).get("seconds", "")
        except ValueError:
            return ASSUMED_SECONDS
        if re.fullmatch("[0-9]{1,4}([.][0-9]{1,3})?", given, re.ASCII):
            return float(given)
    return ASSUMED_SECONDS


def media_problem(kind: MediaKind, value: str, max_bytes: int, *, strict: bool) -> str | None:
    """What is wrong with an input, or None.

    Addresses are taken on trust. Base64 is raw (no `data:` prefix) and decodes to at most
    `max_bytes`; videos come by address only. `strict` also looks at the picture itself: PNG or
    JPEG, sides of at least 300 pixels, ratio between 1:2.5 and 2.5:1.
    """
    if is_address(value):
        return None
    if kind == "video":
        return "must be a URL"
    if value.startswith("data:"):
        return "must be raw base64 without a data: prefix"
    if len(value) > max_bytes // 3 * 4 + 4:
        return f"exceeds {max_bytes // MEGABYTE} MB"
    try:
        data = base64.b64decode(value, validate=True)
    except (ValueError, binascii.Error):
        return "is neither a URL nor base64"
    return _picture_problem(data) if strict and kind == "image" else None


def picture_size(data: bytes) -> tuple[int, int] | None:
    """Width and height in pixels of a PNG or JPEG file, None for anything else."""
    if data.startswith(_PNG) and len(data) >= 24:
        width, height = struct.unpack(">II", data[16:24])
        return width, height
    if not data.startswith(b"\xff\xd8"):
        return None
    at = 2
    while at + 9 <= len(data) and data[at] == 0xFF:
        if data[at + 1] in _JPEG_SIZES:
            height, width = struct.unpack(">HH", data[at + 5 : at + 9])
            return width, height
        at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return None


def _picture_problem(data: bytes) -> str | None:
    size = picture_size(data)
    if size is None:
        return "must be a jpg, jpeg or png"
    short, long = sorted(size)
    if short < MIN_SIDE:
        return f"must be at least {MIN_SIDE} pixels wide and high"
    return None if long <= short * MAX_RATIO else "must have an aspect ratio between 1:2.5 and 2.5:1"
