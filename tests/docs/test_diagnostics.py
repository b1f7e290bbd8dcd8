"""Every line that diagnostics can have is on the page of numbers and diagnostics, and none that they cannot."""

from __future__ import annotations

import ast
import functools
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
PAGE = (ROOT / "docs" / "metrics.md").read_text(encoding="utf-8")


@functools.cache
def told() -> set[str]:
    """Return the names of events in the source: second arguments of `tell`."""
    found = set()
    texts = (path.read_text(encoding="utf-8") for path in sorted((ROOT / "src").rglob("*.py")))
    for text in (text for text in texts if "diagnostics import" in text):
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "tell":
                for part in ast.walk(node.args[1]) if len(node.args) > 1 else ():
                    if isinstance(part, ast.Constant) and isinstance(part.value, str):
                        found.add(part.value)
    return found


def test_each_line_is_documented() -> None:
    """By its name, in the table."""
    table = PAGE.partition("| event | level |")[2].partition("\n\n")[0]
    named = set(re.findall(r"`([a-z][a-z_]+)`", "\n".join(line.split("|")[1] for line in table.split("\n")[2:])))
    assert set() == {name for name in told() if not name.endswith("_failed")} - named
    assert {"foreign"} == named - told()
    assert len(told()) > 20
