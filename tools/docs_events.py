"""The event types, their other names, and Kling's error codes. What calls leave: `tools.docs_calls`."""

from __future__ import annotations

from klingai_audit.event.types import ALIASES, CATEGORIES, EVENT_TYPES, EventInfo
from klingai_audit.kling.errors import CODES
from tools.docs_pages import escape, table

__all__ = ["CALLERS", "LATER", "aliases", "codes", "types"]

LATER: tuple[str, ...] = ()
"""Types that nothing in this version writes; registered so that their names and meanings are settled."""

CALLERS = ("auth_event",)
"""Types that in this version only a user's own `log()` writes."""


def types() -> str:
    """Return a table of event types for each category."""
    parts = []
    for category in CATEGORIES:
        rows = [
            (
                f"`{info.name}`",
                escape(info.meaning),
                _writer(info),
                ", ".join(f"`{name}`" for name in info.required) or "–",
                str(info.ocsf_class),
            )
            for info in EVENT_TYPES.values()
            if info.category == category
        ]
        head = ("event type", "meaning", "written by", "must have", "OCSF class")
        parts.append(f"### {category}\n\n{table(head, rows)}")
    return "\n\n".join(parts)


def _writer(info: EventInfo) -> str:
    """Return what writes a type in this version."""
    if info.name in LATER:
        return "nothing in this version"
    if info.name in CALLERS:
        return "your own `log()`"
    return f"the log itself only: {escape(info.act)}" if info.own else escape(info.act)


def aliases() -> str:
    """Return the table of accepted other names."""
    return table(("accepted", "stored as"), ((f"`{name}`", f"`{stored}`") for name, stored in ALIASES.items()))


def codes() -> str:
    """Return the table of Kling's error codes."""
    rows = (
        (str(info.code), str(info.http_status), info.category, escape(info.meaning), escape(info.do))
        for info in CODES.values()
    )
    return table(("code", "HTTP", "category", "meaning", "what to do"), rows)
