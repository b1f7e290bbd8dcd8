"""CloudEvents on their way in: attributes and `data` become one draft; nothing of them is dropped without a word.

`type` is `klingai-audit.` and the event type, as `export --format cloudevents` writes it. An entry of another log in
`data` keeps where it stood there. Source: CloudEvents 1.0.2, its JSON event format.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Mapping
from typing import Any, Final

import msgspec
from msgspec import UNSET

from klingai_audit.errors import InvalidEvent
from klingai_audit.event.context import OWN_ACTOR
from klingai_audit.event.record import Draft, is_end_id, is_event_id
from klingai_audit.event.types import EVENT_TYPES
from klingai_audit.exports.cloudevents import TYPE_PREFIX
from klingai_audit.ingest.wire import MEMBERS, CloudEvent, EventData
from klingai_audit.tlog.merkle import leaf_hash

__all__ = ["FORWARDED_PREFIX", "to_draft"]

FORWARDED_PREFIX: Final = "x_forwarded_"
"""Beginning of the types that another log's entries about itself become."""

_NAMESPACE: Final = uuid.UUID("6ba7b812-9dad-11d1-80b4-00c04fd430c8")
"""Of names in a namespace of their own (RFC 9562, the one for OIDs); the name is `source`, LF and `id`."""

_ATTRIBUTE: Final = re.compile(r"[a-z0-9]{1,20}").fullmatch
_CONTEXT: Final = frozenset(CloudEvent.__struct_fields__)
_OF_EXPORTS: Final = ("sequence", "leafhash", "treesize", "treeroot")
_OURS: Final = ("producer", "cloudevent")
_DATA: Final = msgspec.json.Decoder(EventData)
_ATTRIBUTES: Final = msgspec.json.Decoder(dict[str, msgspec.Raw])


def to_draft(event: CloudEvent, raw: bytes) -> Draft:
    """Return the draft of an event; `raw` is the JSON that it was read from.

    Raises: InvalidEvent, msgspec.ValidationError: what does not fit, by its place, never by its value.
    """
    data = _data_of(event)
    exported = data.seq is not None
    about: dict[str, Any] = {"source": event.source}
    if attributes := _attributes(raw, without=_OF_EXPORTS if exported else ()):
        about["attributes"] = attributes
    metadata = dict(data.metadata or {})
    taken = {name: metadata.pop(name) for name in _OURS if name in metadata}
    if taken and not exported:
        raise InvalidEvent(f"/data/metadata/{next(iter(taken))}: this name is kept for the endpoint")
    event_type = _type_of(event, data)
    if exported:
        about["entry"] = _place(event, data, raw)
        if taken:
            about["before"] = taken
        info = EVENT_TYPES.get(event_type)
        if info is not None and (info.own or info.category == "log"):
            about["type"], event_type = event_type, FORWARDED_PREFIX + event_type
    event_id = _id_of(event, data)
    if event_id != event.id:
        about["id"] = event.id
    if event.dataschema:
        about["dataschema"] = event.dataschema
    members: dict[str, Any] = {
        name: getattr(data, name) or None for name in MEMBERS if name not in ("metadata", "event_id")
    }
    members["timestamp"] = data.timestamp or event.time
    if event.subject is not None and not (data.resource_type or data.resource_id):
        kind, _, name = event.subject.partition("/")
        members["resource_type"], members["resource_id"] = kind or None, name or None
    if exported and data.actor_id == OWN_ACTOR:  # here that name is this log's own
        members["actor_id"] = event.source
    return Draft(event_type=event_type, event_id=event_id, metadata={**metadata, "cloudevent": about}, **members)


def _data_of(event: CloudEvent) -> EventData:
    if event.data is UNSET or bytes(event.data) == b"null":
        return EventData()
    try:
        return _DATA.decode(event.data)
    except msgspec.ValidationError as exc:
        raise msgspec.ValidationError(_below(str(exc), "data")) from None


def _below(message: str, name: str) -> str:
    head, at, path = message.rpartition(" - at `$")
    return f"{head} - at `$.{name}{path}" if at else f"{message} - at `$.{name}`"


def _type_of(event: CloudEvent, data: EventData) -> str:
    if not event.type.startswith(TYPE_PREFIX):
        raise InvalidEvent(
            f"/type: does not begin with {TYPE_PREFIX}",
            do=f"For events of your own: {TYPE_PREFIX}x_… (docs/events.md).",
        )
    name = event.type.removeprefix(TYPE_PREFIX)
    if data.event_type not in (None, name):
        raise InvalidEvent("/data/event_type: another one than in /type")
    return name


def _id_of(event: CloudEvent, data: EventData) -> str:
    """Return the CloudEvent's id if it can be an event id, else one that `source` and `id` always give."""
    if data.event_id is not None and data.event_id.lower() != event.id.lower():
        raise InvalidEvent("/data/event_id: another one than /id")
    lower = event.id.lower()
    if is_event_id(lower) and not is_end_id(lower):
        return lower
    return str(uuid.uuid5(_NAMESPACE, f"{event.source}\n{event.id}"))


def _attributes(raw: bytes, *, without: tuple[str, ...]) -> dict[str, Any]:
    """Return the attributes that the specification does not know. Raises: InvalidEvent."""
    found: dict[str, Any] = {}
    for name, value in _ATTRIBUTES.decode(raw).items():
        if name in _CONTEXT or name in without:
            continue
        plain = msgspec.json.decode(value)
        if not _ATTRIBUTE(name) or not isinstance(plain, str | int | bool | None):
            raise InvalidEvent("/: an attribute that CloudEvents do not allow")
        if plain is not None:
            found[name] = plain
    return found


def _place(event: CloudEvent, data: EventData, raw: bytes) -> Mapping[str, Any]:
    """Return where an exported entry stood in its own log, as its CloudEvent says, and whether it is unchanged."""
    said = _ATTRIBUTES.decode(raw)
    texts = {name: msgspec.json.decode(said[name]) for name in _OF_EXPORTS if name in said}
    place: dict[str, Any] = {"seq": data.seq, "logged_at": data.logged_at}
    for name, member in (("leafhash", "leaf_hash"), ("treesize", "tree_size"), ("treeroot", "tree_root")):
        if name in texts:
            place[member] = texts[name]
    entry = b"" if event.data is UNSET else bytes(event.data)
    place["unchanged"] = texts.get("leafhash") == leaf_hash(entry).hex()
    return place
