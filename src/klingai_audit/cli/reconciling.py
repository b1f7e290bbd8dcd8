"""`reconcile`: the log against the provider's own records."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Final

from cyclopts import Parameter

from klingai_audit.cli.progress import watched
from klingai_audit.cli.recording import reader_id
from klingai_audit.cli.session import Session, SessionArgument, escaped, open_log

if TYPE_CHECKING:
    from klingai_audit.reconcile import Difference, Result
    from klingai_audit.reconcile.gather import Progress

SHOWN: Final = 20
"""Unexplained findings that are printed one by one; --json has them all."""

ATTEMPTS: Final = 8
"""How often a page is asked for; the pauses between double up to a minute."""


def reconcile(
    *,
    begin: Annotated[
        str | None,
        Parameter(name="--from", allow_leading_hyphen=True, help="Tasks ordered from then on. Default: -30d"),
    ] = None,
    end: Annotated[
        str | None,
        Parameter(name="--to", allow_leading_hyphen=True, help="Tasks ordered before then; a whole day is included."),
    ] = None,
    resume: Annotated[bool, Parameter(help="Go on with a run that stopped within the last 24 hours.")] = False,
    legacy_lists: Annotated[
        bool, Parameter(help="Also read the lists of the older API generation, one for each product.")
    ] = False,
    base_url: Annotated[
        str | None, Parameter(help="Where Kling is. Default: KLINGAI_BASE_URL, else Kling's own.")
    ] = None,
    session: SessionArgument,
) -> int:
    """Compare the log with the provider's lists, ledgers and packs; find calls that went around the log.

    The credential comes from KLINGAI_API_KEY, or KLINGAI_ACCESS_KEY and KLINGAI_SECRET_KEY. Everything that is asked is
    a read. The result is recorded as an entry.

    Exit codes: 0 everything agrees or is explained, 4 differences that somebody has to look into.
    """
    result = run(
        session,
        None if begin is None else escaped(begin),
        None if end is None else escaped(end),
        resume=resume,
        legacy_lists=legacy_lists or None,
        base_url=base_url,
    )
    if session.as_json:
        session.emit(result.to_json())
    else:
        draw_result(session, result)
    return result.exit_code


def run(
    session: Session,
    begin: str | dt.datetime | None = None,
    end: str | dt.datetime | None = None,
    *,
    resume: bool = False,
    legacy_lists: bool | None = None,
    base_url: str | None = None,
) -> Result:
    """Reconcile the session's log with the account that the environment's credential belongs to.

    Raises: as `klingai_audit.reconcile.reconcile`; UsageError: there is no credential.
    """
    from klingai_audit.event.context import acting
    from klingai_audit.kling.client import KlingAI
    from klingai_audit.kling.flows import Retries
    from klingai_audit.reconcile import reconcile as compare

    with (
        open_log(session) as audit,
        acting(reader_id()),
        KlingAI(audit=audit, base_url=base_url, retries=Retries(attempts=ATTEMPTS, cap=60.0)) as kling,
        _progress(session) as progress,
    ):
        return compare(audit, kling, begin, end, resume=resume, legacy_lists=legacy_lists, progress=progress)


def draw_result(session: Session, result: Result) -> None:
    """Print a short table, the findings that need somebody, and what to do."""
    from rich.table import Table
    from rich.text import Text

    from klingai_audit.cli.render import format_moment
    from klingai_audit.reconcile.result import KINDS, amounts_json
    from klingai_audit.views.inert import inert

    session.tell(
        f"Tasks ordered from {format_moment(result.begin)} to {format_moment(result.end)} UTC, log against provider:"
    )
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(justify="right", no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    counts = result.counts
    table.add_row(Text(f"{counts.pop('matched'):,}", style="bold"), Text("matched", style="green"), "in every respect")
    for kind, count in counts.items():
        style = "red" if KINDS[kind].unexplained else "dim"
        table.add_row(Text(f"{count:,}", style="bold"), Text(kind, style=style), Text(KINDS[kind].meaning))
    session.show(table)
    for title, sums in (("stated in the log", result.log_sums), ("taken by the ledger", result.ledger_sums)):
        shown = ", ".join(f"{amount} {unit}" for unit, amount in amounts_json(sums).items())
        session.tell((f"{title}: {inert(shown) or 'nothing'}", "dim"), indent=2, hanging=2)
    loose = [finding for finding in result.findings if finding.unexplained]
    for finding in loose[:SHOWN]:
        session.tell(("✗ ", "red"), *_line(finding), indent=2, hanging=2)
    if len(loose) > SHOWN:
        session.say((f"    and {len(loose) - SHOWN:,} more: --json lists them all", "dim"))
    for kind in dict.fromkeys(finding.kind for finding in loose):
        session.tell((kind, "bold"), f": {KINDS[kind].do}")
    if not loose:
        session.say(("Nothing is unexplained.", "green"))
    if result.seq is not None:
        session.say((f"Recorded as entry {result.seq}.", "dim"))


def _line(finding: Difference) -> Iterator[str | tuple[str, str]]:
    from klingai_audit.cli.render import format_moment
    from klingai_audit.reconcile.result import amounts_json
    from klingai_audit.views.inert import inert

    yield (f"{finding.kind} ", "red")
    told = [f"task {finding.task_id}" if finding.task_id else "", finding.action or "", finding.model or ""]
    if finding.at is not None:
        told.append(f"at {format_moment(finding.at)}")
    if finding.key_name:
        told.append(f"with the key {finding.key_name!r}")
    yield inert(", ".join(part for part in told if part))
    by_source = {
        source: " + ".join(f"{amount} {unit}" for unit, amount in amounts_json(sums).items()) or "nothing"
        for source, sums in finding.amounts.items()
        if sums is not None
    }
    agreed = set(by_source.values())
    amounts = [*agreed] if len(agreed) == 1 else [f"{source} {shown}" for source, shown in by_source.items()]
    if finding.message:
        amounts.append(finding.message)
    if finding.seqs:
        amounts.append(f"seq {', '.join(map(str, finding.seqs[:6]))}")
    yield (inert(f" ({'; '.join(amounts)})") if amounts else "", "dim")


@contextmanager
def _progress(session: Session) -> Iterator[Progress | None]:
    """Say on a terminal what is being read."""
    if not watched(session):
        yield None
        return
    with session.remarks.status("asking the provider") as status:
        yield lambda what, count: status.update(f"reading {what}: {count:,}")
