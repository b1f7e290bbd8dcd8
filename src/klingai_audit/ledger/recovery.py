"""Which lines that no checkpoint covers were acknowledged: those up to the last valid seal.

What follows is put aside. A valid seal behind a line that does not fit is damage: somebody changed what was
acknowledged. A copy of an earlier entry is no such line: it is a forgery like others. Two exceptions. A page that
never reached the disk when power was lost reads as zero bytes, and the rest of that last batch, its seal included,
may stand behind it: nobody was told of that batch. And bytes that something else wrote between two batches are
foreign if the links and seals go on behind them without a gap: then no line of ours is missing or changed, and they
alone go. (A writer that finds its batch behind such bytes takes it back; one that dies before it could leaves this.)
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

from klingai_audit.errors import LogDamaged
from klingai_audit.ledger.keys import KeyFolder
from klingai_audit.ledger.line import has_valid_seal, is_rotation, parse_members
from klingai_audit.ledger.state import StateFolder
from klingai_audit.tlog.merkle import leaf_hash

__all__ = ["Counted", "Foreign", "Recovered", "aside", "count_acknowledged", "foreign_bytes", "joined"]

MAX_STARTS: Final = 64
"""Places in one line where an entry may begin that are tried, from the last one back."""

_BEGINNING: Final = re.compile(rb'\{"schema":')


class Foreign(NamedTuple):
    """Bytes of no writer: the first `length` bytes of line number `line`, or all of it with its LF (`length` None)."""

    line: int
    length: int | None


class Counted(NamedTuple):
    """The first `accepted` lines were acknowledged; more may have been, once the `foreign` bytes are taken out."""

    accepted: int
    foreign: tuple[Foreign, ...] = ()


def count_acknowledged(lines: Sequence[bytes], size: int, prev: bytes, keys: KeyFolder, where: str) -> Counted:
    """Count these unsigned lines, the first of which should be entry `size`.

    `prev` is the 32-byte leaf hash of the entry before. Raises: LogDamaged; what reading keys raises.
    """
    origin, tail = keys.origin, keys.current.tail
    seq, accepted, link = size, 0, prev
    for index, line in enumerate(lines):
        members = parse_members(line)
        if members is None or members.seq != seq or members.prev_hash != prev:
            break
        seq, prev = seq + 1, leaf_hash(line)
        if members.seal is not None and has_valid_seal(tail, origin, line):
            accepted, link = index + 1, prev
            if accepted < len(lines) and is_rotation(line):
                keys.resume()
                tail = keys.current.tail
    if accepted == len(lines):
        return Counted(accepted)
    behind = _follow(lines, accepted, size + accepted, link, keys)
    own = size + accepted + len(behind.lines)
    sealed = [
        index
        for index in range(accepted, len(lines))
        if index not in behind.lines
        and has_valid_seal(keys.current.tail, origin, lines[index])
        and not _is_replay(lines[index], own)
    ]
    if sealed and (behind.lines or not _lost_with_power(lines[accepted:], sealed[0] - accepted)):
        raise LogDamaged(
            f"Acknowledged entries of {where} after the first {size + accepted} were changed.",
            kind_of_damage="entry_changed",
        )
    return Counted(accepted, behind.foreign)


def foreign_bytes(lines: Sequence[bytes], foreign: Sequence[Foreign]) -> bytes:
    """Return the bytes that are foreign, one piece after the other."""
    pieces = ((lines[index], length) for index, length in foreign)
    return b"".join(line + b"\n" if length is None else line[:length] for line, length in pieces)


class _Behind(NamedTuple):
    """Lines that go on where the accepted ones end, up to a valid seal, and what stands between them."""

    lines: frozenset[int]
    foreign: tuple[Foreign, ...]


def _follow(lines: Sequence[bytes], index: int, seq: int, prev: bytes, keys: KeyFolder) -> _Behind:
    """Look from line `index` on for the batches whose links begin with entry `seq` and the hash `prev`."""
    sealed = _Behind(frozenset(), ())
    used: set[int] = set()
    foreign: list[Foreign] = []
    while (found := _next_link(lines, index, seq, prev, keys)) is not None:
        at, start = found
        foreign += [Foreign(skipped, None) for skipped in range(index, at)]
        foreign += [Foreign(at, start)] if start else []
        line = lines[at][start:]
        used.add(at)
        seq, prev, index = seq + 1, leaf_hash(line), at + 1
        if has_valid_seal(keys.current.tail, keys.origin, line):
            sealed = _Behind(frozenset(used), tuple(foreign))
            if is_rotation(line):
                keys.resume()
    return sealed


def _next_link(lines: Sequence[bytes], index: int, seq: int, prev: bytes, keys: KeyFolder) -> tuple[int, int] | None:
    """The next line that says it is entry `seq` behind `prev`, and where in it that entry begins."""
    for at in range(index, len(lines)):
        members = parse_members(lines[at])
        if members is not None and members.seq == seq and members.prev_hash == prev:
            start = _start_of(lines[at], lines[at + 1] if at + 1 < len(lines) else b"", keys)
            if start is not None:
                return at, start
    return None


def _start_of(line: bytes, following: bytes, keys: KeyFolder) -> int | None:
    """Where an entry begins that may stand behind foreign bytes on its line: its seal, or the next link, must fit."""
    starts = [match.start() for match in _BEGINNING.finditer(line)][-MAX_STARTS:]
    if starts == [0]:
        return 0
    after = parse_members(following)
    for start in starts:
        entry = line[start:]
        if has_valid_seal(keys.current.tail, keys.origin, entry):
            return start
        if after is not None and after.prev_hash == leaf_hash(entry):
            return start
    return None


def _is_replay(line: bytes, acknowledged: int) -> bool:
    """Tell whether a sealed line is a copy of one that stands before; anybody can append such a copy."""
    members = parse_members(line)
    return members is not None and members.seq < acknowledged


def _lost_with_power(lines: Sequence[bytes], first_sealed: int) -> bool:
    """Tell whether these lines are one batch with zero bytes in it, its sealed end intact."""
    return first_sealed == len(lines) - 1 and any(b"\0" in line for line in lines)


def aside(name: str, length: int) -> dict[str, Any]:
    """Return what `log_recovered` says of bytes put aside: their SHA-256 in hex and how many they are."""
    return {"set_aside": {"sha256": name, "bytes": length}}


def joined(found: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the metadata of as few `log_recovered` entries as what was found fits into."""
    entries: list[dict[str, Any]] = []
    for one in found:
        if entries and not entries[-1].keys() & one.keys():
            entries[-1] |= one
        else:
            entries.append(dict(one))
    return [{name: one[name] for name in ("entries", "set_aside", "state_missing") if name in one} for one in entries]


class Recovered:
    """What one writer found or put aside and no entry tells yet. Used under the writer lock."""

    def __init__(self, state: StateFolder) -> None:
        self._state = state
        self._found: list[dict[str, Any]] = []

    def begin(self, *, state_missing: bool) -> None:
        """Take up what earlier writers put aside; `state_missing` tells that the state folder was lost."""
        self._found = [aside(name, length) for name, length in self._state.unrecorded()]
        if state_missing:
            self._found.append({"state_missing": True})

    def keep(self, data: bytes, **told: int) -> None:
        """Put bytes aside; durable on return. Raises: AuditUnavailable, SyncFailed."""
        found = aside(self._state.put_aside(data), len(data))
        self._found = [other for other in self._found if other.get("set_aside") != found["set_aside"]]
        self._found.append({**told, **found})

    def metadata(self) -> list[dict[str, Any]]:
        """Return the metadata of the `log_recovered` entries that are due."""
        if self._state.restored:
            self._state.restored = False
            self._found.append({"state_missing": True})
        return joined(self._found)

    def told(self, metadata: Sequence[Mapping[str, Any]]) -> None:
        """Note that those entries are durable."""
        self._found.clear()
        for one in metadata:
            if "set_aside" in one:
                self._state.recorded(one["set_aside"]["sha256"])
