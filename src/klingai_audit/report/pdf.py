"""The report as PDF, set by Typst from the same blocks as the HTML page.

PDF/A-2a and PDF/UA-1 are requested; nobody here validates the result, and the document says so. Strings reach the
template as data: Typst's markup in them is text.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import Any, Final

import msgspec

from klingai_audit.errors import KlingAuditError
from klingai_audit.report.charts import require_extra
from klingai_audit.report.page import blocks_of, make_page
from klingai_audit.report.scope import Scope

__all__ = ["draw_pdf"]

_VIEW: Final = re.compile(r'viewBox="0 0 ([0-9.]+) ')
_PAGE_WIDTH: Final = 640
"""Width in pixels of a chart that fills the page."""

_PLAIN: Final = frozenset("–—…·“”×−©®°±²³µ½¼¾€£¥§¶«»¿¡")
_UNREADABLE: Final = "could not be displayed"


@cache
def _source() -> bytes:
    return files("klingai_audit.report").joinpath("templates", "report.typ").read_bytes()


def draw_pdf(scope: Scope, data: Mapping[str, Any]) -> bytes:
    """Return the document. Raises: MissingExtra; KlingAuditError if the typesetting program refuses it."""
    require_extra()
    import typst

    page = make_page(scope, data)
    page["date"] = [scope.until.year, scope.until.month, scope.until.day]
    for block in blocks_of(page):
        _fit(block)
    try:
        return _compile(page, scope)
    except typst.TypstError as exc:
        if _UNREADABLE not in str(exc):
            raise KlingAuditError("The PDF could not be set.", do="Write the report as HTML, and report this.") from exc
    # No font here has some letter: written as its code point it can at least be read.
    return _compile(_spelled(page), scope)


def _compile(page: Mapping[str, Any], scope: Scope) -> bytes:
    import typst

    inputs = {"page": msgspec.json.encode(page).decode()}
    return typst.compile(
        _source(),
        sys_inputs=inputs,
        format="pdf",
        pdf_standards=["a-2a", "ua-1"],
        timestamp=scope.until.replace(microsecond=0),
    )


def _fit(block: dict[str, Any]) -> None:
    """Prepare one block for paper: fonts and size of its chart, which column of its table takes the room."""
    block["narrow"] = ""
    block["size"] = 1000
    if block["svg"]:
        width = _VIEW.search(block["svg"])
        block["size"] = round(1000 * float(width[1]) / _PAGE_WIDTH) if width else 1000
        block["svg"] = re.sub(r'font-family="[^"]*"', 'font-family="Libertinus Serif"', block["svg"])
    texts = [
        position
        for position, column in enumerate(block["columns"])
        if column["align"] == "left" and "UTC" not in column["name"]
    ]
    longest = {at: max((len(row[at]["text"]) for row in block["rows"]), default=0) for at in texts}
    block["grow"] = max(longest, key=lambda at: longest[at]) if longest else 0


def _spelled(value: Any) -> Any:
    """Return the page with every letter outside Latin written as its code point."""
    if isinstance(value, dict):
        return {key: _spelled(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_spelled(item) for item in value]
    if not isinstance(value, str) or value.isascii():
        return value
    return "".join(char if ord(char) < 0x180 or char in _PLAIN else f"\\u{{{ord(char):x}}}" for char in value)
