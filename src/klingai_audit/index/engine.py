"""The one query engine, DuckDB: opened without extensions, files of its own, or a network; its errors as ours."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    import duckdb

__all__ = ["connect", "cursor_of", "fetch", "quote"]

_QUIET: Final[dict[str, str | bool | int | float | list[str]]] = {
    "autoinstall_known_extensions": False,
    "autoload_known_extensions": False,
    "allow_community_extensions": False,
    "temp_directory": "",
}
# Under `python -c` and a prompt the engine draws a bar on standard output where a query takes over two seconds.
_NO_BAR: Final = "SET enable_progress_bar = false"


def connect(*, threads: int | None = None) -> duckdb.DuckDBPyConnection:
    """Return an engine in memory that loads nothing and spills nothing; `threads` for each query, by default all."""
    import duckdb

    engine = duckdb.connect(":memory:", config=_QUIET)
    engine.execute(_NO_BAR)
    if threads is not None:
        engine.execute(f"SET threads = {threads}")
    engine.execute("SET parquet_metadata_cache = true")
    return engine


def cursor_of(engine: duckdb.DuckDBPyConnection) -> duckdb.DuckDBPyConnection:
    """Return a cursor that is as silent as its engine; settings of a connection are not those of its cursors."""
    cursor = engine.cursor()
    cursor.execute(_NO_BAR)
    return cursor


def quote(text: str) -> str:
    """Return `text` as an SQL string literal."""
    return "'" + text.replace("'", "''") + "'"


def fetch(cursor: duckdb.DuckDBPyConnection, sql: str, params: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
    """Run one statement and return its rows; times are aware, in UTC."""
    return _all_aware(cursor.execute(sql, list(params)).fetchall())


def _all_aware(rows: list[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    if not any(isinstance(value, dt.datetime) for row in rows[:1000] for value in row):
        return rows
    return [tuple(_aware(value) for value in row) for row in rows]


def _aware(value: Any) -> Any:
    if isinstance(value, dt.datetime) and value.tzinfo is None:
        return value.replace(tzinfo=dt.UTC)
    return value
