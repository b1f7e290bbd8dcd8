"""`python -m bench index`: the index on a generated log, against DuckDB on the same JSON lines in the same run."""

from __future__ import annotations

import datetime as dt
import resource
import shutil
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb

from bench.million import DAYS, write_log
from klingai_audit.config import Places, open_reader
from klingai_audit.index import Index
from klingai_audit.views.activity import activity
from klingai_audit.views.indexed import Indexed
from klingai_audit.views.query import Filter, query
from klingai_audit.views.story import find_shown

BARS = {
    "build": 10.0,
    "share of the log's bytes": 0.25,
    "one actor's month": 0.1,
    "one id": 0.1,
    "one task's story": 0.1,
    "by day and type": 0.15,
}
"""What the project promises on a million entries: seconds, and a share of bytes."""

_COLUMNS = (
    "{seq: 'UBIGINT', event_id: 'VARCHAR', timestamp: 'VARCHAR', event_type: 'VARCHAR', actor_id: 'VARCHAR',"
    " team: 'VARCHAR', resource_id: 'VARCHAR', outcome: 'VARCHAR', correlation_id: 'VARCHAR', metadata: 'JSON'}"
)


def measure(base: Path, count: int, rounds: int, log: Path | None = None) -> dict[str, Any]:
    """Build the index `rounds` times, ask each question `rounds` times of both; seconds, medians first."""
    place = write_log(base, count) if log is None else log
    places = Places.resolve(place)
    reader = open_reader(places)
    folder = base / "index"
    builds = []
    for _ in range(rounds):
        shutil.rmtree(folder, ignore_errors=True)
        before = time.perf_counter(), _cpu()
        made = Index.open(reader, folder)
        builds.append((time.perf_counter() - before[0], _cpu() - before[1]))
        if len(builds) < rounds:
            made.close()
    stored = sum(path.stat().st_size for path in place.glob("*.jsonl"))
    kept = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    found = _questions(made, reader, count, place, rounds)
    made.close()
    seconds = [wall for wall, _ in builds]
    return {
        "entries": count,
        "log_bytes": stored,
        "index_bytes": kept,
        "build": {"median": statistics.median(seconds), "all": seconds, "cpu": [cpu for _, cpu in builds]},
        "share": kept / stored,
        "questions": found,
    }


def _questions(made: Index, reader: Any, count: int, place: Path, rounds: int) -> dict[str, Any]:
    peer = duckdb.connect()
    peer.execute(
        f"CREATE VIEW raw AS SELECT * FROM read_json('{place}/*.jsonl', format='newline_delimited', columns={_COLUMNS})"
    )
    busy = made.rows("SELECT actor_id FROM events WHERE phase = 'intent' GROUP BY 1 ORDER BY count(*) DESC LIMIT 40")
    actor = busy[-1][0]
    sample = f"seq > {count // 2} AND event_type = 'video_generation_completed' ORDER BY seq LIMIT 1"
    task, event_id, correlation = made.rows(f"SELECT task_id, event_id, correlation_id FROM events WHERE {sample}")[0]
    end = dt.datetime(2026, 8, 1, tzinfo=dt.UTC) + dt.timedelta(days=DAYS)
    since = (end - dt.timedelta(days=31)).isoformat()

    def source() -> Indexed:
        made.refresh()
        return Indexed(reader, lambda: made, count)

    def shown(what: str) -> Any:
        whole = source()
        return find_shown(lambda: whole, reader.entry, count, what)

    day = "date_trunc('day', timestamp)"
    cases: dict[str, tuple[Callable[[], Any], str]] = {
        "one actor's month": (
            lambda: list(query(source(), Filter(actor=actor, since=since))),
            f"SELECT * FROM raw WHERE actor_id = '{actor}' AND timestamp >= '{since[:10]}'",
        ),
        "one id": (lambda: shown(event_id), f"SELECT * FROM raw WHERE event_id = '{event_id}'"),
        "one task's story": (
            lambda: shown(task),
            f"SELECT * FROM raw WHERE resource_id = '{task}' OR correlation_id = '{correlation}' ORDER BY seq",
        ),
        "by day and type": (
            lambda: made.rows(f"SELECT {day}, event_type, count(*) FROM events GROUP BY ALL"),
            "SELECT timestamp[:10], event_type, count(*) FROM raw GROUP BY ALL",
        ),
        "by day and type, folded": (
            lambda: made.rows(f"SELECT {day}, event_type, count(*) FROM events WHERE first GROUP BY ALL"),
            "SELECT timestamp[:10], event_type, count(DISTINCT event_id) FROM raw GROUP BY ALL",
        ),
        "units by team and model": (
            lambda: made.rows("SELECT team, model, pack_type, sum(units) FROM events WHERE first GROUP BY ALL"),
            "SELECT team, metadata->>'$.model', sum((metadata->>'$.charge[0].amount')::DOUBLE) FROM raw GROUP BY ALL",
        ),
        "activity, 31 days and those before": (
            lambda: activity(source(), actor, days=31, now=end),
            f"SELECT event_type, outcome, count(*) FROM raw WHERE actor_id = '{actor}' GROUP BY ALL",
        ),
        "newest 20 failures": (
            lambda: list(query(source(), Filter(outcome="failure", reverse=True, limit=20))),
            "SELECT * FROM raw WHERE outcome = 'failure' ORDER BY seq DESC LIMIT 20",
        ),
        "user's SQL, process included": (
            lambda: made.sql("SELECT outcome, count(*) FROM events GROUP BY ALL"),
            "SELECT outcome, count(*) FROM raw GROUP BY ALL",
        ),
    }
    found: dict[str, Any] = {}
    for name, (ours, theirs) in cases.items():
        ours()
        times = [_timed(ours) for _ in range(rounds)]
        peers = [_timed(lambda sql=theirs: peer.execute(sql).fetchall()) for _ in range(max(1, rounds // 2))]
        median, other = statistics.median(times), statistics.median(peers)
        found[name] = {"median": median, "all": times, "raw_json": peers, "ratio": other / median}
    peer.close()
    return found


def report(result: dict[str, Any]) -> None:
    """Print what was measured beside what is promised."""
    print(f"\nindex of {result['entries']:,} entries ({result['log_bytes'] / 1e6:,.0f} MB)")
    build = result["build"]
    worst = f"{min(build['all']):.1f}-{max(build['all']):.1f}"
    print(
        f"  build {build['median']:.1f} s ({worst}; CPU {statistics.median(build['cpu']):.1f} s), bar {BARS['build']} s"
    )
    print(f"  {result['index_bytes'] / 1e6:,.0f} MB, {result['share']:.1%} of the log, bar 25%")
    for name, one in result["questions"].items():
        bar = f"bar {BARS[name] * 1000:.0f}" if name in BARS else ""
        spread = f"({min(one['all']) * 1000:.0f}-{max(one['all']) * 1000:.0f})"
        print(f"  {name:36} {one['median'] * 1000:7.1f} ms {spread:>11} {bar:8} raw JSON lines x {one['ratio']:.0f}")


def _timed(act: Callable[[], Any]) -> float:
    begin = time.perf_counter()
    act()
    return time.perf_counter() - begin


def _cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime
