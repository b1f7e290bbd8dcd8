"""The report as one HTML file: no script, no request, light and dark, for screen and print."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import Any, Final

from klingai_audit.report.charts import require_extra
from klingai_audit.report.page import blocks_of, make_page
from klingai_audit.report.scope import Scope

__all__ = ["draw_html"]

_DARK: Final = {
    "#2c7a5b": "#5bb98f",
    "#b5473c": "#e0786c",
    "#c58a1f": "#dcab4f",
    "#7d6bb0": "#a898dc",
    "#3f6ea8": "#7ba7dd",
    "#9aa3ad": "#6c7682",
    "#46505b": "#a9b4c0",
    "#e3e7ec": "#2a323b",
}
"""Colour in a chart → its twin on a dark ground."""


@cache
def _source(name: str) -> str:
    return files("klingai_audit.report").joinpath("templates", name).read_text("utf-8")


def draw_html(scope: Scope, data: Mapping[str, Any]) -> bytes:
    """Return the page. Raises: MissingExtra."""
    require_extra()
    import minijinja

    environment = minijinja.Environment(
        templates={"report.html": _source("report.html")},
        undefined_behavior="strict",
        trim_blocks=True,
        lstrip_blocks=True,
    )
    page = make_page(scope, data)
    style = minijinja.safe(f"{_source('report.css')}@media (prefers-color-scheme: dark) {{\n{_dark_rules()}}}\n")
    for block in blocks_of(page):
        block["svg"], block["narrow"] = minijinja.safe(block["svg"]), minijinja.safe(block["narrow"])
    return str(environment.render_template("report.html", style=style, **page)).encode()


def _dark_rules() -> str:
    return "".join(
        f'  .chart svg [fill="{light}"] {{ fill: {dark}; }}\n  .chart svg [stroke="{light}"] {{ stroke: {dark}; }}\n'
        for light, dark in _DARK.items()
    )
