"""Day files of a directory log: their names, where an entry stands in them, reading them in order."""

from __future__ import annotations

import datetime as dt
import io
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from klingai_audit.ledger.sealed import PURGED_PREFIX, SEALED_SUFFIX, first_bytes, is_sealed, open_day

__all__ = [
    "DAY_FILE",
    "claimed_seq",
    "count_lines",
    "count_to",
    "day_name",
    "find_line",
    "first_seq",
    "lies_on_its_day",
    "line_before",
    "lines_from",
    "list_days",
    "offset_of",
    "read_from",
    "read_lines",
]

_CLAIM: Final = re.compile(
    rb',"seq":(0|[1-9][0-9]{0,15}),"logged_at":"([^"]{10})[^"]{17}","prev_hash":"[^"]{64}"[^{}]{0,64}\}\Z'
)
_CLAIM_BYTES: Final = 256
DAY_FILE: Final = re.compile(r"audit-([0-9]{4}-[0-9]{2}-[0-9]{2})\.jsonl(?:\.gz)?")
_CHUNK: Final = 1 << 20
_MAX_FIRST_LINE: Final = 1 << 17
_REMEMBERED: Final = 10_000
_FIRSTS: Final[dict[tuple[int, ...], int | None]] = {}
_MAX_FIRST_LINES: Final = 1 << 24


def day_name(day: dt.date) -> str:
    """Return the file name of a UTC day."""
    return f"audit-{day.isoformat()}.jsonl"


def list_days(folder: Path) -> list[Path]:
    """List the files of entries by day, one a day; what bears such a name and is no regular file is none.

    A day that was just sealed has for a moment its old file too, which counts as long as it is there.
    """
    with os.scandir(folder) as found:
        names = {e.name for e in found if DAY_FILE.fullmatch(e.name) and e.is_file(follow_symlinks=False)}
    return [
        folder / name for name in sorted(names) if not is_sealed(name) or name.removesuffix(SEALED_SUFFIX) not in names
    ]


def first_seq(path: Path) -> int | None:
    """Return the index that the file's first line claims; behind purged lines, what the first other one makes it.

    None if no line in the file's first 16 MiB claims one. Of sealed days it is remembered: they are never written to.
    """
    if not is_sealed(path):
        return _first_seq(path)
    info = path.stat()
    key = (info.st_dev, info.st_ino, info.st_size, info.st_mtime_ns)
    if key not in _FIRSTS:
        if len(_FIRSTS) >= _REMEMBERED:
            _FIRSTS.clear()
        _FIRSTS[key] = _first_seq(path)
    return _FIRSTS[key]


def _first_seq(path: Path) -> int | None:
    line = first_bytes(path, _MAX_FIRST_LINE).partition(b"\n")[0]
    if not line.startswith(PURGED_PREFIX):
        return claimed_seq(line)
    for number, line in enumerate(first_bytes(path, _MAX_FIRST_LINES).split(b"\n")):
        if not line.startswith(PURGED_PREFIX):
            seq = claimed_seq(line)
            return None if seq is None else seq - number
    return None


def claimed_seq(line: bytes) -> int | None:
    """Return the index that a line claims to have, None if none; whether it has is for others to check."""
    match = _CLAIM.search(line, max(0, len(line) - _CLAIM_BYTES))
    return None if match is None else int(match[1])


def find_line(days: list[Path], seq: int) -> tuple[int, int] | None:
    """Return (index into `days`, lines to skip there) for entry `seq`, by what the files' first lines claim.

    None beyond what claims to be there. The first entry is sought in the first file, whatever the others claim.
    Files that claim nothing, for all in them is purged, are counted.
    """
    if seq == 0:
        return (0, 0) if days else None
    for index in range(len(days) - 1, -1, -1):
        first = first_seq(days[index])
        if first is not None and first <= seq:
            return _beyond_purged(days, index, seq - first)
    return None


def _beyond_purged(days: list[Path], index: int, skip: int) -> tuple[int, int]:
    """Go on from a file to those behind it that claim nothing, if the line lies there."""
    while index < len(days) - 1 and _is_purged(days[index + 1]) and skip >= (lines := count_lines(days[index])):
        skip -= lines
        index += 1
    return index, skip


def _is_purged(path: Path) -> bool:
    """Tell whether a file says nowhere near its beginning which entries it holds."""
    return first_bytes(path, len(PURGED_PREFIX)) == PURGED_PREFIX and first_seq(path) is None


def count_to(days: list[Path], line: int) -> tuple[int, int] | None:
    """Return (index into `days`, byte offset) where the log's line number `line` starts, counting every line.

    `line` counts from 0; the place may be the end of a file. None if there are fewer lines.
    """
    for index, path in enumerate(days):
        offset = offset_of(path, line)
        if offset is not None:
            return index, offset
        line -= count_lines(path)
    return None


def count_lines(path: Path) -> int:
    """Count a file's lines, one without LF at the end included."""
    lines, last = 0, b"\n"
    with open_day(path) as file:
        while chunk := file.read(_CHUNK):
            lines += chunk.count(b"\n")
            last = chunk[-1:]
    return lines if last == b"\n" else lines + 1


def offset_of(path: Path, line: int) -> int | None:
    """Return the byte offset at which line number `line` (from 0) starts, or None if the file has fewer lines."""
    offset = 0
    with open_day(path) as file:
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


def lies_on_its_day(path: Path, line: bytes | None) -> bool:
    """Tell whether a line claims to have been logged on the day that its file is named after; a purged one may have."""
    if line is not None and line.startswith(PURGED_PREFIX):
        return True
    match = None if line is None else _CLAIM.search(line, max(0, len(line) - _CLAIM_BYTES))
    return match is not None and path.name.removesuffix(SEALED_SUFFIX) == f"audit-{match[2].decode()}.jsonl"


def read_lines(path: Path, skip: int = 0) -> Iterator[tuple[bytes, bool]]:
    """Yield (line without LF, whether LF was there), after skipping `skip` lines."""
    offset = offset_of(path, skip)
    if offset is not None:
        yield from lines_from(path, offset)


def lines_from(path: Path, offset: int) -> Iterator[tuple[bytes, bool]]:
    """Yield (line without LF, whether LF was there) from a byte on."""
    with io.BufferedReader(open_day(path), _CHUNK) as file:
        file.seek(offset)
        for line in file:
            if line.endswith(b"\n"):
                yield line[:-1], True
            else:
                yield line, False


def read_from(path: Path, offset: int) -> tuple[bytes, tuple[int, int]]:
    """Return the file's bytes from `offset` on, and which file they are from (device, inode)."""
    with open_day(path) as file:
        info = os.fstat(file.fileno())
        file.seek(offset)
        return file.readall(), (info.st_dev, info.st_ino)


def line_before(path: Path, offset: int) -> bytes | None:
    """Return the line that ends just before byte `offset`, or None at the start of the file."""
    if offset == 0:
        return None
    with open_day(path) as file:
        begin = max(0, offset - _MAX_FIRST_LINE)
        file.seek(begin)
        data = file.read(offset - begin)
    return data[data.rfind(b"\n", 0, -1) + 1 : -1]
