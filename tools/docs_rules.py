"""The detection rules that come with the package, as Markdown."""

from __future__ import annotations

from klingai_audit.detect.rules import load_rules
from klingai_audit.detect.trials import MEMBERS
from tools.docs_pages import escape, table

__all__ = ["members", "rules"]


def rules() -> str:
    """Return one row for each built-in rule, its parameters with their defaults."""
    rows = []
    for rule in load_rules():
        numbers = "; ".join(
            f"`{name}` = {one.default} {escape(one.unit)}: {escape(one.meaning.lower())}"
            for name, one in rule.parameters.items()
        )
        rows.append(
            (f"`{rule.id}`", f"**{escape(rule.title)}.** {escape(rule.meaning)}", rule.severity, numbers or "–")
        )
    return table(("rule", "what it finds, and what it may mean", "severity", "parameters"), rows)


def members() -> str:
    """Return what an event of a rule's test may state."""
    return table(("member", "meaning"), [(f"`{name}`", escape(meaning)) for name, meaning in MEMBERS.items()])
