"""What counting costs those who append: with counters, without, and while somebody scrapes ten times a second.

The three are run in turn on logs of their own, 64 asyncio callers each. Without: the methods that count do nothing. CPU
time is of the whole process, the scraper's requests excluded (they come from another process), its answers included.
"""

from __future__ import annotations

import contextlib
import statistics
import subprocess
import sys
import time
import timeit
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest import mock

from klingai_audit.ledger.counters import Counters
from klingai_audit.operation import Board, MetricsServer

ENTRIES = 20_000

_SCRAPER = """
import sys, time, urllib.request
while True:
    urllib.request.urlopen(sys.argv[1]).read()
    time.sleep(0.1)
"""


@contextlib.contextmanager
def silenced() -> Iterator[None]:
    """Count nothing."""

    def nothing(*_: object) -> None:
        pass

    with mock.patch.multiple(Counters, committed=nothing, published=nothing):
        yield


@contextlib.contextmanager
def scraped() -> Iterator[None]:
    """Let another process ask for all numbers ten times a second."""
    with (
        MetricsServer(Board(), "127.0.0.1:0") as server,
        subprocess.Popen([sys.executable, "-c", _SCRAPER, f"{server.url}/metrics"]) as scraper,
    ):
        try:
            yield
        finally:
            scraper.kill()


def run(base: Path, rounds: int, append: Callable[[Path, int], float]) -> dict[str, list[tuple[float, float]]]:
    """Measure; returns for each case entries a second and CPU microseconds an entry, by round."""
    cases: dict[str, Callable[[], contextlib.AbstractContextManager[None]]] = {
        "counted": contextlib.nullcontext,
        "not counted": silenced,
        "scraped": scraped,
    }
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in cases}
    for number in range(rounds):
        for name, case in cases.items():
            folder = base / f"counting-{name}-{number}".replace(" ", "-")
            folder.mkdir()
            with case():
                begun = time.process_time()
                rate = append(folder, ENTRIES)
                found[name].append((rate, (time.process_time() - begun) / ENTRIES / 2 * 1e6))
    return found


def report(found: dict[str, list[tuple[float, float]]]) -> None:
    """Print medians, and the ratios pair by pair."""
    print("\ncounting, 64 asyncio callers")
    base = found["not counted"]
    for name, rounds in found.items():
        ratios = [cpu / without for (_, cpu), (_, without) in zip(rounds, base, strict=True)]
        print(
            f"  {name:12} {statistics.median(rate for rate, _ in rounds):>9,.0f}/s"
            f"   {statistics.median(cpu for _, cpu in rounds):.1f} µs of CPU an entry"
            f"   x {statistics.median(ratios):.3f} ({min(ratios):.3f}-{max(ratios):.3f}) of not counted"
        )
    counters = Counters()

    def batch() -> None:
        counters.committed(64, 64, 0.0)
        counters.published(64)

    print(f"  one batch counted and signed: {min(timeit.repeat(batch, number=20_000, repeat=5)) / 20_000 * 1e6:.2f} µs")
