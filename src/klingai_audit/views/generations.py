"""How many generations were asked for, and how each ended. Allowed callers: views, cli."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Final

from klingai_audit.event.record import is_end_id
from klingai_audit.views.charge import END_TYPES
from klingai_audit.views.plan import Filter
from klingai_audit.views.query import query

__all__ = ["RESULTS", "count_generations"]

RESULTS: Final = ("success", "failure", "blocked", "unknown")
"""How a generation can end; one that has not ended, or of which nobody knows, is `unknown`."""

_INTENTS: Final = ("prompt_submitted", "task_submitted")
_REFUSALS: Final = ("rate_limit_exceeded", "policy_violation", "access_denied")


def count_generations(lines: Iterable[bytes]) -> dict[str, int]:
    """Return result → number of generations, over entries in log order.

    A generation begins with an intent; tries of the same order share its correlation id and are one. The end of the
    task decides; where there is none, the last refusal; where there is neither, it is unknown.
    """
    results: dict[str, str] = {}
    ended: set[str] = set()
    for entry in query(lines, Filter(event_type=(*_INTENTS, *_REFUSALS, *END_TYPES))):
        key = entry.correlation_id or entry.event_id
        if entry.event_type in _INTENTS:
            if entry.metadata.get("phase") == "intent":
                results.setdefault(key, "unknown")
        elif key in results and key not in ended:
            results[key] = entry.outcome
            if is_end_id(entry.event_id):
                ended.add(key)
    return {name: Counter(results.values())[name] for name in RESULTS}
