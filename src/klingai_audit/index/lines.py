"""Stored lines by index: where an entry's bytes stand in the log's files, and reading them there.

Only a short cut. A store without files, and a file that is not where it was, are asked through `LogReader`.
"""

from __future__ import annotations

import bisect
import io
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from klingai_audit.durable import open_regular
from klingai_audit.errors import StorageError
from klingai_audit.ledger.line import seq_of
from klingai_audit.ledger.reader import LogReader
from klingai_audit.tlog.tile import MAX_ENTRY_BYTES

__all__ = ["Lines", "Stale"]

_FIRST: Final = 1 << 17
_SPARSE: Final = 1 << 12
_DENSE: Final = 1 << 18
_NEAR: Final = 1 << 16
_EVENT_ID: Final = slice(24, 60)

PlacesOf = Callable[[Sequence[int]], dict[int, int]]
"""Entry numbers -> positions in the log, as far as the index knows them."""


class Stale(Exception):
    """The index and the log do not tell of the same entry at `seq`."""

    def __init__(self, seq: int) -> None:
        super().__init__(f"entry {seq} is not what the index holds")
        self.seq = seq


@dataclass(frozen=True, slots=True)
class _File:
    path: Path
    identity: tuple[int, ...]
    first: int
    place: int


class Lines:
    """Reads lines of one log; `places_of` is asked where files begin."""

    def __init__(self, reader: LogReader, places_of: PlacesOf) -> None:
        self._reader = reader
        self._places_of = places_of
        self._files: list[_File] = []
        self._seen: dict[Path, tuple[tuple[int, ...], int]] = {}

    def refresh(self) -> None:
        """Look at the log's files again."""
        found: list[tuple[Path, tuple[int, ...], int]] = []
        for file in self._reader.store.inspect():
            if file.kind != "entries" or file.path is None:
                continue
            known = self._seen.get(file.path)
            if known is None or known[0] != file.identity:
                first = _first_seq(file.path)
                if first is None:
                    continue
                known = self._seen[file.path] = (file.identity, first)
            found.append((file.path, *known))
        old = {(file.path, file.identity): file for file in self._files}
        places = self._places_of([first for path, identity, first in found if (path, identity) not in old])
        files = [
            old.get((path, identity)) or _File(path, identity, first, places[first])
            for path, identity, first in found
            if (path, identity) in old or first in places
        ]
        self._files = sorted(files, key=lambda file: file.first)

    def forget(self) -> None:
        """Forget where files begin: the index was made anew."""
        self._files = []

    def grown(self, seq: int, place: int) -> bool:
        """Tell whether anything may stand in the log at `place` or later, where entry `seq` would begin."""
        if not self._files:
            return True
        last = self._files[-1]
        try:
            listed = [file for file in self._reader.store.inspect() if file.kind == "entries"]
            return (
                not listed
                or (listed[-1].path, listed[-1].identity) != (last.path, last.identity)
                or listed[-1].size != place - last.place
            )
        except OSError:
            return True

    def from_place(self, seq: int, place: int) -> Iterator[bytes]:
        """Yield the lines from entry `seq` on, which begins at position `place`, to the last whole one."""
        file = next((file for file in reversed(self._files) if file.first <= seq), None)
        if file is None or seq == 0 or not _ends_line(file, place):
            yield from self._reader.entries(seq)
            return
        count = seq
        for line in _lines_from(file.path, place - file.place):
            if count == seq and seq_of(line) != seq:
                break
            yield line
            count += 1
        yield from self._reader.entries(count)

    def read(self, wanted: Iterable[tuple[int, int, str]]) -> Iterator[bytes]:
        """Yield the lines of (seq, place, event id), which come in order of `seq`, rising or falling.

        Raises: Stale for the first that the log does not have as the index has it.
        """
        cursor = _Cursor()
        firsts = [file.first for file in self._files]
        try:
            for seq, place, event_id in wanted:
                at = bisect.bisect_right(firsts, seq) - 1
                line = cursor.read(self._files[at], place) if at >= 0 else None
                if line is None or not _is_entry(line, seq, event_id):
                    line = next(iter(self._reader.entries(seq, seq + 1)), b"")
                    if not _is_entry(line, seq, event_id):
                        raise Stale(seq)
                yield line
        finally:
            cursor.close()


class _Cursor:
    """Reads lines of files at offsets, more at a time where they stand close together."""

    def __init__(self) -> None:
        self._path: Path | None = None
        self._file: io.FileIO | None = None
        self._begin = 0
        self._block = b""

    def read(self, file: _File, place: int) -> bytes | None:
        """Return the line at a position, or None if there is none that can be read."""
        offset = place - file.place
        if offset < 0:
            return None
        try:
            if file.path != self._path:
                self._open(file.path)
            return self._line(offset)
        except OSError:
            return None

    def _line(self, offset: int) -> bytes | None:
        at = offset - self._begin
        if 0 <= at < len(self._block):
            end = self._block.find(b"\n", at)
            if end >= 0:
                return self._block[at:end]
        near = 0 <= at < len(self._block) + _NEAR
        for size in (_DENSE if near else _SPARSE, MAX_ENTRY_BYTES + 1):
            self._begin, self._block = offset, os.pread(self._file.fileno(), size, offset) if self._file else b""
            end = self._block.find(b"\n")
            if end >= 0:
                return self._block[:end]
        return None

    def _open(self, path: Path) -> None:
        self.close()
        self._file = open_regular(path, follow=False)
        self._path, self._begin, self._block = path, 0, b""

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
        self._file = self._path = None


def _is_entry(line: bytes, seq: int, event_id: str) -> bool:
    return line[_EVENT_ID] == event_id.encode() and seq_of(line) == seq


def _first_seq(path: Path) -> int | None:
    try:
        with io.BufferedReader(open_regular(path, follow=False)) as file:
            return seq_of(file.readline(_FIRST).removesuffix(b"\n"))
    except OSError:
        return None


def _ends_line(file: _File, place: int) -> bool:
    """Tell whether a line of the file ends just before the position, or the file begins there."""
    offset = place - file.place
    if offset <= 0:
        return offset == 0
    try:
        with open_regular(file.path, follow=False) as found:
            return os.pread(found.fileno(), 1, offset - 1) == b"\n"
    except OSError:
        return False


def _lines_from(path: Path, offset: int) -> Iterator[bytes]:
    try:
        with io.BufferedReader(open_regular(path, follow=False), 1 << 20) as file:
            file.seek(offset)
            for line in file:
                if not line.endswith(b"\n"):
                    return
                yield line[:-1]
    except OSError as exc:
        raise StorageError(
            f"{path} cannot be read: {exc.strerror}.", do="Check that it is there and readable."
        ) from exc
