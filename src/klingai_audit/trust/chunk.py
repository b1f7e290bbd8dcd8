"""What travels between verification and its workers: a range of a day file to scan, and what was found there.

A range `[begin, end)` of bytes stands for the lines whose first byte lies in it, so ranges that tile a file
tile its lines. Callers: `scan`, `pool`, `verify`.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

__all__ = ["Intent", "Read", "Report", "Silence", "Task"]


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
    says why the file could not be read.
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
