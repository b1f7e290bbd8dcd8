"""`report` and `sample`: what a log shows, for people who have to judge it."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

from cyclopts import Parameter

from klingai_audit.cli.files import write_file
from klingai_audit.cli.options import Record, Selection
from klingai_audit.cli.session import Session, SessionArgument, escaped
from klingai_audit.cli.sources import open_index

if TYPE_CHECKING:
    from klingai_audit.ledger.reader import LogReader
    from klingai_audit.report.making import Report
    from klingai_audit.trust.verdict import Verdict

EXIT_BROKEN: Final = 4
MAX_POPULATION: Final = 5_000_000
"""Most entries that a query of a sample may name."""


def report(
    *,
    days: Annotated[int, Parameter(help="Period in days of 24 hours, up to --until.")] = 90,
    output: Annotated[
        Path | None,
        Parameter(name=("--output", "-o"), help="FILE.html, .pdf, .json or .csv. Without it: a summary here."),
    ] = None,
    framework: Annotated[
        tuple[str, ...],
        Parameter(
            help="Frameworks by name, separated by commas: soc2, pci, iso27001, nist, gdpr, asvs … Default: all."
        ),
    ] = (),
    high_risk: Annotated[bool, Parameter(help="Declare a high-risk use under the EU AI Act.")] = False,
    pseudonyms: Annotated[bool, Parameter(help="Show people as pseudonyms, not as masks.")] = False,
    until: Annotated[
        str | None,
        Parameter(allow_leading_hyphen=True, help="End of the period; a whole day is included. Default: now."),
    ] = None,
    at: Annotated[int | None, Parameter(help="The first so many entries only: makes an earlier report again.")] = None,
    key: Annotated[str | None, Parameter(help="The log's public key: a vkey, or a file that holds one.")] = None,
    trust_first_key: Annotated[bool, Parameter(help="Believe the log's own claim of its key.")] = False,
    record: Record = False,
    session: SessionArgument,
) -> int:
    """Report on a period: what was done, whether the log holds, and which controls its evidence supports.

    Exit code 0, or 4 if the log does not verify; the report is written all the same.
    """
    from klingai_audit.cli.trusting import check_log
    from klingai_audit.report.charts import require_extra
    from klingai_audit.report.making import format_of
    from klingai_audit.report.scope import read_frameworks

    form = None if output is None else format_of(output)
    if form in ("html", "pdf"):
        require_extra()
    named = read_frameworks(tuple(map(escaped, framework)))
    verdict = check_log(session, key=key, first_use=trust_first_key, compare=False)
    made = make_report(
        session,
        verdict,
        days=days,
        until=None if until is None else escaped(until),
        at=at,
        frameworks=named,
        high_risk=high_risk,
        people="pseudonym" if pseudonyms else "mask",
    )
    if output is not None and form is not None:
        told = write_report(session, made, output, record=record)
        _tell_written(session, made, told)
    else:
        recorded = _record(session, made, {"format": "json", "sha256": made.digest("json")}, asked=record)
        if session.as_json:
            sys.stdout.buffer.write(made.render("json", recorded=recorded).data)
            session.remark("", recorded=recorded)
        else:
            _tell_summary(session, made, recorded=recorded)
    return 0 if verdict.integrity_ok else EXIT_BROKEN


def sample(
    *,
    n: Annotated[int, Parameter(name=("--n", "-n"), help="How many entries.")] = 25,
    seed: Annotated[str, Parameter(help="Any text; the same seed draws the same sample.")],
    output: Annotated[Path, Parameter(name=("--output", "-o"), help="FILE.csv")],
    selection: Selection = Selection(),  # noqa: B008  (frozen)
    query: Annotated[
        str | None, Parameter(help="Draw from the column seq of one SELECT over events, instead of the filters.")
    ] = None,
    at: Annotated[int | None, Parameter(help="Draw from the first so many entries only.")] = None,
    record: Record = False,
    session: SessionArgument,
) -> None:
    """Draw entries at random, each with the proof that it is in the log; anyone can draw the same sample again."""
    from klingai_audit.cli.recording import record_act, tell_recorded
    from klingai_audit.config import open_reader
    from klingai_audit.errors import UsageError
    from klingai_audit.report.sample import draw_sample

    reader = open_reader(session.places)
    size = reader.size
    if at is not None and not 0 <= at <= size:
        raise UsageError(f"--at is {at:,}, but {size:,} entries of the log are signed.", do=f"Use 0 to {size}.")
    end = size if at is None else at
    population = _population(session, reader, selection, query, end)
    drawn = draw_sample(reader, population, n, escaped(seed))
    told: dict[str, Any] = {
        "population": drawn.population,
        "population_sha256": drawn.population_sha256,
        "drawn": len(drawn.seqs),
        "seqs": list(drawn.seqs),
        "tree_size": drawn.tree_size,
        "at": end,
    }
    asked: dict[str, Any] = {"seed": escaped(seed), "n": n, "options": sorted(selection.given())}
    if query is not None:
        asked["query"] = escaped(query)
    metadata = {"command": "sample", **asked, **{name: told[name] for name in told if name != "seqs"}}
    recorded = record_act(session, "report_generated", metadata, asked=record)
    write_file(output, drawn.data)
    if session.as_json:
        session.emit({"file": escaped(str(output)), "bytes": len(drawn.data), **told, "recorded": recorded})
        return
    from klingai_audit.views.inert import inert

    entries = "entry" if drawn.population == 1 else "entries"
    session.say(
        f"Drew {len(drawn.seqs):,} of {drawn.population:,} {entries} with the seed ",
        (inert(escaped(seed)), "bold"),
        ".",
    )
    session.say("Written to ", (inert(escaped(str(output))), "bold"), "; each row holds its proof.")
    session.say((f"The population's SHA-256: {drawn.population_sha256}", "dim"))
    tell_recorded(session, recorded)


def make_report(session: Session, verdict: Verdict, **terms: Any) -> Report:
    """Make a report of the session's log, on which `verdict` is; `terms` are those of `klingai_audit.report.compose`.

    Raises: UsageError; LogDamaged if a broken log cannot even be read.
    """
    from klingai_audit.config import open_reader, open_subjects
    from klingai_audit.errors import KlingAuditError, LogDamaged, UsageError
    from klingai_audit.report.making import compose

    reader = open_reader(session.places)
    try:
        with contextlib.closing(open_index(session, reader)) as index:
            subjects = open_subjects(session.places)
            return compose(reader, verdict, index.rows, subjects, places=session.places, **terms)
    except UsageError:
        raise
    except (KlingAuditError, OSError) as exc:
        if verdict.integrity_ok:
            raise
        raise LogDamaged(
            "The log is broken so that no report can be made of it.", kind_of_damage=verdict.broken[0].kind
        ) from exc


def _population(session: Session, reader: LogReader, selection: Selection, query: str | None, end: int) -> list[int]:
    """Return the indexes below `end` that the filters or the SELECT name, ascending. Raises: UsageError."""
    from klingai_audit.config import open_subjects
    from klingai_audit.errors import UsageError
    from klingai_audit.views.query import query as find

    if query is None:
        if not selection.given():
            return list(range(end))
        wanted = selection.to_filter()
        return [entry.seq for entry in find(reader.entries(0, end), wanted, open_subjects(session.places))]
    if selection.given():
        raise UsageError("--query and filters exclude each other.", do="Write the filters into the SELECT.")
    with contextlib.closing(open_index(session, reader)) as index:
        table = index.sql(escaped(query), limit=MAX_POPULATION)
    if "seq" not in table.columns:
        raise UsageError("--query gives no column seq.", do="Begin with: SELECT seq FROM events")
    if table.more:
        raise UsageError(f"--query names over {MAX_POPULATION:,} entries.", do="Narrow it.")
    place = table.columns.index("seq")
    named = {row[place] for row in table.rows}
    if not all(isinstance(seq, int) and seq >= 0 for seq in named):
        raise UsageError("--query gives a seq that is none.", do="Begin with: SELECT seq FROM events")
    return sorted(seq for seq in named if seq < end)


def write_report(session: Session, made: Report, output: Path, *, record: bool = False) -> dict[str, Any]:
    """Record a report if that is asked for or policy, write it to `output`, and return what `--json` prints of it.

    Raises: UsageError, MissingExtra; AuditUnavailable if it cannot be recorded: then nothing is written.
    """
    from klingai_audit.report.making import format_of

    form = format_of(output)
    told: dict[str, Any] = {"format": form, "sha256": made.digest(form)}
    recorded = _record(session, made, told, asked=record)
    data = made.render(form, recorded=recorded).data
    write_file(output, data)
    facts = {"command": made.scope.command, **told, "tree_size": made.scope.size}
    holds = made.facts["integrity"]["holds"]
    return {"file": escaped(str(output)), "bytes": len(data), **facts, "integrity_ok": holds, "recorded": recorded}


def _record(session: Session, made: Report, told: dict[str, Any], *, asked: bool) -> bool:
    """Append that the report was made; a log that cannot be written any more stays unrecorded."""
    from klingai_audit.cli.recording import record_act
    from klingai_audit.errors import KlingAuditError

    holds = made.facts["integrity"]["holds"]
    facts = {"made": made.scope.command, **told, "tree_size": made.scope.size, "integrity_ok": holds}
    try:
        return record_act(session, "report_generated", {"command": "report", **facts}, asked=asked)
    except KlingAuditError:
        if holds:
            raise
        return False


def _tell_written(session: Session, made: Report, told: dict[str, Any]) -> None:
    from klingai_audit.cli.recording import tell_recorded

    if session.as_json:
        session.emit(told)
        return
    from klingai_audit.views.inert import inert

    summary = made.facts["summary"]
    session.say((inert(summary["verdict"]), "bold green" if summary["holds"] else "bold red"))
    session.say("Written to ", (inert(told["file"]), "bold"), f", {told['bytes']:,} bytes.")
    session.say((f"Made again by: {made.scope.command} -o FILE", "dim"))
    tell_recorded(session, recorded=told["recorded"])


def _tell_summary(session: Session, made: Report, *, recorded: bool) -> None:
    """Print what a manager reads."""
    from rich.table import Table
    from rich.text import Text

    from klingai_audit.cli.recording import tell_recorded
    from klingai_audit.views.inert import inert

    facts = made.facts
    summary = facts["summary"]
    session.say((inert(summary["verdict"]), "bold green" if summary["holds"] else "bold red"))
    period = facts["period"]
    session.say((f"{facts['period_days']:,} days, {period['since']} to {period['until']}", "dim"))
    if not summary["acts"]:
        session.say("No act is recorded in this period.")
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(justify="right", no_wrap=True)
    table.add_column(overflow="fold")
    charges = [(amount, f"{inert(unit)} charged") for unit, amount in summary["charges"].items()]
    rows = [
        (f"{summary['events']:,}", f"events, {summary['acts']:,} of them acts"),
        (f"{summary['people_and_services']:,}", "people and services"),
        (f"{summary['generations_succeeded']:,}", f"generations, and {summary['generations_failed']:,} failed"),
        (f"{summary['security_events']:,}", "security events"),
        (f"{summary['open_tasks']:,}", f"open tasks, {summary['acts_without_outcome']:,} acts without an outcome"),
        *charges,
    ]
    for value, words in rows:
        table.add_row(Text(value, style="bold"), Text(words))
    session.show(table)
    counts = ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in facts["controls_by_verdict"].items())
    session.say(f"Controls: {counts}.")
    for item in summary["attention"]:
        session.say((f"  {item['state'].replace('_', ' ')}  ", "yellow"), f"{item['name']}: {inert(item['words'])}")
    session.say(("The whole report: -o report.html, .pdf, .json or .csv", "dim"))
    tell_recorded(session, recorded)
