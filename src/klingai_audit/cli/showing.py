"""One entry, one generation, one person: drawn for people."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.text import Text

from klingai_audit.cli.render import OUTCOME_STYLES, activity_table, detail_of, entry_table, fit, format_moment, mark_of
from klingai_audit.views.inert import inert

if TYPE_CHECKING:
    from klingai_audit.cli.session import Session
    from klingai_audit.views.activity import Activity
    from klingai_audit.views.entry import ActorStyle, EntryView
    from klingai_audit.views.story import Story


def draw_entry(session: Session, entry: EntryView, place: tuple[str, int] | None, style: ActorStyle) -> None:
    """Print every member of one entry and where it is stored."""
    session.show(entry_table(entry, None if place is None else f"{place[0]}:{place[1]}", style))


def draw_story(session: Session, story: Story, style: ActorStyle) -> None:
    """Print one generation as a time line, oldest step first."""
    first = story.steps[0].entry
    who = inert(first.actor(style) or "-") + (f" ({inert(first.team)})" if first.team else "")
    session.say(("Task ", ""), (inert(story.task), "bold"), f" by {who}")
    session.say((f"  {format_moment(first.timestamp)} UTC", "dim"))
    last = len(story.steps) - 1
    for position, step in enumerate(story.steps):
        entry = step.entry
        colour = OUTCOME_STYLES.get(entry.outcome, "")
        session.say(
            (f"  {_offset(step.since_start)} ", "dim"),
            "└─" if position == last else "├─",
            (mark_of(entry), colour),
            " ",
            (fit(inert(entry.event_type), 26), colour),
            (f" seq {entry.seq:<5}", "dim"),
            f" {detail_of(entry, style, resource=False)}",
        )
    session.say(*_closing(story))


def draw_activity(session: Session, activity: Activity) -> None:
    """Print one person's summary."""
    events = f"{activity.total_events:,} event{'' if activity.total_events == 1 else 's'}"
    acts = f" ({activity.acts:,} act{'' if activity.acts == 1 else 's'})" if activity.total_events else ""
    days = f"{activity.period_days} day{'' if activity.period_days == 1 else 's'}"
    known = "" if activity.actor_id is None or activity.actor_id == activity.actor else f" ({inert(activity.actor_id)})"
    session.tell((inert(activity.actor), "bold"), f"{known}: {events}{acts} in the last {days}", hanging=2)
    former = activity.previous
    if former is not None and former.total_events:
        session.say((f"in the {days} before: {former.total_events:,}{_share(former.success_rate)}", "dim"))
    if activity.first_activity is None or activity.last_activity is None:
        return
    first, latest = format_moment(activity.first_activity), format_moment(activity.last_activity)
    session.say((f"first {first} UTC, last {latest} UTC, active on {len(activity.by_day)} of them", "dim"))
    session.show(activity_table(activity))
    if any(activity.generations.values()):
        told = ", ".join(f"{count:,} {name}" for name, count in activity.generations.items() if count)
        session.tell(f"orders: {told}", hanging=2)
    if activity.success_rate is not None:
        session.say(f"ended well: {activity.success_rate:.0%} of what ended or was refused")
    if activity.unusual:
        hours = ", ".join(f"{hour:02}h ({count:,})" for hour, count in sorted(activity.unusual.items()))
        session.tell(("outside this person's usual hours (UTC): ", "yellow"), hours, hanging=2)


def _share(rate: float | None) -> str:
    return "" if rate is None else f", {rate:.0%} ended well"


def _closing(story: Story) -> tuple[str | Text | tuple[str, str], ...]:
    if story.end is None or story.seconds is None:
        return (("  open: ", "yellow"), "no end of this task is in the log")
    charge = ", ".join(f"{inert(amount)} {inert(unit)}" for unit, amount in story.charges.items()) or "none recorded"
    colour = OUTCOME_STYLES.get(story.end.outcome, "")
    return ("  ", (inert(story.end.outcome), colour), f" after {story.seconds:,.1f} s; charge: {charge}")


def _offset(seconds: float) -> str:
    return f"{seconds:+9.3f} s"
