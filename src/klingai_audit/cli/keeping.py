"""`retention` and `hold`: what is kept for how long, what goes, and what must not."""

from __future__ import annotations

import datetime as dt
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any, Final

from cyclopts import Parameter

from klingai_audit.cli.approving import Approvals
from klingai_audit.cli.options import Selection
from klingai_audit.cli.progress import progress_bar
from klingai_audit.cli.recording import reader_id
from klingai_audit.cli.session import Session, SessionArgument, open_log
from klingai_audit.errors import UsageError
from klingai_audit.views.inert import inert

if TYPE_CHECKING:
    from klingai_audit.log import AuditLog
    from klingai_audit.upkeep.holds import Hold
    from klingai_audit.upkeep.retention import DayPlan, Plan

_Actor = Annotated[str | None, Parameter(help="Who does it. Default: KLINGAI_AUDIT_ACTOR, else the login name")]
_Reason = Annotated[str | None, Parameter(help="Why; kept in the entry.")]
_Name = Annotated[str, Parameter(name="NAME", help="Name of the hold, such as the number of a case.")]
_ALONE: Final = ("actor", "task")
_On = Annotated[str | None, Parameter(help="Plan for another day (UTC, 2027-11-21) than today.")]


def retention_plan(
    *,
    on: _On = None,
    days: Annotated[bool, Parameter(help="Every day by itself instead of all together.")] = False,
    session: SessionArgument,
) -> None:
    """Say what `retention apply` would do, when and why. Writes nothing."""
    from klingai_audit.config import open_reader
    from klingai_audit.privacy.policy import Policy
    from klingai_audit.upkeep.retention import plan_retention

    policy = Policy.load(session.places.keys / "policy.toml")
    with progress_bar(session, "reading", "entries") as progress:
        plan = plan_retention(open_reader(session.places), policy, day_of(on), progress=progress)
    if session.as_json:
        session.emit(_plan_json(plan))
        return
    _draw_plan(session, plan, days=days)


def retention_apply(
    *,
    on: Annotated[str | None, Parameter(help="Purge what was due on this day (UTC), not after today.")] = None,
    approval: Approvals = None,
    actor: _Actor = None,
    session: SessionArgument,
) -> None:
    """Verify the log, seal old days and purge what is due. What an earlier run left is completed."""
    from klingai_audit.upkeep.retention import apply_retention

    day = day_of(on)
    if day > day_of(None):
        raise UsageError("--on is a day to come.", do="What will be due then: klingai-audit retention plan --on DAY")
    with _acting(session, actor) as audit, progress_bar(session, "sealing", "days") as progress:
        done = apply_retention(audit, today=day, approval=approval, progress=progress)
    if session.as_json:
        session.emit({"purged": done.purged, "sealed": done.sealed, "authorised_by": done.authorised_by})
        return
    if not done.purged and not done.sealed:
        session.say("Nothing was due.")
        return
    session.say((f"{done.purged:,} entries purged", "bold"), f", {len(done.sealed):,} days sealed.")
    if done.authorised_by:
        by = ", ".join(map(str, done.authorised_by))
        session.say((f"Authorised by entry {by}. Their leaf hashes stay, so every old proof still holds.", "dim"))
    session.say(("See it: klingai-audit verify", "dim"))


def hold_set(
    name: _Name,
    /,
    *,
    range: Annotated[str | None, Parameter(help="Entries FIRST:LAST, both included.")] = None,
    selection: Selection | None = None,
    reason: _Reason = None,
    by: Annotated[str | None, Parameter(help="Who does it. Default: KLINGAI_AUDIT_ACTOR, else the login name")] = None,
    session: SessionArgument,
) -> None:
    """Set a legal hold: what it covers is neither purged nor erased.

    What is covered is chosen as in query, or by --range. --actor alone covers everything about this person, also what
    others did for them; --task alone the whole story of one generation. Entries of the future are covered, too.
    """
    from klingai_audit.upkeep.holds import set_hold

    given = {} if selection is None else selection.given()
    alone = next(iter(given)) if len(given) == 1 else None
    with _acting(session, by) as audit:
        receipt = set_hold(
            audit,
            name,
            range=None if range is None else _range(range),
            actor=str(given["actor"]) if alone == "actor" else None,
            task=str(given["task"]) if alone == "task" else None,
            query=selection.to_filter() if selection is not None and given and alone not in _ALONE else None,
            reason=reason,
        )
    _told(session, name, receipt.seq, "is in force")


def hold_release(name: _Name, /, *, reason: _Reason = None, actor: _Actor = None, session: SessionArgument) -> None:
    """End a legal hold."""
    from klingai_audit.upkeep.holds import release_hold

    with _acting(session, actor) as audit:
        receipt = release_hold(audit, name, reason=reason)
    _told(session, name, receipt.seq, "has ended")


def hold_list(*, session: SessionArgument) -> None:
    """List the legal holds that are in force. Reads the log and writes nothing."""
    from klingai_audit.config import open_reader
    from klingai_audit.upkeep.holds import holds_in

    holds = holds_in(open_reader(session.places).entries())
    if session.as_json:
        session.emit({"holds": [hold.to_json() for hold in holds]})
        return
    if not holds:
        session.say("No hold is in force.")
        return
    from rich.table import Table

    table = Table("hold", "since", "covers", "reason", box=None, header_style="dim")
    for hold in holds:
        table.add_row(hold.name, f"{hold.since:%Y-%m-%d %H:%M}Z", inert(_covers(hold)), inert(hold.reason or ""))
    session.show(table)


# --- what all share ----------------------------------------------------------------------------------------


@contextmanager
def _acting(session: Session, actor: str | None) -> Iterator[AuditLog]:
    from klingai_audit.event.context import acting

    with open_log(session) as audit, acting(actor or reader_id(), actor_type="admin"):
        yield audit


def day_of(text: str | None) -> dt.date:
    """Read a day (UTC); today for None. Raises: UsageError."""
    if text is None:
        return dt.datetime.now(dt.UTC).date()
    try:
        return dt.date.fromisoformat(text)
    except ValueError as exc:
        raise UsageError(f"--on: {text!r} is no day.", do="Use the form 2027-11-21.") from exc


def _range(text: str) -> tuple[int, int]:
    first, colon, last = text.partition(":")
    if not (colon and first.isascii() and first.isdigit() and last.isascii() and last.isdigit()):
        raise UsageError(f"--range: {text!r} is no range of entries.", do="Use FIRST:LAST, such as 100:250.")
    return int(first), int(last)


def _told(session: Session, name: str, seq: int | None, words: str) -> None:
    if session.as_json:
        session.emit({"hold": name, "seq": seq})
    else:
        session.say("The hold ", (inert(name), "bold"), f" {words}: entry {seq} is under a signed checkpoint.")


def _covers(hold: Hold) -> str:
    kind, value = next(iter(hold.covers.items()))
    if kind == "range":
        return f"entries {value[0]} to {value[1]}"
    if kind == "selection":
        return ", ".join(f"{name}={value[name]}" for name in value)
    return f"{kind} {value}"


def _plan_json(plan: Plan) -> dict[str, Any]:
    return {
        "today": plan.today.isoformat(),
        "due": plan.due,
        "digest": plan.digest,
        "to_seal": plan.to_seal,
        "holds": [hold.name for hold in plan.holds],
        "archives": [
            {"to": one.to, "entries": one.entries, "retain_until": f"{one.until:%Y-%m-%dT%H:%M:%SZ}"}
            for one in plan.archives
        ],
        "days": [_day_json(day) for day in plan.days],
    }


def _day_json(day: DayPlan) -> dict[str, Any]:
    return {
        "day": day.day.day.isoformat(),
        "first": day.day.begin,
        "last": day.day.end - 1,
        "sealed": day.day.sealed,
        "seal": day.seal and not day.day.sealed,
        "purged": day.purged,
        "locked_until": None if day.locked is None else f"{day.locked:%Y-%m-%dT%H:%M:%SZ}",
        "types": [
            {
                "event_type": row.event_type,
                "entries": row.entries,
                "due": row.due,
                "held": row.held,
                "locked": row.locked,
                "keep_until": None if row.keep_until is None else row.keep_until.isoformat(),
                "why": row.why,
            }
            for row in day.rows
        ],
    }


def _draw_plan(session: Session, plan: Plan, *, days: bool) -> None:
    from rich.table import Table

    session.say(
        f"On {plan.today} ", (f"{plan.due:,} entries are due", "bold"), f" and {plan.to_seal:,} days are to be sealed",
        f"; {len(plan.holds)} hold(s) in force." if plan.holds else ".",
    )  # fmt: skip
    table = Table(box=None, header_style="dim")
    for head in (*(["day"] if days else []), "type", "entries", "due", "held", "next due", "why"):
        table.add_column(head, justify="right" if head in ("entries", "due", "held") else "left", overflow="fold")
    groups: dict[tuple[str, str, str], list[Any]] = defaultdict(lambda: [0, 0, 0, None])
    for day in plan.days:
        for row in day.rows:
            sums = groups[day.day.day.isoformat() if days else "", row.event_type, row.why]
            for at, count in enumerate((row.entries, row.due, row.held)):
                sums[at] += count
            later = row.keep_until if row.keep_until is not None and row.keep_until > plan.today else None
            sums[3] = later if sums[3] is None else min(sums[3], later or sums[3])
    for (day_, kind, why), (entries, due, held, later) in sorted(groups.items()):
        cells = [inert(kind), f"{entries:,}", f"{due:,}", f"{held:,}", "never" if later is None else str(later), why]
        table.add_row(*([day_] if days else []), *cells)
    session.show(table)
    if locked := [day for day in plan.days if day.locked is not None]:
        entries, last = (
            sum(row.locked for day in locked for row in day.rows),
            max(day.locked for day in locked if day.locked),
        )
        session.say(
            (
                f"{entries:,} entries are due and lie under Object Lock, the last of them until {last:%Y-%m-%d}",
                "yellow",
            ),
            ": they are not purged before.",
        )
    for one in plan.archives:
        session.say(
            f"A copy of the first {one.entries:,} entries lies under lock at ", (inert(one.to), "bold"),
            f" until {one.until:%Y-%m-%d}: no purge reaches it.",
        )  # fmt: skip
    if plan.due:
        session.say((f"Digest of what is due, for who approves it: {plan.digest}", "dim"))
    session.say(("The newest day belongs to writers and is not looked at. Do it: klingai-audit retention apply", "dim"))
