"""What a unit of a pack costs by a dated list. Exact decimals; the list is a file, ours or the user's.

Allowed callers: views, cli.
"""

from __future__ import annotations

import datetime as dt
import functools
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any, Final

from klingai_audit.durable import read_optional
from klingai_audit.errors import UsageError

__all__ = ["PriceList"]

DEFAULT: Final = Path(__file__).with_name("prices-2026-09-20.toml")
"""The list that comes with this version."""

_MAX_BYTES: Final = 1 << 20
_CURRENCY: Final = re.compile(r"[A-Z]{3}").fullmatch
_PACK: Final = re.compile(r"[a-z][a-z0-9_-]{0,31}").fullmatch


@dataclass(frozen=True, slots=True)
class PriceList:
    """Prices of one unit, by unit (`video units`), in `currency`. `name` is the file's, `date` the list's."""

    name: str
    date: dt.date
    source: str
    currency: str
    units: Mapping[str, Decimal]

    @classmethod
    def load(cls, path: Path | None = None) -> PriceList:
        """Read a list (default: ours). Raises: UsageError: there is no such file, or it is no list of prices."""
        if path is None:
            return _default()
        try:
            data = read_optional(path, limit=_MAX_BYTES)
        except OSError as exc:
            raise UsageError(f"{path} cannot be read: {exc.strerror}.") from exc
        if data is None:
            raise UsageError(f"There is no file {path}.", do="Name a price file, or leave --prices out.")
        try:
            return _read(path.name, tomllib.loads(data.decode(), parse_float=Decimal))
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as exc:
            raise UsageError(f"{path} is not TOML: {exc}.") from exc

    def price(self, amounts: Mapping[str, Decimal]) -> Decimal | None:
        """Return what the units among `amounts` cost by this list; None if one has no price, or if there are none."""
        units = {unit: amount for unit, amount in amounts.items() if unit.endswith("units")}
        if not units or not units.keys() <= self.units.keys():
            return None
        return sum((amount * self.units[unit] for unit, amount in units.items()), Decimal(0))

    def to_json(self) -> dict[str, Any]:
        """Return what names this list, and its prices."""
        return {
            "file": self.name,
            "date": self.date.isoformat(),
            "source": self.source,
            "currency": self.currency,
            "units": {unit: format(price, "f") for unit, price in self.units.items()},
        }


@functools.cache
def _default() -> PriceList:
    return PriceList.load(DEFAULT)


def _read(name: str, told: Mapping[str, Any]) -> PriceList:
    date, source, currency, units = (told.get(member) for member in ("date", "source", "currency", "units"))
    if not isinstance(date, dt.date) or isinstance(date, dt.datetime):
        raise _fault(name, "`date` must be a date, such as 2026-09-20")
    if not isinstance(currency, str) or not _CURRENCY(currency):
        raise _fault(name, "`currency` must be three capital letters, such as USD")
    if not isinstance(source, str) or not source:
        raise _fault(name, "`source` must say where the prices are from")
    if not isinstance(units, dict) or not units:
        raise _fault(name, "[units] must hold the price of one unit for each pack type")
    prices = {}
    for pack, price in units.items():
        number = Decimal(price) if isinstance(price, int) and not isinstance(price, bool) else price
        if not isinstance(number, Decimal) or not number.is_finite() or number < 0 or not _PACK(pack):
            raise _fault(name, "[units] must hold names of pack types and numbers of 0 or more")
        prices[f"{pack.replace('-', '_')} units"] = number
    return PriceList(name, date, source, currency, prices)


def _fault(name: str, words: str) -> UsageError:
    return UsageError(f"{name} is not a list of prices: {words}.", do="docs/how-to/costs.md shows one.")
