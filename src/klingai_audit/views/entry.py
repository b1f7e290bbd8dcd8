"""One stored entry as people and programs read it: the bytes unchanged beside typed members.

Views are derived and read-only. Nothing here verifies; `trust` does. Allowed callers: views, log, upkeep, cli.
"""

from __future__ import annotations

import datetime as dt
import functools
from typing import Any, Final, Literal

import msgspec

from klingai_audit.errors import Malformed, StorageError
from klingai_audit.privacy.subjects import Erased, SubjectTable, is_pseudonym, mask_id

__all__ = ["ActorStyle", "EntryView", "People"]

ActorStyle = Literal["mask", "id", "pseudonym"]


class _Stored(msgspec.Struct, frozen=True, kw_only=True):
    """The members of a stored entry; absent ones are None here, the difference is kept in the raw bytes."""

    seq: int
    logged_at: str
    event_id: str
    timestamp: str
    event_type: str
    outcome: str
    actor_id: str | None = None
    actor_type: str | None = None
    on_behalf_of: str | None = None
    team: str | None = None
    project: str | None = None
    resource_type: str | None = None
    resource_id: str | None = None
    action: str | None = None
    ip_address: str | None = None
    ip_ref: str | None = None
    user_agent: str | None = None
    correlation_id: str | None = None
    request_id: str | None = None
    metadata: msgspec.Raw = msgspec.Raw(b"{}")


_DECODER: Final = msgspec.json.Decoder(_Stored)
_METADATA: Final = msgspec.json.Decoder(dict[str, Any])
_MAX_LEVELS: Final = 64
_ENCODE: Final = msgspec.json.Encoder().encode


def _is_deep(value: Any) -> bool:
    """Tell whether a JSON value is nested deeper than a reader follows; the log itself admits 16 levels."""
    level = [value]
    for _ in range(_MAX_LEVELS):
        level = [
            inner
            for item in level
            if isinstance(item, dict | list)
            for inner in (item.values() if isinstance(item, dict) else item)
        ]
    return bool(level)


class People:
    """Turns pseudonyms into what a reader may see, with each look-up made once.

    Without a subject table (`subjects` None), and with one that cannot be read, pseudonyms stay; beside those of erased
    people stands when and why.
    """

    def __init__(self, subjects: SubjectTable | None = None) -> None:
        self._subjects = subjects
        self._ids: dict[str, str | None] = {}
        self._erasures: dict[str, Erased | None] = {}

    @property
    def readable(self) -> bool:
        """Tell whether there is a subject table to ask."""
        return self._subjects is not None

    def pseudonym(self, raw_id: str) -> str | None:
        """Return the pseudonym of a raw id, or None if nobody by that id ever entered the log. Raises: StorageError."""
        subject = self._subjects.find(raw_id) if self._subjects is not None else None
        return subject.pseudonym if subject is not None else None

    def raw_id(self, stored: str) -> str:
        """Return the raw id behind `stored`, or `stored` itself where nothing can be resolved."""
        if stored not in self._ids:
            self._ids[stored] = self._reveal(stored)
        return self._ids[stored] or stored

    def mask(self, stored: str) -> str:
        """Return the mask (`us***@example.com`) of the person behind `stored`, or `stored` itself.

        For an erased person: the pseudonym with `(erased on 2026-11-22 under …)` behind it.
        """
        raw = self.raw_id(stored)
        return self._unresolved(stored) if raw == stored else mask_id(raw)

    def show(self, stored: str | None, style: ActorStyle = "mask") -> str | None:
        """Render a stored actor id as mask, raw id or pseudonym; None stays None."""
        if stored is None or style == "pseudonym":
            return stored
        if style == "mask":
            return self.mask(stored)
        raw = self.raw_id(stored)
        return self._unresolved(stored) if raw == stored else raw

    def erased(self, stored: str) -> Erased | None:
        """Return when and why the person behind `stored` was erased; None if they were not, or nobody can tell."""
        if self._subjects is None or not is_pseudonym(stored):
            return None
        if stored not in self._erasures:
            try:
                self._erasures[stored] = self._subjects.erased(stored)
            except StorageError:
                self._erasures[stored] = None
        return self._erasures[stored]

    def _unresolved(self, stored: str) -> str:
        erased = self.erased(stored)
        return stored if erased is None else f"{stored} ({erased})"

    def _reveal(self, stored: str) -> str | None:
        if self._subjects is None or not is_pseudonym(stored):
            return None
        try:
            return self._subjects.reveal(stored)
        except StorageError:
            return None


class EntryView:
    """One entry: `.raw` is exactly what is stored, without LF; the rest is decoded when first asked for.

    Members that the entry does not have are None. Times are aware, in UTC.
    Raises (from any member): Malformed, if the stored bytes are not an entry.
    """

    def __init__(self, raw: bytes, people: People | None = None) -> None:
        self.raw = raw
        self._people = people if people is not None else People()

    def __repr__(self) -> str:
        return f"EntryView(seq={self.seq}, event_type={self.event_type!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, EntryView) and other.raw == self.raw

    def __hash__(self) -> int:
        return hash(self.raw)

    @functools.cached_property
    def _stored(self) -> _Stored:
        try:
            return _DECODER.decode(self.raw)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
            raise Malformed(
                f"A line of the log is not an entry ({len(self.raw)} bytes).",
                do="Preserve the files as they are and run: klingai-audit verify",
            ) from exc

    @functools.cached_property
    def metadata(self) -> dict[str, Any]:
        """The entry's metadata; a new empty mapping if it has none."""
        stored = self._stored.metadata
        try:
            found = _METADATA.decode(stored)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
            raise Malformed(
                f"The metadata of entry {self.seq} is not a JSON object.",
                do="Preserve the files as they are and run: klingai-audit verify",
            ) from exc
        if bytes(stored).count(b"[") + bytes(stored).count(b"{") > _MAX_LEVELS and _is_deep(found):
            raise Malformed(
                f"The metadata of entry {self.seq} is nested deeper than {_MAX_LEVELS} levels.",
                do="Preserve the files as they are and run: klingai-audit verify",
            )
        return found

    @property
    def seq(self) -> int:
        """Index in the log, from 0."""
        return self._stored.seq

    @functools.cached_property
    def logged_at(self) -> dt.datetime:
        """When the log sequenced the entry (the log's clock)."""
        return self._time(self._stored.logged_at)

    @functools.cached_property
    def timestamp(self) -> dt.datetime:
        """When it happened (the source's clock)."""
        return self._time(self._stored.timestamp)

    @property
    def event_id(self) -> str:
        """UUID of the event; equal ids are one event."""
        return self._stored.event_id

    @property
    def event_type(self) -> str:
        """Registered name or `x_…`."""
        return self._stored.event_type

    @property
    def outcome(self) -> str:
        """success, failure, blocked or unknown."""
        return self._stored.outcome

    @property
    def actor_id(self) -> str | None:
        """The actor as stored: a pseudonym, or a literal for no person."""
        return self._stored.actor_id

    @property
    def actor_type(self) -> str | None:
        """What the actor is: user, admin, service, system."""
        return self._stored.actor_type

    @property
    def on_behalf_of(self) -> str | None:
        """Pseudonym of the person for whom the actor acted."""
        return self._stored.on_behalf_of

    @property
    def team(self) -> str | None:
        """Team of the actor at that time."""
        return self._stored.team

    @property
    def project(self) -> str | None:
        """Project of the act."""
        return self._stored.project

    @property
    def resource_type(self) -> str | None:
        """What kind of thing was acted on."""
        return self._stored.resource_type

    @property
    def resource_id(self) -> str | None:
        """Which one; a pseudonym where the resource is a user."""
        return self._stored.resource_id

    @property
    def action(self) -> str | None:
        """What was done, in the caller's words."""
        return self._stored.action

    @property
    def ip_address(self) -> str | None:
        """Coarse mask of the address."""
        return self._stored.ip_address

    @property
    def ip_ref(self) -> str | None:
        """Keyed reference: equal for equal addresses of one person."""
        return self._stored.ip_ref

    @property
    def user_agent(self) -> str | None:
        """Product and major version."""
        return self._stored.user_agent

    @property
    def correlation_id(self) -> str | None:
        """Joins the steps of one act."""
        return self._stored.correlation_id

    @property
    def request_id(self) -> str | None:
        """The provider's id of the exchange."""
        return self._stored.request_id

    def actor(self, style: ActorStyle = "mask") -> str | None:
        """Render the actor as mask (default), raw id or pseudonym, as far as the subject table can be read."""
        return self._people.show(self.actor_id, style)

    @property
    def erased(self) -> Erased | None:
        """When and why the actor was erased; None if they were not, or nobody here can tell."""
        return None if self.actor_id is None else self._people.erased(self.actor_id)

    def show_person(self, stored: str, style: ActorStyle = "mask") -> str:
        """Render another stored id of this entry, such as `on_behalf_of`, as `actor` renders the actor."""
        return self._people.show(stored, style) or stored

    def resource(self, style: ActorStyle = "mask") -> str | None:
        """Render the resource id; a person (resource type `user`) as `actor` renders one."""
        if self.resource_type == "user":
            return self._people.show(self.resource_id, style)
        return self.resource_id

    def resolved_json(self) -> bytes:
        """Return the stored bytes with a last member `_actor` added: the raw id, or null where it is unknown.

        For an erased person `_erased` follows: entry, time and basis.
        """
        raw_id = None if self.actor_id is None else self._people.raw_id(self.actor_id)
        hidden = raw_id is None or (raw_id == self.actor_id and is_pseudonym(raw_id))
        erased = self.erased if hidden else None
        told = b"" if erased is None else b',"_erased":' + _ENCODE(erased.to_json())
        return self.raw[:-1] + b',"_actor":' + _ENCODE(None if hidden else raw_id) + told + b"}"

    def _time(self, text: str) -> dt.datetime:
        try:
            moment = dt.datetime.fromisoformat(text)
        except ValueError as exc:
            raise Malformed(
                f"Entry {self.seq} carries a time that is not one.",
                do="Preserve the files as they are and run: klingai-audit verify",
            ) from exc
        return moment if moment.tzinfo is not None else moment.replace(tzinfo=dt.UTC)
