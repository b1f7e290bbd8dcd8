"""Entries drawn for people: one line each, all members of one, the summary of one person.

Every value from the log passes `inert` and reaches the terminal as plain text, never as markup.
"""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING, Final

from rich.cells import cell_len, set_cell_size
from rich.table import Table
from rich.text import Text

from klingai_audit.views.inert import ELLIPSIS, inert, one_line

if TYPE_CHECKING:
    from klingai_audit.views.activity import Activity
    from klingai_audit.views.entry import ActorStyle, EntryView


OUTCOME_STYLES: Final = {"success": "green", "failure": "red", "blocked": "yellow", "unknown": "magenta"}

_MARKS: Final = {"success": "●", "failure": "✗", "blocked": "■", "unknown": "?"}
_WIDE: Final = 110
_DETAIL_MEMBERS: Final = ("phase", "model", "status", "code", "error", "bytes", "command")
_SHOWN_MEMBERS: Final = (
    "event_id",
    "actor_type",
    "team",
    "project",
    "resource_type",
    "action",
    "ip_address",
    "ip_ref",
    "user_agent",
    "correlation_id",
    "request_id",
)


def fit(text: str, width: int) -> str:
    """Cut or pad inert text to exactly `width` terminal cells; a cut shows."""
    if cell_len(text) <= width:
        return set_cell_size(text, width)
    return set_cell_size(text, width - 1) + ELLIPSIS if width > 0 else ""


def format_moment(moment: dt.datetime, *, short: bool = False) -> str:
    """Return a moment as people read it, in UTC, to the second; `short` leaves the year out."""
    return moment.astimezone(dt.UTC).strftime("%m-%d %H:%M:%S" if short else "%Y-%m-%d %H:%M:%S")


def detail_of(entry: EntryView, style: ActorStyle = "mask", *, resource: bool = True) -> str:
    """Return what the columns do not say, as one inert line: resource, telling metadata, action, team."""
    parts = []
    if resource and (entry.resource_type or entry.resource_id):
        parts.append("/".join(part for part in (entry.resource_type, entry.resource(style)) if part))
    metadata = entry.metadata
    parts += [f"{name}={one_line(metadata[name], 40)}" for name in _DETAIL_MEMBERS if name in metadata]
    parts.append(entry.action or "")
    if entry.team:
        parts.append(f"team={entry.team}")
    return inert(" ".join(part for part in parts if part))


def mark_of(entry: EntryView) -> str:
    """Return one character for how it went; an intent is not an outcome yet."""
    return "○" if entry.metadata.get("phase") == "intent" else _MARKS.get(entry.outcome, "●")


class RowLayout:
    """Columns of one-line entries for a given width: seq, time (UTC), type, actor, outcome, detail.

    On a narrow terminal the outcome is a mark and a colour, and the year is left out.
    """

    def __init__(self, width: int, style: ActorStyle = "mask") -> None:
        self._style: ActorStyle = style
        self._narrow = width < _WIDE
        fixed = (6, 14, 1, 26, 17) if self._narrow else (7, 19, 7, 26, 20)
        self._widths = (*fixed, max(0, width - sum(fixed) - len(fixed)))

    def head(self) -> Text:
        """Return the line of column names."""
        names = ("   seq", "time (UTC)", "" if self._narrow else "outcome", "type", "actor", "detail")
        return Text(" ".join(map(fit, names, self._widths)).rstrip(), style="bold")

    def row(self, entry: EntryView) -> Text:
        """Return one entry as one line that fits the width."""
        seq, time, outcome, kind, actor, detail = self._widths
        style = OUTCOME_STYLES.get(entry.outcome, "")
        row = Text.assemble(
            (str(entry.seq).rjust(seq), "dim"),
            " ",
            fit(format_moment(entry.timestamp, short=self._narrow), time),
            " ",
            (mark_of(entry) if self._narrow else fit(inert(entry.outcome), outcome), style),
            " ",
            (fit(inert(entry.event_type), kind), style),
            " ",
            fit(inert(self._actor(entry)), actor),
            " ",
            fit(detail_of(entry, self._style), detail),
        )
        row.rstrip()
        return row

    def _actor(self, entry: EntryView) -> str:
        """Return the actor; where an id is asked for and the person was erased, when: more does not fit."""
        erased = entry.erased if self._style == "id" else None
        return entry.actor(self._style) or "-" if erased is None else f"erased on {erased.at[:10]}"


def entry_table(entry: EntryView, place: str | None, style: ActorStyle = "mask") -> Table:
    """Return every member of one entry as a two-column table; `place` is where it stands, `file:line`."""
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")

    def row(name: str, value: str | None, styling: str = "") -> None:
        if value is not None:
            table.add_row(Text(inert(name)), Text(inert(value), style=styling))

    row("seq", str(entry.seq))
    row("event_type", entry.event_type)
    row("outcome", entry.outcome, OUTCOME_STYLES.get(entry.outcome, ""))
    row("stored in", place)
    row("happened", entry.timestamp.isoformat())
    row("logged", entry.logged_at.isoformat())
    row("actor", entry.actor(style))
    row("actor_id", entry.actor_id)
    row("on_behalf_of", None if entry.on_behalf_of is None else entry.show_person(entry.on_behalf_of, style))
    row("resource_id", entry.resource(style))
    for name in _SHOWN_MEMBERS:
        row(name, getattr(entry, name))
    for name, value in entry.metadata.items():
        row(f"  {name}", one_line(value))
    return table


def activity_table(activity: Activity) -> Table:
    """Return one person's summary: types and outcomes with bars, charges, first and last activity."""
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(no_wrap=True)
    table.add_column(justify="right", no_wrap=True)
    table.add_column(no_wrap=True)
    most = max(activity.by_type.values(), default=1)
    for name, count in activity.by_type.items():
        table.add_row(Text(inert(name)), str(count), Text("█" * max(1, round(24 * count / most)), style="cyan"))
    table.add_row("", "", "")
    for name, count in activity.by_outcome.items():
        table.add_row(Text(inert(name), style=OUTCOME_STYLES.get(name, "")), str(count), "")
    for unit, amount in activity.charges.items():
        table.add_row(Text(inert(f"charged, {unit}")), Text(inert(amount)), "")
    return table
