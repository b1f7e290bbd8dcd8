"""The index: a log's entries as columns, for questions that a scan would answer slowly.

Derived from the log, kept in the state folder, rebuilt at will; never evidence. What people are shown is read again
from the log, so an index can leave something out at worst, and one that was changed is noticed and made anew.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from klingai_audit.index.index import Index
    from klingai_audit.index.sandbox import Table

__all__ = ["Index", "Table"]


def __getattr__(name: str) -> Any:
    """Import the two names when they are asked for: a command that scans needs neither."""
    if name == "Index":
        from klingai_audit.index.index import Index

        return Index
    if name == "Table":
        from klingai_audit.index.sandbox import Table

        return Table
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
