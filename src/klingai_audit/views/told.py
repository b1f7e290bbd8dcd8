"""Entries as views take them in: from the log, or as rows of the index. Allowed callers: views."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable
from typing import Any, Final, NamedTuple, Protocol

import msgspec

__all__ = ["TakenRow", "Told", "rows_sql"]

_METADATA: Final = msgspec.json.Decoder(dict[str, Any])


class Told(Protocol):
    """What is read of an entry: an `EntryView`, or a row of the index."""

    @property
    def seq(self) -> int:
        """Index in the log."""
        ...

    @property
    def event_id(self) -> str:
        """UUID of the event."""
        ...

    @property
    def timestamp(self) -> dt.datetime:
        """When it happened."""
        ...

    @property
    def event_type(self) -> str:
        """Registered name or `x_…`."""
        ...

    @property
    def outcome(self) -> str:
        """success, failure, blocked or unknown."""
        ...

    @property
    def actor_id(self) -> str | None:
        """The actor as stored."""
        ...

    @property
    def team(self) -> str | None:
        """Team of the actor."""
        ...

    @property
    def project(self) -> str | None:
        """Project of the act."""
        ...

    @property
    def resource_type(self) -> str | None:
        """What kind of thing was acted on."""
        ...

    @property
    def resource_id(self) -> str | None:
        """Which one."""
        ...

    @property
    def action(self) -> str | None:
        """What was done."""
        ...

    @property
    def correlation_id(self) -> str | None:
        """Joins the steps of one act."""
        ...

    @property
    def metadata(self) -> dict[str, Any]:
        """The entry's metadata."""
        ...


class TakenRow(NamedTuple):
    """A row of the index, columns as in `rows_sql`; `moment` is UTC without saying so, `text` the metadata."""

    seq: int
    event_id: str
    moment: dt.datetime
    event_type: str
    outcome: str
    actor_id: str | None
    team: str | None
    project: str | None
    resource_type: str | None
    resource_id: str | None
    action: str | None
    correlation_id: str | None
    text: str | None

    @property
    def timestamp(self) -> dt.datetime:
        """When it happened."""
        return self.moment.replace(tzinfo=dt.UTC)

    @property
    def metadata(self) -> dict[str, Any]:
        """The entry's metadata."""
        return {} if self.text is None else _METADATA.decode(self.text)


def rows_sql(types: Iterable[str]) -> str:
    """Return the SELECT over `events` whose rows are `TakenRow`s, in log order; its parameter: the earliest timestamp.

    `types` are registered names.
    """
    names = ", ".join(f"'{name}'" for name in sorted(types))
    return (
        "SELECT seq, event_id, timestamp, event_type, outcome, actor_id, team, project, resource_type, resource_id,"  # noqa: S608  names of ours
        f" action, correlation_id, metadata FROM events WHERE event_type IN ({names}) AND timestamp >= ? ORDER BY seq"
    )
