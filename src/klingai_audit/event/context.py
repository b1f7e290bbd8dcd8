"""Who is acting: bound once with `acting(…)`, read wherever an event is made.

One context variable holds an immutable `Actor`; threads start without it, asyncio tasks inherit it. Unlike in
logging libraries, a call that names another actor than the bound one is an error, never an override.
"""

from __future__ import annotations

import contextvars
import unicodedata
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Final, final

from klingai_audit.errors import ActorConflict, InvalidEvent
from klingai_audit.event.record import Draft

__all__ = ["OWN_ACTOR", "UNKNOWN_ACTOR", "Actor", "acting", "current", "normalise_id", "resolve"]

UNKNOWN_ACTOR: Final = "unknown"
"""Actor id of an act that nobody was bound to; its actor type is `system`."""

OWN_ACTOR: Final = "klingai-audit"
"""Actor id of what the log itself does; its actor type is `system`."""


def normalise_id(text: str) -> str:
    """Return an id as it is compared: NFC, stripped, casefolded if it holds `@`."""
    if not text.isascii():
        text = unicodedata.normalize("NFC", text)
    text = text.strip()
    if "@" not in text:
        return text
    # Case folding can leave NFC; a second normalisation makes the result stable.
    return unicodedata.normalize("NFC", text.casefold())


@dataclass(frozen=True, slots=True, repr=False)
class Actor:
    """The bound actor; members have the names of `Draft`, None where nothing is bound. The repr shows no values."""

    actor_id: str
    actor_type: str = "user"
    ip_address: str | None = None
    user_agent: str | None = None
    team: str | None = None
    project: str | None = None
    on_behalf_of: str | None = None
    correlation_id: str | None = None

    @property
    def fields(self) -> Mapping[str, str]:
        """The bound members by `Draft` name, without those that have no value."""
        return {name: value for name in _MEMBERS if (value := getattr(self, name)) is not None}

    def __repr__(self) -> str:
        return f"Actor(<{', '.join(self.fields)}>)"


_MEMBERS: Final = tuple(Actor.__dataclass_fields__)
_ADDED: Final = tuple(name for name in _MEMBERS if name != "actor_id")


@dataclass(frozen=True, slots=True)
class _Frame:
    """One entered block. Frames are linked, so that a block keeps no state and may be entered by many at once."""

    actor: Actor | None
    outer: _Frame | None
    owner: object


_current: Final[contextvars.ContextVar[_Frame | None]] = contextvars.ContextVar("klingai_audit_actor", default=None)


@final
class acting:  # noqa: N801  # reads as a verb: `with acting("user@example.com"):`
    """Bind who acts for the block: `with acting("user@example.com", ip="192.168.1.100", team="studio-a"):`.

    Inside another block of the same actor, what is given here is added to (and wins over) what is bound
    there; another actor replaces everything. The former state returns on exit, also after an exception.
    Works with `with` and `async with`; one object may be entered again.
    """

    def __init__(
        self,
        actor_id: str,
        *,
        actor_type: str | None = None,
        ip: str | None = None,
        user_agent: str | None = None,
        team: str | None = None,
        project: str | None = None,
        on_behalf_of: str | None = None,
        correlation_id: str | None = None,
    ) -> None:
        given: dict[str, object] = {
            "actor_id": actor_id,
            "actor_type": actor_type,
            "ip_address": ip,
            "user_agent": user_agent,
            "team": team,
            "project": project,
            "on_behalf_of": on_behalf_of,
            "correlation_id": correlation_id,
        }
        for name, value in given.items():
            if not isinstance(value, str) and (value is not None or name == "actor_id"):
                raise InvalidEvent(f"acting: {name} is of type {type(value).__name__}, expected str")
        if not normalise_id(actor_id):
            raise InvalidEvent("acting: actor_id is empty", do="Name the person or the service that acts.")
        self._given: dict[str, str] = {name: value for name, value in given.items() if isinstance(value, str)}

    def __enter__(self) -> Actor:
        former = current()
        actor_id = self._given["actor_id"]
        if former is not None and normalise_id(former.actor_id) == normalise_id(actor_id):
            added = {name: value for name, value in self._given.items() if name != "actor_id"}
            actor = replace(former, **added)
        else:
            actor = Actor(**self._given)
        _current.set(_Frame(actor, _current.get(), self))
        return actor

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # A generator may leave in another context than it entered: what is bound there is not ours to undo.
        frame = _current.get()
        if frame is not None and frame.owner is self:
            _current.set(frame.outer)

    async def __aenter__(self) -> Actor:
        return self.__enter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.__exit__(kind, error, trace)

    def __repr__(self) -> str:
        return f"acting(<{', '.join(self._given)}>)"

    @staticmethod
    def capture() -> Actor | None:
        """Return what is bound now, to be handed to a thread or a queue and restored there."""
        return current()

    @staticmethod
    @contextmanager
    def restore(token: Actor | None) -> Iterator[Actor | None]:
        """Bind what `capture` returned for the block, None included."""
        former = _current.get()
        _current.set(_Frame(token, former, token))
        try:
            yield token
        finally:
            _current.set(former)


def current() -> Actor | None:
    """Return the bound actor, or None."""
    frame = _current.get()
    return None if frame is None else frame.actor


def resolve(draft: Draft) -> Draft:
    """Fill what the draft leaves open from the bound actor; without one the actor is `unknown`, type `system`.

    Members that the draft gives win over bound ones, but the actor must be the same. What the log itself
    does (`klingai-audit`) takes nothing from the bound actor. The type of an actor that the draft names alone is
    left open: the door knows which ids are reserved.
    Raises: ActorConflict, without either id.
    """
    actor = current()
    given = draft.actor_id
    if actor is None or (given and normalise_id(given) == OWN_ACTOR):
        if not given:
            return draft.replace(actor_id=UNKNOWN_ACTOR, actor_type=draft.actor_type or "system")
        return draft
    if given and given != actor.actor_id and normalise_id(given) != normalise_id(actor.actor_id):
        raise ActorConflict(
            "the call names another actor than acting() bound",
            do="Leave actor_id out of the call, or leave the acting() block first.",
        )
    missing = {
        name: value for name in _ADDED if not getattr(draft, name) and (value := getattr(actor, name)) is not None
    }
    return draft.replace(actor_id=actor.actor_id, **missing)
