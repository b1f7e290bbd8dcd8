"""Finding an entry in day files without reading what lies before it: a search by what lines claim of themselves.

A claim is a guess: what is found has to be checked against a hash of the tree, and a reader that finds nothing here
counts lines.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from klingai_audit.ledger.sealed import open_day
from klingai_audit.stores.days import claimed_seq, first_seq

__all__ = ["jump"]

_NEAR: Final = 1 << 14
_LONGEST: Final = 1 << 16
"""Bytes of the longest line, LF included."""


def jump(days: list[Path], seq: int) -> tuple[int, int, bytes] | None:
    """Return (index into `days`, byte offset, line without LF) of the line that claims to be entry `seq`, or None.

    O(log days + log bytes) small reads. None also where claims are missing or in disorder. Raises: OSError.
    """
    low, high = 0, len(days)
    while high - low > 1:
        middle = (low + high) // 2
        first = first_seq(days[middle])
        if first is None:
            return None
        low, high = (middle, high) if first <= seq else (low, middle)
    found = _jump_in(days[low], seq) if days else None
    return None if found is None else (low, *found)


def _jump_in(path: Path, seq: int) -> tuple[int, bytes] | None:
    """Search one file; the line, if it is there, begins in [low, high)."""
    with open_day(path) as file:
        fd = file.fileno()
        low, high = 0, os.fstat(fd).st_size
        while high - low > _NEAR:
            middle = (low + high) // 2
            seen = _line_behind(fd, middle)
            begin, claimed, length = seen or (high, 0, 0)
            if claimed is None:
                return None
            if begin >= high or claimed > seq:
                high = middle + 1
            elif claimed == seq:
                low, high = begin, begin + 1
            else:
                low = begin + length
        data = os.pread(fd, high - low + _LONGEST, low)
    at = 0
    while at < high - low and (end := data.find(b"\n", at)) >= 0:
        line = data[at:end]
        if claimed_seq(line) == seq:
            return low + at, line
        at = end + 1
    return None


def _line_behind(fd: int, offset: int) -> tuple[int, int | None, int] | None:
    """Return where the first whole line behind a byte begins, what it claims, and its length, LF included."""
    for size in (_NEAR, 2 * _LONGEST):
        data = os.pread(fd, size, offset)
        begin = data.find(b"\n") + 1
        end = data.find(b"\n", begin)
        if begin and end >= 0:
            return offset + begin, claimed_seq(data[begin:end]), end + 1 - begin
    return None
