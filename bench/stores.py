"""The same log in a folder, in PostgreSQL and in a bucket: durable entries a second, and how long a caller waits.

Each round runs, in turn and on the same servers: a plain `INSERT … COMMIT` of an entry's bytes in a loop on one
connection and on 64 at once, a plain PUT of them one after the other and 64 at once, and `await audit.log(…)` from 1,
64 and 1,000 asyncio callers on each store, everything on. Both servers are real, on loopback, and PostgreSQL syncs to
the disk that the folder is on.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from bench.overhead import quantile
from klingai_audit import AuditLog

SECONDS = 3.0
CALLERS = (1, 64, 1_000)
ENTRY_BYTES = 700

Facts = dict[str, list[dict[str, float]]]


async def _many(count: int, act: Callable[[int], Awaitable[Any]], seconds: float) -> tuple[int, float, list[float]]:
    """Let `count` tasks do `act` again and again; return how often, for how long, and each one's seconds."""
    times: list[float] = []
    begin = time.perf_counter()
    until = begin + seconds

    async def loop(number: int) -> None:
        while (now := time.perf_counter()) < until:
            await act(number)
            times.append(time.perf_counter() - now)

    await asyncio.gather(*map(loop, range(count)))
    return len(times), time.perf_counter() - begin, times


def _facts(done: tuple[int, float, list[float]]) -> dict[str, float]:
    count, seconds, times = done
    return {"rate": count / seconds, "p50": quantile(times, 0.5), "p99": quantile(times, 0.99), "count": count}


def run_log(audit: AuditLog, callers: int, event: Callable[[int], dict[str, Any]], seconds: float) -> dict[str, float]:
    """`callers` tasks log and await; with PUTs for each 1,000 entries where the store counts them."""
    store: Any = audit.reader.store
    before = store.requests["put"] if hasattr(store, "requests") else 0
    counter = iter(range(1 << 60))
    found = _facts(
        asyncio.run(
            _many(callers, lambda _n: _logged(audit, "video_generation_started", event(next(counter))), seconds)
        )
    )
    if hasattr(store, "requests"):
        audit.flush("published")
        found["puts_per_1000"] = 1_000 * (store.requests["put"] - before) / found["count"]
    return found


async def _logged(audit: AuditLog, kind: str, facts: dict[str, Any]) -> None:
    await audit.log(kind, **facts)


def run_inserts(url: str, connections: int, seconds: float) -> dict[str, float]:
    """One row of an entry's size a commit, on so many connections at once."""
    import psycopg

    async def run() -> tuple[int, float, list[float]]:
        opened = [await psycopg.AsyncConnection.connect(url, autocommit=True) for _ in range(connections)]
        row = os.urandom(ENTRY_BYTES // 2).hex().encode()
        try:
            return await _many(
                connections, lambda n: opened[n].execute("INSERT INTO plain (line) VALUES (%b)", (row,)), seconds
            )
        finally:
            for one in opened:
                await one.close()

    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("CREATE TABLE IF NOT EXISTS plain (seq bigserial PRIMARY KEY, line bytea NOT NULL)")
    return _facts(asyncio.run(run()))


def run_puts(url: str, at_once: int, seconds: float) -> dict[str, float]:
    """One object of an entry's size a request, so many at once."""
    import obstore

    store = obstore.store.from_url(url, client_options={"allow_http": True})
    data, counter = os.urandom(ENTRY_BYTES), iter(range(1 << 60))
    return _facts(
        asyncio.run(
            _many(at_once, lambda _n: obstore.put_async(store, f"plain/{at_once}/{next(counter)}", data), seconds)
        )
    )


def measure(base: Path, rounds: int, event: Callable[[int], dict[str, Any]], seconds: float = SECONDS) -> Facts:
    """Return for each case, in the order measured, what each round gave."""
    from tests.support.objects import ObjectServer
    from tests.support.postgres import PostgresServer

    found: Facts = defaultdict(list)
    os.environ["XDG_STATE_HOME"] = str(base / "state")
    with PostgresServer.running(sync=True) as postgres, ObjectServer.running() as objects:
        os.environ.update(objects.variables())
        plain, bucket = postgres.database(), objects.prefix()
        places = {"directory": str(base / "audit"), "PostgreSQL": postgres.database(), "bucket": objects.prefix()}
        logs = {name: AuditLog.open(place) for name, place in places.items()}
        try:
            for audit in logs.values():
                run_log(audit, 64, event, 1.0)
            for _ in range(rounds):
                for count in (1, 64):
                    found[f"plain INSERT, {count}"].append(run_inserts(plain, count, seconds))
                    found[f"plain PUT, {count}"].append(run_puts(bucket, count, seconds))
                for name, audit in logs.items():
                    for callers in CALLERS:
                        found[f"{name}, {callers}"].append(run_log(audit, callers, event, seconds))
        finally:
            for audit in logs.values():
                audit.close()
    return found


PEERS = {"PostgreSQL": "plain INSERT, 1", "bucket": "plain PUT, 1"}


def report(found: Facts) -> dict[str, Any]:
    """Print rate, p50 and p99 of each case, with the ratio to the plain peer round by round."""
    print("\nstores: entries a second (spread over rounds), p50 and p99 of a caller's wait in milliseconds")
    facts: dict[str, Any] = {}
    for case, rounds in found.items():
        rates = [one["rate"] for one in rounds]
        line = f"  {case:20} {statistics.median(rates):>9,.0f}/s ({min(rates):,.0f}-{max(rates):,.0f})"
        line += f"  p50 {1e3 * statistics.median(one['p50'] for one in rounds):8.2f}"
        line += f"  p99 {1e3 * statistics.median(one['p99'] for one in rounds):8.2f}"
        facts[case] = rounds
        peer = PEERS.get(case.partition(",")[0])
        if peer is not None:
            ratios = [rate / other["rate"] for rate, other in zip(rates, found[peer], strict=True)]
            line += f"  x {statistics.median(ratios):.1f} ({min(ratios):.1f}-{max(ratios):.1f}) {peer}"
        if "puts_per_1000" in rounds[0]:
            line += f"  {statistics.median(one['puts_per_1000'] for one in rounds):.0f} PUTs for 1,000 entries"
        print(line)
    return facts


def sizes(base: Path, count: int, event: Callable[[int], dict[str, Any]]) -> dict[str, Any]:
    """Print what `count` entries take on each store, and how long it takes to move them there and to verify them."""
    import psycopg

    from klingai_audit.config import Places, open_store
    from klingai_audit.ledger.transfer import transfer
    from klingai_audit.trust.verify import verify
    from tests.support.objects import ObjectServer
    from tests.support.postgres import PostgresServer

    facts: dict[str, Any] = {"entries": count}
    with AuditLog.open(base / "audit") as audit:
        begin = time.perf_counter()
        for number in range(count):
            audit.log("video_generation_started", **event(number))
        audit.flush("published")
        facts["append"] = count / (time.perf_counter() - begin)
        note, source, key = audit.reader.checkpoint_note(), audit.reader.store, audit.vkey
    with PostgresServer.running(sync=True) as postgres, ObjectServer.running() as objects:
        os.environ.update(objects.variables())
        urls = {"PostgreSQL": postgres.database(), "bucket": objects.prefix()}
        facts["directory"] = {"bytes": sum(file.size for file in source.inspect()), "objects": len(source.inspect())}
        for name, url in urls.items():
            store: Any = open_store(Places.resolve(url, environ={"XDG_STATE_HOME": str(base)}))
            begin = time.perf_counter()
            transfer(source, store, note, final=True)
            told = {"move": count / (time.perf_counter() - begin)}
            begin = time.perf_counter()
            assert verify(store, key=key, patience=0).integrity_ok
            told["verify"] = count / (time.perf_counter() - begin)
            if name == "bucket":
                put, there = store.requests["put"], list(store.bucket.listed(""))
                stays = [one.size for one in there if not one.path.startswith("staging/")]
                told |= {"puts": put, "objects": len(stays), "bytes": sum(stays)}
            else:
                with psycopg.connect(url) as connection:
                    row = connection.execute("SELECT pg_database_size(current_database())").fetchone()
                told["bytes"] = 0 if row is None else row[0]
            facts[name] = told
            store.close()
    print(f"\nsizes: {count:,} entries")
    for name in ("directory", "PostgreSQL", "bucket"):
        print(f"  {name:12} " + ", ".join(f"{what} {value:,.0f}" for what, value in facts[name].items()))
    return facts
