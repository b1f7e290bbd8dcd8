"""Stored lines by number: where an entry's bytes stand in the log's files, and reading them there.

Only a short cut. A file that is not where it was is asked through `LogReader`; so is a store without files, for
some lines at a time.
"""

from __future__ import annotations

import bisect
import io
import os
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import count, islice
from pathlib import Path
from typing import Final

from klingai_audit.errors import StorageError
from klingai_audit.ledger.line import PURGED_PREFIX, seq_of
from klingai_audit.ledger.reader import LogReader
from klingai_audit.ledger.sealed import is_sealed, open_day, unpacked_size
from klingai_audit.ledger.store import LogFile, StoredDay
from klingai_audit.tlog.tile import MAX_ENTRY_BYTES

__all__ = ["Block", "Lines", "PlaceOf", "Stale"]

_FIRST: Final = 1 << 17
_BLOCK: Final = 1 << 22
_BATCH: Final = 4096
_SPARSE: Final = 1 << 13
_DENSE: Final = 1 << 18
_NEAR: Final = 64
_MOST: Final = 4096
_EVENT_ID: Final = slice(24, 60)

_PURGED_LINE: Final = re.compile(rb"(?:\A|\n)" + re.escape(PURGED_PREFIX))

PlaceOf = Callable[[int], int | None]
"""Entry number -> its position in the log, as far as the index knows it."""


class Stale(Exception):
    """The index and the log do not tell of the same entry at `seq`; caught where a scan can take over."""

    def __init__(self, seq: int) -> None:
        super().__init__(f"entry {seq} is not what the index holds")
        self.seq = seq


@dataclass(frozen=True, slots=True)
class Block:
    """Some lines in a row: `data` with an LF after each, and the length of each, LF included."""

    data: bytes
    lengths: list[int]


@dataclass(frozen=True, slots=True)
class _File:
    path: Path
    identity: tuple[int, ...]
    first: int
    place: int


class Lines:
    """Reads lines of one log; `place_of` is asked where files begin."""

    def __init__(self, reader: LogReader, place_of: PlaceOf) -> None:
        self._reader = reader
        self._place_of = place_of
        self._files: list[_File] = []
        self._begun: dict[int, Path] = {}
        self._firsts: dict[tuple[Path, tuple[int, ...]], int | None] = {}

    def refresh(self) -> None:
        """Look at the log's files again: which there are, and where they begin."""
        self._files = []
        self._begun = {}
        for file in self._listed():
            if file.path is None:
                continue
            known = (file.path, file.identity)
            if self._firsts.get(known) is None:
                self._firsts[known] = _first_seq(file.path)
            first = self._firsts[known]
            if first is None:
                continue
            self._begun[first] = file.path
            place = self._place_of(first)
            if place is not None:
                self._files.append(_File(file.path, file.identity, first, place))
        self._files.sort(key=lambda file: file.first)

    def _listed(self) -> list[LogFile]:
        try:
            return [file for file in self._reader.store.inspect() if file.kind == "entries"]
        except OSError as exc:
            raise StorageError(
                f"The log at {self._reader.store.url} cannot be listed: {exc.strerror}.",
                do="Check that it is there and readable.",
            ) from exc

    def sealed(self) -> dict[str, tuple[int, ...]]:
        """Return the days in which entries may be purged, by name and what the store says of them.

        Those are the sealed ones, in a store without files all but the newest.
        """
        listed = self._listed()
        far = [file for file in listed if file.path is None]
        kept = far[:-1] if far else [file for file in listed if is_sealed(file.name)]
        return {file.name: (*file.identity, file.size) for file in kept}

    def first_purged(self, names: Iterable[str]) -> int | None:
        """Return an entry before which none is purged of those in these days; None if none is."""
        found = [purged for day in self._days(names) if (purged := self._first_of(day)) is not None]
        for file in self._listed():
            if file.name in names and file.path is not None:
                with self._reader.store.view(file.name) as view:
                    purged = _PURGED_LINE.search(view) is not None
                if purged:
                    found.append(_first_seq(file.path) or 0)
        return min(found, default=None)

    def _days(self, names: Iterable[str]) -> list[StoredDay]:
        """Days of a store without files."""
        far = {file.name for file in self._listed() if file.path is None}
        return [day for day in self._reader.store.old_days() if day.name in far.intersection(names)]

    def _first_of(self, day: StoredDay) -> int | None:
        lines = enumerate(self._reader.lines(day.begin, day.end), day.begin)
        return next((seq for seq, line in lines if line.startswith(PURGED_PREFIX)), None)

    def grown(self, place: int, size: int) -> bool:
        """Tell whether anything may stand in the log beyond its first `size` entries, which ended at `place`."""
        listed = self._listed()
        if listed and all(file.path is None for file in listed):
            return next(iter(self._reader.lines(size, size + 1)), None) is not None
        if not self._files or not listed:
            return True
        last, newest = self._files[-1], listed[-1]
        same = (newest.path, newest.identity) == (last.path, last.identity)
        return not same or (newest.path is not None and unpacked_size(newest.path) != place - last.place)

    def blocks(self, seq: int, place: int) -> Iterator[Block]:
        """Yield the lines from entry `seq` on, which begins at position `place`, to the last whole one."""
        file = next((file for file in reversed(self._files) if file.first <= seq), None)
        if file is not None and _begins_line(file, place, seq):
            path: Path | None = file.path
            offset = place - file.place
            while path is not None:
                for block in _blocks_from(path, offset):
                    yield block
                    seq += len(block.lengths)
                    offset += len(block.data)
                path = self._begun.get(seq) if _ends_at(path, offset) else None
                offset = 0
        rest = iter(self._reader.lines(seq))
        while batch := list(islice(rest, _BATCH)):
            yield Block(b"\n".join((*batch, b"")), [len(line) + 1 for line in batch])

    def read(self, wanted: Iterable[tuple[int, str]]) -> Iterator[bytes]:
        """Yield the lines of (seq, event id), best in order of `seq`, rising or falling.

        Raises: Stale for the first that the log does not have as the index has it.
        """
        cursor, window = _Cursor(), _Window(self._reader)
        firsts = [file.first for file in self._files]
        try:
            for seq, event_id in wanted:
                at = bisect.bisect_right(firsts, seq) - 1
                place = self._place_of(seq) if at >= 0 else None
                line = None if place is None else cursor.read(self._files[at], place)
                if line is None or not _is_entry(line, seq, event_id):
                    line = window.read(seq)
                    if not _is_entry(line, seq, event_id):
                        raise Stale(seq)
                yield line
        finally:
            cursor.close()


class _Cursor:
    """Reads lines of files at offsets, more at a time where they stand close together."""

    def __init__(self) -> None:
        self._path: Path | None = None
        self._file: io.RawIOBase | None = None
        self._begin = 0
        self._block = b""

    def read(self, file: _File, place: int) -> bytes | None:
        """Return the line at a position, or None if there is none that can be read."""
        offset = place - file.place
        if offset < 0:
            return None
        try:
            if self._file is None or file.path != self._path:
                self.close()
                self._file = open_day(file.path)
                self._path, self._begin, self._block = file.path, 0, b""
            return self._line(self._file.fileno(), offset)
        except OSError:
            return None

    def _line(self, fd: int, offset: int) -> bytes | None:
        at = offset - self._begin
        if 0 <= at < len(self._block):
            end = self._block.find(b"\n", at)
            if end >= 0:
                return self._block[at:end]
        near = 0 <= at < 2 * len(self._block)
        for size in (min(_DENSE, 2 * len(self._block)) if near else _SPARSE, MAX_ENTRY_BYTES + 1):
            self._begin, self._block = offset, os.pread(fd, size, offset)
            end = self._block.find(b"\n")
            if end >= 0:
                return self._block[:end]
        return None

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
        self._file = self._path = None


class _Window:
    """Reads lines of a store, more at a time where the wanted ones stand close together."""

    def __init__(self, reader: LogReader) -> None:
        self._reader = reader
        self._begin = 0
        self._lines: list[bytes] = []

    def read(self, seq: int) -> bytes:
        """Return line `seq`, empty if there is none."""
        at, held = seq - self._begin, len(self._lines)
        if not 0 <= at < held:
            near = bool(held) and -_NEAR - held <= at < 2 * held + _NEAR
            count = min(_MOST, max(_NEAR, 2 * held)) if near else 1
            self._begin = max(0, seq + 1 - count) if near and at < 0 else seq
            self._lines = list(self._reader.lines(self._begin, self._begin + count))
            at = seq - self._begin
        return self._lines[at] if at < len(self._lines) else b""


def _is_entry(line: bytes, seq: int, event_id: str) -> bool:
    return line[_EVENT_ID] == event_id.encode() and seq_of(line) == seq


def _first_seq(path: Path) -> int | None:
    """Which entry a file begins with; behind purged lines it follows from the first other one."""
    try:
        with io.BufferedReader(open_day(path)) as file:
            for before in count():
                line = file.readline(_FIRST).removesuffix(b"\n")
                if not line.startswith(PURGED_PREFIX):
                    seq = seq_of(line)
                    return None if seq is None else seq - before
    except OSError:
        return None
    return None


def _begins_line(file: _File, place: int, seq: int) -> bool:
    """Tell whether the line of entry `seq`, or the end of the file after a line, stands at the position."""
    offset = place - file.place
    try:
        with open_day(file.path) as found:
            if offset < 0 or (offset > 0 and os.pread(found.fileno(), 1, offset - 1) != b"\n"):
                return False
            line, lf, _ = os.pread(found.fileno(), MAX_ENTRY_BYTES + 1, offset).partition(b"\n")
            return (
                seq_of(line) == seq or line.startswith(PURGED_PREFIX)
                if lf
                else os.fstat(found.fileno()).st_size >= offset
            )
    except OSError:
        return False


def _ends_at(path: Path, offset: int) -> bool:
    """Tell whether the file ends there: a line without LF is the end of the log, whatever follows."""
    try:
        return unpacked_size(path) == offset
    except OSError:
        return False


def _blocks_from(path: Path, offset: int) -> Iterator[Block]:
    """Yield the whole lines of a file from byte `offset` on."""
    try:
        with open_day(path) as file:
            while True:
                data = os.pread(file.fileno(), _BLOCK, offset)
                data = data[: data.rfind(b"\n") + 1]
                if not data:
                    return
                lengths = [len(line) + 1 for line in data.split(b"\n")]
                lengths.pop()
                yield Block(data, lengths)
                offset += len(data)
    except OSError as exc:
        raise StorageError(
            f"{path} cannot be read: {exc.strerror}.", do="Check that it is there and readable."
        ) from exc
