"""What tasks were charged, as their ends state it: sums per unit, never across units.

Allowed callers: views, cli.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final

from klingai_audit.errors import UsageError
from klingai_audit.event.types import END_TYPES
from klingai_audit.kling.rows import UNKNOWN_PACK
from klingai_audit.views.entry import EntryView

__all__ = ["ChargeSum", "CostTest", "charges_of"]

_AMOUNT: Final = re.compile(r"-?[0-9]{1,18}(?:\.[0-9]{1,9})?", re.ASCII)
_COST: Final = re.compile(r"\s*(>=|<=|=|>|<)?\s*([0-9]{1,18}(?:\.[0-9]{1,9})?)(?:\s+(\S.*?))?\s*", re.ASCII)
_COMPARE: Final[dict[str, Callable[[Decimal, Decimal], bool]]] = {
    ">=": operator.ge,
    "<=": operator.le,
    "=": operator.eq,
    ">": operator.gt,
    "<": operator.lt,
}


def charges_of(entry: EntryView) -> Iterator[tuple[str, Decimal]]:
    """Yield what one entry states to have been charged, as (unit, amount); an entry that is no end states nothing."""
    if entry.event_type not in END_TYPES:
        return
    charges = entry.metadata.get("charge")
    for charge in charges if isinstance(charges, list) else ():
        amount = charge.get("amount") if isinstance(charge, dict) else None
        if isinstance(amount, str) and _AMOUNT.fullmatch(amount):
            yield _unit(charge), Decimal(amount)


@dataclass(frozen=True, slots=True)
class CostTest:
    """A condition on what one entry states to have been charged: `>=5`, `<1.5 video units`, `=0 USD`.

    Each amount is compared for itself, since amounts of different units are never added. Without a unit, any does.
    """

    compare: Callable[[Decimal, Decimal], bool]
    amount: Decimal
    unit: str | None

    @classmethod
    def parse(cls, text: str) -> CostTest:
        """Read a condition; without an operator `=` is meant. Raises: UsageError."""
        found = _COST.fullmatch(text)
        if found is None:
            raise UsageError(f"cost {text!r} is no condition.", do="Use one such as '>=5', '<1.5 video units' or '=0'.")
        sign, amount, unit = found.groups()
        return cls(_COMPARE[sign or "="], Decimal(amount), unit.casefold() if unit else None)

    def holds(self, entry: EntryView) -> bool:
        """Tell whether any amount that the entry states is as asked for."""
        return any(
            self.compare(amount, self.amount)
            for unit, amount in charges_of(entry)
            if self.unit is None or unit.casefold() == self.unit
        )


class ChargeSum:
    """Adds up `metadata.charge` of ends: `video units`, `unknown pack units`, …, cash by currency; exact decimals."""

    def __init__(self) -> None:
        self._sums: dict[str, Decimal] = {}

    def add(self, entry: EntryView) -> None:
        """Count what this entry states; an entry that is no end, and what is no amount, counts nothing."""
        for unit, amount in charges_of(entry):
            self._sums[unit] = self._sums.get(unit, Decimal(0)) + amount

    def to_json(self) -> dict[str, str]:
        """Return unit → decimal text, sorted by unit."""
        return {unit: format(self._sums[unit], "f") for unit in sorted(self._sums)}


def _unit(charge: dict[str, Any]) -> str:
    kind, package, currency, cash = (charge.get(n) for n in ("charge_type", "package_type", "currency", "cash_type"))
    if kind == "unit":
        return f"{package or UNKNOWN_PACK} units"
    words = [str(word) for word in (currency or kind or "unknown", cash) if word]
    return " ".join(words)
