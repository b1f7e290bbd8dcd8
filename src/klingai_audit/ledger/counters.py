"""What writers of this process did, as plain numbers: the threads that write count, whoever reads adds up.

Each number is changed by one thread only, so that counting takes no lock; `totals` reads while they count and may be
one batch behind. What a closed log counted is kept, by origin, so that no number ever goes down.
"""

from __future__ import annotations

import os
import threading
from bisect import bisect_left
from collections import Counter, deque
from collections.abc import Sequence, Sized
from time import perf_counter
from typing import Final

__all__ = ["BATCH_BOUNDS", "SECONDS_BOUNDS", "Counters", "Histogram", "count_missed", "missed", "totals", "writers_of"]

BATCH_BOUNDS: Final = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0, 2048.0, 4096.0)
"""Upper bounds of the classes of batch sizes, in entries, inclusive."""

SECONDS_BOUNDS: Final = (
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0,
)  # fmt: skip
"""Upper bounds of the classes of durations, in seconds, inclusive."""

_MAX_WAITING: Final = 1_024
"""Commits that may wait for a signature and be timed; of more than these the later ones are not timed."""


class Histogram:
    """How many values fell into each class; one thread counts. `sum` is the sum of the values."""

    __slots__ = ("bounds", "counts", "sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def observe(self, value: float) -> None:
        """Count one value."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value

    def add(self, other: Histogram) -> None:
        """Add what another one counted, which has the same classes."""
        self.counts = [mine + theirs for mine, theirs in zip(self.counts, other.counts, strict=True)]
        self.sum += other.sum


class Counters:
    """What one opened log did. `queue` is what waits for its writer thread, `stopped` why it ended before its time.

    The writer thread calls `committed` and `failed`, the publisher thread `published` and `refused`.
    """

    def __init__(self, queue: Sized = ()) -> None:
        self.queue = queue
        self.origin = ""
        self.stopped = ""
        self.entries = 0
        self.size = self.signed = 0
        self.batch = Histogram(BATCH_BOUNDS)
        self.commit = Histogram(SECONDS_BOUNDS)
        self.publication = Histogram(SECONDS_BOUNDS)
        self.not_committed: Counter[str] = Counter()
        self.not_published: Counter[str] = Counter()
        self._waiting: deque[tuple[int, float]] = deque()

    def open(self, origin: str) -> None:
        """Let `totals` see these from now on."""
        self.origin = origin
        with _REGISTRY.lock:
            _REGISTRY.live.add(self)

    def close(self) -> None:
        """Keep what was counted for the log's total; idempotent."""
        self.queue = ()
        with _REGISTRY.lock:
            if self in _REGISTRY.live:
                _REGISTRY.live.remove(self)
                _REGISTRY.closed.setdefault(self.origin, Counters()).add(self)

    def committed(self, entries: int, size: int, begun: float) -> None:
        """Count a batch that was begun at `perf_counter()` `begun`; the log now has `size` durable entries."""
        now = perf_counter()
        self.entries += entries
        self.size = size
        self.batch.observe(entries)
        self.commit.observe(now - begun)
        if len(self._waiting) < _MAX_WAITING:
            self._waiting.append((size, now))

    def published(self, size: int) -> None:
        """Count what a checkpoint of `size` entries covers."""
        self.signed = size
        now, waiting = perf_counter(), self._waiting
        while waiting and waiting[0][0] <= size:
            self.publication.observe(now - waiting.popleft()[1])

    def failed(self, kind: str) -> None:
        """Count a batch that was not committed, by the class of its error."""
        self.not_committed[kind] += 1

    def refused(self, kind: str) -> None:
        """Count a publication that failed, by the class of its error."""
        self.not_published[kind] += 1

    def unpublished_seconds(self) -> float:
        """How long the oldest durable entry of this writer has been waiting for a checkpoint that covers it."""
        try:
            return max(0.0, perf_counter() - self._waiting[0][1])
        except IndexError:
            return 0.0

    def add(self, other: Counters) -> None:
        """Add what another writer of the same log counted."""
        self.entries += other.entries
        self.size, self.signed = max(self.size, other.size), max(self.signed, other.signed)
        for mine, theirs in zip(self.histograms(), other.histograms(), strict=True):
            mine.add(theirs)
        self.not_committed.update(dict(other.not_committed))
        self.not_published.update(dict(other.not_published))

    def histograms(self) -> tuple[Histogram, Histogram, Histogram]:
        """Return the classes of batches, of commits and of publications."""
        return self.batch, self.commit, self.publication


class _Registry:
    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.live: set[Counters] = set()
        self.closed: dict[str, Counters] = {}
        self.missed: Counter[str] = Counter()


_REGISTRY = _Registry()


def totals() -> dict[str, tuple[Counters, int, float]]:
    """Return for each log, by origin: what this process did, how much waits to be written, and `unpublished_seconds`.

    A forked child begins at nothing.
    """
    with _REGISTRY.lock:
        found = {origin: (_sum_of(one), 0, 0.0) for origin, one in _REGISTRY.closed.items()}
        for one in _REGISTRY.live:
            total, queued, oldest = found.get(one.origin) or (Counters(), 0, 0.0)
            total.add(one)
            found[one.origin] = total, queued + len(one.queue), max(oldest, one.unpublished_seconds())
    return found


def writers_of(origin: str) -> list[Counters]:
    """Return the counters of those that have the log `origin` open in this process."""
    with _REGISTRY.lock:
        return [one for one in _REGISTRY.live if one.origin == origin]


def count_missed(kind: str) -> None:
    """Count an act that happened and could not be recorded (yet), by what kind of entry it would have been."""
    with _REGISTRY.lock:
        _REGISTRY.missed[kind] += 1


def missed() -> dict[str, int]:
    """Return what `count_missed` counted."""
    with _REGISTRY.lock:
        return dict(_REGISTRY.missed)


def _sum_of(one: Counters) -> Counters:
    total = Counters()
    total.add(one)
    return total


def _after_fork_in_child() -> None:
    global _REGISTRY  # noqa: PLW0603  # its lock may have been held by a thread that is not here
    _REGISTRY = _Registry()


os.register_at_fork(after_in_child=_after_fork_in_child)
