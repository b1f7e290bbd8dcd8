"""Parts of documentation pages that are made from the code: where they stand, and how they are put there.

A page holds a pair of comments of their own lines, `<!-- generated: NAME -->` and `<!-- end of NAME -->`; what stands
between them is replaced, everything else is written by hand.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

__all__ = ["escape", "fill", "one_line", "sections_of", "table"]

_BEGIN = re.compile(r"^<!-- generated: ([a-z-]+) -->$", re.MULTILINE)


def sections_of(text: str) -> list[str]:
    """Return the names of the generated parts of a page, in order."""
    return _BEGIN.findall(text)


def fill(text: str, parts: Mapping[str, str]) -> str:
    """Return a page with its generated parts replaced. Raises: ValueError for a part that is unknown or not closed."""
    for name in sections_of(text):
        begin, end = f"<!-- generated: {name} -->\n", f"<!-- end of {name} -->"
        head, _, rest = text.partition(begin)
        _, closed, tail = rest.partition(end)
        if name not in parts or not closed:
            raise ValueError(f"generated part {name!r}: {'never closed' if name in parts else 'nothing makes it'}")
        text = f"{head}{begin}\n{parts[name].strip()}\n\n{end}{tail}"
    return text


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table; `|` in cells is escaped."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def one_line(text: str) -> str:
    """Return text with every run of white space made one blank."""
    return " ".join(text.split())


def escape(text: str) -> str:
    """Return plain text so that Markdown shows it as it is, code between backticks excepted."""
    pieces = text.split("`")
    return "`".join(piece if index % 2 else re.sub(r"([*<])", r"\\\1", piece) for index, piece in enumerate(pieces))
