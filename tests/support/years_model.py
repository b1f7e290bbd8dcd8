"""What must be true of a log after years, worked out from what was asked for and from the policy as it reads."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from klingai_audit.event.types import category_of

__all__ = ["POLICY", "Entry", "Model", "Saved", "last_day"]

POLICY: Final = b"""
[vault]
seal = ["prompt"]
addresses = true
[retention]
minimum = "30d"
maximum = "1500d"
seal_after = "7d"
[retention.classes]
admin = { maximum = "forever" }
x_brief = { maximum = "200d" }
x_note = { maximum = "800d" }
"""

KEPT: Final = {"x_brief": 200, "x_note": 800, "admin": None, "log": None, "": 1500}
"""Event type or category -> days for which it is kept at most; None: for ever; the last is for all others."""


@dataclass(frozen=True)
class Entry:
    """One entry as it was when it was written; `names` are the pseudonyms in it, `actor` the first of them."""

    seq: int
    kind: str
    day: dt.date
    leaf: bytes
    actor: str
    names: frozenset[str]
    task: str | None
    correlation: str | None
    prompt: str | None = None
    commitment: str = ""
    address: str | None = None


@dataclass(frozen=True)
class Saved:
    """A backup: its folder, and whom its table of people knows."""

    folder: Path
    table: dict[str, str]


@dataclass
class Model:
    """What must be true: entries, what is purged, what holds cover, whom the table knows, who was erased."""

    entries: list[Entry] = field(default_factory=list)
    purged: set[int] = field(default_factory=set)
    holds: dict[str, Callable[[Entry], bool]] = field(default_factory=dict)
    held_people: dict[str, str] = field(default_factory=dict)
    table: dict[str, str] = field(default_factory=dict)
    erased: dict[str, bytes] = field(default_factory=dict)
    saved: list[Saved] = field(default_factory=list)

    def whole(self) -> list[Entry]:
        return [entry for entry in self.entries if entry.seq not in self.purged]

    def held(self, entry: Entry) -> bool:
        return any(covers(entry) for covers in self.holds.values())

    def due(self, today: dt.date) -> set[int]:
        """What `retention apply` has to purge today: older than its type is kept, not held, not of the newest day."""
        newest = self.entries[-1].day
        return {
            entry.seq
            for entry in self.whole()
            if entry.day < newest and _is_over(entry, today) and not self.held(entry)
        }

    def protected(self, pseudonym: str) -> bool:
        """Tell whether a hold stands against erasing somebody."""
        about = (entry for entry in self.whole() if pseudonym in entry.names)
        return pseudonym in self.held_people.values() or any(map(self.held, about))

    def sealed(self, *, readable: bool) -> list[Entry]:
        """Whole entries with sealed content that can be opened, or that cannot because nobody is behind them."""
        known = set(self.table.values())
        return [entry for entry in self.whole() if entry.prompt is not None and (entry.actor in known) == readable]


def last_day(entry: Entry) -> dt.date | None:
    """The last day on which an entry is kept, None: for ever."""
    category = category_of(entry.kind)
    days = KEPT[entry.kind if entry.kind in KEPT else category if category in KEPT else ""]
    return None if days is None else entry.day + dt.timedelta(days=days)


def _is_over(entry: Entry, today: dt.date) -> bool:
    last = last_day(entry)
    return last is not None and last < today
