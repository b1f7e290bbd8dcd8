"""What a process tells of itself: numbers that are counted or looked up when asked, and what it needs to be ready."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping
from typing import Final

from klingai_audit.errors import KlingAuditError
from klingai_audit.ledger.counters import SECONDS_BOUNDS, Histogram
from klingai_audit.operation.names import METRICS

__all__ = ["Board", "Check", "Values"]

Check = Callable[[], str | None]
"""Tells what is not ready, in words without content; None if all is well."""

Values = Mapping[tuple[str, ...], float]
"""Values of labels, in their order → number."""

_UNKNOWN: Final = "cannot be told"


class Board:
    """Numbers by name (see `names.METRICS`) and checks by name. Any thread may call anything."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._numbers: dict[str, dict[tuple[str, ...], float]] = {}
        self._times: dict[str, dict[tuple[str, ...], Histogram]] = {}
        self._looks: dict[str, Callable[[], Values]] = {}
        self._checks: dict[str, Check] = {}

    def count(self, name: str, *labels: str, by: float = 1) -> None:
        """Add `by` to a counter."""
        key = _checked(name, "counter", labels)
        with self._lock:
            numbers = self._numbers.setdefault(name, {})
            numbers[key] = numbers.get(key, 0.0) + by

    def put(self, name: str, *labels: str, value: float) -> None:
        """Set a gauge."""
        key = _checked(name, "gauge", labels)
        with self._lock:
            self._numbers.setdefault(name, {})[key] = value

    def put_all(self, name: str, values: Values) -> None:
        """Set a gauge for all values of its labels; those that are not given are gone."""
        kept = {_checked(name, "gauge", labels): value for labels, value in values.items()}
        with self._lock:
            self._numbers[name] = kept

    def time(self, name: str, *labels: str, seconds: float) -> None:
        """Count a duration in a histogram."""
        key = _checked(name, "histogram", labels)
        with self._lock:
            self._times.setdefault(name, {}).setdefault(key, Histogram(SECONDS_BOUNDS)).observe(seconds)

    def look(self, name: str, look: Callable[[], Values]) -> None:
        """Ask `look` for a gauge's values whenever somebody reads the board; an error of its leaves it out."""
        _checked(name, "gauge", METRICS[name].labels)
        self._looks[name] = look

    def check(self, name: str, check: Check) -> None:
        """Ask `check` whenever somebody wants to know whether this process is ready."""
        self._checks[name] = check

    # --- reading ----------------------------------------------------------------------------------

    def numbers(self) -> dict[str, dict[tuple[str, ...], float]]:
        """Return counters and gauges by name."""
        with self._lock:
            found = {name: dict(values) for name, values in self._numbers.items()}
        for name, look in list(self._looks.items()):
            try:
                found[name] = dict(look())
            except (KlingAuditError, OSError):
                continue
        found["ready"] = {(name,): float(trouble is None) for name, trouble in self.troubles().items()}
        return found

    def times(self) -> Iterable[tuple[str, tuple[str, ...], Histogram]]:
        """Return copies of the histograms of durations: name, values of labels, classes."""
        with self._lock:
            found = [(name, key, one) for name, values in self._times.items() for key, one in values.items()]
            copies = []
            for name, key, one in found:
                copy = Histogram(one.bounds)
                copy.add(one)
                copies.append((name, key, copy))
        return copies

    def troubles(self) -> dict[str, str | None]:
        """Return for each check what is not ready, None where all is well."""
        return {name: _told(check) for name, check in list(self._checks.items())}


def _told(check: Check) -> str | None:
    try:
        return check()
    except KlingAuditError as error:
        return error.message
    except OSError as error:
        return error.strerror or type(error).__name__
    except Exception as error:  # noqa: BLE001  # a check that fails is no good news, and its text could be anything
        return f"{_UNKNOWN}: {type(error).__name__}"


def _checked(name: str, kind: str, labels: tuple[str, ...]) -> tuple[str, ...]:
    metric = METRICS[name]
    if metric.kind != kind or len(metric.labels) != len(labels):
        raise ValueError(f"{name} is a {metric.kind} with the labels {metric.labels}")
    return labels
