"""`export`: the log's entries in other formats and other places, once or following."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from klingai_audit.cli.cosigning import Cosigned, Witnesses
from klingai_audit.cli.operating import Metrics, operated
from klingai_audit.cli.options import Record
from klingai_audit.cli.progress import progress_bar
from klingai_audit.cli.publishing import export_tiles
from klingai_audit.cli.session import Session, SessionArgument, escaped
from klingai_audit.cli.signals import exit_code, pause_until, until_signalled
from klingai_audit.diagnostics import tell
from klingai_audit.errors import UsageError
from klingai_audit.operation.board import Board

if TYPE_CHECKING:
    from collections.abc import Callable

    from klingai_audit.exports.cursor import CursorFile
    from klingai_audit.exports.run import ExportResult
    from klingai_audit.exports.sink import SinkLost
    from klingai_audit.ledger.reader import LogReader


def export(
    *,
    format: Annotated[
        str, Parameter(help="ocsf, cef, cloudevents, syslog, otlp, csv, parquet, jsonl or tiles: docs/exports.md.")
    ],
    output: Annotated[
        Path | None, Parameter(name=("--output", "-o"), help="A file. Without it, and without --to: standard output.")
    ] = None,
    to: Annotated[
        str | None, Parameter(help="A receiver: tls://host:6514 (syslog, cef) or https://host:4318/v1/logs (otlp).")
    ] = None,
    follow: Annotated[bool, Parameter(name=("--follow", "-f"), help="Go on until interrupted.")] = False,
    since: Annotated[
        str | None, Parameter(allow_leading_hyphen=True, help="From this time on: -30d, today, 2026-11-21.")
    ] = None,
    until: Annotated[
        str | None, Parameter(allow_leading_hyphen=True, help="Before this time; a whole day is included.")
    ] = None,
    from_seq: Annotated[int | None, Parameter(help="From this entry on.")] = None,
    cursor: Annotated[
        str | None, Parameter(help="Name of the place to go on from next time. --follow always has one.")
    ] = None,
    ca: Annotated[
        Path | None, Parameter(help="PEM file of the authority that issued the receiver's certificate.")
    ] = None,
    cert: Annotated[Path | None, Parameter(help="PEM file of our own certificate, for receivers that ask.")] = None,
    cert_key: Annotated[Path | None, Parameter(help="PEM file of its private key.")] = None,
    plain: Annotated[bool, Parameter(help="Allow tcp:// and http:// to another machine: anybody can read it.")] = False,
    resend: Annotated[
        float, Parameter(help="Seconds before a break that syslog sends again, as nobody can know what arrived.")
    ] = 5.0,
    cosigned: Cosigned = False,
    witnesses: Witnesses = None,
    record: Record = False,
    metrics: Metrics = None,
    session: SessionArgument,
) -> int:
    """Write or send entries in another format, each with its place in the signed tree.

    Only what the published checkpoint covers leaves; every entry arrives at least once.
    """
    if format == "tiles":
        _check_tiles(to, follow, since, until, from_seq, cursor)
        export_tiles(session, output, cosigned=cosigned, witnesses=witnesses, record=record)
        return 0
    if cosigned or witnesses is not None:
        raise UsageError("Cosigned checkpoints are published with tiles.", do="Use --format tiles, or leave it out.")
    from klingai_audit.cli.recording import record_act
    from klingai_audit.config import open_reader
    from klingai_audit.exports import Course
    from klingai_audit.exports import export as run

    _check(follow=follow, until=until, resend=resend, metrics=metrics)
    reader = open_reader(session.places)
    place = output if output is not None else None if to is not None else sys.stdout.buffer
    where = to or ("-" if output is None else str(output.absolute()))
    name = cursor or (_default_name(format, where) if follow else None)

    def note(metadata: Mapping[str, Any]) -> bool:
        return record_act(session, "log_exported", {"command": "export", **metadata}, asked=record)

    def trouble(error: SinkLost, pause: float) -> None:
        progress.lost()
        _tell_trouble(session, error, pause)

    with contextlib.ExitStack() as stack:
        kept = None if name is None else stack.enter_context(_cursor(session, name))
        ended = stack.enter_context(until_signalled()) if follow else []
        endless = follow or place is sys.stdout.buffer
        told = None if endless else stack.enter_context(progress_bar(session, "exporting", "entries"))
        progress = _Progress(reader, told)
        progress.observe(stack.enter_context(operated(session, metrics, reader)))
        course = Course(
            follow=follow,
            stop=lambda: bool(ended),
            told=progress.told,
            sent=progress.sent,
            trouble=trouble,
            pause=lambda seconds: pause_until(lambda: bool(ended), seconds),
        )
        result = run(
            reader,
            format,
            file=place,
            to=to,
            since=None if since is None else escaped(since),
            until=None if until is None else escaped(until),
            from_seq=from_seq,
            cursor=kept,
            course=course,
            record=note,
            plain=plain,
            ca=_text(ca),
            certificate=_text(cert),
            key=_text(cert_key),
            resend=resend,
        )
    _tell(session, result, to_stdout=place is sys.stdout.buffer)
    return exit_code(ended)


class _Progress:
    """How far an export is, for whoever looks: people at the terminal, the operator's board."""

    def __init__(self, reader: LogReader, told: Callable[[int, int], None] | None) -> None:
        self._reader = reader
        self._told = told
        self._board = Board()
        self._done: int | None = None
        self._lost = False

    def observe(self, board: Board) -> None:
        """Show it on this board, too."""
        self._board = board
        board.check("receiver", lambda: "the receiver cannot be reached" if self._lost else None)
        board.look("export_lag_entries", self._lag)

    def told(self, done: int, size: int) -> None:
        """Take note that everything before entry `done` of `size` was handed over."""
        self._done, self._lost = done, False
        if self._told is not None:
            self._told(done, size)

    def sent(self, entries: int) -> None:
        """Take note that so many entries were handed over."""
        self._board.count("exported_entries", by=entries)

    def lost(self) -> None:
        """Take note that the receiver went away."""
        self._lost = True
        self._board.count("errors", "export", "SinkLost")

    def _lag(self) -> dict[tuple[str, ...], float]:
        return {} if self._done is None else {(): float(max(0, self._reader.size - self._done))}


def _check(*, follow: bool, until: str | None, resend: float, metrics: str | None) -> None:
    if metrics is not None and not follow:
        raise UsageError("An export that ends has nothing to serve.", do="Use --follow, or leave --metrics out.")
    if follow and until is not None:
        raise UsageError("--follow has no end, --until is one.", do="Leave one of them out.")
    if not 0 <= resend <= 3600:
        raise UsageError(f"--resend is {resend:g}.", do="Use 0 to 3600 seconds.")


def _check_tiles(*others: object) -> None:
    if any(value is not None and value is not False for value in others):
        raise UsageError(
            "Tiles are the whole log in a folder: there is no part of it, and no receiver.",
            do="Use --format tiles -o FOLDER, again whenever the log has grown.",
        )


def _text(path: Path | None) -> str | None:
    return None if path is None else str(path)


def _default_name(format: str, where: str) -> str:
    """Name the cursor of an export that follows after its format and destination."""
    name = "".join(char for char in format if char.isalnum() and char.isascii()).lower() or "export"
    return f"{name[:32]}-{hashlib.sha256(where.encode('utf-8', 'surrogateescape')).hexdigest()[:8]}"


def _cursor(session: Session, name: str) -> CursorFile:
    from klingai_audit.exports import CursorFile

    return CursorFile.open(session.places.state, escaped(name))


def _tell_trouble(session: Session, error: SinkLost, pause: float) -> None:
    from klingai_audit.views.inert import inert

    tell(logging.WARNING, "receiver_lost", "the receiver of an export cannot be reached", again_in_s=pause)
    words = f"{inert(error.message)} Trying again in {pause:g} s."
    session.remark(words, trouble={"message": inert(error.message), "again_in_s": pause})


def _tell(session: Session, result: ExportResult, *, to_stdout: bool) -> None:
    members = result.to_json()
    if session.as_json:
        if to_stdout:
            session.remark("", **members)
        else:
            session.emit(members)
        return
    from klingai_audit.views.inert import inert

    noun = "entry" if result.entries == 1 else "entries"
    where = "" if to_stdout else f" to {inert(result.to)}"
    words = f"{result.entries} {noun} exported as {result.format}{where}, under the checkpoint of {result.tree_size}."
    if result.again:
        words += f" {result.again} of them a second time, after a break."
    if result.unsigned_tail:
        words += f" Not exported: {result.unsigned_tail} after the last checkpoint."
    session.remark(words + (" This was recorded in the log." if result.recorded else ""))
    if not result.recorded:
        session.remark("Not recorded in the log (--record does).")
