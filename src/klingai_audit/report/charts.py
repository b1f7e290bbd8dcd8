"""Charts: Vega-Lite specifications made into SVG by vl-convert, without network, script or fonts of their own.

Colours are those of the light theme; the page's style sheet maps each of them to its dark twin. Every chart stands
beside a table with the same numbers, so it is hidden from screen readers but for its one-sentence description.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

from klingai_audit.errors import MissingExtra
from klingai_audit.report.data import OUTCOMES

__all__ = ["COLOURS", "Chart", "bars", "draw", "require_extra", "stacked", "time_line"]

COLOURS: Final = {
    "success": "#2c7a5b",
    "failure": "#b5473c",
    "blocked": "#c58a1f",
    "unknown": "#7d6bb0",
    "plain": "#3f6ea8",
    "supported": "#2c7a5b",
    "partly": "#c58a1f",
    "not_supported": "#b5473c",
    "needs_human": "#7d6bb0",
    "out_of_scope": "#9aa3ad",
}
"""What a bar stands for → its colour in the light theme."""

WIDE: Final = 800
NARROW: Final = 300
HALF: Final = 250
"""Widths in pixels of plots (labels come on top): across a page, across a small screen, half a page."""

ROOM: Final = 178
"""Width in pixels of the names beside bars; fonts differ between machines, so some of it stays free."""

_INK: Final = "#46505b"
_GRID: Final = "#e3e7ec"
_FONT: Final = "Helvetica, Arial, sans-serif"
_CONFIG: Final[dict[str, Any]] = {
    "background": None,
    "font": _FONT,
    "view": {"stroke": None},
    "axis": {
        "domain": False, "ticks": False, "gridColor": _GRID, "labelColor": _INK, "labelFontSize": 11,
        "titleColor": _INK, "titleFontSize": 11, "titleFontWeight": "normal", "labelPadding": 6,
    },
    "legend": {
        "labelColor": _INK, "labelFontSize": 11, "title": None, "orient": "top", "symbolType": "square",
        "symbolSize": 90,
        "offset": 6, "columnPadding": 14, "direction": "horizontal",
    },
    "bar": {"cornerRadius": 1},
    "text": {"color": _INK, "fontSize": 11},
}  # fmt: skip
_SCHEMA: Final = "https://vega.github.io/schema/vega-lite/v5.json"
_VERSION: Final = "5.20"
_SIZE: Final = re.compile(r' width="([0-9.]+)" height="([0-9.]+)"')
_ID: Final = re.compile(r'(id="|url\(#|href="#)([A-Za-z]+[0-9]+)')
_ROLES: Final = re.compile(r' (?:role|aria-[a-z]+)="[^"]*"')
_STEP: Final = {"hour": ("%H:%M", "%d %b"), "day": ("%-d %b",), "week": ("%-d %b",), "month": ("%b %Y",)}


@dataclass(frozen=True, slots=True)
class Chart:
    """One drawn chart: `svg` for wide places, `narrow` for small screens if another is needed there."""

    svg: str
    narrow: str
    alt: str


def require_extra() -> None:
    """Check that what HTML and PDF need is installed. Raises: MissingExtra."""
    try:
        import minijinja  # noqa: F401
        import typst  # noqa: F401
        import vl_convert  # noqa: F401
    except ImportError as exc:
        raise MissingExtra(
            f"Reports in HTML and PDF need the package {exc.name}.",
            do="pip install 'klingai-audit[report]', or write the report as JSON or CSV.",
        ) from exc


def time_line(name: str, activity: Mapping[str, Any], alt: str) -> Chart:
    """Draw acts over time as stacked columns, one colour for each outcome."""
    series = activity["series"]
    used = [outcome for outcome in OUTCOMES if any(point[outcome] for point in series)] or ["success"]
    values = [
        {"t": point["from"], "o": outcome, "n": point[outcome], "i": order}
        for point in series
        for order, outcome in enumerate(used)
    ]
    most = max((sum(point[outcome] for outcome in used) for point in series), default=0)
    unit = {"hour": "utcyearmonthdatehours", "month": "utcyearmonth"}.get(activity["step"], "utcyearmonthdate")

    def spec(width: int, ticks: int) -> dict[str, Any]:
        band = max(1.0, min(0.72 * width / max(1, len(series)), 26))
        x = {
            "field": "t", "type": "temporal", "timeUnit": unit, "title": None,
            "scale": {"type": "utc", "padding": band / 2},
            "axis": {"grid": False, "tickCount": ticks, "format": _STEP[activity["step"]][0], "labelFlush": True,
                     "labelOverlap": True},
        }  # fmt: skip
        return {
            "width": width,
            "height": 180,
            "data": {"values": values},
            "mark": {"type": "bar", "width": band},
            "encoding": {
                "x": x,
                "y": _count_axis("n", "vertical", most),
                "color": _colour("o", used),
                "order": {"field": "i"},
            },
        }

    return Chart(draw(f"{name}w", spec(WIDE, 10)), draw(f"{name}n", spec(NARROW, 4)), alt)


def bars(name: str, rows: Sequence[tuple[str, float]], alt: str) -> Chart:
    """Draw one bar a row, labelled with its value, in the order of the rows."""
    values = [{"k": f"{position:02d}", "l": label, "n": value} for position, (label, value) in enumerate(rows)]
    bar = {"mark": {"type": "bar", "height": 13, "color": COLOURS["plain"]}}
    text = {
        "mark": {"type": "text", "align": "left", "dx": 5},
        "encoding": {"text": {"field": "n", "type": "quantitative", "format": ","}},
    }
    spec = {
        "width": HALF,
        "height": {"step": 22},
        "data": {"values": values},
        "encoding": {"y": _labels(values), "x": {**_count_axis("n", "none"), "scale": {"zero": True, "nice": False}}},
        "layer": [bar, text],
    }
    svg = draw(name, spec)
    return Chart(svg, "", alt)


def stacked(
    name: str,
    rows: Sequence[tuple[str, Mapping[Any, int]]],
    parts: Sequence[str],
    alt: str,
    *,
    width: int = HALF,
    room: int = ROOM,
) -> Chart:
    """Draw one stacked bar a row; `parts` are keys of `COLOURS`, of which those that occur get a place in the legend.

    `width` is that of the bars, `room` that of the names beside them, in pixels.
    """
    used = [part for part in parts if any(counts.get(part) for _, counts in rows)] or list(parts[:1])
    values = [
        {"k": f"{position:02d}", "l": label, "p": _name(part), "n": counts.get(part, 0), "i": order}
        for position, (label, counts) in enumerate(rows)
        for order, part in enumerate(used)
    ]
    most = max((sum(counts.get(part, 0) for part in used) for _, counts in rows), default=0)
    spec = {
        "width": width,
        "height": {"step": 22},
        "data": {"values": values},
        "mark": {"type": "bar", "height": 13},
        "encoding": {
            "y": _labels(values, room),
            "x": _count_axis("n", "horizontal", most),
            "color": _colour("p", used),
            "order": {"field": "i"},
        },
    }
    return Chart(draw(name, spec), "", alt)


def _labels(values: Sequence[Mapping[str, Any]], room: int = ROOM) -> dict[str, Any]:
    """The axis of row names: sorted by position, so that equal names stay two rows."""
    names = {value["k"]: value["l"] for value in values}
    # Every label is looked up by its key: a name is never part of an expression.
    return {
        "field": "k", "type": "ordinal", "title": None, "sort": None,
        "axis": {"labelExpr": _lookup(names), "labelLimit": room - 28, "labelPadding": 8, "grid": False,
                 "minExtent": room, "maxExtent": room},
    }  # fmt: skip


def _lookup(names: Mapping[str, str]) -> str:
    """Return a Vega expression that maps keys (two digits) to names, which are written as code points."""
    cases = "".join(f"datum.value=='{key}'?{_literal(name)}:" for key, name in names.items())
    return f"{cases}''"


def _literal(text: str) -> str:
    return "'" + "".join(char if char.isascii() and char.isalnum() else _escape(char) for char in text) + "'"


def _escape(char: str) -> str:
    units = char.encode("utf-16-be", "replace")
    return "".join(f"\\u{units[i]:02x}{units[i + 1]:02x}" for i in range(0, len(units), 2))


def _count_axis(field: str, way: str, most: int = 0) -> dict[str, Any]:
    axis: dict[str, Any] = {"values": _ticks(most), "format": "~s"}
    if way == "none":
        return {"field": field, "type": "quantitative", "title": None, "axis": None}
    return {"field": field, "type": "quantitative", "title": None, "axis": axis, "stack": "zero"}


def _ticks(most: int) -> list[int]:
    """Return up to six whole numbers from 0 on that are easy to read off."""
    step = next(step for power in range(19) for step in (10**power, 2 * 10**power, 5 * 10**power) if most <= 5 * step)
    return list(range(0, most + 1, step))


def _name(part: str) -> str:
    return "needs a human" if part == "needs_human" else part.replace("_", " ")


def _colour(field: str, used: Sequence[str]) -> dict[str, Any]:
    domain = [_name(part) for part in used]
    legend = {} if len(used) > 1 else {"legend": None}
    return {
        "field": field,
        "type": "nominal",
        "scale": {"domain": domain, "range": [COLOURS[part] for part in used]},
        **legend,
    }


@lru_cache(maxsize=32)
def _convert(spec: str) -> str:
    """Return what vl-convert makes of a specification; the faces of one report share their charts."""
    import vl_convert

    return vl_convert.vegalite_to_svg(json.loads(spec), vl_version=_VERSION, allowed_base_urls=[])


def draw(name: str, spec: Mapping[str, Any]) -> str:
    """Return a specification as SVG that scales with its place; `name` tells its ids from those of other charts."""
    svg = _convert(json.dumps({"$schema": _SCHEMA, "config": _CONFIG, **spec}, sort_keys=True))
    head, rest = svg.split(">", 1)
    width, height = _SIZE.search(head).groups()  # type: ignore[union-attr]  # vl-convert states both
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" aria-hidden="true" focusable="false"'
    )
    # Vega numbers ids on and on while the process lives; equal charts have to be equal bytes.
    ids: dict[str, int] = {}
    body = _ID.sub(lambda found: f"{found[1]}{name}-{ids.setdefault(found[2], len(ids))}", _ROLES.sub("", rest))
    return f"{head}>{body}"
