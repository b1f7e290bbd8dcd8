"""What recording adds to a call: bare and audited calls in turn, against the simulator in another process.

Every pair is two calls of the same kind one after the other, one through a plain httpx2 client, one through a client
with `audit.attach(client)`; which goes first changes from pair to pair. In between stand one plain write with
`fdatasync` of an entry's size on the same disk, and one durable `log()`: the floor under any durable intent.
"""

from __future__ import annotations

import contextlib
import functools
import os
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2

from klingai_audit import AuditLog, acting

PAIRS = 300
WARM_UP = 30
ENTRY_BYTES = 700

_SERVER = """
import sys
from klingai_audit.kling import simulator as sim
account = sim.Simulator()
account.credentials = sim.Credentials({"bench-key": "default"}, {})
account.concurrency = dict.fromkeys(account.concurrency, 1_000_000)
with sim.serve(account) as server:
    print(server.base_url, flush=True)
    sys.stdin.read()
"""


@contextlib.contextmanager
def simulator() -> Iterator[str]:
    """Run the simulator in a process of its own; yields its address."""
    server = subprocess.Popen([sys.executable, "-c", _SERVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        yield server.stdout.readline().strip()
    finally:
        server.communicate("")


def create(client: httpx2.Client) -> str:
    reply = client.post("/v1/videos/text2video", json={"prompt": "A serene mountain lake at sunrise", "duration": "5"})
    reply.raise_for_status()
    return str(reply.json()["data"]["task_id"])


def poll(client: httpx2.Client, task: str) -> None:
    client.get(f"/v1/videos/text2video/{task}").raise_for_status()


def measure(base: Path, pairs: int = PAIRS) -> dict[str, list[float]]:
    """Return milliseconds by case, in the order measured."""
    times: dict[str, list[float]] = defaultdict(list)

    def timed(case: str, act: Callable[[], Any]) -> Any:
        begin = time.perf_counter()
        result = act()
        times[case].append((time.perf_counter() - begin) * 1e3)
        return result

    file = os.open(base / "plain", os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def plain_sync() -> None:
        os.write(file, b"x" * ENTRY_BYTES)
        os.fdatasync(file)

    def durable(audit: AuditLog) -> None:
        audit.log("x_bench", "user@example.com", action="floor", number=1).wait()

    with (
        simulator() as address,
        AuditLog.open(base / "audit") as audit,
        _client(address) as bare,
        _client(address) as audited,
        acting("user@example.com", team="studio-a"),
    ):
        audit.attach(audited)
        clients = {"bare": bare, "audited": audited}
        for number in range(WARM_UP + pairs):
            if number == WARM_UP:
                times.clear()
            order = list(clients) if number % 2 else list(clients)[::-1]
            tasks = {name: timed(f"create, {name}", functools.partial(create, clients[name])) for name in order}
            for name in order:  # still waiting in the queue: no news
                timed(f"poll, {name}", functools.partial(poll, clients[name], tasks[name]))
            timed("fdatasync", plain_sync)
            timed("log().wait()", lambda: durable(audit))
    os.close(file)
    return times


def _client(address: str) -> httpx2.Client:
    return httpx2.Client(base_url=address, headers={"Authorization": "Bearer bench-key"}, trust_env=False)


def quantile(values: list[float], part: float) -> float:
    return sorted(values)[min(len(values) - 1, int(len(values) * part))]


def report(rounds: list[dict[str, list[float]]]) -> dict[str, Any]:
    """Print medians over rounds of p50 and p99, and what the audited calls add at p50, with the spread over rounds."""
    facts: dict[str, Any] = {}
    print(f"\noverhead of capture, milliseconds, {len(rounds)} rounds: p50 (spread over rounds), p99")
    for case in rounds[0]:
        middle = [quantile(times[case], 0.5) for times in rounds]
        tail = [quantile(times[case], 0.99) for times in rounds]
        facts[case] = {"p50": middle, "p99": tail}
        print(f"  {case:16} {statistics.median(middle):7.2f} ({_spread(middle)})  p99 {statistics.median(tail):7.2f}")
    for call in ("create", "poll"):
        pairs = zip(facts[f"{call}, audited"]["p50"], facts[f"{call}, bare"]["p50"], strict=True)
        added = [audited - bare for audited, bare in pairs]
        facts[f"{call}, added"] = added
        syncs = [more / sync for more, sync in zip(added, facts["fdatasync"]["p50"], strict=True)]
        print(
            f"  added per {call:6} {statistics.median(added):7.2f} ({_spread(added)})"
            f"  = {statistics.median(syncs):.1f} times a plain fdatasync"
        )
    return facts


def _spread(values: list[float]) -> str:
    return f"{min(values):.2f}-{max(values):.2f}"
