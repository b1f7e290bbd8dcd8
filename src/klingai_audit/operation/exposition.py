"""The numbers of a board and of this process's writers, in the text formats of Prometheus and OpenMetrics."""

from __future__ import annotations

import platform
from collections.abc import Iterable, Iterator
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

from klingai_audit.errors import MissingExtra
from klingai_audit.ledger.appender import MAX_QUEUE
from klingai_audit.ledger.counters import Counters, Histogram, missed, totals
from klingai_audit.operation.board import Board
from klingai_audit.operation.names import METRICS, PREFIX

if TYPE_CHECKING:
    from prometheus_client import Metric as Family

__all__ = ["expose", "require_extra"]

_Labelled = Iterable[tuple[tuple[str, ...], Any]]


def require_extra() -> None:
    """Raises: MissingExtra if prometheus-client is not installed."""
    try:
        import prometheus_client  # noqa: F401
    except ImportError as exc:
        raise MissingExtra("Metrics need prometheus-client.", do="pip install 'klingai-audit[serve]'") from exc


def expose(board: Board, accept: str = "") -> tuple[bytes, str]:
    """Return the text and its content type, as an `Accept` header asks for it. Raises: MissingExtra."""
    require_extra()
    from prometheus_client import CollectorRegistry, GCCollector, ProcessCollector
    from prometheus_client.exposition import choose_encoder

    registry = CollectorRegistry()
    registry.register(_Collector(board))
    ProcessCollector(registry=registry)
    GCCollector(registry=registry)
    encode, content_type = choose_encoder(accept)
    return encode(registry), content_type


class _Collector:
    """Reads everything at the moment of the scrape; see prometheus_client, custom collectors."""

    def __init__(self, board: Board) -> None:
        self._board = board

    def collect(self) -> Iterator[Family]:
        numbers = self._board.numbers()
        histograms: dict[str, list[tuple[tuple[str, ...], Histogram]]] = {}
        for name, labels, one in self._board.times():
            histograms.setdefault(name, []).append((labels, one))
        numbers["unrecorded_acts"] = {(kind,): float(count) for kind, count in missed().items()}
        numbers["build_info"] = {(_own_version(), platform.python_version()): 1.0}
        writers = totals()
        if writers:
            numbers["queue_limit_entries"] = {(): float(MAX_QUEUE)}
        for origin, (done, queued, oldest) in writers.items():
            _take(numbers, histograms, origin, done)
            numbers.setdefault("queue_entries", {})[(origin,)] = float(queued)
            numbers.setdefault("unpublished_seconds", {})[(origin,)] = oldest
        for name, metric in METRICS.items():
            if metric.kind == "histogram":
                yield _family(name, histograms.get(name, ()))
            else:
                yield _family(name, numbers.get(name, {}).items())


def _take(
    numbers: dict[str, dict[tuple[str, ...], float]],
    histograms: dict[str, list[tuple[tuple[str, ...], Histogram]]],
    origin: str,
    done: Counters,
) -> None:
    """Add what one log's writers did."""
    key = (origin,)
    for name, value in (
        ("entries_appended", done.entries),
        ("durable_size_entries", done.size),
        ("published_size_entries", done.signed),
    ):
        numbers.setdefault(name, {})[key] = float(value)
    names = ("batch_entries", "commit_seconds", "publication_seconds")
    for name, one in zip(names, done.histograms(), strict=True):
        histograms.setdefault(name, []).append((key, one))
    errors = numbers.setdefault("errors", {})
    for stage, kinds in (("commit", done.not_committed), ("publish", done.not_published)):
        for kind, count in kinds.items():
            errors[stage, kind] = errors.get((stage, kind), 0.0) + count


def _family(name: str, values: _Labelled) -> Family:
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily

    metric, full = METRICS[name], PREFIX + name
    if metric.kind == "histogram":
        family = HistogramMetricFamily(full, metric.help, labels=metric.labels)
        for labels, one in values:
            family.add_metric(labels, _buckets(one), one.sum)
        return family
    made = (CounterMetricFamily if metric.kind == "counter" else GaugeMetricFamily)(
        full, metric.help, labels=metric.labels
    )
    for labels, value in values:
        made.add_metric(labels, value)
    return made


def _buckets(one: Histogram) -> list[tuple[str, float]]:
    """Return the classes as Prometheus wants them: each with everything below it."""
    found, total = [], 0
    for bound, count in zip([*(f"{bound:g}" for bound in one.bounds), "+Inf"], one.counts, strict=True):
        total += count
        found.append((bound, float(total)))
    return found


def _own_version() -> str:
    try:
        return version("klingai-audit")
    except PackageNotFoundError:  # run from its sources
        return "unknown"
