"""`import`: logs that the two published recipes wrote become entries."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

from cyclopts import Parameter

from klingai_audit.cli.progress import progress_bar
from klingai_audit.cli.recording import reader_id
from klingai_audit.cli.session import Session, SessionArgument, open_log

if TYPE_CHECKING:
    from klingai_audit.upkeep.importing import FileImport, ImportResult

_SHOWN: Final = 20
"""Findings that are printed for a file; --json has them all."""


def import_files(
    first: Annotated[
        Path, Parameter(name="FILE", help="A file of JSON lines that one of the recipes wrote; several …")
    ],
    /,
    *more: Annotated[Path, Parameter(show=False)],
    actor: Annotated[
        str | None, Parameter(help="Who imports. Default: KLINGAI_AUDIT_ACTOR, else the login name")
    ] = None,
    session: SessionArgument,
) -> int:
    """Take over logs that the two published recipes wrote, with what their own checks say of each line.

    The same file again adds nothing twice. Give the files of a hash chain in the order of their dates.

    Exit codes: 0 all lines are in the log and hold, 1 lines could not be taken over (they are listed), 4 all lines are
    in the log and some fail their own checks.
    """
    from klingai_audit.event.context import acting
    from klingai_audit.upkeep.importing import import_files as take_over

    with (
        open_log(session) as audit,
        acting(actor or reader_id(), actor_type="admin"),
        progress_bar(session, "importing", "bytes") as report,
    ):
        result = take_over(audit, [first, *more], progress=report)
    if session.as_json:
        totals = {name: result.total(name) for name in ("lines", "imported", "already_there", "repeated", "bad")}
        session.emit({**totals, "files": [file.to_json() for file in result.files]})
    else:
        _draw(session, result)
    return result.exit_code


def _draw(session: Session, result: ImportResult) -> None:
    for file in result.files:
        _draw_file(session, file)
    if len(result.files) > 1:
        session.say(("In all: ", "bold"), f"{result.total('imported'):,} of {result.total('lines'):,} lines imported.")
    if result.total("bad"):
        session.say((f"{result.total('bad'):,} lines could not be taken over.", "red"))


def _draw_file(session: Session, file: FileImport) -> None:
    from klingai_audit.views.inert import inert

    parts = [f"{file.imported:,} imported"]
    counts = {"already there": file.already_there, "repeated": file.repeated, "not taken over": file.bad}
    parts += [f"{count:,} {words}" for words, count in counts.items() if count]
    session.say((inert(str(file.path)), "bold"), f": {file.lines:,} lines, {', '.join(parts)}")
    checks = ", ".join(f"{count:,} {state}" for state, count in file.checksums.items())
    links = ", ".join(f"{count:,} {state}" for state, count in file.chain.items())
    session.say((f"  SHA-256 {file.sha256}", "dim"))
    session.say((f"  checksums: {checks or 'none'}" + (f"; chain: {links}" if links else ""), "dim"))
    for found in file.findings[:_SHOWN]:
        style = "red" if found.kind in ("bad_line", "checksum_bad", "chain_broken") else "yellow"
        session.say(f"  line {found.line:,}: ", (found.kind, style), f", {inert(found.message)}")
    if len(file.findings) > _SHOWN:
        session.say((f"  and {len(file.findings) - _SHOWN:,} more: --json lists them all", "dim"))
