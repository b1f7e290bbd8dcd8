"""The parts that a report is drawn from, the same for screen and paper: tables, charts, lists of facts.

All text from the log passes `shown` on its way in: no control, no direction mark, no length that breaks a page.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, Final, Literal

from klingai_audit.report.charts import Chart
from klingai_audit.views.inert import ELLIPSIS, inert

__all__ = [
    "LONG_WORD",
    "MAX_ROWS",
    "MAX_TEXT",
    "Block",
    "Cell",
    "Mono",
    "Section",
    "Tone",
    "cell",
    "chart",
    "facts",
    "moment",
    "note",
    "number",
    "plain",
    "plain_block",
    "shown",
    "table",
]

MAX_TEXT: Final = 72
"""Characters of a value that are shown; a longer one is cut in the middle. JSON and CSV hold it whole."""

LONG_WORD: Final = 26
"""Characters of a word beyond which it may be broken anywhere."""

MAX_ROWS: Final = 20
"""Rows of a table that are shown; JSON and CSV hold them all."""

Tone = Literal["", "good", "warn", "bad", "human", "dim"]
"""How a word is meant, beside the word itself: colour never stands alone."""


@dataclass(frozen=True, slots=True)
class Cell:
    """One cell of a table."""

    text: str
    tone: Tone = ""
    mono: bool = False


@dataclass(frozen=True, slots=True)
class Block:
    """A table, a chart, facts or a sentence; members that a kind does not use stay empty."""

    kind: Literal["table", "chart", "facts", "text", "questions"]
    title: str = ""
    text: str = ""
    source: str = ""
    columns: Sequence[Mapping[str, str]] = ()
    rows: Sequence[Sequence[Cell]] = ()
    more: str = ""
    chart: Chart | None = None
    half: bool = False
    wide: bool = False
    widths: Sequence[int] = ()


@dataclass(frozen=True, slots=True)
class Section:
    """One section: `id` is its anchor, `lead` the sentence under its title."""

    id: str
    title: str
    lead: str = ""
    blocks: Sequence[Block] = field(default=())


def shown(value: object, limit: int = MAX_TEXT) -> str:
    """Return a value as one inert line; text that is too long loses its middle."""
    if value is None or value == "":
        return "–"
    text = inert(str(value))
    if len(text) <= limit:
        return text
    head = limit * 2 // 3
    return f"{text[:head]}{ELLIPSIS}{text[len(text) - (limit - head - 1) :]}"


def number(value: object) -> str:
    """Return a count or an amount with thousands apart; None as a dash."""
    if value is None:
        return "–"
    if isinstance(value, int):
        return f"{value:,}"
    amount = Decimal(str(value))
    return f"{amount:,f}"


def moment(text: str | None, *, seconds: bool = True) -> str:
    """Return a time of the log as people read it, in UTC."""
    if text is None:
        return "–"
    return text[:19].replace("T", " ") if seconds else text[:16].replace("T", " ")


def cell(value: object, tone: Tone = "", *, mono: bool = False) -> Cell:
    """Return a cell of text."""
    return Cell(shown(value), tone, mono)


def table(
    title: str,
    columns: Sequence[str],
    rows: Sequence[Sequence[object]],
    *,
    source: str = "",
    total: int | None = None,
    empty: str = "None.",
    widths: Sequence[int] = (),
) -> Block:
    """Return a table; a column whose name ends in `>` holds numbers. `total` counts rows beyond those given.

    `widths` are percentages of a table that holds sentences; without them columns are as wide as what they hold.
    """
    if not rows:
        return Block("text", title, empty, source)
    count = len(rows) if total is None else total
    more = f"{count - len(rows):,} more in the JSON and CSV forms of this report." if count > len(rows) else ""
    heads = [{"name": name.rstrip(">"), "align": _align(name)} for name in columns]
    cells = [[item if isinstance(item, Cell) else Cell(str(item)) for item in row] for row in rows]
    return Block("table", title, "", source, heads, cells, more, wide=bool(widths), widths=widths)


def _align(name: str) -> str:
    return "right" if name.endswith(">") else "time" if name.endswith("(UTC)") else "left"


def chart(title: str, drawn: Chart, *, source: str = "", half: bool = True) -> Block:
    """Return a chart."""
    return Block("chart", title, source=source, chart=drawn, half=half)


def facts(title: str, pairs: Sequence[tuple[str, object]], *, source: str = "") -> Block:
    """Return facts as name and value."""
    rows = [[Cell(name), Cell(shown(value, 160), mono=isinstance(value, Mono))] for name, value in pairs]
    return Block("facts", title, "", source, (), rows)


class Mono(str):
    """A value that is read letter by letter: a hash, a command."""

    __slots__ = ()


def note(text: str, title: str = "") -> Block:
    """Return a sentence."""
    return Block("text", title, text)


def plain(section: Section) -> dict[str, Any]:
    """Return a section as plain values, which templates read."""
    return {
        "id": section.id,
        "title": section.title,
        "lead": section.lead,
        "blocks": [plain_block(block, f"{section.id}-{position}") for position, block in enumerate(section.blocks)],
    }


def plain_block(block: Block, id: str) -> dict[str, Any]:
    """Return a block as plain values; `id` is unique in its document."""
    drawn = block.chart
    return {
        "id": id,
        "kind": block.kind,
        "title": block.title,
        "text": block.text,
        "source": block.source,
        "columns": [dict(column) for column in block.columns],
        "rows": [
            [{"text": c.text, "tone": c.tone, "mono": c.mono, "long": _is_long(c)} for c in row] for row in block.rows
        ],
        "more": block.more,
        "svg": drawn.svg if drawn else "",
        "narrow": drawn.narrow if drawn else "",
        "alt": drawn.alt if drawn else "",
        "half": block.half,
        "whole": bool(drawn and drawn.narrow),
        "wide": block.wide,
        "widths": list(block.widths),
    }


def _is_long(item: Cell) -> bool:
    """Tell whether a cell holds a word that may have to be broken."""
    return any(len(word) > LONG_WORD for word in item.text.split())
