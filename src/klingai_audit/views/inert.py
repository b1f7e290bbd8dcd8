"""Text from entries, made harmless for terminals and people.

Whatever a caller put into a field, it may not move the cursor, recolour, hide or reorder what a reader sees.
Pure; allowed callers: views and cli.
"""

from __future__ import annotations

import unicodedata
from typing import Any, Final

__all__ = ["ELLIPSIS", "inert", "one_line"]

ELLIPSIS: Final = "…"

_NAMED: Final = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}


def inert(text: str) -> str:
    """Return `text` with every control, format, bidirectional, separator and unassigned character as a visible escape.

    Printable text passes unchanged; the result is one line and `str.isprintable()` but for space separators.
    """
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() or unicodedata.category(char) == "Zs" else _escape(char) for char in text)


def one_line(value: Any, limit: int | None = None) -> str:
    """Return a metadata value as one inert line of at most `limit` characters.

    A commitment is shown as what it is: withheld content of a known length.
    """
    text = inert(_plain(value))
    if limit is not None and len(text) > limit:
        return text[: max(0, limit - 1)] + ELLIPSIS
    return text


def _plain(value: Any) -> str:
    if isinstance(value, str):
        return value
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, dict):
        if "commitment" in value and "bytes" in value:
            kind = f" {_plain(value['type'])}" if "type" in value else ""
            return f"[withheld{kind}, {_plain(value['bytes'])} bytes]"
        return "{" + ", ".join(f"{key}: {_plain(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(_plain(item) for item in value) + "]"
    return str(value)


def _escape(char: str) -> str:
    named = _NAMED.get(char)
    if named is not None:
        return named
    code = ord(char)
    if code <= 0xFF:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"
