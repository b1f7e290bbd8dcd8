"""Where entries stand: the scanned ranges of the day files in order, and lines read again from them."""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from klingai_audit.ledger.line import parse_members
from klingai_audit.ledger.purged import line_hash
from klingai_audit.tlog.merkle import EMPTY_ROOT
from klingai_audit.tlog.tile import MAX_ENTRY_BYTES
from klingai_audit.trust.chunk import Purged, Read, Report, join_runs
from klingai_audit.trust.lines import count_lines, read_lines, split_lines

__all__ = ["DayFile", "Range", "Scanned", "SlowLine"]

_HASH = 32


@dataclass(slots=True)
class DayFile:
    """One file of entries as listed: `length` bytes in whole lines, then `torn` bytes without LF.

    `day` is the day its name states; a stray file that holds entries has none. Lines are read from byte `begin`
    on, where line `first_line` begins.
    """

    name: str
    day: str
    read: Read
    length: int
    torn: int = 0
    path: str | None = None
    begin: int = 0
    first_line: int = 1


@dataclass(slots=True)
class Range:
    """One scanned range: its file, its report, and the 1-based line number of its first line."""

    file: DayFile
    report: Report
    line: int


@dataclass(frozen=True, slots=True)
class SlowLine:
    """One line read again: its bytes, its place, and whether an LF ended it.

    It has `size` bytes; of more than an entry can have only the first are in `data`.
    """

    data: bytes
    file: DayFile
    line: int
    ended: bool
    size: int


@dataclass(slots=True)
class Scanned:
    """All ranges in file order. The entries `[0, base)` count as verified; `leaf` is the last one's leaf hash."""

    ranges: list[Range] = field(default_factory=list)
    files: list[DayFile] = field(default_factory=list)
    base: int = 0
    leaf: bytes = EMPTY_ROOT

    def list(self, file: DayFile) -> None:
        """Add a file to the list, which is in the order of the names."""
        if all(known is not file for known in self.files):
            self.files.append(file)

    def add(self, file: DayFile, report: Report) -> None:
        """Add the next report; ranges without a line are left out."""
        if report.lines:
            last = self.ranges[-1] if self.ranges else None
            if report.sound and report.base < 0:  # purged lines do not say where they belong: behind what is before
                report.base = self.base if last is None else last.report.base + last.report.lines
            line = last.line + last.report.lines if last is not None and last.file is file else file.first_line
            self.ranges.append(Range(file, report, line))

    def settle(self) -> None:
        """Make extents and line numbers exact where a range was unsound; before anything is read from one.

        A line longer than any entry may reach over several ranges: it belongs to the one in which it begins.
        """
        for part, following in itertools.zip_longest(self.ranges, self.ranges[1:]):
            report = part.report
            if not report.sound:
                same = following is not None and following.file is part.file
                report.stop = following.report.start if following is not None and same else part.file.length
                report.lines = count_lines(part.file.read, report.start, report.stop)
            if following is not None and following.file is part.file:
                following.line = part.line + report.lines

    @property
    def lines(self) -> int:
        """How many complete lines there are, those that were not read again included."""
        return self.base + sum(part.report.lines for part in self.ranges)

    def reach(self) -> int:
        """Return how many entries the lines speak of: their number if they are in order, else by the last they state.

        To be asked where nothing is signed.
        """
        if self.is_whole():
            return self.lines
        self.settle()
        stated = (parse_members(line.data) for file in self.files for line in self._all(file))
        return max((m.seq + 1 for m in stated if m is not None and m.seq < 2 * self.lines + 2), default=0)

    def _all(self, file: DayFile) -> Iterator[SlowLine]:
        return itertools.chain(*map(self.read, self.of(file)), self.torn(file))

    def is_whole(self) -> bool:
        """Tell whether every range is sound and they follow each other from `base` on, by index, link and time."""
        size, leaf, time = self.base, self.leaf, ""
        for part in self.ranges:
            report = part.report
            if not report.sound or report.base != size or report.first_prev not in (leaf, b""):
                return False
            if report.first_time < time and report.first_time:
                return False
            size, leaf, time = size + report.lines, report.last_leaf, report.last_time or time
        return True

    def place(self, seq: int) -> tuple[str | None, int | None]:
        """Return file name and line of entry `seq` of a whole log."""
        at = bisect.bisect_right(self.ranges, seq, key=lambda part: part.report.base) - 1
        if at < 0 or seq >= self.ranges[at].report.base + self.ranges[at].report.lines:
            return None, None
        part = self.ranges[at]
        return part.file.name, part.line + seq - part.report.base

    def first_line(self) -> bytes | None:
        """Return the first line of the first file that begins with `log_created`, else of the first file."""
        firsts = [self._first_of(file) for file in self.files]
        created = (line for line in firsts if line.startswith(b'log_created"', 118))
        return next(created, firsts[0] if firsts else None)

    @staticmethod
    def _first_of(file: DayFile) -> bytes:
        return next((line for line, _ in split_lines(file.read(0, MAX_ENTRY_BYTES + 1))), b"")

    def purged(self) -> Sequence[Purged]:
        """Return the purged entries of a whole log, in order."""
        runs = ((part.report.base, run) for part in self.ranges for run in part.report.purged)
        return join_runs(Purged(base + run.begin, base + run.end, run.by) for base, run in runs)

    def own(self) -> Sequence[tuple[int, bytes]]:
        """Return the log's own entries that the scan kept, in order."""
        return [entry for part in self.ranges for entry in part.report.own]

    def leaves(self, begin: int, end: int) -> bytes:
        """Hash entries `[begin, end)` of a whole log again."""
        found: list[bytes] = []
        for part in self.ranges:
            base = part.report.base
            if base < end and begin < base + part.report.lines:
                lines = [line.data for line in self.read(part)]
                found.append(b"".join(map(line_hash, lines[max(0, begin - base) : end - base])))
        return b"".join(found)

    def read(self, part: Range) -> Iterator[SlowLine]:
        """Read the lines of one range again."""
        lines = read_lines(part.file.read, part.report.start, part.report.stop)
        for number, (line, size, ended) in enumerate(lines, part.line):
            yield SlowLine(line, part.file, number, ended, size)

    def of(self, file: DayFile) -> Sequence[Range]:
        """Return the ranges of one file."""
        return [part for part in self.ranges if part.file is file]

    def torn(self, file: DayFile) -> Iterator[SlowLine]:
        """Yield what follows the last LF of a file that does not end with one."""
        if file.torn:
            lines = sum(part.report.lines for part in self.of(file))
            data = file.read(file.length, file.length + min(file.torn, MAX_ENTRY_BYTES + 1))
            yield SlowLine(data, file, lines + 1, ended=False, size=file.torn)
