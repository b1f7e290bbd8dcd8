"""The slow path: read what is off line by line, compare with what was signed, and name it.

`Diagnosis.look` makes the sequence of signed stretches and foreign lines (`runs`), `findings` words what it
shows. Entries that nothing proves any more are taken at their word, and their links are checked instead.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from klingai_audit.ledger.line import parse_members
from klingai_audit.ledger.purged import line_hash, parse_purged
from klingai_audit.tlog.merkle import EMPTY_ROOT
from klingai_audit.tlog.tile import MAX_ENTRY_BYTES
from klingai_audit.trust.chunk import Purged
from klingai_audit.trust.expected import Expected
from klingai_audit.trust.lines import Fault, examine
from klingai_audit.trust.place import Range, Scanned, SlowLine
from klingai_audit.trust.runs import Foreign, Gap, Order, Run, order_runs
from klingai_audit.trust.verdict import Finding
from klingai_audit.trust.words import gap_findings, moved_findings, tail_findings

__all__ = ["Diagnosis", "LineReader", "diagnose"]


@dataclass(slots=True)
class _Last:
    """The line before: its leaf hash, its index if it states one, and the entry that it is, if it is a signed one."""

    leaf: bytes = EMPTY_ROOT
    seq: int | None = -1
    signed: int | None = None
    place: int = 0  # where the next line should stand


@dataclass(slots=True)
class Diagnosis:
    """What was found: `order` of the signed entries, `own` entries among them, lines beyond the signed size."""

    size: int
    findings: list[Finding] = field(default_factory=list)
    items: list[Run | Foreign] = field(default_factory=list)
    tail: list[Foreign] = field(default_factory=list)
    oldest_unsigned: str | None = None
    own: list[tuple[int, bytes]] = field(default_factory=list)
    purged: list[Purged] = field(default_factory=list)
    order: Order = field(default_factory=lambda: Order([], [], [], []))
    sealed: bool = True
    lines: int = 0
    bad_lines: int = 0
    _runs: tuple[Order, list[Run]] | None = None

    def place(self, seq: int) -> tuple[str | None, int | None]:
        """Return file and line of entry `seq`, or where it should stand."""
        if self._runs is None or self._runs[0] is not self.order:
            self._runs = (self.order, sorted((*self.order.kept, *self.order.moved), key=lambda run: run.seq))
        runs = self._runs[1]
        at = bisect_right(runs, seq, key=lambda run: run.seq) - 1
        if at >= 0 and seq < runs[at].end:
            return runs[at].file, runs[at].line + seq - runs[at].seq
        gap = self._gap(seq)
        if gap is not None and gap.lines:
            line = gap.lines[min(seq - gap.begin, len(gap.lines) - 1)]
            return line.file, line.line
        return None, None

    def _gap(self, seq: int) -> Gap | None:
        """Return the gap that entry `seq` lies in; gaps ascend."""
        gaps = self.order.gaps
        at = bisect_right(gaps, seq, key=lambda gap: gap.begin) - 1
        while at >= 0 and gaps[at].begin == gaps[at].end == seq:
            at -= 1
        return gaps[at] if at >= 0 and seq < gaps[at].end else None

    def damaged(self, seq: int) -> bool:
        """Tell whether entry `seq` is changed or gone."""
        return self._gap(seq) is not None


def diagnose(scanned: Scanned, expected: Expected, *, whole: bool) -> Diagnosis:
    """Read every doubtful range again and find what is wrong with the entries `[0, expected.size)`.

    `whole` tells that all ranges are sound and in order, so that entries proven as such need no second look.
    """
    found = Diagnosis(expected.size)
    reader = LineReader(found, expected)
    scanned.settle()
    for file in scanned.files:
        for part in scanned.of(file):
            if not reader.take_whole(part, whole=whole):
                for line in scanned.read(part):
                    reader.take(line)
        for line in scanned.torn(file):
            reader.take(line)
    names = {file.name: file.day for file in scanned.files}
    found.items = _by_true_day(found.items, names, reader.days)
    found.sealed = not found.items or reader.sealed[found.items[-1].file]
    found.own = sorted(dict(found.own).items())
    found.order = order_runs(found.items, 0, expected.size)
    _move_tail(found)
    found.findings += [*reader.findings(), *gap_findings(found.order, expected, names)]
    found.findings += [*moved_findings(found.order, names, reader.days), *tail_findings(found)]
    found.bad_lines = _bad_lines(found)
    return found


def _by_true_day(
    items: list[Run | Foreign], names: Mapping[str, str], logged: Mapping[str, set[str]]
) -> list[Run | Foreign]:
    """Put the items of renamed files where the days of their entries belong, behind the file of that name."""

    def place(item: Run | Foreign) -> tuple[str, bool, str]:
        day, days = names[item.file], logged.get(item.file, set())
        renamed = bool(days) and day not in days
        return (min(days) if renamed else day, renamed, item.file)

    return sorted(items, key=place)


def _move_tail(found: Diagnosis) -> None:
    """Foreign lines after the last signed entry, where none is missing, are the unsigned tail."""
    gaps = found.order.gaps
    if gaps and gaps[-1].after is None and gaps[-1].begin == gaps[-1].end:
        found.tail = gaps.pop().lines
    times = [members.logged_at for line in found.tail if (members := parse_members(line.data)) is not None]
    found.oldest_unsigned = min(times, default=None)


def _bad_lines(found: Diagnosis) -> int:
    order = found.order
    misplaced = sum(run.count for run in (*order.moved, *order.copies))
    return misplaced + sum(len(gap.lines) for gap in order.gaps) + len(found.tail)


class LineReader:
    """Takes the lines in file order and sorts them into runs, foreign lines and tail."""

    def __init__(self, found: Diagnosis, expected: Expected) -> None:
        self.found = found
        self.expected = expected
        self.last = _Last()
        self.signed = (-1, "")  # the signed entry before, and its time
        self.faults: list[Finding] = []
        self.links: list[Finding] = []
        self.days: dict[str, set[str]] = {}
        self.sealed: dict[str, bool] = {}  # whether the last line of a file has a seal

    def take_whole(self, part: Range, *, whole: bool) -> bool:
        """Take a sound range without reading it, if its entries are proven and are those of `tree/0`."""
        report, expected = part.report, self.expected
        end = report.base + report.lines
        stored = expected.is_stored(report.base, end) and report.stored
        proven = stored or (whole and end <= expected.from_entries)
        if not report.sound or not proven:
            return False
        if report.base < self.signed[0] or (report.first_time and report.first_time < self.signed[1]):
            return False
        self._run(report.base, report.lines, part.file.name, part.line, report.first_time)
        if report.last_time:
            self.days[part.file.name].add(report.last_time[:10])
        self.found.lines += report.lines
        self.found.own += report.own
        self.found.purged += [Purged(report.base + p.begin, report.base + p.end, p.by) for p in report.purged]
        self.sealed[part.file.name] = report.sealed
        before = self.signed[1] if self.signed[0] == report.base - 1 else ""
        self.last, self.signed = _Last(report.last_leaf, end - 1, end - 1, end), (end - 1, report.last_time or before)
        return True

    def take(self, line: SlowLine) -> None:
        """Take one line, read again."""
        found, expected = self.found, self.expected
        purged = parse_purged(line.data)
        members, faults = examine(line.data) if purged is None else (None, [])
        leaf = line_hash(line.data)
        found.lines += 1
        self.sealed[line.file.name] = members is not None and members.seal is not None
        stated = None if members is None else members.seq
        linked = members is not None and members.prev_hash == self.last.leaf
        here = len(line.data) <= MAX_ENTRY_BYTES and expected.leaf(self.last.place) == leaf
        seq = self.last.place if here else stated if purged is None else self._entry_of(leaf)
        proven = None if seq is None else expected.leaf(seq)
        if seq is None or seq >= expected.size or (proven is not None and proven != leaf):
            foreign = Foreign(line.file.name, line.line, seq, line.data, linked, line.ended, line.size)
            found.items.append(foreign)
            self.last = _Last(leaf, stated, None, self.last.place + 1)
            return
        if proven is None and purged is None:
            self._check_link(line, seq, linked=linked)
        elif self.last.signed == seq - 1 and members is not None and not linked:
            self._broken_link(line, seq, "the later one was signed with another link than that")
        if stated not in (None, seq):
            faults = [*faults, ("entry_malformed", f"The entry states that it is entry {stated}.")]
        time = (self.signed[1] if self.signed[0] == seq - 1 else "") if members is None else members.logged_at
        self._signed(line, seq, time, faults)
        self._run(seq, 1, line.file.name, line.line, "" if members is None else time)
        if purged is not None:
            found.purged.append(Purged(seq, seq + 1, purged.by))
        self.last = _Last(leaf, stated, None if proven is None else seq, seq + 1)

    def _entry_of(self, leaf: bytes) -> int | None:
        """Return which entry a purged line stands for: that which has the hash it states, else the one due here."""
        place = self.last.place
        found = self.expected.find(leaf, place)
        return place if found is None and self.expected.proven <= place < self.expected.size else found

    def _signed(self, line: SlowLine, seq: int, time: str, faults: list[Fault]) -> None:
        """Take a line that is entry `seq`, as far as anything tells."""
        file, number = line.file.name, line.line
        if line.data[118:].startswith(
            (b"log_", b"checkpoint_", b"signing_key_rotated", b"clock_", b"gap_", b"retention_applied")
        ):
            self.found.own.append((seq, line.data))
        for kind, what in faults[:1]:
            self.faults.append(Finding(kind, f"Entry {seq}: {what}", seq, file=file, line=number))
        if self.signed[0] == seq - 1 and time < self.signed[1]:
            message = f"Entry {seq} was logged at {time}, before the entry that precedes it ({self.signed[1]})."
            self.faults.append(Finding("time_order", message, seq, file=file, line=number))
        self.signed = (seq, time)
        if not line.ended:
            message = f"Entry {seq} is there, but the line feed after it is not."
            self.faults.append(Finding("torn_tail", message, seq, file=file, line=number))

    def _run(self, seq: int, count: int, file: str, line: int, time: str) -> None:
        items = self.found.items
        if time:
            self.days.setdefault(file, set()).add(time[:10])
        last = items[-1] if items else None
        if isinstance(last, Run) and (last.end, last.file, last.line + last.count) == (seq, file, line):
            last.count += count
        else:
            items.append(Run(seq, count, file, line, time[:10]))

    def _check_link(self, line: SlowLine, seq: int, *, linked: bool) -> None:
        if linked or self.last.seq is None or self.last.seq != seq - 1:
            return
        self._broken_link(line, seq, "one of the two was changed after the other was written")

    def _broken_link(self, line: SlowLine, seq: int, why: str) -> None:
        message = f"The link between entries {seq - 1} and {seq} is broken: {why}."
        begin = max(0, seq - 1)
        self.links.append(Finding("link_broken", message, begin, seq + 1, line.file.name, line.line))

    def findings(self) -> Iterator[Finding]:
        """What is wrong with entries that are signed, or that nothing proves."""
        yield from self.faults
        yield from self.links
        lost = self.expected.lost
        if lost is not None:
            message = (
                f"The entries do not have the root that was signed for size {lost[1]}, though they did at size "
                f"{lost[0]}: entries {lost[0]} to {lost[1] - 1} were rewritten, links and tree hashes included. "
                f"No later signed root can be reached from there."
            )
            yield Finding("history_rewritten", message, lost[0], lost[1], *self.found.place(lost[0]))
