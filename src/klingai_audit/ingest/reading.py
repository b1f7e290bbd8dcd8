"""From a body to drafts: JSON lines, one JSON object, CloudEvents. Everything that is wrong is told with its place."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from klingai_audit.errors import InvalidEvent
from klingai_audit.event.record import Draft
from klingai_audit.ingest import cloudevents
from klingai_audit.ingest.wire import (
    CLOUDEVENT,
    CLOUDEVENTS,
    JSON,
    JSON_LINES,
    MEMBERS,
    CloudEvent,
    Event,
    Fault,
    Refused,
)

__all__ = ["Given", "fault_of", "media_type_of", "read_events", "refused_events"]

_RESERVED: Final = ("producer", "cloudevent")
_EVENT: Final = msgspec.json.Decoder(Event)
_CLOUDEVENT: Final = msgspec.json.Decoder(CloudEvent)
_BATCH: Final = msgspec.json.Decoder(list[CloudEvent])
_RAWS: Final = msgspec.json.Decoder(list[msgspec.Raw])
_BLANK: Final = b" \t\r"
_CLIPPED: Final = 64
_PATH: Final = re.compile(r"(?P<reason>.*?)(?: - at `(?P<key>key in )?\$(?P<path>.*)`)?", re.DOTALL)
_UNKNOWN: Final = re.compile(r"Object contains unknown field `(.*)`", re.DOTALL)
_MISSING: Final = re.compile(r"Object missing required field `(.*)`", re.DOTALL)
_CHARSET: Final = re.compile(r'charset=(?:utf-8|"utf-8")', re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Given:
    """One event of a request: its index, its line (None where there are no lines), what it says, raw.

    `timed` tells whether it says when it happened; the draft's `event_id` is None if it came without one.
    """

    at: int
    line: int | None
    draft: Draft
    timed: bool

    def fault(self, message: str, do: str = "") -> Fault:
        """Say what is wrong with it."""
        return Fault(at=self.at, line=msgspec.UNSET if self.line is None else self.line, message=message, do=do)


def media_type_of(header: str | None, *, binary: bool) -> str:
    """Return which of the four media types a body is of; `binary` if CloudEvents attributes stand in headers.

    Raises: Refused (415).
    """
    name, _, parameters = (header or "").partition(";")
    name = name.strip().lower()
    plain = all(_CHARSET.fullmatch(part.strip()) for part in parameters.split(";") if part.strip())
    if binary:
        raise Refused(
            415,
            "media_type_unknown",
            "CloudEvents in binary mode, with attributes in headers, are not read here.",
            do=f"Send them in structured mode: {CLOUDEVENT} or {CLOUDEVENTS}",
        )
    if name not in _READERS or not plain:
        raise Refused(
            415,
            "media_type_unknown",
            "The body is of a media type, or of a charset, that is not read here.",
            do=f"Use {', '.join(_READERS)}, in UTF-8.",
            headers=(("Accept-Post", ", ".join(_READERS)),),
        )
    return name


def read_events(body: bytes, media_type: str, limit: int) -> list[Given]:
    """Return the events of a body in order, at least one and at most `limit`.

    Raises: Refused (400: no JSON, 413: more of them, 422: what is no event; it lists all that are at fault).
    """
    found = _READERS[media_type](body, limit)
    if not found:
        raise Refused(422, "invalid_event", "The body holds no event.", do="Send at least one.")
    return found


def refused_events(faults: list[Fault], *, status: int = 422, kind: str = "invalid_event") -> Refused:
    """Return the refusal of a request because of these events."""
    first = faults[0]
    line = "" if isinstance(first.line, msgspec.UnsetType) else f" (line {first.line})"
    count = f"{len(faults)} events are" if len(faults) > 1 else "One event is"
    return Refused(
        status,
        kind,
        f"{count} at fault, so nothing was recorded. Event {first.at}{line}: {first.message}",
        do=first.do,
        faults=tuple(faults),
    )


def fault_of(exc: Exception) -> tuple[str, str]:
    """Return what is wrong, the place first, and what to do; no value of the event is repeated."""
    if isinstance(exc, InvalidEvent):
        return exc.message, exc.do
    if not isinstance(exc, msgspec.ValidationError):
        return "not JSON in UTF-8", ""
    found = _PATH.fullmatch(str(exc))
    reason, path = (found["reason"], found["path"] or "") if found else ("not of its form", "")
    pointer = re.sub(r"\[([^\]]*)\]", r"/\1", path.replace("[...]", "/…").replace(".", "/"))
    if name := _UNKNOWN.fullmatch(reason):
        return f"{pointer}/{name[1][:_CLIPPED]}: there is no such member", "docs/ingest.md lists them."
    if name := _MISSING.fullmatch(reason):
        return f"{pointer}/{name[1]}: missing", ""
    if "Invalid enum value" in reason or "matching regex" in reason:
        reason = "not of its form"
    return f"{pointer or '/'}: {reason[:1].lower()}{reason[1:]}", ""


# --- the four kinds --------------------------------------------------------------------------------------------


def _lines(body: bytes, limit: int) -> list[Given]:
    if body.count(b"\n") > 2 * limit:
        raise _too_many(limit)
    lines = [(number, line.strip(_BLANK)) for number, line in enumerate(body.split(b"\n"), 1)]
    lines = [(number, line) for number, line in lines if line]
    if len(lines) > limit:
        raise _too_many(limit)
    found: list[Given] = []
    faults: list[Fault] = []
    for at, (number, line) in enumerate(lines):
        try:
            found.append(_event(line, at, number))
        except _UNREADABLE as exc:
            message, do = fault_of(exc)
            faults.append(Fault(at=at, line=number, message=message, do=do))
    if faults:
        raise refused_events(faults)
    return found


def _one(body: bytes, _limit: int) -> list[Given]:
    return [_only(lambda: _event(body, 0, None))]


def _cloudevent(body: bytes, _limit: int) -> list[Given]:
    return [_only(lambda: _from_cloudevent(_CLOUDEVENT.decode(body), body, 0))]


def _batch(body: bytes, limit: int) -> list[Given]:
    try:
        events = _BATCH.decode(body)
    except _UNREADABLE as exc:
        raise _unreadable(exc) from None
    if len(events) > limit:
        raise _too_many(limit)
    found: list[Given] = []
    faults: list[Fault] = []
    for at, (event, raw) in enumerate(zip(events, _RAWS.decode(body), strict=True)):
        try:
            found.append(_from_cloudevent(event, bytes(raw), at))
        except _UNREADABLE as exc:
            message, do = fault_of(exc)
            faults.append(Fault(at=at, message=message, do=do))
    if faults:
        raise refused_events(faults)
    return found


_READERS: Final[dict[str, Callable[[bytes, int], list[Given]]]] = {
    JSON_LINES: _lines,
    JSON: _one,
    CLOUDEVENT: _cloudevent,
    CLOUDEVENTS: _batch,
}
_UNREADABLE: Final = (InvalidEvent, msgspec.MsgspecError, UnicodeDecodeError, RecursionError)


def _only(read: Callable[[], Given]) -> Given:
    try:
        return read()
    except _UNREADABLE as exc:
        raise _unreadable(exc) from None


def _unreadable(exc: Exception) -> Refused:
    message, do = fault_of(exc)
    if isinstance(exc, InvalidEvent | msgspec.ValidationError):
        return refused_events([Fault(at=0, message=message, do=do)])
    return Refused(400, "malformed", f"The body is {message}.", do=do)


def _event(data: bytes, at: int, line: int | None) -> Given:
    event = _EVENT.decode(data)
    metadata = event.metadata or {}
    for name in _RESERVED:
        if name in metadata:
            raise InvalidEvent(f"/metadata/{name}: this name is kept for the endpoint", do="Choose another name.")
    members = {name: getattr(event, name) for name in MEMBERS if name != "metadata"}
    draft = Draft(event_type=event.event_type, metadata=metadata, **_without_empty(members))
    return Given(at, line, draft, event.timestamp is not None)


def _from_cloudevent(event: CloudEvent, raw: bytes, at: int) -> Given:
    draft = cloudevents.to_draft(event, raw)
    return Given(at, None, draft, draft.timestamp is not None)


def _without_empty(members: dict[str, Any]) -> dict[str, Any]:
    return {name: value or None for name, value in members.items()}


def _too_many(limit: int) -> Refused:
    return Refused(413, "too_many_events", f"The body holds more than {limit:,} events.", do="Send fewer at once.")
