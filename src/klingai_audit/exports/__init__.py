"""Exports: the log's entries in the formats and places where others look for them, each with its proof.

`export` sends or writes entries once, or follows the log. What leaves is what the published checkpoint covers; every
record names its `seq`, its leaf hash and the signed tree that holds it. docs/exports.md has the mapping tables.
"""

from __future__ import annotations

from klingai_audit.exports.api import export
from klingai_audit.exports.cursor import CursorFile
from klingai_audit.exports.formats import FORMATS
from klingai_audit.exports.run import Course, ExportResult

__all__ = ["FORMATS", "Course", "CursorFile", "ExportResult", "export"]
