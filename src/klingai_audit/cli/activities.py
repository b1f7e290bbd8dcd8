"""`activity`: what one person did, or everybody in groups."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from klingai_audit.cli.options import Record
from klingai_audit.cli.session import Session, SessionArgument, escaped
from klingai_audit.cli.sources import indexed, open_index
from klingai_audit.errors import UsageError

if TYPE_CHECKING:
    from klingai_audit.ledger.reader import LogReader
    from klingai_audit.privacy.subjects import SubjectTable
    from klingai_audit.views.groups import Group, Grouped


def activity(
    actor: Annotated[
        str | None, Parameter(name="ACTOR", help="Raw id, mask (us***@example.com) or pseudonym (p_…). Without: all.")
    ] = None,
    /,
    *,
    by: Annotated[
        str | None, Parameter(help="Everybody, grouped by actor, team, project, key, model or day. Default: actor")
    ] = None,
    days: Annotated[int, Parameter(help="Period in days of 24 hours, up to now.")] = 30,
    record: Record = False,
    session: SessionArgument,
) -> None:
    """Summarise what one person did, or everybody in groups, compared with the period before.

    Unusual hours are hours of the day (UTC) in which, or beside which, a person did something on fewer than two of the
    90 days before the period; who did something on fewer than five of those days has none.
    """
    from klingai_audit.config import open_reader, open_subjects

    if actor is not None and by is not None:
        raise UsageError("One person is not grouped.", do="Give an ACTOR, or --by, not both.")
    reader, subjects = open_reader(session.places), open_subjects(session.places)
    if actor is None:
        _everybody(session, reader, subjects, "actor" if by is None else escaped(by), days, record=record)
    else:
        _one_person(session, reader, subjects, escaped(actor), days, record=record)


def _one_person(
    session: Session, reader: LogReader, subjects: SubjectTable | None, actor: str, days: int, *, record: bool
) -> None:
    from klingai_audit.cli.recording import record_read, tell_recorded
    from klingai_audit.cli.showing import draw_activity
    from klingai_audit.views.activity import activity as summarise

    size = reader.size
    with indexed(session, reader) as source:
        summary = summarise(source(size), actor, days=days, subjects=subjects)
    recorded = record_read(session, "activity", {"actor": actor, "days": days}, size, subjects, asked=record)
    if session.as_json:
        session.emit({**summary.to_json(), "recorded": recorded})
    else:
        draw_activity(session, summary)
        tell_recorded(session, recorded)


def _everybody(
    session: Session, reader: LogReader, subjects: SubjectTable | None, by: str, days: int, *, record: bool
) -> None:
    from klingai_audit.cli.recording import record_read, tell_recorded
    from klingai_audit.views.groups import activity_by

    with closing(open_index(session, reader)) as index:
        found = activity_by(index.rows, by, days=days, subjects=subjects)
        size = index.size
    recorded = record_read(session, "activity", {"by": by, "days": days}, size, subjects, asked=record)
    if session.as_json:
        session.emit({**found.to_json(), "recorded": recorded})
    else:
        draw_groups(session, found)
        tell_recorded(session, recorded)


def draw_groups(session: Session, found: Grouped) -> None:
    """Print one line for each group."""
    from rich.table import Table
    from rich.text import Text

    from klingai_audit.cli.render import OUTCOME_STYLES, format_moment
    from klingai_audit.views.inert import inert

    days = f"{found.days} day{'' if found.days == 1 else 's'}"
    if not found.groups:
        session.say(f"Nothing happened in the last {days}.")
        return
    session.say((f"The last {days}, by {found.by}; in brackets the {days} before", "dim"))
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column(found.by, overflow="fold")
    for name in ("events", "", "acts", "blocked", "failed", "ended well", "unusual hours", "charged", "last (UTC)"):
        table.add_column(
            name, justify="left" if name in ("", "charged", "last (UTC)") else "right", no_wrap=name != "charged"
        )
    for group in found.groups:
        table.add_row(
            Text(inert(found.shown(group))),
            f"{group.events:,}",
            Text("" if found.by == "day" else f"({group.previous:,})", style="dim"),
            f"{group.acts:,}",
            Text(_count(group, "blocked"), style=OUTCOME_STYLES["blocked"]),
            Text(_count(group, "failure"), style=OUTCOME_STYLES["failure"]),
            "" if group.success_rate is None else f"{group.success_rate:.0%}",
            Text(f"{group.unusual:,}" if group.unusual else "", style="yellow"),
            Text(inert(", ".join(f"{amount:f} {unit}" for unit, amount in sorted(group.charges.items())))),
            "" if group.last is None else format_moment(group.last, short=True),
        )
    session.show(table)


def _count(group: Group, outcome: str) -> str:
    count = group.by_outcome.get(outcome, 0)
    return f"{count:,}" if count else ""
