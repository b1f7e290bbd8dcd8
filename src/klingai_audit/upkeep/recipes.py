"""The log lines of the two published audit-logging recipes: read, recognised, and held against their own checks.

`checksum-lines`: one JSON object a line, each with a checksum of its own. `hash-chain`: one JSON object a line, each
with the hash of the line before. Both cut SHA-256 to 16 hex digits and have no key, so what they prove is little:
whoever could write the file could make it so. What they say is recorded, line by line. Pure; docs/import.md.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal

__all__ = [
    "GENESIS",
    "MAX_LINE_BYTES",
    "BadLine",
    "Chain",
    "ChainState",
    "Checksum",
    "Format",
    "OldLine",
    "chain_hash",
    "line_checksum",
    "parse_line",
]

Format = Literal["checksum-lines", "hash-chain"]
Checksum = Literal["ok", "bad", "absent"]
ChainState = Literal["ok", "restart", "interleaved", "open", "broken", "absent"]

MAX_LINE_BYTES: Final = 1024 * 1024
"""Longest line that is read; an entry holds at most 65,338 bytes of it."""

GENESIS: Final = "genesis"
"""What stands for the hash before the first line of a process."""

_HEX_DIGITS: Final = 16
_CHECKED: Final = ("event_id", "timestamp", "event_type", "actor_id", "action")
_CHAINED: Final = ("timestamp", "event_type", "actor", "details")


class BadLine(ValueError):
    """A line that cannot be taken over; the text says why and holds nothing of the line."""


@dataclass(frozen=True, slots=True)
class OldLine:
    """One line: its members as decoded, and whether its own checksum holds. The repr shows no values."""

    format: Format
    members: Mapping[str, Any] = field(repr=False)
    checksum: Checksum

    @property
    def previous(self) -> Any:
        """The hash that the line names as that of the line before; None if it names none."""
        return self.members.get("prev_hash")

    @property
    def hash(self) -> Any:
        """The hash that the line states for itself."""
        return self.members.get("hash")


def parse_line(raw: bytes) -> OldLine:
    """Read one line without its end. Raises: BadLine."""
    if len(raw) > MAX_LINE_BYTES:
        raise BadLine(f"it is longer than {MAX_LINE_BYTES:,} bytes")
    if not raw.strip():
        raise BadLine("it is empty")
    members = _decode(raw)
    if "actor_id" in members or "checksum" in members:
        _demand(members, _CHECKED)
        return OldLine("checksum-lines", members, _compare(members.get("checksum"), line_checksum(members)))
    if "actor" in members:
        _demand(members, _CHAINED)
        return OldLine("hash-chain", members, _compare(members.get("hash"), chain_hash(members)))
    raise BadLine("it is of neither recipe: it has neither actor_id nor actor")


def line_checksum(members: Mapping[str, Any]) -> str:
    """Return the checksum that the first recipe gives a line: 16 hex digits over five members joined by colons."""
    return _digest(":".join(str(members[name]) for name in _CHECKED))


def chain_hash(members: Mapping[str, Any]) -> str:
    """Return the hash that the second recipe gives a line: 16 hex digits over its sorted JSON and the hash before."""
    rest = {name: value for name, value in members.items() if name != "hash"}
    return _digest(json.dumps(rest, sort_keys=True) + str(members.get("prev_hash")))


class Chain:
    """Follows the second recipe's chain through the lines of an import, file after file, in the order given."""

    def __init__(self) -> None:
        self._tips: set[str] = set()
        self._last: object = None
        self._begun = False
        self._first_of_file = True

    def next_file(self) -> None:
        """Begin another file: the chain of one process runs on over midnight."""
        self._first_of_file = True

    def follow(self, line: OldLine) -> ChainState:
        """Say how a line hangs on those before it.

        `ok`: on the line before, or the first line of a first process. `restart`: a new process began. `interleaved`:
        on an earlier line that nothing followed, so two processes wrote. `open`: the first line of a file hangs on one
        that is in no file of this import. `broken`: on nothing. `absent`: it names no hash before.
        """
        state = self._state(line.previous)
        if isinstance(line.previous, str):
            self._tips.discard(line.previous)
        if isinstance(line.hash, str):
            self._tips.add(line.hash)
        self._last, self._begun, self._first_of_file = line.hash, True, False
        return state

    def _state(self, previous: object) -> ChainState:
        if previous is None:
            return "absent"
        if previous == GENESIS:
            return "restart" if self._begun else "ok"
        if previous in self._tips:
            return "ok" if previous == self._last else "interleaved"
        return "open" if self._first_of_file else "broken"


def _decode(raw: bytes) -> dict[str, Any]:
    problem = ""
    members: Any = None
    try:
        members = json.loads(raw.decode("utf-8"), object_pairs_hook=_unique)
    except BadLine:
        problem = "it has a member twice"
    except UnicodeDecodeError:
        problem = "it is not UTF-8"
    except RecursionError:
        problem = "it is nested too deep"
    except ValueError:
        problem = "it is not JSON"
    # Raised outside the handlers: the decoder's error carries the line.
    if problem:
        raise BadLine(problem)
    if not isinstance(members, dict):
        raise BadLine("it is not a JSON object")
    return members


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise BadLine
    return members


def _demand(members: Mapping[str, Any], names: tuple[str, ...]) -> None:
    for name in names:
        if name not in members:
            raise BadLine(f"it has no {name}")


def _compare(stated: object, computed: str) -> Checksum:
    if stated is None:
        return "absent"
    return "ok" if stated == computed else "bad"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:_HEX_DIGITS]
