"""The view `events` and what SQL may use, from the code that makes them, as Markdown."""

from __future__ import annotations

from klingai_audit.index.columns import COLUMNS
from klingai_audit.index.rules import FUNCTIONS, TABLE_FUNCTIONS
from tools.docs_pages import escape, table

__all__ = ["columns", "functions", "table_functions"]


def columns() -> str:
    """Return the columns with their types and meanings."""
    rows = ((f"`{column.name}`", f"`{column.type}`", escape(column.meaning)) for column in COLUMNS)
    return table(("column", "type", "holds"), rows)


def functions() -> str:
    """Return the functions that may be called."""
    return ", ".join(f"`{name}`" for name in FUNCTIONS if name.replace("_", "").isalnum())


def table_functions() -> str:
    """Return the functions that may stand in FROM."""
    return ", ".join(f"`{name}`" for name in TABLE_FUNCTIONS)
