"""Sessions that one synchronous call opens for later ones. Source: fact sheet section 2.3."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from klingai_audit.kling.simulator.tasks import Parent

SESSION_MS = 24 * 3600 * 1000
"""A session lives for 24 hours."""


@dataclass(slots=True)
class Session:
    """What identify-face (`face`) or init-selection (`selection`) found in a video."""

    kind: Literal["face", "selection"]
    parent: Parent
    expires_ms: int
    face_ids: tuple[str, ...] = ()
    frames: dict[int, list[tuple[float, float]]] = field(default_factory=dict)
    """Frame number -> points that were selected in it."""


class SessionBook:
    """The sessions of the account, by id. Callers hold the simulator's lock."""

    def __init__(self) -> None:
        self._sessions: dict[str, Session] = {}

    def add(self, session_id: str, session: Session) -> None:
        """Keep a session and forget those that ended before it began."""
        begun = session.expires_ms - SESSION_MS
        self._sessions = {name: kept for name, kept in self._sessions.items() if kept.expires_ms > begun}
        self._sessions[session_id] = session

    def find(self, kind: Literal["face", "selection"], session_id: str, now_ms: int) -> Session | None:
        """The session of this kind, unless it has expired."""
        found = self._sessions.get(session_id)
        return found if found is not None and found.kind == kind and now_ms < found.expires_ms else None
