"""Options that several commands share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from klingai_audit.cli.session import escaped

if TYPE_CHECKING:
    from klingai_audit.views.plan import Filter


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Selection:
    """Which entries; every option that is given must hold.

    Parameters
    ----------
    actor
        Raw id, mask (us***@example.com) or pseudonym (p_…).
    team
        Team.
    project
        Project.
    type
        Event type; may be repeated.
    category
        Category of event types; may be repeated.
    outcome
        success, failure, blocked or unknown; may be repeated.
    resource
        Resource id, resource type, or type/id.
    correlation
        Correlation id.
    task
        Provider task id.
    model
        Model, such as kling-3.0.
    key
        Credential: fingerprint, or the name it was declared under; may be repeated.
    cost
        Condition on one charged amount: '>=5', '<1.5 video units', '=0'.
    text
        Words in any value, ignoring case.
    since
        From this time on: -30d, -12h, today, 2026-11-21, 2026-11-21T19:28:23Z.
    until
        Before this time; a whole day is included.
    """

    actor: str | None = None
    team: str | None = None
    project: str | None = None
    type: tuple[str, ...] = ()
    category: tuple[str, ...] = ()
    outcome: tuple[str, ...] = ()
    resource: str | None = None
    correlation: str | None = None
    task: str | None = None
    model: str | None = None
    key: tuple[str, ...] = ()
    cost: str | None = None
    text: Annotated[str | None, Parameter(allow_leading_hyphen=True)] = None
    since: Annotated[str | None, Parameter(allow_leading_hyphen=True)] = None
    until: Annotated[str | None, Parameter(allow_leading_hyphen=True)] = None

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            object.__setattr__(self, name, _escaped(value))

    def to_filter(self, *, limit: int | None = None, reverse: bool = False, duplicates: bool = False) -> Filter:
        """Return the library's filter."""
        from klingai_audit.views.plan import Filter

        return Filter(
            actor=self.actor,
            team=self.team,
            project=self.project,
            event_type=self.type or None,
            category=self.category or None,
            outcome=self.outcome or None,
            resource=self.resource,
            correlation=self.correlation,
            task=self.task,
            model=self.model,
            key=self.key or None,
            cost=self.cost,
            text=self.text,
            since=self.since,
            until=self.until,
            limit=limit,
            reverse=reverse,
            duplicates=duplicates,
        )

    def given(self) -> dict[str, object]:
        """Return the options that were given, for the entry that records a query."""
        return {name: value for name, value in vars(self).items() if value not in (None, ())}


def _escaped(value: Any) -> Any:
    """Arguments that are no UTF-8 match nothing, but they may be said."""
    if isinstance(value, tuple):
        return tuple(map(_escaped, value))
    return escaped(value) if isinstance(value, str) else value


Resolve = Annotated[bool, Parameter(help="Show raw ids of people, as far as the subject table can be read.")]

Record = Annotated[bool, Parameter(help="Record this read as an entry of the log (needs its keys).")]
