"""How many generations were asked for, and how each ended. Allowed callers: views, cli."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Final

from klingai_audit.event.record import is_end_id
from klingai_audit.event.types import END_TYPES
from klingai_audit.views.entry import EntryView
from klingai_audit.views.plan import Filter
from klingai_audit.views.query import query

__all__ = ["RESULTS", "Generations", "count_generations"]

RESULTS: Final = ("success", "failure", "blocked", "unknown")
"""How a generation can end; one that has not ended, or of which nobody knows, is `unknown`."""

_INTENTS: Final = ("prompt_submitted", "task_submitted")
_RESULTS: Final = frozenset({"rate_limit_exceeded", "policy_violation", "access_denied"}) | END_TYPES


class Generations:
    """Generations by how they came out, from entries in log order.

    A generation begins with an intent; tries of the same order share its correlation id and are one. The end of the
    task decides; where there is none, the last refusal; where there is neither, it is unknown.
    """

    def __init__(self) -> None:
        self._results: dict[str, str] = {}
        self._ended: set[str] = set()

    def add(self, entry: EntryView) -> None:
        """Take in the next entry; one that is neither an intent nor an end nor a refusal changes nothing."""
        key = entry.correlation_id or entry.event_id
        if entry.event_type in _INTENTS:
            if entry.metadata.get("phase") == "intent":
                self._results.setdefault(key, "unknown")
        elif entry.event_type in _RESULTS and key in self._results and key not in self._ended:
            self._results[key] = entry.outcome
            if is_end_id(entry.event_id):
                self._ended.add(key)

    def count(self) -> dict[str, int]:
        """Return result → number of generations, for every result that there is."""
        found = Counter(self._results.values())
        return {name: found[name] for name in RESULTS}


def count_generations(lines: Iterable[bytes]) -> dict[str, int]:
    """Return result → number of generations, over entries in log order; see `Generations`."""
    generations = Generations()
    for entry in query(lines, Filter(event_type=(*_INTENTS, *_RESULTS))):
        generations.add(entry)
    return generations.count()
