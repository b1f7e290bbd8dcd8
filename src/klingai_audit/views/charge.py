"""What tasks were charged, as their ends state it: sums per unit, never across units.

Allowed callers: views, cli.
"""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Any, Final

from klingai_audit.event.types import EVENT_TYPES
from klingai_audit.views.entry import EntryView

__all__ = ["END_TYPES", "ChargeSum"]

END_TYPES: Final = frozenset(
    {"task_completed", "resource_created"}
    | {name for name in EVENT_TYPES if name.endswith(("_generation_completed", "_generation_failed"))}
)
"""Event types that end a task; only these state a charge."""

_AMOUNT: Final = re.compile(r"-?[0-9]{1,18}(?:\.[0-9]{1,9})?", re.ASCII)


class ChargeSum:
    """Adds up `metadata.charge` of ends: `video units`, `image units`, …, cash by currency, all exact decimals."""

    def __init__(self) -> None:
        self._sums: dict[str, Decimal] = {}

    def add(self, entry: EntryView) -> None:
        """Count what this entry states; an entry that is no end, and what is no amount, counts nothing."""
        if entry.event_type not in END_TYPES:
            return
        charges = entry.metadata.get("charge")
        for charge in charges if isinstance(charges, list) else ():
            amount = charge.get("amount") if isinstance(charge, dict) else None
            if isinstance(amount, str) and _AMOUNT.fullmatch(amount):
                unit = _unit(charge)
                self._sums[unit] = self._sums.get(unit, Decimal(0)) + Decimal(amount)

    def to_json(self) -> dict[str, str]:
        """Return unit → decimal text, sorted by unit."""
        return {unit: format(self._sums[unit], "f") for unit in sorted(self._sums)}


def _unit(charge: dict[str, Any]) -> str:
    kind, package, currency, cash = (charge.get(n) for n in ("charge_type", "package_type", "currency", "cash_type"))
    if kind == "unit":
        return f"{package} units" if package else "units"
    words = [str(word) for word in (currency or kind or "unknown", cash) if word]
    return " ".join(words)
