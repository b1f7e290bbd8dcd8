"""Questions to the index, each kept with its text, population and tree size, so that every number can be traced.

A question is one SELECT with all values written out: what a report prints can be pasted into
`klingai-audit query --sql`.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from klingai_audit.report.scope import Scope

__all__ = [
    "Asker",
    "Over",
    "Question",
    "Rows",
    "iso",
    "named",
    "quoted",
]

Rows = Callable[[str], list[tuple[Any, ...]]]
"""Runs one SELECT on the view `events`."""

Over = Literal["period", "log", "all"]
"""What a question looks at: distinct events of the period, distinct events of the log, or every entry of the log."""


@dataclass(frozen=True, slots=True)
class Question:
    """One question: `population` is the number of entries (or events) it looked at, of `tree_size` in the log."""

    id: str
    words: str
    over: Over
    sql: str
    population: int
    tree_size: int
    rows: int

    def as_json(self) -> dict[str, Any]:
        """The members in the report's JSON."""
        return {
            "id": self.id,
            "words": self.words,
            "over": self.over,
            "population": self.population,
            "tree_size": self.tree_size,
            "rows": self.rows,
            "sql": self.sql,
        }


class Asker:
    """Asks the index and keeps what was asked. In texts, `{period}`, `{log}` and `{all}` stand for FROM and WHERE."""

    def __init__(self, rows: Rows, scope: Scope) -> None:
        self._rows = rows
        self._size = scope.size
        within = f"events WHERE seq < {scope.size}"
        first = f"{within} AND first AND timestamp < {_literal(scope.until)}"
        self._from: Final[dict[Over, str]] = {
            "period": f"{first} AND timestamp >= {_literal(scope.since)}",
            "log": first,
            "all": within,
        }
        self._populations: dict[Over, int] = {}
        self.questions: list[Question] = []

    def population(self, over: Over) -> int:
        """Return how many entries there are to look at."""
        if over not in self._populations:
            self._populations[over] = int(self._rows(" ".join(("SELECT count(*) FROM", self._from[over])))[0][0])
        return self._populations[over]

    def ask(self, id: str, words: str, sql: str, over: Over) -> list[tuple[Any, ...]]:
        """Run one question and keep it; `sql` names its entries by one of the placeholders."""
        text = " ".join(sql.split())
        for name, source in self._from.items():
            text = text.replace("{" + name + "}", f"FROM {source}")
        found = self._rows(text)
        population = self.population(over)
        self.questions.append(Question(id, words, over, text, population, self._size, len(found)))
        return found


def quoted(names: Iterable[str]) -> str:
    """Return names of ours as a list for SQL's IN."""
    return "(" + ", ".join(f"'{name}'" for name in sorted(names)) + ")"


def iso(moment: dt.datetime | None) -> str | None:
    """Return a time of the index (UTC without zone) as the log writes times."""
    return None if moment is None else moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _literal(moment: dt.datetime) -> str:
    text = moment.astimezone(dt.UTC).replace(tzinfo=None).isoformat(" ")
    return f"TIMESTAMP '{text}'"


def named(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> list[dict[str, Any]]:
    """Return rows as objects; times become text."""
    return [
        {
            name: iso(value) if isinstance(value, dt.datetime) else value
            for name, value in zip(columns, row, strict=True)
        }
        for row in rows
    ]
