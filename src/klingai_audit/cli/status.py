"""`status`: the published recipes' checklist, with the evidence for each line."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Annotated, Final

from cyclopts import Parameter

from klingai_audit.cli.progress import progress_bar
from klingai_audit.cli.session import Session, SessionArgument
from klingai_audit.cli.sources import open_index

if TYPE_CHECKING:
    from klingai_audit.report.ask import Rows
    from klingai_audit.report.status import Line, Status

EXIT_RED: Final = 1
_STYLES: Final = {"green": "bold green", "yellow": "bold yellow", "red": "bold red", "unknown": "bold cyan"}
_INDENT: Final = 9


def status(
    *,
    verify: Annotated[bool, Parameter(help="Verify the whole log now.")] = False,
    entries: Annotated[
        int | None, Parameter(help="Search only so many of the newest entries for content. Default: all.")
    ] = None,
    strict: Annotated[bool, Parameter(help="Exit code 1 if any line is red.")] = False,
    key: Annotated[str | None, Parameter(help="The log's public key, as for verify.")] = None,
    session: SessionArgument,
) -> int:
    """Show the checklist: each line green, yellow, red or unknown, with its evidence and what mends it.

    Reads only; the log is not verified unless --verify asks for it. Exit code 0; with --strict 1 if a line is red.
    """
    from klingai_audit.cli.trusting import check_log
    from klingai_audit.cli.waiting import tell_waiting
    from klingai_audit.config import open_reader
    from klingai_audit.errors import UsageError
    from klingai_audit.report.status import take_status

    if entries is not None and entries < 1:
        raise UsageError(f"--entries is {entries}.", do="Use 1 or more; leave it out for all.")
    tell_waiting(session)
    open_reader(session.places)
    verdict = None
    if verify:
        with progress_bar(session, "reading", "bytes") as progress:
            verdict = check_log(session, key=key, progress=progress)
    with contextlib.ExitStack() as stack:
        made = take_status(session.places, entries=entries, verdict=verdict, rows=_rows(session, stack))
    if session.as_json:
        session.emit(made.to_json())
    else:
        _draw(session, made)
    return EXIT_RED if strict and made.is_red else 0


def _rows(session: Session, stack: contextlib.ExitStack) -> Rows | None:
    """Open the index, so that who looks on sees it being made; None where the log is too broken: status says so."""
    from klingai_audit.config import open_reader
    from klingai_audit.errors import KlingAuditError

    try:
        return stack.enter_context(contextlib.closing(open_index(session, open_reader(session.places)))).rows
    except (KlingAuditError, OSError):
        return None


def _draw(session: Session, made: Status) -> None:
    for line in made.lines:
        _draw_line(session, line)
    counts = ", ".join(f"{count} {name}" for name, count in made.counts.items() if count)
    session.say((f"{made.size:,} entries: {counts}. Evidence for each line: --json", "dim"))


def _draw_line(session: Session, line: Line) -> None:
    from klingai_audit.views.inert import inert

    session.say((f"{line.state:<{_INDENT}}", _STYLES[line.state]), (line.title, "bold"))
    session.tell(inert(line.words), indent=_INDENT)
    if line.do:
        session.tell((inert(line.do), "cyan"), indent=_INDENT)
