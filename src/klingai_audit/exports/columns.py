"""Entries as rows of a table: the columns that CSV and Parquet share. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Final, NamedTuple

import msgspec

from klingai_audit.event.record import TEXT_MEMBERS
from klingai_audit.event.types import category_of
from klingai_audit.exports.record import Record
from klingai_audit.exports.text import cell
from klingai_audit.views.times import format_instant

__all__ = ["COLUMNS", "CSV_COLUMNS", "Column", "csv_head", "encode_csv"]

_ENCODE: Final = msgspec.json.Encoder().encode


class Column(NamedTuple):
    """One column: its DuckDB type, and its value for a record (text, number or None)."""

    type: str
    value: Callable[[Record], Any]


def _member(name: str) -> Column:
    return Column("VARCHAR", lambda record: getattr(record.entry, name))


def _time(name: str) -> Column:
    return Column("TIMESTAMP", lambda record: format_instant(getattr(record.entry, name)).decode("ascii"))


def _metadata(record: Record) -> str | None:
    return _ENCODE(record.entry.metadata).decode("utf-8") if record.entry.metadata else None


COLUMNS: Final[Mapping[str, Column]] = MappingProxyType(
    {
        "seq": Column("UBIGINT", lambda record: record.seq),
        "event_id": _member("event_id"),
        "timestamp": _time("timestamp"),
        "logged_at": _time("logged_at"),
        "event_type": _member("event_type"),
        "category": Column("VARCHAR", lambda record: category_of(record.entry.event_type)),
        **{name: _member(name) for name in TEXT_MEMBERS if name not in ("event_id", "event_type")},
        "metadata": Column("JSON", _metadata),
        "leaf_hash": Column("VARCHAR", lambda record: record.leaf_hash),
        "tree_size": Column("UBIGINT", lambda record: record.head.size),
        "tree_root": Column("VARCHAR", lambda record: record.head.root_text),
        "origin": Column("VARCHAR", lambda record: record.head.origin),
        "entry": Column("VARCHAR", lambda record: record.entry.raw.decode("utf-8")),
    }
)
"""Columns of Parquet, in order; `entry` is the stored text, from which `leaf_hash` can be computed again."""

CSV_COLUMNS: Final = tuple(name for name in COLUMNS if name != "entry")
"""Columns of CSV: cells are made inert there, so the stored text would not stay what it is."""


def csv_head() -> bytes:
    """Return the line of column names, with CRLF as RFC 4180 asks."""
    return ",".join(CSV_COLUMNS).encode("ascii") + b"\r\n"


def encode_csv(record: Record) -> bytes:
    """Return one record as one line without its CRLF; every value is quoted, a missing one is empty."""
    values = (COLUMNS[name].value(record) for name in CSV_COLUMNS)
    return ",".join("" if value is None else cell(str(value)) for value in values).encode("utf-8")
