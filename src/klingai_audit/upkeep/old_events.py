"""What a line of a recipe's log becomes: a draft, before privacy. The map, member by member: docs/import.md.

Nothing is dropped without a word: what has no place of its own goes into `metadata.import`, but for what would let
others guess content (the checksums and hashes themselves: they are not keyed).
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from klingai_audit.errors import UnknownEventType
from klingai_audit.event.record import MAX_INTEGER, OUTCOMES, Draft, is_end_id, is_event_id
from klingai_audit.event.types import EVENT_TYPES, canonical_type
from klingai_audit.kling.reply import STATUS_WORDS
from klingai_audit.privacy.commitment import ToCommit
from klingai_audit.privacy.door import missing_members
from klingai_audit.privacy.masks import canonical_ip, is_masked_ip, mask_text
from klingai_audit.privacy.secrets import scrub_text
from klingai_audit.upkeep.recipes import BadLine, OldLine

__all__ = ["IMPORTED_PREFIX", "OldEvent", "read_event"]

IMPORTED_PREFIX: Final = "x_import_"
"""Beginning of the event types that unknown names become."""

_REDACTED: Final = "***REDACTED***"
_MAX_NAME: Final = 64
_MAX_LEVELS: Final = 64
_OUTCOMES_OF_STATE: Final = {"succeeded": "success", "failed": "failure"}

_SHARED: Final = ("event_id", "timestamp", "event_type", "actor_id", "actor_type", "resource_type", "resource_id")
_KNOWN: Final = {
    "checksum-lines": frozenset({*_SHARED, "action", "outcome", "ip_address", "user_agent", "metadata", "checksum"}),
    "hash-chain": frozenset({"timestamp", "event_type", "actor", "details", "prev_hash", "hash"}),
}


@dataclass(frozen=True, slots=True)
class OldEvent:
    """A line as a draft without `event_id` and without what the import adds; `event_id` is the line's own, if usable.

    `notes` is what of the line has no member of its own, for `metadata.import`.
    """

    draft: Draft
    event_id: str | None
    notes: dict[str, Any]


def read_event(line: OldLine) -> OldEvent:
    """Turn a line into a draft. Raises: BadLine."""
    if line.format == "checksum-lines":
        return _checksum_line(line.members)
    return _chain_line(line.members)


def _checksum_line(members: Mapping[str, Any]) -> OldEvent:
    notes: dict[str, Any] = {}
    event_id = _event_id(members["event_id"], notes)
    details = members.get("metadata")
    if details is not None and not isinstance(details, Mapping):
        raise BadLine("its metadata is not an object")
    draft = Draft(
        event_type="",
        actor_id=_text(members, "actor_id"),
        actor_type=_text(members, "actor_type"),
        resource_type=_text(members, "resource_type"),
        resource_id=_text(members, "resource_id"),
        action=_text(members, "action"),
        outcome=_outcome(members.get("outcome"), notes),
        ip_address=_address(_text(members, "ip_address"), notes),
        user_agent=_text(members, "user_agent"),
        timestamp=_moment(members["timestamp"]),
        metadata=_details(details or {}, notes),
    )
    return _finished(draft, members, event_id, notes, "checksum-lines")


def _chain_line(members: Mapping[str, Any]) -> OldEvent:
    notes: dict[str, Any] = {}
    details = members["details"]
    if not isinstance(details, Mapping):
        raise BadLine("its details is not an object")
    kept = dict(details)
    action = kept.pop("action", None) if isinstance(details.get("action"), str) else None
    draft = Draft(
        event_type="",
        actor_id=_text(members, "actor"),
        actor_type="system" if members["actor"] == "system" else None,
        action=action,
        outcome=_stated_outcome(details),
        timestamp=_moment(members["timestamp"]),
        metadata=_details(kept, notes),
    )
    return _finished(draft, members, None, notes, "hash-chain")


def _finished(
    draft: Draft, members: Mapping[str, Any], event_id: str | None, notes: dict[str, Any], format: str
) -> OldEvent:
    """Fill in type and actor, and keep what nobody expected."""
    name = members["event_type"]
    if not isinstance(name, str) or not name:
        raise BadLine("its event_type is not a text")
    if not draft.actor_id:
        draft = draft.replace(actor_id="unknown", actor_type="system")
    draft = draft.replace(event_type=_type(name, draft, notes))
    rest = {key: value for key, value in members.items() if key not in _KNOWN[format]}
    if rest:
        notes["members"] = _fit(rest, 0)
    return OldEvent(draft, event_id, notes)


def _type(name: str, draft: Draft, notes: dict[str, Any]) -> str:
    """Return the stored type of a name; `x_import_…` where it is unknown, the log's own, or lacks what it needs."""
    try:
        found = canonical_type(name)
    except UnknownEventType:
        found = ""
    info = EVENT_TYPES.get(found)
    usable = found and (info is None or not (info.own or missing_members(draft, info)))
    if found != name or not usable:
        notes["event_type"] = name
    if usable:
        return found
    clean = mask_text(scrub_text(name)) == name and len(name) <= _MAX_NAME
    slug = re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_") if clean else ""
    return (IMPORTED_PREFIX + (slug or "other"))[:_MAX_NAME]


def _event_id(value: object, notes: dict[str, Any]) -> str | None:
    """Return the line's id if it can be ours: a UUID, but not of version 8, which is kept for the ends of tasks."""
    if isinstance(value, str):
        lower = value.lower()
        if is_event_id(lower) and not is_end_id(lower):
            return lower
    if value is not None:
        notes["event_id"] = _fit(value, 0)
    return None


def _moment(value: object) -> dt.datetime:
    """Read a time as both recipes write it: ISO 8601 in UTC, with `Z`; without a zone it is taken as UTC."""
    moment = None
    if isinstance(value, str) and "T" in value:
        try:
            moment = dt.datetime.fromisoformat(value)
        except ValueError:
            moment = None
    if moment is None:
        raise BadLine("its timestamp is not a time")
    try:
        return moment.replace(tzinfo=dt.UTC) if moment.tzinfo is None else moment.astimezone(dt.UTC)
    except OverflowError:
        raise BadLine("its timestamp is not a time") from None


def _text(members: Mapping[str, Any], name: str) -> str | None:
    value = members.get(name)
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    raise BadLine(f"its {name} is not a text")


def _outcome(value: object, notes: dict[str, Any]) -> str:
    if isinstance(value, str) and value in OUTCOMES:
        return value
    if value is not None:
        notes["outcome"] = _fit(value, 0)
    return "unknown"


def _stated_outcome(details: Mapping[str, Any]) -> str:
    """Return what the details say of the outcome; `unknown` if nothing."""
    success, status = details.get("success"), details.get("status")
    if isinstance(success, bool):
        return "success" if success else "failure"
    state = STATUS_WORDS.get(status) if isinstance(status, str) else None
    return _OUTCOMES_OF_STATE.get(state or "", "unknown")


def _address(value: str | None, notes: dict[str, Any]) -> str | None:
    """Return an address or mask that the entry can hold; another one (`xxx.xxx.xxx.xxx`) is kept as a note."""
    if not value or is_masked_ip(value) or canonical_ip(value) is not None:
        return value
    notes["ip_address"] = value
    return None


def _details(details: Mapping[str, Any], notes: dict[str, Any]) -> dict[str, Any]:
    """Return metadata as the door takes it; which values the recipe had redacted is noted."""
    redacted = sorted(key for key, value in details.items() if value == _REDACTED)
    if redacted:
        notes["redacted"] = ", ".join(redacted)
    found: dict[str, Any] = _fit(details, 0)
    if "import" in found:
        notes["metadata_import"] = found.pop("import")
    return found


def _fit(value: Any, level: int) -> Any:
    """Return a JSON value as an entry can hold it: numbers beyond ±2⁵³ and NaN as text, hashes of prompts withheld."""
    if level > _MAX_LEVELS:
        raise BadLine("it is nested too deep")
    if isinstance(value, Mapping):
        return {key: _under(key, item, level + 1) for key, item in value.items()}
    if isinstance(value, list):
        return [_fit(item, level + 1) for item in value]
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) > MAX_INTEGER:
        return str(value)
    if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):  # noqa: PLR0124
        return str(value)
    return value


def _under(key: str, item: Any, level: int) -> Any:
    # A hash of a prompt without a key tells the prompt to whoever guesses it.
    if isinstance(item, str) and item and item != _REDACTED and key.lower().startswith("prompt"):
        return ToCommit(item)
    return _fit(item, level)
