"""`query`, `tail`, `show`: commands that read. They need no key and change nothing unless asked to."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, Literal

from cyclopts import Parameter

from klingai_audit.cli.options import Record, Resolve, Selection
from klingai_audit.cli.session import Session, SessionArgument, escaped
from klingai_audit.cli.sources import indexed

if TYPE_CHECKING:
    from klingai_audit.ledger.reader import LogReader
    from klingai_audit.privacy.subjects import SubjectTable
    from klingai_audit.views.entry import ActorStyle, EntryView

POLL_SECONDS: Final = 0.2
"""How often `tail -f` looks for a new checkpoint."""


def query(
    *,
    selection: Selection = Selection(),  # noqa: B008  (frozen)
    sort: Annotated[Literal["seq", "timestamp"], Parameter(help="Order in the log, or when it happened.")] = "seq",
    limit: Annotated[int | None, Parameter(help="At most so many; more are told of with a cursor.")] = None,
    cursor: Annotated[str | None, Parameter(help="Go on where a page ended that was cut by --limit.")] = None,
    reverse: Annotated[bool, Parameter(help="Newest first.")] = False,
    duplicates: Annotated[bool, Parameter(help="Also entries whose event_id was seen before.")] = False,
    sql: Annotated[str | None, Parameter(help="Answer one SELECT on the view events (docs/sql.md) instead.")] = None,
    csv: Annotated[bool, Parameter(help="Print CSV.")] = False,
    parquet: Annotated[Path | None, Parameter(help="Write a Parquet file.")] = None,
    resolve: Resolve = False,
    record: Record = False,
    session: SessionArgument,
) -> None:
    """Find entries, or answer SQL. With --json: one entry a line, exactly the bytes that are stored."""
    from klingai_audit.cli.recording import record_read, tell_recorded
    from klingai_audit.errors import UsageError
    from klingai_audit.views.pages import take_page, with_fingerprints
    from klingai_audit.views.query import query as find

    if sql is not None:
        from klingai_audit.cli.asking import answer_sql

        if selection.given() or cursor or reverse or duplicates or resolve or sort != "seq":
            raise UsageError("--sql goes with --limit, --csv, --parquet and --record only.", do="Say the rest in SQL.")
        answer_sql(session, sql, limit=limit, csv=csv, parquet=parquet, record=record)
        return
    if csv + session.as_json + (parquet is not None) > 1:
        raise UsageError("Only one of --csv, --parquet and --json can be had.", do="Leave the others out.")
    wanted = selection.to_filter(limit=limit, reverse=reverse, duplicates=duplicates)
    reader, subjects = _open(session)
    size = reader.size
    with indexed(session, reader) as source:
        if selection.key:
            wanted = replace(wanted, key=with_fingerprints(source(size), selection.key))
        following = None
        found: Iterable[EntryView]
        if limit is None and cursor is None and sort == "seq":
            found = find(source(size), wanted, subjects)
        else:
            page = take_page(source, reader.entry, size, wanted, subjects, sort=sort, cursor=cursor)
            found, following = page.entries, page.cursor
        recorded = record_read(session, "query", selection.given(), size, subjects, asked=record)
        if csv or parquet is not None:
            from klingai_audit.cli.asking import write_entries

            printed = write_entries(session, found, "id" if resolve else "mask", parquet)
        else:
            printed = _print_entries(session, found, resolve=resolve)
    if not session.as_json and not printed:
        session.remark("No entry matches.")
    tell_recorded(session, recorded, following)


def tail(
    *,
    selection: Selection = Selection(),  # noqa: B008  (frozen)
    lines: Annotated[int, Parameter(name=("--lines", "-n"), help="How many of the last entries.")] = 10,
    follow: Annotated[bool, Parameter(name=("--follow", "-f"), help="Go on until interrupted.")] = False,
    resolve: Resolve = False,
    record: Record = False,
    session: SessionArgument,
) -> None:
    """Show the last entries, and with -f every new one, whichever process writes it."""
    from klingai_audit.cli.recording import record_read, tell_recorded
    from klingai_audit.errors import UsageError
    from klingai_audit.views.query import query as find

    if lines < 0:
        raise UsageError(f"--lines is {lines}.", do="Use a number of 0 or more.")
    reader, subjects = _open(session)
    narrowed = bool(selection.given())
    wanted = selection.to_filter(limit=lines or None, reverse=True)
    size = reader.size
    newest = find(reader.entries(0 if narrowed else max(0, size - lines), size), wanted, subjects)
    recorded = record_read(session, "tail", selection.given(), size, subjects, asked=record)
    last = list(newest)[::-1] if lines else []
    if not follow:
        _print_entries(session, last, resolve=resolve)
        tell_recorded(session, recorded)
        return
    tell_recorded(session, recorded)
    _print_entries(session, last, resolve=resolve)
    fresh = find(_follow(session, reader, size), selection.to_filter(), subjects)
    _print_entries(session, fresh, resolve=resolve, head=False, flush=True)


def show(
    what: Annotated[str, Parameter(name="WHAT", help="A seq, an event id, or the id of a task.")],
    /,
    *,
    resolve: Resolve = False,
    record: Record = False,
    session: SessionArgument,
) -> None:
    """Show one entry, or the whole story of one generation."""
    from klingai_audit.cli.recording import record_read, tell_recorded
    from klingai_audit.cli.showing import draw_entry, draw_story
    from klingai_audit.errors import UsageError
    from klingai_audit.views.story import Story, find_shown

    what = escaped(what)
    reader, subjects = _open(session)
    size = reader.size
    with indexed(session, reader) as source:
        whole = source(size)
        found = find_shown(lambda: whole, reader.entry, size, what, subjects)
    if found is None:
        raise UsageError(
            f"Nothing in the log is called {what!r}.", do="Give a seq, an event id or a task id; klingai-audit query"
        )
    recorded = record_read(session, "show", {"what": what}, size, subjects, asked=record)
    style: ActorStyle = "id" if resolve else "mask"
    if session.as_json:
        entries = [step.entry for step in found.steps] if isinstance(found, Story) else [found]
        _print_entries(session, entries, resolve=resolve)
    elif isinstance(found, Story):
        draw_story(session, found, style)
    else:
        draw_entry(session, found, reader.store.locate(found.seq), style)
    tell_recorded(session, recorded)


def _open(session: Session) -> tuple[LogReader, SubjectTable | None]:
    from klingai_audit.config import open_reader, open_subjects

    return open_reader(session.places), open_subjects(session.places)


def _print_entries(
    session: Session, entries: Iterable[EntryView], *, resolve: bool, head: bool = True, flush: bool = False
) -> int:
    """Print entries as they come and return how many there were."""
    count = 0
    if session.as_json:
        for entry in entries:
            session.emit_line(entry.resolved_json() if resolve else entry.raw)
            count += 1
            if flush:
                session.flush()
        return count
    from klingai_audit.cli.render import RowLayout

    layout = RowLayout(session.console.width, "id" if resolve else "mask")
    for entry in entries:
        if head and not count:
            session.say(layout.head())
        session.say(layout.row(entry))
        count += 1
    return count


def _follow(session: Session, reader: LogReader, size: int) -> Iterator[bytes]:
    """Yield entries beyond `size` as checkpoints cover them, for ever; what was printed so far is flushed first."""
    while True:
        session.flush()
        newest = reader.size
        if newest > size:
            yield from reader.entries(size, newest)
            size = newest
        else:
            time.sleep(POLL_SECONDS)
