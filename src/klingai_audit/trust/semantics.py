"""What a whole log says that deserves a note: silence, acts without an outcome, clock steps, gaps, equal ids.

Notes never make the exit code 4. They are drawn from what the scan kept of each range; only suspects are read
again. Uses 8 bytes of memory an entry for the comparison of ids.
"""

from __future__ import annotations

import datetime as dt
import re
from array import array
from bisect import bisect_left
from collections.abc import Iterable, Iterator
from itertools import pairwise
from typing import Final

from klingai_audit.errors import Malformed
from klingai_audit.event.clock import format_time
from klingai_audit.event.record import decode_event, event_body
from klingai_audit.ledger.line import event_type_of, seq_of
from klingai_audit.trust.chunk import Intent, Silence
from klingai_audit.trust.epochs import read_metadata
from klingai_audit.trust.place import Scanned
from klingai_audit.trust.scan import find_silences
from klingai_audit.trust.verdict import Finding

__all__ = ["find_notes"]

_SLICE: Final = 50_000
_OPEN_WRITER: Final = "?"
_FIRST: Final = dt.datetime.min.replace(tzinfo=dt.UTC)
_NEVER: Final = dt.datetime.max.replace(tzinfo=dt.UTC)
_CAUSE: Final = re.compile(rb',"correlation_id":"([^"\\]+)"').finditer


def find_notes(scanned: Scanned, now: dt.datetime, *, decoded: bool) -> list[Finding]:
    """Return the notes on a whole log; `decoded` tells that the scan looked at acts and ids too."""
    notes = [*_silences(scanned, now), *_own(scanned)]
    if decoded:
        notes += [*_overdue(scanned, now), *_twice(scanned)]
    return sorted(notes, key=lambda note: (note.seq or 0, note.kind))


def _note(scanned: Scanned, kind: str, message: str, seq: int, end: int | None = None) -> Finding:
    return Finding(kind, message, seq, end, *scanned.place(seq))


def _own(scanned: Scanned) -> Iterator[Finding]:
    """Clock steps, gaps that nobody closed, and logs that went on elsewhere."""
    gaps: list[int] = []
    left: int | None = None
    for seq, line in scanned.own():
        kind = event_type_of(line)
        if kind == "log_migrated":
            phase = read_metadata(line).get("phase")
            if left is not None and (phase, seq) != ("in", left + 1):
                yield _ignored(scanned, left)
            left = seq if phase == "out" else None
        elif kind == "clock_stepped":
            yield _note(scanned, "clock_step", f"The writer's clock jumped before entry {seq}.", seq)
        elif kind == "log_recovered" and "set_aside" in read_metadata(line):
            message = (
                f"Before entry {seq}, lines at the end that no writer had acknowledged were put aside in the state "
                f"folder: a writer was killed, or somebody wrote into the log."
            )
            yield _note(scanned, "lines_set_aside", message, seq)
        elif kind == "gap_opened":
            gaps.append(seq)
        elif kind == "gap_closed" and gaps:
            gaps.pop()
    for seq in gaps:
        yield _note(scanned, "open_gap", f"The gap that entry {seq} opened was never closed.", seq)
    if left is not None and left + 1 < _size(scanned):
        yield _ignored(scanned, left)
    elif left is not None:
        yield _note(scanned, "migrated", f"The log was migrated: it goes on where entry {left} says.", left)


def _ignored(scanned: Scanned, left: int) -> Finding:
    message = (
        f"Entry {left} says that the log goes on in another store, and entry {left + 1} does not take it up there."
    )
    return _note(scanned, "migration_ignored", message, left)


def _size(scanned: Scanned) -> int:
    return max((part.report.base + part.report.lines for part in scanned.ranges), default=0)


def _silences(scanned: Scanned, now: dt.datetime) -> Iterator[Finding]:
    """Silence over an hour while a writer was open; a writer that vanished is blamed once."""
    writers = _Writers(scanned.own())
    last = ""
    size = 0
    for part in scanned.ranges:
        report = part.report
        known = last and not (report.purged and report.purged[0].begin == 0)
        between = find_silences([last, report.first_time], report.base - 1) if known else []
        for silence in (*between, *report.silences):
            yield from _silence(scanned, writers, silence)
        hidden = report.purged and report.purged[-1].end == report.lines
        last, size = "" if hidden else report.last_time, report.base + report.lines
    for silence in find_silences([last, format_time(now)], size - 1) if last else []:
        yield from _silence(scanned, writers, silence)


def _silence(scanned: Scanned, writers: _Writers, silence: Silence) -> Iterator[Finding]:
    if writers.open_before(silence.seq):
        before = silence.seq - 1
        message = (
            f"After entry {before} the log is silent from {silence.since} to {silence.until}, though a writer was "
            f"open: either it stopped without closing, or entries are missing that nobody signed."
        )
        yield _note(scanned, "heartbeat_gap", message, before, silence.seq)


class _Writers:
    """Which writers are open at which entry, by `log_opened`, `log_closed` and `log_recovered`."""

    def __init__(self, own: Iterable[tuple[int, bytes]]) -> None:
        self._own = iter(own)
        self._next = next(self._own, None)
        self._open: list[str] = []

    def open_before(self, seq: int) -> bool:
        """Tell whether a writer was open just before entry `seq`; ask in ascending order. Those open are dropped."""
        while self._next is not None and self._next[0] < seq:
            self._take(self._next[1])
            self._next = next(self._own, None)
        found = bool(self._open)
        self._open.clear()
        return found

    def _take(self, line: bytes) -> None:
        kind = event_type_of(line)
        if kind == "log_recovered":
            self._open.clear()
        elif kind in ("log_opened", "log_closed"):
            stated = read_metadata(line).get("writer", _OPEN_WRITER)
            writer = stated if isinstance(stated, str) else _OPEN_WRITER
            if kind == "log_opened":
                self._open.append(writer)
            elif writer in self._open:
                self._open = [one for one in self._open if one != writer]
            elif writer == _OPEN_WRITER and self._open:
                self._open.pop()


def _overdue(scanned: Scanned, now: dt.datetime) -> Iterator[Finding]:
    """Announced acts whose outcome did not come in time."""
    waiting: dict[str, Intent] = {}
    for part in scanned.ranges:
        for answered in part.report.answered:
            waiting.pop(answered, None)
        waiting |= part.report.intents
        if part.report.purged:  # outcomes may be among what was purged
            end = part.report.base + part.report.purged[-1].end
            waiting = {event_id: intent for event_id, intent in waiting.items() if intent.seq >= end}
    overdue = {event_id: due for event_id, intent in waiting.items() if (due := _due(intent)) < now}
    for event_id in _answered_by_cause(scanned, {event_id: waiting[event_id] for event_id in overdue}):
        del overdue[event_id]
    for event_id, due in overdue.items():
        seq = waiting[event_id].seq
        message = (
            f"The act that entry {seq} announced has no outcome; it was due at {due.isoformat(' ', 'minutes')[:16]}Z."
        )
        yield _note(scanned, "intent_overdue", message, seq)


def _due(intent: Intent) -> dt.datetime:
    """When the outcome is due; never for what lies beyond the years that there are."""
    try:
        return dt.datetime.fromisoformat(intent.timestamp) + dt.timedelta(seconds=intent.deadline_s)
    except (OverflowError, ValueError):
        return _FIRST if intent.deadline_s < 0 else _NEVER


def _answered_by_cause(scanned: Scanned, waiting: dict[str, Intent]) -> set[str]:
    """Return the ids of those intents that a later entry of the same act answers without naming one."""
    causes: dict[bytes, list[str]] = {}
    for event_id, intent in waiting.items():
        causes.setdefault(intent.cause.encode(), []).append(event_id)
    first = min((intent.seq for intent in waiting.values()), default=0)
    found: set[str] = set()
    for part in scanned.ranges if causes else ():
        if part.report.base + part.report.lines <= first:
            continue
        data = part.file.read(part.report.start, part.report.stop)
        for match in _CAUSE(data):
            if match[1] in causes:
                line = data[data.rfind(b"\n", 0, match.start()) + 1 : data.find(b"\n", match.end())]
                found |= {event_id for event_id in causes[match[1]] if _answers(line, waiting[event_id])}
    return found


def _answers(line: bytes, intent: Intent) -> bool:
    if (seq_of(line) or 0) <= intent.seq or event_type_of(line) == "api_key_used":
        return False
    metadata = read_metadata(line)
    return metadata.get("phase") != "intent" and "intent" not in metadata


def _twice(scanned: Scanned) -> Iterator[Finding]:
    """Equal event ids, and tasks with two ends. Fingerprints choose suspects, entries decide."""
    ids = _repeated([part.report.ids for part in scanned.ranges])
    tasks = _repeated([part.report.ends for part in scanned.ranges])
    if not ids and not tasks:
        return
    seen: dict[str, int] = {}
    ends: dict[str, tuple[str, int]] = {}
    for part in scanned.ranges:
        for line in scanned.read(part):
            suspect = int(line.data[43:47] + line.data[48:60], 16) in ids
            if not suspect and (not tasks or line.data[38:39] != b"8"):
                continue
            event_id, seq = line.data[24:60].decode(), seq_of(line.data) or 0
            if suspect and seen.setdefault(event_id, seq) != seq:
                message = f"Entry {seq} has the same event_id as entry {seen[event_id]}; views show one of them."
                yield _note(scanned, "equal_event_id", message, seq)
            task = _task(line.data)
            if task and line.data[38:39] == b"8":
                first_id, first = ends.setdefault(task, (event_id, seq))
                if first_id != event_id:
                    message = f"Entry {seq} ends a task in another way than entry {first} did."
                    yield _note(scanned, "two_ends", message, seq)


def _task(line: bytes) -> str:
    try:
        return decode_event(event_body(line)).get("resource_id") or ""
    except Malformed:
        return ""


def _repeated(parts: list[bytes]) -> set[int]:
    """Return numbers that occur more than once in the sorted 64-bit `parts`, a slice of the values at a time."""
    arrays = [array("Q", part) for part in parts if part]
    low = min((numbers[0] for numbers in arrays), default=0)
    span = max((numbers[-1] for numbers in arrays), default=0) + 1 - low
    slices = 1 + sum(map(len, arrays)) // _SLICE
    found: set[int] = set()
    for step in range(slices):
        begin, end = low + span * step // slices, low + span * (step + 1) // slices
        values: list[int] = []
        for numbers in arrays:
            values += numbers[bisect_left(numbers, begin) : bisect_left(numbers, end)]
        if len(set(values)) < len(values):
            values.sort()
            found |= {a for a, b in pairwise(values) if a == b}
    return found
