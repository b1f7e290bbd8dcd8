"""Values from entries, made harmless for the formats in which they leave. Pure.

Whatever a caller put into a field, it may not end a line, a field or a message, move a cursor, or become a formula or
markup where the export is read. `inert` makes control, format and bidirectional characters visible first.
"""

from __future__ import annotations

import re
from typing import Final

from klingai_audit.views.inert import ELLIPSIS, inert

__all__ = ["ascii_json", "cell", "cut", "harmless"]

FORMULA_STARTS: Final = frozenset("=+-@|%'\uff1d\uff0b\uff0d\uff20")
"""A cell that starts with one of these could be read as a formula, or as one of our apostrophes.

The last four are the full-width forms of `=+-@`, which some spreadsheets take for the same.
"""

_MARKUP: Final = str.maketrans({"<": "\\x3c", ">": "\\x3e"})
_NOT_PLAIN: Final = re.compile(r"[^\x20-\x7e]|[<>&]")


def harmless(text: str) -> str:
    """Return `text` as one visible line in which no tag can stand: as `inert`, and `<` and `>` as escapes too."""
    shown = inert(text)
    return shown.translate(_MARKUP) if "<" in shown or ">" in shown else shown


def cut(text: str, limit: int) -> str:
    """Return at most `limit` characters (one or more) of `text`; a cut shows."""
    return text if len(text) <= limit else text[: limit - 1] + ELLIPSIS


def cell(text: str) -> str:
    """Return one quoted CSV cell: inert, quotation marks doubled, and never a formula.

    A cell that could be taken for a formula gets an apostrophe in front, as does one that starts with an apostrophe;
    so whoever reads the cell as data takes one leading apostrophe away.
    """
    shown = inert(text)
    guard = "'" if shown.lstrip()[:1] in FORMULA_STARTS else ""
    return '"' + guard + shown.replace('"', '""') + '"'


def ascii_json(raw: bytes) -> str:
    """Return the same JSON value in printable ASCII, with `<`, `>` and `&` escaped too.

    `raw` is a stored entry: UTF-8, no byte below 0x20, so every other character stands inside a string. An entry of
    printable ASCII without those three comes back as it is.
    """
    return _NOT_PLAIN.sub(_escape, raw.decode("utf-8"))


def _escape(found: re.Match[str]) -> str:
    code = ord(found[0])
    if code <= 0xFFFF:
        return f"\\u{code:04x}"
    code -= 0x10000
    return f"\\u{0xD800 + (code >> 10):04x}\\u{0xDC00 + (code & 0x3FF):04x}"
