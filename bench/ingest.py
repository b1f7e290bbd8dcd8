"""What the ingest endpoint takes: a real process, clients in another one, durable receipts, by size of batch.

CPU is that of the endpoint's process for each event, read from /proc, so this runs on Linux only.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from klingai_audit import AuditLog
from klingai_audit.ingest.producers import new_token, sample

CASES = (
    (1, 1, 300, ""),
    (64, 1, 2_000, ""),
    (8, 100, 30_000, ""),
    (4, 1_000, 40_000, ""),
    (8, 100, 10_000, "published"),
)
"""Connections, events of a request, events in all, what is waited for."""

_CLIENT = """
import http.client, json, sys, threading, time, urllib.parse, uuid
url, token, connections, batch, count, wait = sys.argv[1:]
connections, batch, count = int(connections), int(batch), int(count)
place = urllib.parse.urlsplit(url)
def event(number):
    return {"event_type": "x_render_done", "event_id": str(uuid.uuid4()), "actor_id": f"user{number % 50}@example.com",
            "resource_type": "video", "resource_id": str(831_000_000_000_000_000 + number), "action": "render",
            "metadata": {"model": "kling-3.0-turbo", "duration": 5, "resolution": "720p", "prompt": "a lake"}}
bodies = [b"".join(json.dumps(event(n)).encode() + b"\\n" for n in range(batch)) for _ in range(count // batch)]
todo, seconds = iter(bodies), []
path = "/v1/events" + (f"?wait={wait}" if wait else "")
head = {"Authorization": f"Bearer {token}", "Content-Type": "application/x-ndjson"}
def work():
    connection = http.client.HTTPConnection(place.hostname, place.port)
    for body in todo_of():
        begun = time.perf_counter()
        connection.request("POST", path, body, head)
        answer = connection.getresponse()
        told = answer.read()
        assert answer.status == 200, told
        seconds.append(time.perf_counter() - begun)
lock = threading.Lock()
def todo_of():
    while True:
        with lock:
            body = next(todo, None)
        if body is None:
            return
        yield body
threads = [threading.Thread(target=work) for _ in range(connections)]
begun = time.perf_counter()
for one in threads: one.start()
for one in threads: one.join()
took = time.perf_counter() - begun
seconds.sort()
assert len(seconds) == len(bodies)
print(json.dumps({"rate": count / took, "p50": seconds[len(seconds) // 2], "p99": seconds[len(seconds) * 99 // 100]}))
"""


def run(base: Path, rounds: int) -> list[dict[str, Any]]:
    """Measure each case `rounds` times against one endpoint; returns one result for each."""
    folder = base / "ingest"
    folder.mkdir()
    AuditLog.open(folder / "audit").close()
    token, digest = new_token()
    producers = folder / "producers.toml"
    producers.write_text(sample("bench", digest).replace('["bench"]', '["*"]'))
    argv = [
        "ingest",
        "--log",
        str(folder / "audit"),
        "--producers",
        str(producers),
        "--listen",
        "127.0.0.1:0",
        "--json",
    ]
    with subprocess.Popen([sys.executable, "-m", "klingai_audit.cli", *argv], stdout=subprocess.PIPE) as server:
        assert server.stdout is not None
        url = json.loads(server.stdout.readline())["url"]
        try:
            return [_measured(server.pid, url, token, case) for _ in range(rounds) for case in CASES]
        finally:
            server.terminate()


def _measured(pid: int, url: str, token: str, case: tuple[int, int, int, str]) -> dict[str, Any]:
    connections, batch, count, wait = case
    before = _cpu(pid)
    argv = [sys.executable, "-c", _CLIENT, url, token, *map(str, case)]
    told = json.loads(subprocess.run(argv, check=True, stdout=subprocess.PIPE).stdout)
    cpu = (_cpu(pid) - before) / count * 1e6
    return {"connections": connections, "batch": batch, "wait": wait or "durable", "cpu_us": cpu, **told}


def _cpu(pid: int) -> float:
    """Return the CPU seconds of a process."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def report(found: list[dict[str, Any]]) -> None:
    """Print the best round of each case."""
    print("\ningest, best round")
    for connections, batch, _count, wait in CASES:
        case = (connections, batch, wait or "durable")
        best = max((one for one in found if case == (one["connections"], one["batch"], one["wait"])), key=_rate)
        print(
            f"  {connections:>3} connections, {batch:>5} events each, {case[2]:9} {best['rate']:>9,.0f} events/s"
            f"   p50 {best['p50'] * 1e3:.1f} ms, p99 {best['p99'] * 1e3:.1f} ms   {best['cpu_us']:.0f} µs CPU an event"
        )


def _rate(one: dict[str, Any]) -> float:
    rate: float = one["rate"]
    return rate
