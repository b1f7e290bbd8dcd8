"""Strict scalars that every parser of this room shares: decimals, base64, names, control characters.

Python's own readers are too generous for signed text: `int()` takes `1_0`, `+7` and Arabic digits, and base64
has several spellings of the same bytes. Here a value has exactly one spelling. Callers: this room only.
"""

from __future__ import annotations

import base64
import binascii
import re

from klingai_audit.errors import Malformed

__all__ = [
    "HASH_BYTES",
    "MAX_SIZE",
    "check_hash",
    "check_name",
    "check_printable",
    "format_base64",
    "parse_base64",
    "parse_decimal",
    "parse_hash",
]

HASH_BYTES = 32  # SHA-256, the only hash of C2SP logs
MAX_SIZE = 2**63 - 1  # largest tree size, index and POSIX time; C2SP tlog-cosignature, and int64 in other software

_DECIMAL = re.compile(r"0|[1-9][0-9]{0,18}", re.ASCII)
_CONTROL = re.compile(r"[\x00-\x1f]")
_CONTROL_BUT_LF = re.compile(r"[\x00-\x09\x0b-\x1f]")


def parse_decimal(text: str, what: str) -> int:
    """Read a canonical ASCII decimal in `[0, 2**63)`: no sign, no leading zero, no other script's digits.

    Raises: Malformed, naming `what` but never quoting the text.
    """
    if not _DECIMAL.fullmatch(text):
        raise Malformed(f"{what} is not a canonical decimal number.")
    number = int(text)
    if number > MAX_SIZE:
        raise Malformed(f"{what} is above 2**63 - 1.")
    return number


def format_base64(data: bytes) -> str:
    """Encode as RFC 4648 section 4 base64: standard alphabet, padded."""
    return base64.b64encode(data).decode("ascii")


def parse_base64(text: str, what: str) -> bytes:
    """Decode canonical base64 (standard alphabet, padding, trailing bits zero).

    Raises: Malformed, naming `what` but never quoting the text.
    """
    if not text.isascii():
        raise Malformed(f"{what} is not base64.")
    try:
        data = binascii.a2b_base64(text.encode("ascii"), strict_mode=True)
    except binascii.Error as exc:
        raise Malformed(f"{what} is not base64.") from exc
    if format_base64(data) != text:
        raise Malformed(f"{what} is not canonical base64.")
    return data


def parse_hash(text: str, what: str) -> bytes:
    """Decode a 44-character base64 SHA-256 hash to its 32 bytes. Raises: Malformed."""
    data = parse_base64(text, what)
    check_hash(data, what)
    return data


def check_hash(data: bytes, what: str) -> None:
    """Refuse anything but 32 bytes. Raises: Malformed."""
    if len(data) != HASH_BYTES:
        raise Malformed(f"{what} has {len(data)} bytes, a hash has {HASH_BYTES}.")


def check_printable(text: str, what: str, *, lines: bool = False) -> None:
    """Refuse ASCII control characters (LF is allowed with `lines`) and what UTF-8 cannot hold. Raises: Malformed."""
    if (_CONTROL_BUT_LF if lines else _CONTROL).search(text):
        raise Malformed(f"{what} holds a control character.")
    if not text.isascii() and any("\ud800" <= char <= "\udfff" for char in text):
        raise Malformed(f"{what} holds a lone surrogate.")


def check_name(name: str, what: str) -> None:
    """Refuse a key name that is empty or holds a Unicode space, `+` or a control character.

    Raises: Malformed. Source: C2SP signed-note.
    """
    check_printable(name, what)
    if not name or "+" in name or any(map(str.isspace, name)):
        raise Malformed(f"{what} is empty or holds a space or '+'.")
