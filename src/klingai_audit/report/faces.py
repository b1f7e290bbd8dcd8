"""The four faces of a report: the same facts as HTML, PDF, JSON and CSV."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from klingai_audit.report.scope import Format, Scope

__all__ = ["draw"]


def draw(scope: Scope, facts: Mapping[str, Any], format: Format) -> bytes:
    """Return the bytes of a report: equal facts give equal bytes. Raises: MissingExtra for html and pdf."""
    match format:
        case "json":
            return msgspec.json.format(msgspec.json.encode(facts), indent=1) + b"\n"
        case "csv":
            from klingai_audit.report.table import draw_csv

            return draw_csv(facts)
        case "html":
            from klingai_audit.report.html import draw_html

            return draw_html(scope, facts)
        case "pdf":
            from klingai_audit.report.pdf import draw_pdf

            return draw_pdf(scope, facts)
