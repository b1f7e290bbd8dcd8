"""Day files of a directory log: their names, where an entry stands in them, reading them in order."""

from __future__ import annotations

import datetime as dt
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from klingai_audit.ledger.line import seq_of

__all__ = [
    "DAY_FILE",
    "DayFile",
    "day_name",
    "find_line",
    "line_before",
    "list_days",
    "offset_after",
    "offset_of",
    "read_lines",
]

DAY_FILE: Final = re.compile(r"audit-([0-9]{4}-[0-9]{2}-[0-9]{2})\.jsonl")
_CHUNK: Final = 1 << 20
_MAX_FIRST_LINE: Final = 1 << 17
_LOOK_BACK: Final = 1 << 22


def day_name(day: dt.date) -> str:
    """Return the file name of a UTC day."""
    return f"audit-{day.isoformat()}.jsonl"


@dataclass(frozen=True, slots=True)
class DayFile:
    """One day file; `first` is the index of its first entry (None while the file is empty)."""

    path: Path
    first: int | None


def list_days(folder: Path) -> list[DayFile]:
    """List the day files by day."""
    paths = sorted(path for path in folder.iterdir() if DAY_FILE.fullmatch(path.name))
    return [DayFile(path, _first_seq(path)) for path in paths]


def _first_seq(path: Path) -> int | None:
    with path.open("rb") as file:
        line = file.readline(_MAX_FIRST_LINE)
    return seq_of(line.removesuffix(b"\n")) if line else None


def find_line(days: list[DayFile], seq: int) -> tuple[int, int] | None:
    """Return (index into `days`, lines to skip there) for entry `seq`; None beyond what claims to be there."""
    for index in range(len(days) - 1, -1, -1):
        first = days[index].first
        if first is not None and first <= seq:
            return index, seq - first
    return None


def offset_of(path: Path, line: int) -> int | None:
    """Return the byte offset at which line number `line` (from 0) starts, or None if the file has fewer lines."""
    offset = 0
    with path.open("rb", buffering=0) as file:
        while line:
            chunk = file.read(_CHUNK)
            if not chunk:
                return None
            found = chunk.count(b"\n")
            if found < line:
                line -= found
                offset += len(chunk)
                continue
            at = -1
            for _ in range(line):
                at = chunk.index(b"\n", at + 1)
            return offset + at + 1
    return 0


def offset_after(path: Path, seq: int) -> int | None:
    """Return the offset just after the last line that claims to be entry `seq`, looking back from the end.

    Looks at the last 4 MiB only; None if no such line is there.
    """
    with path.open("rb", buffering=0) as file:
        size = file.seek(0, os.SEEK_END)
        begin = max(0, size - _LOOK_BACK)
        file.seek(begin)
        data = file.read(size - begin)
    end = len(data)
    needle = b',"seq":%d,' % seq
    while (found := data.rfind(needle, 0, end)) >= 0:
        stop = data.find(b"\n", found)
        start = data.rfind(b"\n", 0, found) + 1
        if stop >= 0 and (start or begin == 0) and seq_of(data[start:stop]) == seq:
            return begin + stop + 1
        end = found
    return None


def read_lines(path: Path, skip: int = 0) -> Iterator[tuple[bytes, bool]]:
    """Yield (line without LF, whether LF was there), after skipping `skip` lines."""
    offset = offset_of(path, skip)
    if offset is None:
        return
    with path.open("rb", buffering=_CHUNK) as file:
        file.seek(offset)
        for line in file:
            if line.endswith(b"\n"):
                yield line[:-1], True
            else:
                yield line, False


def line_before(path: Path, offset: int) -> bytes | None:
    """Return the line that ends just before byte `offset`, or None at the start of the file."""
    if offset == 0:
        return None
    with path.open("rb", buffering=0) as file:
        begin = max(0, offset - _MAX_FIRST_LINE)
        file.seek(begin)
        data = file.read(offset - begin)
    return data[data.rfind(b"\n", 0, -1) + 1 : -1]
