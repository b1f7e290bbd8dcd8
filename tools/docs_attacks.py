"""The attacks of the drill and the right answer to each, as Markdown."""

from __future__ import annotations

from pathlib import Path

from klingai_audit.bundle.attacks import BUNDLE_ATTACKS
from klingai_audit.ledger.keys import KeyFolder
from klingai_audit.upkeep.attacks import Attack, Eyes
from klingai_audit.upkeep.drill import all_attacks
from tools.docs_pages import escape, table

__all__ = ["attacks"]


def attacks() -> str:
    """Return the table of everything that `drill` tries, in its order."""
    known = all_attacks(KeyFolder(Path("nowhere")), Eyes())
    rows = [(f"`{one.name}`", escape(one.words), _verdict(one), escape(one.needs) or "–") for one in known]
    rows += [(f"`{one.name}`", escape(one.words), "refused by the check of the bundle", "–") for one in BUNDLE_ATTACKS]
    return table(("attack", "somebody …", "verdict", "needs, besides log and key"), rows)


def _verdict(attack: Attack) -> str:
    if attack.leaves:
        return "**not ruled out**: " + _named(attack.leaves, "and")
    return "detected: " + _named(attack.expects, "or")


def _named(names: frozenset[str], between: str) -> str:
    *first, last = (f"`{name}`" for name in sorted(names))
    return f"{', '.join(first)} {between} {last}" if first else last
