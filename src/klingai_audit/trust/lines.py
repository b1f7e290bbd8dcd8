"""The slow look at single entries: what exactly is wrong with one, by the words of docs/format.md, section 2.

Used only where the fast path found bytes that it would not have written itself. Reads JSON with the standard
library, sees duplicate members, and spells canonical JSON out on its own.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from decimal import Decimal
from typing import Any, Final, NoReturn

from klingai_audit.event.clock import is_time
from klingai_audit.event.record import (
    LEDGER_MEMBERS,
    MAX_DEPTH,
    MAX_INTEGER,
    MEMBERS,
    OUTCOMES,
    SCHEMA,
    event_body,
    is_event_id,
)
from klingai_audit.ledger.line import LedgerMembers, parse_members
from klingai_audit.tlog.tile import MAX_ENTRY_BYTES
from klingai_audit.trust.chunk import Read

__all__ = ["Fault", "canonical", "count_lines", "examine", "read_lines", "split_lines"]

Fault = tuple[str, str]
"""Finding kind and what is wrong, without any of the entry's content."""

_ALWAYS: Final = ("schema", "event_id", "timestamp", "event_type", "actor_id", "actor_type", "outcome")
_TYPE: Final = re.compile(r"[a-z][a-z0-9_]*").fullmatch
_STRING_SPECIAL: Final = re.compile(r'["\\\x00-\x1f]')
_SHORT: Final = {'"': '\\"', "\\": "\\\\", "\b": "\\b", "\t": "\\t", "\n": "\\n", "\f": "\\f", "\r": "\\r"}
_PIECE: Final = 1 << 20
_PLAIN_EXPONENTS: Final = range(-5, 16)


def read_lines(read: Read, begin: int, end: int) -> Iterator[tuple[bytes, int, bool]]:
    """Yield (line without LF, its length, whether an LF ended it) of bytes `[begin, end)`, read a piece at a time.

    Of a line longer than any entry only the first `MAX_ENTRY_BYTES + 1` bytes are given. Raises: OSError.
    """
    kept, length = b"", 0
    while begin < end and (piece := read(begin, min(begin + _PIECE, end))):
        begin += len(piece)
        *whole, rest = piece.split(b"\n")
        for part in whole:
            length += len(part)
            yield (kept + part)[: MAX_ENTRY_BYTES + 1], length, True
            kept, length = b"", 0
        kept, length = (kept + rest)[: MAX_ENTRY_BYTES + 1], length + len(rest)
    if length:
        yield kept, length, False


def count_lines(read: Read, begin: int, end: int) -> int:
    """Count the LFs in bytes `[begin, end)`. Raises: OSError."""
    return sum(read(at, min(at + _PIECE, end)).count(b"\n") for at in range(begin, end, _PIECE))


def split_lines(data: bytes) -> Iterator[tuple[bytes, bool]]:
    """Yield (line without LF, whether an LF ended it)."""
    at = 0
    while at < len(data):
        end = data.find(b"\n", at)
        if end < 0:
            yield data[at:], False
            return
        yield data[at:end], True
        at = end + 1


def examine(line: bytes) -> tuple[LedgerMembers | None, list[Fault]]:
    """Read one entry slowly: its ledger members, and every fault of its form."""
    members = parse_members(line)
    for bad, what in (
        (not line, "The line is empty."),
        (line.startswith(b"\xef\xbb\xbf"), "The line begins with a byte order mark."),
        (line.endswith(b"\r"), "The line ends with a carriage return."),
    ):
        if bad:
            return members, [("entry_malformed", what)]
    if len(line) > MAX_ENTRY_BYTES:
        return members, [("entry_too_large", f"The entry has more than {MAX_ENTRY_BYTES} bytes.")]
    if (lowest := min(line)) < 0x20:
        return members, [("entry_malformed", f"The entry holds the byte {lowest:#04x}.")]
    reader = _Reader()
    try:
        event = json.loads(line, object_pairs_hook=reader.read, parse_constant=_constant)
    except (ValueError, RecursionError):
        return members, [("entry_malformed", "The entry is not one JSON object in UTF-8.")]
    if not isinstance(event, dict):
        return members, [("entry_malformed", "The entry is not a JSON object.")]
    if reader.twice:
        return members, [reader.fault()]
    return members, list(_faults(line, event, members))


class _Reader:
    """Builds objects for `json.loads` and notes names that come twice in one object."""

    def __init__(self) -> None:
        self.twice: list[str] = []
        self.top_twice: list[str] = []

    def read(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        names = [name for name, _ in pairs]
        self.top_twice = [name for name in found if names.count(name) > 1] if len(found) < len(pairs) else []
        self.twice += self.top_twice
        return found

    def fault(self) -> Fault:
        """Name the finding; the object read last is the outermost one."""
        ledger = [name for name in self.top_twice if name in LEDGER_MEMBERS]
        if ledger:
            return "ledger_member", f"{', '.join(ledger)} stands among the event's members too."
        if known := [name for name in self.top_twice if name in MEMBERS]:
            return "duplicate_member", f"The entry holds {known[0]} twice."
        return "duplicate_member", "An object in the entry holds one name twice."


def _constant(text: str) -> NoReturn:
    raise ValueError(text)


def _faults(line: bytes, event: dict[str, Any], members: LedgerMembers | None) -> Iterator[Fault]:
    names = list(event)
    if event.get("schema") != SCHEMA or isinstance(event.get("schema"), bool):
        yield "unknown_version", f"The entry's schema is not {SCHEMA}."
        return
    if members is None:
        yield "entry_malformed", "The entry does not end with seq, logged_at and prev_hash in their form."
        return
    misplaced = [name for name in LEDGER_MEMBERS if name in _event_names(line, event)]
    if misplaced:
        yield "ledger_member", f"{', '.join(misplaced)} stands among the event's members."
    unknown = set(names) - set(MEMBERS) - set(LEDGER_MEMBERS)
    if unknown:
        yield "entry_malformed", f"The entry has {len(unknown)} member(s) that the format does not know."
    elif [name for name in (*MEMBERS, *LEDGER_MEMBERS) if name in event] != names:
        yield "entry_malformed", "The entry's members are not in their order."
    for name in _ALWAYS:
        if name not in event:
            yield "entry_malformed", f"The entry has no {name}."
    yield from _members(event)
    try:
        same = canonical(event) == line
    except (ValueError, UnicodeEncodeError, RecursionError):
        same = False
    if not same and not misplaced:
        yield "entry_malformed", "The entry is not in the one JSON form: white space, escapes or numbers differ."


def _event_names(line: bytes, event: dict[str, Any]) -> list[str]:
    """Return the names that stand before the ledger's own members."""
    names = list(event)
    if event_body(line) == line:
        return names
    tail = 4 if names[-1] == "seal" else 3
    return names[:-tail]


def _members(event: dict[str, Any]) -> Iterator[Fault]:
    for name, value in event.items():
        if name in ("schema", "seq"):
            fine = type(value) is int
        elif name == "metadata":
            fine = isinstance(value, dict) and _is_plain(value, 1)
        else:
            fine = isinstance(value, str)
        if not fine and (name in MEMBERS or name in LEDGER_MEMBERS):
            yield "entry_malformed", f"{name} is not of its type, or beyond the limits of the format."
            return
    forms = {
        "event_id": is_event_id(event.get("event_id", "")),
        "timestamp": is_time(event.get("timestamp", "")),
        "logged_at": is_time(event.get("logged_at", "")),
        "event_type": bool(_TYPE(event.get("event_type", ""))),
        "outcome": event.get("outcome") in OUTCOMES,
    }
    for name, fine in forms.items():
        if not fine and name in event:
            yield "entry_malformed", f"{name} is not of its form."


def _is_plain(value: object, level: int) -> bool:
    if isinstance(value, dict | list):
        inner = value.values() if isinstance(value, dict) else value
        return level <= MAX_DEPTH and all(_is_plain(item, level + 1) for item in inner)
    return type(value) is not int or -MAX_INTEGER <= value <= MAX_INTEGER


def canonical(value: object) -> bytes:
    """Spell a JSON value in the one form of docs/format.md. Raises: ValueError, UnicodeEncodeError."""
    return "".join(_spell(value)).encode()


def _spell(value: object) -> Iterator[str]:
    if value is None or isinstance(value, bool):
        yield {None: "null", True: "true", False: "false"}[value]
    elif isinstance(value, str):
        yield f'"{_STRING_SPECIAL.sub(_escape, value)}"'
    elif isinstance(value, int):
        yield str(value)
    elif isinstance(value, float):
        yield _spell_float(value)
    elif isinstance(value, dict):
        for number, (name, item) in enumerate(value.items()):
            yield "," if number else "{"
            yield from _spell(name)
            yield ":"
            yield from _spell(item)
        yield "}" if value else "{}"
    elif isinstance(value, list):
        for number, item in enumerate(value):
            yield "," if number else "["
            yield from _spell(item)
        yield "]" if value else "[]"
    else:
        raise ValueError("not JSON")


def _escape(match: re.Match[str]) -> str:
    char = match[0]
    return _SHORT.get(char) or f"\\u{ord(char):04x}"


def _spell_float(value: float) -> str:
    sign, digits, exponent = Decimal(repr(value)).as_tuple()
    if not isinstance(exponent, int):
        raise ValueError("not finite")  # noqa: TRY004  # the value is off, not its type
    minus = "-" if sign else ""
    text = "".join(map(str, digits)).rstrip("0")
    if not text:
        return f"{minus}0.0"
    place = len(digits) - 1 + exponent
    if place not in _PLAIN_EXPONENTS:
        return f"{minus}{text[0]}{'.' if text[1:] else ''}{text[1:]}e{place}"
    if place < 0:
        return f"{minus}0.{'0' * (-place - 1)}{text}"
    whole, part = text[: place + 1].ljust(place + 1, "0"), text[place + 1 :]
    return f"{minus}{whole}.{part or '0'}"
