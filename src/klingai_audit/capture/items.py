"""One entry on its way to the log."""

from __future__ import annotations

from dataclasses import dataclass

from klingai_audit.event.context import Actor
from klingai_audit.event.record import Draft, EncodedEvent

__all__ = ["Item", "reduced"]


@dataclass(frozen=True, slots=True)
class Item:
    """One entry to write: `token` says who acts, `kind` is the class of the failure policy.

    `since`: it was handed to the log before, and may stand there from that entry on.
    """

    entry: Draft | EncodedEvent
    token: Actor | None
    once: bool = False
    kind: str = "read"
    since: int | None = None


def reduced(draft: Draft, cause: Exception) -> Draft:
    """The same entry without what the log refused to hold."""
    kept = {name: draft.metadata[name] for name in ("intent", "code", "error", "http_status") if name in draft.metadata}
    return draft.replace(metadata={**kept, "reduced": type(cause).__name__})
