"""`costs`: what was spent, by team, project, key, model, actor or day."""

from __future__ import annotations

import datetime as dt
import sys
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from klingai_audit.cli.options import Record
from klingai_audit.cli.session import Session, SessionArgument, escaped
from klingai_audit.cli.sources import open_index

if TYPE_CHECKING:
    from klingai_audit.views.costs import Costs


def costs(
    *,
    by: Annotated[str, Parameter(help="One or more of team, project, key, model, actor, day, with commas.")] = "team",
    month: Annotated[
        str | None, Parameter(help="A month of UTC, such as 2026-10. Default: this month up to now.")
    ] = None,
    since: Annotated[str | None, Parameter(allow_leading_hyphen=True, help="Tasks ordered from then on.")] = None,
    until: Annotated[
        str | None, Parameter(allow_leading_hyphen=True, help="Tasks ordered before then; a whole day is included.")
    ] = None,
    output: Annotated[
        str | None,
        Parameter(name=("--output", "-o"), allow_leading_hyphen=True, help="Write CSV to this file; - is stdout."),
    ] = None,
    prices: Annotated[Path | None, Parameter(help="List of prices (TOML). Default: the one of this version.")] = None,
    ledger: Annotated[
        bool, Parameter(help="Ask the provider's ledger first: a reconciliation of this period. Needs a credential.")
    ] = False,
    record: Record = False,
    session: SessionArgument,
) -> int:
    """Add up what was spent. Units of different packs are never added; what is not known yet counts as open.

    A task counts when it was ordered, for who ordered it. The sums are compared with the billing ledger on the days
    that a reconciliation covers.
    """
    from klingai_audit.cli.recording import record_read, tell_recorded
    from klingai_audit.config import open_reader, open_subjects
    from klingai_audit.views.costs import costs_by_index as add_up
    from klingai_audit.views.costs import period_of
    from klingai_audit.views.prices import PriceList

    groups = [name.strip() for name in escaped(by).split(",") if name.strip()]
    times = {"month": month, "since": since, "until": until}
    asked = {name: escaped(value) for name, value in times.items() if value is not None}
    price_list = PriceList.load(prices)
    code = _ask_ledger(session, asked) if ledger else 0
    reader, subjects = open_reader(session.places), open_subjects(session.places)
    period = period_of(asked.get("month"), asked.get("since"), asked.get("until"), dt.datetime.now(dt.UTC))
    with closing(open_index(session, reader)) as index:
        size, found = index.size, add_up(index, reader.entry, groups, period, prices=price_list, subjects=subjects)
    recorded = record_read(session, "costs", {"by": groups, **asked}, size, subjects, asked=record)
    if output is not None:
        _write(output, found)
    if session.as_json:
        session.emit({**found.to_json(), "recorded": recorded})
    elif output != "-":
        draw_costs(session, found)
        if output is not None:
            session.remark(f"Written to {escaped(output)}.")
        tell_recorded(session, recorded)
    return code


def draw_costs(session: Session, found: Costs) -> None:
    """Print a table of groups, and what the sums do not say."""
    from rich.table import Table
    from rich.text import Text

    from klingai_audit.cli.render import format_moment
    from klingai_audit.views.inert import inert

    period = f"{format_moment(found.period.since)} to {format_moment(found.period.until)} UTC"
    if not found.rows:
        session.say(f"Nothing was ordered from {period}.")
        return
    session.say((f"Ordered from {period}", "dim"))
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in found.by:
        table.add_column(name, overflow="fold")
    for name in ("tasks", "done", "failed", "open", *found.units, f"list {found.prices.currency}"):
        table.add_column(Text(inert(name)), justify="right", no_wrap=True)
    rows = [(found.shown(row), row) for row in found.rows]
    rows += [(("all",) + ("",) * (len(found.by) - 1), found.total)] if len(rows) > 1 else []
    for shown, row in rows:
        amounts = [format(row.amounts[unit], ",f") if unit in row.amounts else "" for unit in found.units]
        counts = [f"{number:,}" if number else "" for number in (row.tasks, row.completed, row.failed, row.open)]
        style = "bold" if row is found.total else ""
        cells = [*shown, *counts, *amounts, found.list_price(row)]
        table.add_row(*(Text(inert(cell), style=style) for cell in cells))
    session.show(table)
    for words in _remarks(found):
        session.tell((inert(words), "dim"), hanging=2)


def _remarks(found: Costs) -> list[str]:
    told = [f"List price by {found.prices.name}, of {found.prices.date.isoformat()}: {found.prices.source}."]
    if found.unpriced:
        told.append(f"Without a price there: {', '.join(found.unpriced)}; such groups have no list price.")
    if found.total.open:
        told.append(f"Open, so not in the sums: {found.total.open:,}. Their charge is not known yet.")
    if found.outside:
        told.append(f"Seen, but not ordered through this log: {found.outside:,}; they are nobody's (–).")
    compared = found.compared
    if compared is None:
        told.append("Not compared with the billing ledger: no reconciliation covers this period (--ledger makes one).")
        return told
    words = "agree" if compared.agrees else "differ"
    days = f"{compared.days} of {compared.of} days" if compared.of > 1 else "the day"
    told.append(f"Log and billing ledger {words} on {days} (reconciled in entry {', '.join(map(str, compared.seqs))}).")
    if compared.settled < compared.days:
        told.append("The ledger may lag by 12 hours: compare the last of these days again later.")
    if not compared.agrees:
        sums: dict[str, Any] = compared.to_json()
        told += [f"  {name}: {', '.join(f'{a} {u}' for u, a in sums[name].items())}" for name in ("log", "ledger")]
    return told


def _ask_ledger(session: Session, asked: dict[str, str]) -> int:
    """Reconcile the period that is asked for; returns the exit code of that."""
    from klingai_audit.cli.reconciling import run
    from klingai_audit.views.costs import period_of

    now = dt.datetime.now(dt.UTC)
    period = period_of(asked.get("month"), asked.get("since"), asked.get("until"), now)
    result = run(session, period.since, min(period.until, now))
    if result.unexplained and not session.as_json:
        session.remark(f"Unexplained differences: {result.unexplained}. See: klingai-audit reconcile")
    return result.exit_code


def _write(output: str, found: Costs) -> None:
    from klingai_audit.durable import OPS
    from klingai_audit.errors import StorageError
    from klingai_audit.exports.text import cell

    width = len(found.by)
    lines = [",".join(found.header())]
    lines += [",".join([*map(cell, row[:width]), *row[width:-1], cell(row[-1])]) for row in found.table()]
    data = "".join(f"{line}\r\n" for line in lines)
    if output == "-":
        sys.stdout.write(data)
        return
    try:
        OPS.replace(Path(output), data.encode())
    except OSError as exc:
        raise StorageError(f"{escaped(output)} cannot be written: {exc.strerror}.") from exc
