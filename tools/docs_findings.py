"""The kinds of findings of verification, as Markdown."""

from __future__ import annotations

from klingai_audit.trust.verdict import FINDING_KINDS, THREATS
from tools.docs_pages import escape, table

__all__ = ["PAGES", "findings", "threats"]

PAGES = tuple(dict.fromkeys(kind.page for kind in FINDING_KINDS.values()))
"""Sections of docs/when-it-fails.md that tell of findings."""


def findings(page: str) -> str:
    """Return the table of the kinds whose section is `page`."""
    rows = [
        (f"`{name}`", escape(kind.meaning), ", ".join(f"`{threat}`" for threat in kind.threats) or "–")
        for name, kind in FINDING_KINDS.items()
        if kind.page == page
    ]
    return table(("finding", "meaning", "shows the threat"), rows)


def threats() -> str:
    """Return the table of threats and of the findings that show them."""
    shown = {
        threat: [f"`{name}`" for name, kind in FINDING_KINDS.items() if threat in kind.threats] for threat in THREATS
    }
    rows = ((f"`{threat}`", ", ".join(kinds) or "nothing in the log can") for threat, kinds in shown.items())
    return table(("threat", "findings that show it"), rows)
