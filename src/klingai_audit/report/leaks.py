"""A scan of the stored bytes for what must not be there: credentials, e-mail addresses. Names places, never contents.

Fast bytes first: a line is read as JSON only if it holds a mark that every credential or address of a known shape has.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final

import msgspec

from klingai_audit.privacy.masks import mask_text
from klingai_audit.privacy.shapes import has_shape

__all__ = ["Leak", "scan"]

Leak = tuple[int, str]
"""Index of an entry and what it holds: `credential` or `address`."""

_CHUNK: Final = 8192
_MARKS: Final = (
    *(b"eyJ", b"api-key-", b"-key", b"whsec_", b"PRIVATE", b"AGE-SECRET", b"AKIA", b"ASIA", b"LTAI", b"AKID"),
    *(b"AIza", b"ya29.", b"github_pat_", b"glpat-", b"xox", b"pypi-", b"sk-", b"sk_", b"rk-", b"ghp_", b"gho_"),
)
"""One of these is in every shape of `privacy.shapes`; those that few texts hold anyway."""
_AT: Final = b"@"
_MASKED: Final = b"***@"


def scan(
    lines: Iterable[bytes], *, first: int = 0, progress: Callable[[int], None] | None = None
) -> tuple[int, list[Leak]]:
    """Return the number of bytes that were looked at, and every entry that holds a credential or an address.

    `lines` are stored entries without LF, the first of which has the index `first`. `progress` gets entries done.
    """
    looked, found, seq = 0, [], first
    chunk: list[bytes] = []
    for line in lines:
        chunk.append(line)
        if len(chunk) == _CHUNK:
            looked += sum(map(len, chunk))
            found += _scan_chunk(chunk, seq)
            seq += len(chunk)
            chunk = []
            if progress is not None:
                progress(seq - first)
    looked += sum(map(len, chunk))
    found += _scan_chunk(chunk, seq)
    return looked, found


def _scan_chunk(chunk: list[bytes], first: int) -> list[Leak]:
    data = b"\n".join(chunk)
    suspects: set[int] = set()
    for mark in _MARKS:
        suspects |= _line_starts(data, mark)
    if data.count(_AT) != data.count(_MASKED):
        suspects |= _line_starts(data, _AT)
    if not suspects:
        return []
    found: list[Leak] = []
    position = 0
    for offset, line in enumerate(chunk):
        if position in suspects:
            found += ((first + offset, what) for what in _inspect(line))
        position += len(line) + 1
    return found


def _line_starts(data: bytes, mark: bytes) -> set[int]:
    """Return where the lines begin that hold `mark`."""
    starts: set[int] = set()
    at = data.find(mark)
    while at >= 0:
        starts.add(data.rfind(b"\n", 0, at) + 1)
        end = data.find(b"\n", at)
        at = -1 if end < 0 else data.find(mark, end)
    return starts


def _inspect(line: bytes) -> Iterator[str]:
    try:
        texts = list(_texts(msgspec.json.decode(line)))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return
    if any(map(has_shape, texts)):
        yield "credential"
    if any("@" in text and mask_text(text) != text for text in texts):
        yield "address"


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, item in value.items():
            yield key
            yield from _texts(item)
    elif isinstance(value, list):
        for item in value:
            yield from _texts(item)
