"""What travels between verification and its workers: a range of a day file to scan, and what was found there.

A range `[begin, end)` of bytes stands for the lines whose first byte lies in it, so ranges that tile a file
tile its lines. Callers: `scan`, `pool`, `verify`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

import msgspec

__all__ = ["Intent", "Purged", "PurgedRun", "Read", "Report", "Silence", "Task", "join_runs"]


Read = Callable[[int, int], bytes]
"""`(begin, end)` -> bytes `[begin, end)` of one file, fewer where it ends."""


class Task(msgspec.Struct, array_like=True, frozen=True):
    """One range to scan.

    `path` is where the day file can be opened (None: only in this process), `day` the day its name states.
    Bytes from `length` on are ignored; the byte before is an LF. `hashes` is the path of `tree/0`, None if there
    is none. `decode` asks for the format and semantics of every entry too, not only for links and leaves.
    """

    number: int
    path: str | None
    day: str
    begin: int
    end: int
    length: int
    hashes: str | None
    decode: bool


class Silence(msgspec.Struct, array_like=True, frozen=True):
    """Over an hour between entry `seq - 1` and entry `seq`, by `logged_at`."""

    seq: int
    since: str
    until: str


class Intent(msgspec.Struct, array_like=True, frozen=True):
    """An announced act: entry, its time, the seconds after which its outcome is due, and its correlation id."""

    seq: int
    timestamp: str
    deadline_s: float
    cause: str


class Purged(NamedTuple):
    """Entries `[begin, end)` are purged, by what entry `by` says."""

    begin: int
    end: int
    by: int


class PurgedRun(msgspec.Struct, array_like=True, frozen=True):
    """Lines `[begin, end)` of a range, counted from its first one, stand for entries that entry `by` had purged."""

    begin: int
    end: int
    by: int


class Report(msgspec.Struct, array_like=True):
    """What a range holds.

    `lines` lines lie at bytes `[start, stop)`. If not `sound`, something in it is off and only these numbers
    count. Otherwise the lines are the entries `[base, base + lines)` and link among each other: `first_prev` is
    the first one's `prev_hash`, `last_leaf` the last one's leaf hash. Leaf hashes come in three parts: `head`
    (32 bytes each) up to the first multiple of 256, `tiles` (the 32-byte roots of every 256), `tail` the rest.
    `stored` tells whether `tree/0` holds the same hashes as far as it goes; `sealed` whether the last line has a
    seal. `own` holds entries of the types that verification reads. `ids` and `ends` are sorted 64-bit
    fingerprints of event ids and of ended tasks; `intents` are those that no entry of the range names, by event
    id; `answered` are ids that entries name as their intent and that are not in the range before them. `error`
    says why the file could not be read. `purged` are the purged lines; if the range begins with one, `first_prev` is
    empty, and if it holds nothing else, `base` is -1 (the lines do not tell) and all leaf hashes are in `head`.
    """

    number: int
    start: int
    stop: int
    lines: int
    sound: bool = False
    base: int = 0
    first_prev: bytes = b""
    last_leaf: bytes = b""
    head: bytes = b""
    tiles: bytes = b""
    tail: bytes = b""
    stored: bool = False
    sealed: bool = False
    first_time: str = ""
    last_time: str = ""
    own: list[tuple[int, bytes]] = []
    silences: list[Silence] = []
    ids: bytes = b""
    ends: bytes = b""
    intents: dict[str, Intent] = {}
    answered: list[str] = []
    error: str = ""
    purged: list[PurgedRun] = []


def join_runs(runs: Iterable[Purged]) -> list[Purged]:
    """Join neighbours of one authority, and what two stretches of it have in common; `runs` ascend."""
    joined: list[Purged] = []
    for run in runs:
        if joined and joined[-1].by == run.by and run.begin <= joined[-1].end:
            joined[-1] = joined[-1]._replace(end=max(joined[-1].end, run.end))
        else:
            joined.append(run)
    return joined
