"""`python -m bench [append] [overhead] [verify] …`: all cases, or those named; prints tables and keeps JSON."""

from __future__ import annotations

import argparse
import asyncio
import datetime as dt
import json
import os
import platform
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench import counting, erasure, ingest, naive, overhead, proofs, questions, stores
from klingai_audit import AuditLog

CALLERS = 64
CASES = (
    *("append", "overhead", "verify", "memory", "index", "proofs", "erasure", "counting", "ingest", "stores", "sizes"),
)

_NAIVE_VERIFY = """
import sys
from pathlib import Path
sys.path.insert(0, ".")
from bench import naive, overhead
assert naive.verify(Path(sys.argv[1])) == int(sys.argv[2])
"""


def event(number: int) -> dict[str, Any]:
    """One entry's worth of facts, about 600 bytes once stored."""
    return {
        "actor_id": f"user{number % 50}@example.com",
        "action": "text_to_video",
        "resource_type": "video",
        "resource_id": f"{831_000_000_000_000_000 + number}",
        "ip_address": f"192.168.1.{number % 250}",
        "correlation_id": f"0199aa00-0000-7000-8000-{number:012x}",
        "metadata": {"model": "kling-3.0-turbo", "duration": 5, "resolution": "720p", "units": "4.0", "number": number},
    }


def naive_append(folder: Path, count: int) -> float:
    log = naive.NaiveLog(folder / "naive.jsonl")
    begin = time.perf_counter()
    for number in range(count):
        log.log({"event_type": "video_generation_started", **event(number)})
    return count / (time.perf_counter() - begin)


def our_append(folder: Path, count: int) -> float:
    async def caller(audit: AuditLog, numbers: range) -> None:
        for number in numbers:
            await audit.log("video_generation_started", **event(number))

    async def run(audit: AuditLog) -> None:
        await asyncio.gather(*(caller(audit, range(start, count, CALLERS)) for start in range(CALLERS)))

    with AuditLog.open(folder / "audit") as audit:
        asyncio.run(run(audit))
        begin = time.perf_counter()
        asyncio.run(run(audit))
        return count / (time.perf_counter() - begin)


def make_log(folder: Path, count: int) -> Path:
    with AuditLog.open(folder / "audit") as audit:
        for number in range(count):
            audit.log("video_generation_started", **event(number))
    return folder / "audit"


def our_verify(log: Path, count: int, *options: str) -> float:
    begin = time.perf_counter()
    subprocess.run(
        [sys.executable, "-m", "klingai_audit.cli", "verify", "--log", str(log), "--json", *options],
        check=True,
        stdout=subprocess.DEVNULL,
    )
    return count / (time.perf_counter() - begin)


def naive_verify(path: Path, count: int) -> float:
    begin = time.perf_counter()
    subprocess.run(
        [sys.executable, "-c", _NAIVE_VERIFY, str(path), str(count)],
        check=True,
    )
    return count / (time.perf_counter() - begin)


def compare(name: str, rounds: int, peer: Callable[[], float], ours: dict[str, Callable[[], float]]) -> None:
    """Run peer and ours in turn, `rounds` times, and print the ratio pair by pair."""
    rates: dict[str, list[float]] = {label: [] for label in ours}
    peers: list[float] = []
    for _ in range(rounds):
        peers.append(peer())
        for label, run in ours.items():
            rates[label].append(run())
    print(f"\n{name}, naive peer: {statistics.median(peers):,.0f}/s ({min(peers):,.0f}-{max(peers):,.0f})")
    for label, values in rates.items():
        ratios = [value / base for value, base in zip(values, peers, strict=True)]
        print(
            f"  {label:34} {statistics.median(values):>10,.0f}/s   x {statistics.median(ratios):.1f}"
            f" ({min(ratios):.1f}-{max(ratios):.1f})"
        )
        keep({"bench": name, "case": label, "rates": values, "peer": peers, "ratios": ratios})


def keep(result: dict[str, Any]) -> None:
    """Append one result with machine and date to bench/results.jsonl."""
    facts = {
        "date": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "machine": platform.machine(),
        "cpus": os.cpu_count(),
        "load": os.getloadavg()[0],
    }
    with (Path(__file__).parent / "results.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps({**facts, **result}) + "\n")


def bench_append(base: Path, rounds: int) -> None:
    counter = iter(range(1_000))

    def fresh() -> Path:
        folder = base / f"append-{next(counter)}"
        folder.mkdir()
        return folder

    compare(
        "durable append",
        rounds,
        lambda: naive_append(fresh(), 1_000),
        {f"{CALLERS} asyncio callers": lambda: our_append(fresh(), 6_400)},
    )


def bench_overhead(base: Path, rounds: int) -> None:
    folders = [base / f"overhead-{number}" for number in range(rounds)]
    measured = []
    for folder in folders:
        folder.mkdir()
        measured.append(overhead.measure(folder))
    keep({"bench": "overhead", **overhead.report(measured)})


def bench_verify(base: Path, rounds: int, count: int) -> None:
    folder = base / "verify"
    folder.mkdir()
    log = make_log(folder, count)
    events = [{"event_type": "video_generation_started", **event(number)} for number in range(count)]
    naive.write_many(folder / "naive.jsonl", events)
    compare(
        f"verify {count:,} entries (whole processes)",
        rounds,
        lambda: naive_verify(folder / "naive.jsonl", count),
        {
            "verify --proofs-only": lambda: our_verify(log, count, "--proofs-only"),
            "verify": lambda: our_verify(log, count),
        },
    )


def bench_memory(base: Path, count: int) -> None:
    folder = base / "memory"
    folder.mkdir()
    log = make_log(folder, count)
    script = (
        "import sys, resource; from klingai_audit.cli import main\n"
        f"sys.argv = ['klingai-audit', 'verify', '--log', {str(log)!r}, '--json']\n"
        "try:\n    main()\nexcept SystemExit: pass\n"
        "import re\n"
        "text = open('/proc/self/smaps_rollup').read()\n"
        "private = sum(int(n) for n in re.findall(r'Private_(?:Clean|Dirty): +([0-9]+)', text))\n"
        "anonymous = int(re.search(r'VmHWM: +([0-9]+)', open('/proc/self/status').read())[1])\n"
        "children = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss\n"
        "print(private, anonymous, children, file=sys.stderr)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    private, peak, children = (int(field) for field in done.stderr.split()[-3:])
    print(f"\nverify {count:,} entries: private at the end {private // 1024} MB, peak resident {peak // 1024} MB")
    print(f"  (mapped log pages count as resident), largest worker peak {children // 1024} MB")
    facts = {"private_kb": private, "peak_kb": peak, "worker_peak_kb": children}
    keep({"bench": "verify memory", "entries": count, **facts})


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("cases", nargs="*", default=[*CASES])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--entries", type=int, default=200_000)
    parser.add_argument("--million", type=int, default=1_000_000, help="entries of the memory, index and proofs cases")
    parser.add_argument("--dir", default=None, help="a folder on the disk to measure")
    options = parser.parse_args()
    base = Path(tempfile.mkdtemp(prefix="klingai-bench-", dir=options.dir))
    os.environ["XDG_STATE_HOME"] = str(base / "xdg")
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:
        if "append" in options.cases:
            bench_append(base, options.rounds)
        if "overhead" in options.cases:
            bench_overhead(base, options.rounds)
        if "verify" in options.cases:
            bench_verify(base, options.rounds, options.entries)
        if "memory" in options.cases:
            bench_memory(base, options.million)
        if "index" in options.cases:
            found = questions.measure(base, options.million, options.rounds)
            questions.report(found)
            keep({"bench": "index", **found})
        if "proofs" in options.cases:
            found = proofs.measure(base / "proofs", options.million, options.rounds)
            proofs.report(found)
            keep({"bench": "proofs", **found})
        if "erasure" in options.cases:
            found = erasure.measure(base / "erasure", options.rounds)
            erasure.report(found)
            keep({"bench": "erasure", **found})
        if "counting" in options.cases:
            rates = counting.run(base, options.rounds, our_append)
            counting.report(rates)
            keep({"bench": "counting", "rates": rates})
        if "ingest" in options.cases:
            taken = ingest.run(base, options.rounds)
            ingest.report(taken)
            keep({"bench": "ingest", "cases": taken})
        if "stores" in options.cases:
            measured = stores.measure(base / "stores", options.rounds, event)
            keep({"bench": "stores", "cases": stores.report(measured)})
        if "sizes" in options.cases:
            keep({"bench": "sizes", **stores.sizes(base / "sizes", options.million, event)})
    finally:
        shutil.rmtree(base)


if __name__ == "__main__":
    main()
