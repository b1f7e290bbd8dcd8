"""`query --sql`: the answer to one SELECT, as a table, JSON, CSV or Parquet; and entries in the latter two."""

from __future__ import annotations

import datetime as dt
import math
import os
import re
import sys
from contextlib import closing, suppress
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from klingai_audit.cli.session import Session, escaped
from klingai_audit.cli.sources import open_index
from klingai_audit.event.record import TEXT_MEMBERS

if TYPE_CHECKING:
    from collections.abc import Iterable

    from klingai_audit.index import Table
    from klingai_audit.views.entry import ActorStyle, EntryView

_NARROWEST: Final = 9
_LONGEST: Final = 400
_PLAIN_TYPE: Final = re.compile(
    r"U?(TINY|SMALL|BIG|HUGE)?INT(EGER)?|FLOAT|DOUBLE|BOOLEAN|DATE|TIMESTAMP|DECIMAL\(\d+,\d+\)"
)
_SAFE_INTEGER: Final = 2**53
_FIRST: Final = ("event_id", "event_type", "outcome")
_MEMBERS: Final = (*_FIRST, *(name for name in TEXT_MEMBERS if name not in _FIRST))
"""Members of an entry that are columns as they are stored."""


def answer_sql(
    session: Session, text: str, *, limit: int | None, csv: bool, parquet: Path | None, record: bool
) -> None:
    """Run one SELECT over the index and show what it returns. Raises: UsageError, StorageError."""
    from klingai_audit.cli.recording import record_read, tell_recorded
    from klingai_audit.config import open_reader, open_subjects
    from klingai_audit.errors import UsageError
    from klingai_audit.index.sandbox import ROW_LIMIT

    if csv and (session.as_json or parquet is not None):
        raise UsageError("Only one of --csv, --parquet and --json can be had.", do="Leave the others out.")
    text = escaped(text)
    with closing(open_index(session, open_reader(session.places))) as index:
        found, size = index.sql(text, limit=ROW_LIMIT if limit is None else limit), index.size
    recorded = record_read(session, "query", {"query": text}, size, open_subjects(session.places), asked=record)
    if parquet is not None:
        write_parquet(found, parquet)
        session.remark(f"Written to {escaped(str(parquet))}: {len(found.rows):,} rows.", rows=len(found.rows))
    elif csv:
        sys.stdout.write(csv_of(found))
    elif session.as_json:
        session.emit({**json_of(found), "tree_size": size, "recorded": recorded})
        return
    else:
        _draw(session, found)
    if not found.rows and parquet is None:
        session.remark("No row.")
    if found.more:
        session.remark(f"There are more rows than these {len(found.rows):,} (--limit).", more=True)
    tell_recorded(session, recorded)


def write_entries(session: Session, entries: Iterable[EntryView], style: ActorStyle, parquet: Path | None) -> int:
    """Print entries as CSV, or write them to a Parquet file; `actor` is the person in that style. Return how many."""
    import msgspec

    from klingai_audit.index import Table

    rows = [
        (
            entry.seq,
            entry.timestamp,
            entry.logged_at,
            entry.actor(style),
            *(getattr(entry, name) for name in _MEMBERS),
            msgspec.json.encode(entry.metadata).decode() if entry.metadata else None,
        )
        for entry in entries
    ]
    types = ("UBIGINT", "TIMESTAMP", "TIMESTAMP", *("VARCHAR" for _ in range(len(_MEMBERS) + 2)))
    found = Table(("seq", "timestamp", "logged_at", "actor", *_MEMBERS, "metadata"), types, rows)
    if parquet is None:
        sys.stdout.write(csv_of(found))
    else:
        write_parquet(found, parquet)
        session.remark(f"Written to {escaped(str(parquet))}: {len(rows):,} entries.", rows=len(rows))
    return len(rows)


def json_of(found: Table) -> dict[str, Any]:
    """Return columns, types, rows and `more` as JSON values: decimals and large integers as text, times in UTC."""
    rows = [[_json_value(value) for value in row] for row in found.rows]
    return {"columns": list(found.columns), "types": list(found.types), "rows": rows, "more": found.more}


def csv_of(found: Table) -> str:
    """Return the rows as CSV with a header; no cell of text can become a formula (see `exports.text.cell`)."""
    from klingai_audit.exports.text import cell

    def shown(value: Any) -> str:
        if value is None:
            return ""
        plain = isinstance(value, int | float | Decimal) and not isinstance(value, bool)
        return _text(value) if plain else cell(_text(value))

    lines = [",".join(map(cell, found.columns))]
    lines += [",".join(map(shown, row)) for row in found.rows]
    return "".join(f"{line}\r\n" for line in lines)


def write_parquet(found: Table, path: Path) -> None:
    """Write the rows to a Parquet file that takes its name when it is whole. Raises: StorageError."""
    import duckdb

    from klingai_audit.durable import OPS, TEMPORARY_SUFFIX
    from klingai_audit.errors import StorageError
    from klingai_audit.index.engine import connect, quote

    types = [kind if _PLAIN_TYPE.fullmatch(kind) else "VARCHAR" for kind in found.types]
    names = _distinct(found.columns)
    declared = ", ".join(
        f'"{name.replace(chr(34), chr(34) * 2)}" {kind}' for name, kind in zip(names, types, strict=True)
    )
    columns = [[_cell_value(row[number], kind) for row in found.rows] for number, kind in enumerate(types)]
    temporary = path.with_name(path.name + TEMPORARY_SUFFIX)
    try:
        with closing(connect()) as engine:
            engine.execute(f"CREATE TABLE answer ({declared})")
            values = ", ".join(f"unnest(?::{kind}[])" for kind in types)
            engine.execute(f"INSERT INTO answer SELECT {values}", columns)
            engine.execute(f"COPY answer TO {quote(str(temporary))} (FORMAT parquet, COMPRESSION zstd)")
        fd = OPS.open(temporary, os.O_RDONLY)
        try:
            OPS.sync(fd)
        finally:
            OPS.close(fd)
        OPS.rename(temporary, path)
        OPS.sync_folder(path.parent)
    except (OSError, duckdb.IOException) as exc:
        with suppress(OSError):
            OPS.unlink(temporary)
        reason = exc.strerror if isinstance(exc, OSError) else "there is no such folder, or no room in it"
        raise StorageError(f"{escaped(str(path))} cannot be written: {reason}.") from exc


def _draw(session: Session, found: Table) -> None:
    """Print a table; where its columns cannot stand side by side, one row below the other."""
    from rich.table import Table as Drawing
    from rich.text import Text

    from klingai_audit.cli.render import OUTCOME_STYLES
    from klingai_audit.views.inert import inert, one_line

    names = [inert(name) for name in found.columns]
    wide = len(names) * _NARROWEST <= session.console.width
    styles = [OUTCOME_STYLES if name == "outcome" else {} for name in found.columns]
    drawing = Drawing(box=None, pad_edge=False, header_style="bold", show_header=wide)
    if wide:
        for number, name in enumerate(names):
            numeric = bool(found.rows) and all(_is_number(row[number]) for row in found.rows)
            drawing.add_column(Text(name), justify="right" if numeric else "left", overflow="fold")
    else:
        drawing.add_column(style="bold", no_wrap=True)
        drawing.add_column(overflow="fold")
    for count, row in enumerate(found.rows):
        cells = [
            Text(one_line(_text(value), _LONGEST), style=styling.get(value, "") if isinstance(value, str) else "")
            for value, styling in zip(row, styles, strict=True)
        ]
        if wide:
            drawing.add_row(*cells)
            continue
        if count:
            drawing.add_row("", "")
        for name, shown in zip(names, cells, strict=True):
            drawing.add_row(Text(name), shown)
    if found.rows:
        session.show(drawing)


def _is_number(value: Any) -> bool:
    return value is None or (isinstance(value, int | float | Decimal) and not isinstance(value, bool))


def _text(value: Any) -> str:
    match value:
        case None:
            return ""
        case bool():
            return "true" if value else "false"
        case dt.datetime():
            return value.astimezone(dt.UTC).replace(tzinfo=None).isoformat(" ")
        case Decimal():
            return _decimal(value)
        case dict() | list():
            import msgspec

            return msgspec.json.encode(_json_value(value)).decode()
        case bytes():
            return value.hex()
        case _:
            return str(value)


def _decimal(value: Decimal) -> str:
    text = format(value, "f")
    return text.rstrip("0").rstrip(".") if "." in text else text


def _json_value(value: Any) -> Any:
    match value:
        case float():
            return value if math.isfinite(value) else str(value)
        case bool() | str() | None:
            return value
        case int():
            return value if abs(value) <= _SAFE_INTEGER else str(value)
        case Decimal():
            return _decimal(value)
        case dt.datetime():
            return value.astimezone(dt.UTC).isoformat().replace("+00:00", "Z")
        case dict():
            return {key: _json_value(item) for key, item in value.items()}
        case list():
            return [_json_value(item) for item in value]
        case _:
            return _text(value)


def _cell_value(value: Any, kind: str) -> Any:
    """Return a value as the engine takes it for a column of a type."""
    if value is None or kind == "VARCHAR":
        return None if value is None else _text(value)
    return value.astimezone(dt.UTC).replace(tzinfo=None) if isinstance(value, dt.datetime) else value


def _distinct(names: tuple[str, ...]) -> list[str]:
    seen: set[str] = set()
    distinct: list[str] = []
    for name in names:
        free, number = name, 1
        while free.lower() in seen:
            free, number = f"{name}_{number}", number + 1
        seen.add(free.lower())
        distinct.append(free)
    return distinct
