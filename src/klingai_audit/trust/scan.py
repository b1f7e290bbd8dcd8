"""The fast path: one pass over a range of a day file, without parsing JSON for links and leaves.

Everything is checked in bulk, on blocks that fit the processor's cache. The slightest doubt makes the whole
range unsound, and `diagnose` reads it again line by line and slowly. Format: docs/format.md, sections 2 to 5.
"""

from __future__ import annotations

import datetime as dt
import re
import sys
from array import array
from bisect import bisect_right
from collections.abc import Iterator
from itertools import groupby, pairwise
from typing import Final, Literal

import msgspec
from msgspec import UNSET, UnsetType

from klingai_audit.event.clock import format_time, is_time
from klingai_audit.event.record import Event
from klingai_audit.ledger.line import PURGED_PREFIX, parse_members
from klingai_audit.ledger.purged import parse_purged
from klingai_audit.tlog.hashing import fold_tile, hash_leaves
from klingai_audit.tlog.tile import MAX_ENTRY_BYTES
from klingai_audit.trust.chunk import Intent, PurgedRun, Read, Report, Silence, Task
from klingai_audit.trust.lines import examine

__all__ = ["HEARTBEAT_LIMIT", "OWN_TYPES", "Line", "find_silences", "scan"]

HEARTBEAT_LIMIT: Final = dt.timedelta(hours=1, minutes=5)
"""Longest silence of an open log: a heartbeat is due after an hour, and may take a little."""

OWN_TYPES: Final = frozenset(
    {
        "checkpoint_timestamped",
        "checkpoint_witnessed",
        "clock_stepped",
        "gap_closed",
        "gap_opened",
        "log_closed",
        "log_created",
        "log_heartbeat",
        "log_migrated",
        "log_opened",
        "log_recovered",
        "retention_applied",
        "signing_key_rotated",
    }
)
"""Types of entries that verification reads the metadata of."""

_OWN_PREFIXES: Final = tuple(name.encode() + b'"' for name in sorted(OWN_TYPES))
_OWN_STARTS: Final = frozenset(name[:3] for name in _OWN_PREFIXES)
_TYPE_AT: Final = 118
_BLOCK: Final = 96 << 10
_HASH: Final = 32
_WIDTH: Final = 256
_SEAL_NAME: Final = b',"seal":"'
_SEALS: Final = re.compile(rb"(?:[A-Za-z0-9_-]{42}[AEIMQUYcgkosw048])*").fullmatch
_TYPES: Final = re.compile(r"(?:[a-z][a-z0-9_]*\n)+").fullmatch
_DIGITS: Final = bytes.maketrans(b"123456789", b"000000000")
_HEX: Final = bytes.maketrans(b"123456789abcdef", b"000000000000000")
_TIME_FORM: Final = b"0000-00-00T00:00:00.000000Z"
_ID_FORM: Final = b"00000000-0000-0000-0000-000000000000"
_TIME_BYTES: Final = 27
_LONG_NUMBER: Final = re.compile(rb"[:\[,]-?[0-9]{16}").search
_LONGEST: Final = 1e15
_LATEST: Final = "9999-12-31T23:59:59.999999Z"
_DAY_END: Final = "T23:59:59.999999Z"


class Line(Event, frozen=True, kw_only=True, forbid_unknown_fields=True, gc=False):
    """A whole entry as a closed struct: the event's members, then the ledger's."""

    schema: Literal[1]
    outcome: Literal["success", "failure", "blocked", "unknown"]
    seq: int
    logged_at: str
    prev_hash: str
    seal: str | UnsetType = UNSET


class _Doubt(Exception):
    """Something is off; the slow pass finds out what."""


_decode_lines: Final = msgspec.json.Decoder(Line).decode_lines
_encode_lines: Final = msgspec.json.Encoder().encode_lines


def scan(task: Task, read: Read, read_hashes: Read) -> Report:
    """Scan the range of `task`; `read` gives bytes of the day file, `read_hashes` of `tree/0`."""
    start = _next_line(task, read, task.begin)
    if start >= task.end:
        return Report(task.number, task.end, task.end, 0)  # no line begins in this range
    scanner = _Scanner(task)
    try:
        at = start
        while at < task.end:
            block = _lines_from(task, read, at)
            scanner.add(block)
            at += len(block)
    except (_Doubt, msgspec.MsgspecError, ValueError, RecursionError):
        # Where a line is longer than any entry, this is a guess, which `Scanned.settle` mends.
        stop = min(_next_line(task, read, task.end), task.end + MAX_ENTRY_BYTES + 1)
        return Report(task.number, start, stop, max(1, read(start, stop).count(b"\n")))
    return scanner.finish(start, at, read_hashes)


def _next_line(task: Task, read: Read, at: int) -> int:
    """Return where the first line begins at byte `at` or after it, the file's length if none does."""
    if at == 0 or at >= task.length:
        return min(at, task.length)
    found = read(at - 1, min(at + MAX_ENTRY_BYTES + 1, task.length)).find(b"\n")
    return task.length if found < 0 else at + found


def _lines_from(task: Task, read: Read, at: int) -> bytes:
    """Return some whole lines from byte `at` on, none of which begins after the range."""
    block = read(at, min(at + _BLOCK, task.length))
    last = block.rfind(b"\n") if at + len(block) < task.end else block.find(b"\n", task.end - 1 - at)
    if last < 0:
        last = block.rfind(b"\n")
    if last < 0:
        raise _Doubt
    return block[: last + 1]


class _Scanner:
    """State of one pass: everything is about the lines added so far."""

    def __init__(self, task: Task) -> None:
        self.task = task
        self.report = Report(task.number, 0, 0, 0)
        self.leaves = bytearray()
        self.times: list[str] = []
        self.spans: list[tuple[int, int]] = []
        self.based = False
        self.ids: list[str] = []
        self.ends = array("Q")
        self.intents: dict[str, Line] = {}
        self.answered: list[str] = []

    @property
    def count(self) -> int:
        """How many lines were added."""
        return len(self.leaves) // _HASH

    @property
    def seq(self) -> int:
        """Index of the next entry."""
        return self.report.base + self.count

    def add(self, block: bytes) -> None:
        lines = block.split(b"\n")
        if lines.pop():
            raise _Doubt
        if PURGED_PREFIX not in block:
            self._entries(block, lines)
            return
        for purged, some in groupby(lines, lambda line: line.startswith(PURGED_PREFIX)):
            if purged:
                self._purged(some)
            else:
                run = list(some)
                self._entries(b"\n".join([*run, b""]), run)

    def _purged(self, lines: Iterator[bytes]) -> None:
        """Take in lines that stand for purged entries."""
        for line in lines:
            found = parse_purged(line)
            if found is None:
                raise _Doubt
            last = self.report.purged[-1] if self.report.purged else None
            begin = self.count
            if last is not None and (last.end, last.by) == (begin, found.by):
                begin = self.report.purged.pop().begin
            self.leaves += found.leaf
            self.report.purged.append(PurgedRun(begin, self.count, found.by))
        self.report.sealed = False

    def _entries(self, block: bytes, lines: list[bytes]) -> None:
        """Take in whole entries."""
        if not self.based:
            first = parse_members(lines[0])
            if first is None or first.seq < self.count:
                raise _Doubt
            self.based = True
            self.report.base = first.seq - self.count
            self.report.first_prev = b"" if self.leaves else first.prev_hash
        if max(map(len, lines)) > MAX_ENTRY_BYTES:
            raise _Doubt
        if not self.spans or (self.report.purged and self.report.purged[-1].end == self.count):
            self.spans.append((self.count, len(self.times)))
        before = bytes(self.leaves[-_HASH:]) or self.report.first_prev
        leaves = hash_leaves(lines)
        links = before + leaves[:-_HASH]
        if self.task.decode:
            self._decoded(block, lines, links)
        else:
            self._positional(lines, links)
        self.leaves += leaves
        self.report.sealed = lines[-1][-54:-45] == _SEAL_NAME

    # --- links and order without JSON -------------------------------------------------------------

    def _positional(self, lines: list[bytes], links: bytes) -> None:
        """Compare the ledger members of each line, by position, with what they must be."""
        seq, begin = self.seq, 0
        hexes = links.hex().encode()
        while begin < len(lines):
            digits = len(str(seq + begin))
            end = min(len(lines), 10**digits - seq)
            times = self._members(lines[begin:end], seq + begin, digits, hexes[64 * begin : 64 * end])
            self._add_times([time.decode() for time in times])
            begin = end
        starts = {line[_TYPE_AT : _TYPE_AT + 3] for line in lines}
        if starts & _OWN_STARTS:
            for number, line in enumerate(lines, seq):
                if line.startswith(_OWN_PREFIXES, _TYPE_AT):
                    self.report.own.append((number, line))

    @staticmethod
    def _members(lines: list[bytes], seq: int, digits: int, hexes: bytes) -> list[bytes]:
        width = 128 + digits
        sealed, bare, at = -width - 54, -width - 1, 21 + digits
        found = [line[sealed:-54] if line[-54:-45] == _SEAL_NAME else line[bare:-1] for line in lines]
        times = [part[at : at + 27] for part in found]
        wanted = [
            b',"seq":%d,"logged_at":"%b","prev_hash":"%b"' % (seq + number, time, hexes[64 * number : 64 * number + 64])
            for number, time in enumerate(times)
        ]
        if found != wanted:
            raise _Doubt
        seals = [line[-45:] for line in lines if line[-54:-45] == _SEAL_NAME]
        ends = [line[-1:] for line in lines]
        if set(ends) != {b"}"} or not _SEALS(b"".join([seal[:-2] for seal in seals])):
            raise _Doubt
        if seals and {seal[-2:] for seal in seals} != {b'"}'}:
            raise _Doubt
        return times

    def _add_times(self, times: list[str]) -> None:
        _check_times(times)
        if times != sorted(times) or (self.times and times[0] < self.times[-1]):
            raise _Doubt
        day = self.task.day
        if not times[0].startswith(day) or not day <= times[-1] <= day + _DAY_END:
            raise _Doubt
        self.times += times

    # --- format and semantics ---------------------------------------------------------------------

    def _decoded(self, block: bytes, lines: list[bytes], links: bytes) -> None:
        """Decode every entry into the closed struct and compare its encoding with the bytes."""
        events: list[Line] = _decode_lines(block)
        if _encode_lines(events) != block:
            raise _Doubt
        if _LONG_NUMBER(block) and any(examine(line)[1] for line in lines if _LONG_NUMBER(line)):
            raise _Doubt  # msgspec takes integers of any size
        seq = self.seq
        if [event.seq for event in events] != list(range(seq, seq + len(lines))):
            raise _Doubt
        if "".join([event.prev_hash for event in events]) != links.hex():
            raise _Doubt
        self._add_times([event.logged_at for event in events])
        seals = [event.seal for event in events if event.seal is not UNSET]
        if {len(seal) for seal in seals} - {43} or not _SEALS("".join(seals).encode()):
            raise _Doubt
        types = {event.event_type for event in events}
        if not _TYPES("\n".join(types) + "\n"):
            raise _Doubt
        if types & OWN_TYPES:
            self.report.own += [(e.seq, lines[i]) for i, e in enumerate(events) if e.event_type in OWN_TYPES]
        self._acts(events, self._heads(events))

    def _heads(self, events: list[Line]) -> str:
        """Check event ids and times, whose length makes the head positional; return the ids one after another."""
        ids = "".join([event.event_id for event in events])
        if ids.encode().translate(_HEX) != _ID_FORM * len(events):
            raise _Doubt
        _check_times([event.timestamp for event in events])
        self.ids.append(ids)
        return ids

    def _acts(self, events: list[Line], ids: str) -> None:
        """Join intents with outcomes that name them, and note ends of tasks."""
        told = [event for event in events if event.metadata is not UNSET]
        intents = self.intents
        intents |= {event.event_id: event for event in told if "phase" in event.metadata}  # type: ignore[operator]
        named = [event.metadata["intent"] for event in told if "intent" in event.metadata]  # type: ignore[operator,index]
        self.answered += [name for name in named if type(name) is str and intents.pop(name, None) is None]
        if "8" in ids[14::36]:
            ended = [event.resource_id for event in events if event.event_id[14] == "8"]
            self.ends.extend([int.from_bytes(task.encode()[-8:]) for task in ended if task is not UNSET])

    # --- the result -------------------------------------------------------------------------------

    def finish(self, start: int, stop: int, read_hashes: Read) -> Report:
        report, leaves = self.report, bytes(self.leaves)
        report.start, report.stop, report.sound = start, stop, True
        report.lines = count = len(leaves) // _HASH
        if not count:
            return report
        base, end = report.base, report.base + count
        report.last_leaf = leaves[-_HASH:]
        if not self.based:
            report.base, report.head = -1, leaves
            return report
        stored = read_hashes(base * _HASH, end * _HASH)
        report.stored = leaves[: len(stored)] == stored
        first = min(-base % _WIDTH, count)
        last = first + (count - first) // _WIDTH * _WIDTH
        report.head, report.tail = leaves[: first * _HASH], leaves[last * _HASH :]
        step = _WIDTH * _HASH
        tiles = range(first * _HASH, last * _HASH, step)
        report.tiles = b"".join([fold_tile(leaves[at : at + step]) for at in tiles])
        report.first_time, report.last_time = self.times[0], self.times[-1]
        report.silences = [
            silence
            for (count, at), (_, after) in pairwise([*self.spans, (0, len(self.times))])
            for silence in find_silences(self.times[at:after], base + count)
        ]
        report.ids = _fingerprints("".join(self.ids))
        report.ends = array("Q", sorted(self.ends)).tobytes()
        report.intents, report.answered = dict(_open_intents(self.intents)), self.answered
        return report


def _open_intents(events: dict[str, Line]) -> Iterator[tuple[str, Intent]]:
    for event_id, event in events.items():
        metadata = {} if event.metadata is UNSET else event.metadata
        deadline, cause = metadata.get("deadline_s"), event.correlation_id
        if metadata.get("phase") == "intent" and isinstance(deadline, int | float):
            seconds = float(max(-_LONGEST, min(deadline, _LONGEST)))
            yield event_id, Intent(event.seq, event.timestamp, seconds, "" if cause is UNSET else cause)


def _check_times(times: list[str]) -> None:
    """Doubt times that are not 27 characters of a moment that exists."""
    joined = "".join(times).encode()
    if joined.translate(_DIGITS) != _TIME_FORM * len(times):
        raise _Doubt
    if (joined[14::_TIME_BYTES] + joined[17::_TIME_BYTES]).translate(None, b"012345"):
        raise _Doubt
    if not all(is_time(hour + ":00:00.000000Z") for hour in {time[:13] for time in times}):
        raise _Doubt


def _fingerprints(ids: str) -> bytes:
    """The last 64 bits of each id (36 characters), sorted, as numbers of this machine."""
    numbers = array("Q", bytes.fromhex(ids.replace("-", "")))[1::2]
    if sys.byteorder == "little":
        numbers.byteswap()
    return array("Q", sorted(numbers)).tobytes()


def _limit(time: str) -> str:
    try:
        return format_time(dt.datetime.fromisoformat(time) + HEARTBEAT_LIMIT)
    except OverflowError:
        return _LATEST


def find_silences(times: list[str], base: int) -> list[Silence]:
    """Find where two neighbours of the ascending `times` lie further apart than a heartbeat allows.

    `base` is the entry of `times[0]`. Steps from hour to hour, not from entry to entry.
    """
    found: list[Silence] = []
    at = 0
    while at < len(times) - 1:
        after = bisect_right(times, _limit(times[at]), at)
        if after == at + 1 and after < len(times):
            found.append(Silence(base + after, times[at], times[after]))
        at = max(after - 1, at + 1)
    return found
