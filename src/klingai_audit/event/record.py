"""The event and its bytes: the only place that makes an `EncodedEvent`.

A `Draft` is what callers mean, raw, before privacy. An `Event` is the closed struct whose member order is
the byte order. An `EncodedEvent` is what the ledger accepts: UTF-8 JSON on one line that starts with
`{"schema":1,"event_id":"`, ends with `}` and holds no byte below 0x20.

The head of the body is positional, so that nobody parses JSON to learn it: `body[24:60]` is the event id,
`body[75:102]` the time, `body[118:…]` the event type up to the next quotation mark.

Source: docs/format.md, "Entries".
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Final

import msgspec
from msgspec import UNSET, UnsetType

from klingai_audit.errors import EventTooLarge, InvalidEvent, Malformed
from klingai_audit.event.clock import (
    end_event_id,
    format_time,
    is_day,
    is_end_id,
    is_event_id,
    is_time,
    new_event_id,
    parse_time,
)
from klingai_audit.event.plain import MAX_DEPTH, MAX_INTEGER, check_json, find_surrogate, pointer_of
from klingai_audit.event.types import is_canonical

__all__ = [
    "LEDGER_MEMBERS",
    "MAX_DEPTH",
    "MAX_EVENT_BYTES",
    "MAX_INTEGER",
    "MEMBERS",
    "OUTCOMES",
    "SCHEMA",
    "TEXT_MEMBERS",
    "Draft",
    "EncodedEvent",
    "Event",
    "canonical_body",
    "check_json",
    "decode_event",
    "encode_event",
    "end_event_id",
    "event_body",
    "format_time",
    "is_end_id",
    "is_event_id",
    "new_event_id",
    "parse_time",
    "pointer_of",
]

SCHEMA: Final = 1
"""Version of the event bytes; readers refuse what they do not know."""

MAX_EVENT_BYTES: Final = 65_338
"""Largest event body in bytes: 65,535 (C2SP tlog-tiles bundle limit) less 197 for the ledger's members."""

OUTCOMES: Final = frozenset({"success", "failure", "blocked", "unknown"})
"""`unknown`: the request left and no answer came."""

LEDGER_MEMBERS: Final = ("seq", "logged_at", "prev_hash", "seal")
"""Members that the ledger adds after the event's, always last and in this order; never event members."""

_LEDGER_TAIL: Final = re.compile(
    rb',"seq":(?:0|[1-9][0-9]{0,18}),"logged_at":"[0-9T:.Z-]{27}","prev_hash":"[0-9a-f]{64}"'
    rb'(?:,"seal":"[A-Za-z0-9_-]{43}")?\}\Z'
)
_LEDGER_TAIL_BYTES: Final = 256


class Draft(msgspec.Struct, frozen=True, kw_only=True):
    """One event as its caller means it: raw, before privacy. None and the empty string mean "no value".

    `timestamp` is an aware `datetime` or None for now. `metadata` may hold JSON values and
    `privacy.commitment.ToCommit`. The repr shows no values.
    """

    event_type: str
    actor_id: str | None = None
    actor_type: str | None = None
    on_behalf_of: str | None = None
    team: str | None = None
    project: str | None = None
    resource_type: str | None = None
    resource_id: str | None = None
    action: str | None = None
    outcome: str = "success"
    ip_address: str | None = None
    user_agent: str | None = None
    correlation_id: str | None = None
    request_id: str | None = None
    event_id: str | None = None
    timestamp: Any = None
    metadata: Mapping[str, Any] = MappingProxyType({})

    def replace(self, **changes: Any) -> Draft:
        """Return a copy with `changes`; the original stays as it is."""
        return msgspec.structs.replace(self, **changes)

    def with_metadata(self, **more: Any) -> Draft:
        """Return a copy whose metadata also holds `more`, which wins over what stood there."""
        return msgspec.structs.replace(self, metadata={**self.metadata, **more})

    def __repr__(self) -> str:
        given = [name for name in self.__struct_fields__ if getattr(self, name)]
        return f"Draft(<{', '.join(given)}>)"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        return [("given", [name for name in self.__struct_fields__ if getattr(self, name)])]


class Event(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The closed event; the order of the members is the order of the bytes.

    A member without a value is `UNSET` and left out of the bytes. `metadata` holds JSON values only; null
    stays null in there. The repr shows identity only.
    """

    schema: int = SCHEMA
    event_id: str
    timestamp: str
    event_type: str
    actor_id: str
    actor_type: str
    on_behalf_of: str | UnsetType = UNSET
    team: str | UnsetType = UNSET
    project: str | UnsetType = UNSET
    resource_type: str | UnsetType = UNSET
    resource_id: str | UnsetType = UNSET
    action: str | UnsetType = UNSET
    outcome: str
    ip_address: str | UnsetType = UNSET
    ip_ref: str | UnsetType = UNSET
    user_agent: str | UnsetType = UNSET
    correlation_id: str | UnsetType = UNSET
    request_id: str | UnsetType = UNSET
    metadata: dict[str, Any] | UnsetType = UNSET

    @property
    def details(self) -> dict[str, Any]:
        """The metadata, empty if the event has none."""
        return {} if self.metadata is UNSET else self.metadata

    def get(self, member: str) -> str | None:
        """Return the text member named `member`, or None if the event has none."""
        value = getattr(self, member)
        return None if value is UNSET else value

    def __repr__(self) -> str:
        return f"Event(event_id={self.event_id!r}, event_type={self.event_type!r})"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        return [("event_id", self.event_id), ("event_type", self.event_type)]


MEMBERS: Final[tuple[str, ...]] = Event.__struct_fields__
"""Names of all event members in byte order."""

TEXT_MEMBERS: Final = tuple(name for name in MEMBERS if name not in ("schema", "timestamp", "metadata"))
"""Names of the members that are text and no time, in byte order."""


class EncodedEvent:
    """Event bytes that the ledger accepts; made by `encode_event` only, never changed.

    `body` starts with `{"schema":1,"event_id":"`, ends with `}` and is at most 65,338 bytes.
    """

    __slots__ = ("body",)

    body: bytes

    def __init__(self) -> None:
        raise TypeError("EncodedEvent has no constructor: klingai_audit.event.record.encode_event makes it")

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError("an EncodedEvent does not change")

    def __delattr__(self, name: str) -> None:
        raise AttributeError("an EncodedEvent does not change")

    @property
    def event_id(self) -> str:
        """The 36 characters at `body[24:60]`."""
        return self.body[24:60].decode("ascii")

    @property
    def timestamp(self) -> str:
        """The 27 characters at `body[75:102]`."""
        return self.body[75:102].decode("ascii")

    @property
    def event_type(self) -> str:
        """The name that starts at `body[118]`."""
        return self.body[118 : self.body.index(b'"', 118)].decode("ascii")

    def __len__(self) -> int:
        return len(self.body)

    def __reduce__(self) -> tuple[object, ...]:
        raise TypeError("an EncodedEvent does not travel between processes: send the Event and encode it there")

    def __repr__(self) -> str:
        return f"EncodedEvent(event_id={self.event_id!r}, event_type={self.event_type!r}, bytes={len(self.body)})"


_encode: Final[Callable[[Event], bytes]] = msgspec.json.Encoder().encode
_decode: Final[Callable[[bytes], Event]] = msgspec.json.Decoder(Event).decode
_astuple: Final[Callable[[Event], tuple[Any, ...]]] = msgspec.structs.astuple
_set_body: Final[Callable[[EncodedEvent, bytes], None]] = vars(EncodedEvent)["body"].__set__
_ALWAYS: Final = frozenset({*MEMBERS[:6], "outcome"})
_METADATA: Final = MEMBERS.index("metadata")
_TEXT_TYPES: Final = frozenset({str, UnsetType})
# What stands at fixed places is checked there, once, after encoding.
_HEAD: Final = re.compile(
    rb'\{"schema":1,"event_id":"[0-9a-f]{8}-[0-9a-f]{4}-[1-8][0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}"'
    rb',"timestamp":"[0-9]{4}-[0-9]{2}-[0-9]{2}T(?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9]\.[0-9]{6}Z"'
    rb',"event_type":"[a-z0-9_]{1,64}","actor_id":"(?!")'
).match


def encode_event(event: Event, *, plain: bool = False) -> EncodedEvent:
    """Check an event and make its bytes.

    With `plain` the caller has looked at the types of all members and at the metadata, as `check_json` would: that is
    not done again. Raises: InvalidEvent: a member or metadata value that is not of its kind; the message names the JSON
    pointer and the type, never the value. EventTooLarge: names size and limit.
    """
    if type(event) is not Event:
        raise InvalidEvent(f"a value of type {type(event).__name__} is not an Event")
    if not plain:
        _check_types(event)
    if event.outcome not in OUTCOMES:
        raise _member_fault(event)
    try:
        body = _encode(event)
    except UnicodeEncodeError:
        body = b""
    # Raised outside the handler: the codec's error carries the text.
    head = _HEAD(body)
    if head is None or not event.actor_type or not is_canonical(event.event_type) or not is_day(event.timestamp[:10]):
        raise _member_fault(event)
    if len(body) > MAX_EVENT_BYTES:
        raise EventTooLarge(
            f"the event has {len(body):,} bytes, the limit is {MAX_EVENT_BYTES:,}",
            do="Shorten the metadata, or commit to the large value with privacy.commitment.ToCommit.",
        )
    encoded = object.__new__(EncodedEvent)
    _set_body(encoded, body)
    return encoded


def _check_types(event: Event) -> None:
    values = _astuple(event)
    metadata = values[_METADATA]
    if not _TEXT_TYPES.issuperset(map(type, values[1:_METADATA])):
        raise _member_fault(event)
    if metadata is not UNSET:
        if type(metadata) is not dict:
            raise _member_fault(event)
        check_json(metadata, "/metadata")


def canonical_body(event: Event) -> bytes:
    """Return the bytes that `encode_event` would make, without any check: for verification of stored events."""
    return _encode(event)


def event_body(line: bytes) -> bytes:
    """Return the event's own bytes of a log line: without the ledger's members, ending in `}`.

    The split is by position: only the last members of the line can be the ledger's. A line without them is
    returned as it is.
    """
    tail = _LEDGER_TAIL.search(line, max(0, len(line) - _LEDGER_TAIL_BYTES))
    return line if tail is None else line[: tail.start()] + b"}"


def decode_event(line: bytes) -> Event:
    """Read the event out of a log line or an event body.

    Duplicate members are not noticed here; whoever verifies compares `canonical_body` with `event_body`.
    Raises: Malformed, with no part of the line in its message.
    """
    try:
        event = _decode(event_body(line))
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        event = None
    # Raised outside the handler: the decoder's message may quote member names of a foreign line.
    if event is None:
        raise Malformed("the line is not an event of schema 1")
    if event.schema != SCHEMA:
        raise Malformed(f"the event's schema is not {SCHEMA}")
    if not (is_event_id(event.event_id) and is_time(event.timestamp) and event.outcome in OUTCOMES):
        raise Malformed("event_id, timestamp or outcome of the event is not of its form")
    return event


def _member_fault(event: Event) -> InvalidEvent:
    """Find what is wrong with the members of an event that did not pass, slowly and by name."""
    if type(event.schema) is not int or event.schema != SCHEMA:
        return InvalidEvent(f"/schema: is not {SCHEMA}")
    for name in MEMBERS[1:_METADATA]:
        value = getattr(event, name)
        if type(value) is not str and (value is not UNSET or name in _ALWAYS):
            return InvalidEvent(f"/{name}: a value of type {type(value).__name__}, expected str")
    if not is_event_id(event.event_id):
        return InvalidEvent("/event_id: not a UUID of 36 lowercase characters (RFC 9562)")
    if not is_time(event.timestamp):
        return InvalidEvent("/timestamp: not UTC time in the form 2026-11-21T19:28:23.123456Z")
    if not is_canonical(event.event_type):
        return InvalidEvent("/event_type: not a registered name and not an own x_… name")
    if not (event.actor_id and event.actor_type):
        return InvalidEvent("/actor_id, /actor_type: empty")
    if event.outcome not in OUTCOMES:
        return InvalidEvent(f"/outcome: not one of {', '.join(sorted(OUTCOMES))}")
    if event.metadata is not UNSET and type(event.metadata) is not dict:
        return InvalidEvent(f"/metadata: a value of type {type(event.metadata).__name__}, expected dict")
    where = find_surrogate({name: getattr(event, name) for name in MEMBERS})
    return InvalidEvent(f"{where}: text holds a lone surrogate, which UTF-8 cannot carry")
