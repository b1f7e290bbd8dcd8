"""Every number of a report about the log itself: who read it, how long it reaches back, whether it was interrupted."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable
from typing import Any, Final

import msgspec

from klingai_audit.ledger.reader import LogReader
from klingai_audit.report.ask import Asker, iso, named, quoted
from klingai_audit.report.data import LATEST, shown
from klingai_audit.report.scope import Scope
from klingai_audit.upkeep.holds import holds_in
from klingai_audit.views.entry import People

__all__ = [
    "access",
    "anchors",
    "coverage",
    "life",
    "reconciliation",
    "retention",
    "sequence",
    "span_days",
]

_Purged = Iterable[tuple[int, int, int]]
"""Purged entries `[begin, end)`, with the entry that authorised it."""

_ACCESS: Final = (
    *("log_queried", "log_exported", "report_generated", "log_verified", "verification_failed", "content_unsealed"),
    "subject_erased",
)
_PURGES: Final = ("retention_applied", "legal_hold_set", "legal_hold_released", "subject_erased")
_HOLDS: Final = ("legal_hold_set", "legal_hold_released")
_OWN_LIFE: Final = ("log_created", "log_opened", "log_closed", "log_recovered", "log_heartbeat", "clock_stepped",
                    "gap_opened", "gap_closed", "signing_key_rotated")  # fmt: skip
_LATE_S: Final = 5
"""Seconds by which an event's own time may lie after the time at which it was sequenced."""

_FIELDS: Final = {
    "actor_id": "coalesce(actor_id, '') NOT IN ('', 'unknown')",
    "event_type": "coalesce(event_type, '') <> ''",
    "timestamp": "timestamp IS NOT NULL",
    "outcome": "coalesce(outcome, '') <> ''",
    "origin": "coalesce(ip_ref, ip_address, user_agent) IS NOT NULL",
    "resource": "coalesce(resource_id, resource_type) IS NOT NULL",
}
"""Field of PCI DSS 10.2.2 → when an entry has it. `origin` is an address, its reference, or a user agent."""


def access(ask: Asker, people: People, scope: Scope) -> dict[str, Any]:
    """Count reads, exports, reports and checks of the log itself, and list the newest."""
    kinds = quoted(_ACCESS)
    counts = ask.ask(
        "Q15",
        "entries about access to the log itself, by type and actor",
        f"SELECT event_type, actor_id, count(*), max(timestamp) {{period}} AND event_type IN {kinds} GROUP BY ALL "
        "ORDER BY 3 DESC, 1, 2",
        "period",
    )
    latest = ask.ask(
        "Q16",
        f"the newest {LATEST} entries about access to the log",
        f"SELECT seq, timestamp, event_type, actor_id, action {{period}} AND event_type IN {kinds} ORDER BY seq DESC "
        f"LIMIT {LATEST}",
        "period",
    )
    return {
        "total": sum(row[2] for row in counts),
        "by_type": shown(named(("event_type", "actor_id", "events", "last"), counts), people, scope),
        "latest": shown(named(("seq", "timestamp", "event_type", "actor_id", "action"), latest), people, scope),
    }


def reconciliation(ask: Asker) -> dict[str, Any]:
    """Tell of the last comparisons with the provider's records; their counts stand as the entries state them."""
    rows = ask.ask(
        "Q17",
        "comparisons with the provider's records, newest first",
        "SELECT seq, timestamp, outcome, CAST(metadata AS VARCHAR) {log} AND event_type = 'reconciled' "
        "ORDER BY seq DESC LIMIT 100",
        "log",
    )
    runs = []
    for seq, moment, outcome, text in rows:
        stated = _object(text)
        counts = stated.get("counts")
        numbers = counts.items() if isinstance(counts, dict) else ()
        run = {"seq": seq, "timestamp": iso(moment), "outcome": outcome}
        run |= {
            name: value if isinstance(value := stated.get(name), str) else None for name in ("begin", "end", "digest")
        }
        unexplained = stated.get("unexplained")
        run["unexplained"] = unexplained if isinstance(unexplained, int) else None
        runs.append({**run, "counts": {name: count for name, count in numbers if isinstance(count, int)}})
    return {"last": runs[0] if runs else None, "runs": runs}


def anchors(ask: Asker) -> dict[str, Any]:
    """Tell which entries name an anchor outside: a witness's cosignature, or a time stamp."""
    rows = ask.ask(
        "Q27",
        "entries that name a witness or a time stamp, by type",
        "SELECT event_type, count(*), min(timestamp), max(timestamp) {period} "
        "AND event_type IN ('checkpoint_timestamped', 'checkpoint_witnessed') GROUP BY event_type ORDER BY 1",
        "period",
    )
    return {"total": sum(row[1] for row in rows), "by_type": named(("event_type", "events", "first", "last"), rows)}


def retention(ask: Asker, reader: LogReader, purged: _Purged) -> dict[str, Any]:
    """Tell how far the log reaches back, what was purged by which entry, and which holds are in force."""
    oldest = ask.ask(
        "Q18", "the first and the last entry of the log",
        "SELECT min(logged_at), max(logged_at) {all}", "all",
    )  # fmt: skip
    acts = ask.ask(
        "Q19",
        "purges, holds and erasures",
        f"SELECT event_type, count(*), max(timestamp) {{log}} AND event_type IN {quoted(_PURGES)} GROUP BY event_type "
        "ORDER BY 1",
        "log",
    )
    held = ask.ask(
        "Q29",
        "entries that set or end holds",
        f"SELECT seq {{log}} AND event_type IN {quoted(_HOLDS)} ORDER BY seq",
        "log",
    )
    by: dict[int, int] = {}
    for begin, end, seq in purged:
        by[seq] = by.get(seq, 0) + end - begin
    applied = any(row[0] == "retention_applied" for row in acts)
    return {
        "state": "applied" if applied else "not applied yet",
        "purged": sum(by.values()),
        "purges": [{"by": seq, "entries": count} for seq, count in sorted(by.items())],
        "holds": [
            {"name": hold.name, "seq": hold.seq, "reason": hold.reason}
            for hold in holds_in(reader.entry(int(seq)) for (seq,) in held)
        ],
        "oldest": iso(oldest[0][0]),
        "newest": iso(oldest[0][1]),
        "acts": named(("event_type", "events", "last"), acts),
    }


def life(ask: Asker) -> dict[str, Any]:
    """Tell how logging itself went: openings, recoveries, gaps with their lengths, clocks."""
    counts = ask.ask(
        "Q20",
        "entries about the log's own life, by type",
        f"SELECT event_type, count(*), max(timestamp) {{period}} AND event_type IN {quoted(_OWN_LIFE)} GROUP "
        "BY event_type "
        "ORDER BY 1",
        "period",
    )
    marks = ask.ask(
        "Q21",
        "gaps, recoveries and clock steps, in order",
        "SELECT seq, logged_at, event_type, CAST(metadata AS VARCHAR) {all} "
        "AND event_type IN ('gap_opened', 'gap_closed', 'log_recovered', 'clock_stepped') ORDER BY seq",
        "all",
    )
    times = ask.ask(
        "Q22",
        f"events whose own time lies over {_LATE_S} s after their sequencing, and the most",
        f"SELECT count(*) FILTER (timestamp > logged_at + INTERVAL {_LATE_S} SECOND), "
        "max(epoch(timestamp) - epoch(logged_at)) {period}",
        "period",
    )
    gaps: list[dict[str, Any]] = []
    waiting: list[dict[str, Any]] = []
    for seq, moment, kind, text in marks:
        if kind == "gap_opened":
            gap = {"seq": seq, "opened": iso(moment), "closed": None, "seconds": None, "events": None}
            gaps.append(gap)
            waiting.append(gap | {"at": moment})
        elif kind == "gap_closed" and waiting:
            last = waiting.pop()
            count = _object(text).get("count", _object(text).get("events"))
            closed = next(gap for gap in gaps if gap["seq"] == last["seq"])
            closed |= {
                "closed": iso(moment),
                "seconds": round((moment - last["at"]).total_seconds(), 3),
                "events": count,
            }
    return {
        "by_type": named(("event_type", "events", "last"), counts),
        "gaps": gaps,
        "open_gaps": sum(gap["closed"] is None for gap in gaps),
        "recoveries": [_mark(row) for row in marks if row[2] == "log_recovered"],
        "clock_steps": [_mark(row) for row in marks if row[2] == "clock_stepped"],
        "ahead": times[0][0],
        "ahead_s": None if times[0][1] is None else round(max(0.0, times[0][1]), 3),
    }


def _mark(row: tuple[Any, ...]) -> dict[str, Any]:
    return {"seq": row[0], "logged_at": iso(row[1])}


def coverage(ask: Asker) -> dict[str, Any]:
    """Tell for each type of event how many entries have each of the six fields; the log's own entries are left out."""
    columns = ", ".join(f"count(*) FILTER ({test})" for test in _FIELDS.values())
    rows = ask.ask(
        "Q23",
        "entries with each field, by type; the log's own entries and intents are left out",
        f"SELECT event_type, count(*), {columns} {{period}} AND category <> 'log' AND phase IS NULL GROUP BY "
        "event_type "
        "ORDER BY 2 DESC, 1",
        "period",
    )
    entries = sum(row[1] for row in rows)
    filled = {name: sum(row[2 + i] for row in rows) for i, name in enumerate(_FIELDS)}
    return {
        "entries": entries,
        "fields": filled,
        "share": {name: round(count / entries, 4) if entries else None for name, count in filled.items()},
        "by_type": [
            {"event_type": row[0], "entries": row[1], "fields": dict(zip(_FIELDS, row[2:], strict=True))}
            for row in rows
        ],
    }


def sequence(ask: Asker, purged: _Purged) -> dict[str, Any]:
    """Tell whether every index up to the tree's size has its entry or was purged, and how many event ids came twice."""
    rows = ask.ask(
        "Q24",
        "entries, distinct indexes, the last index, entries whose event id came before",
        "SELECT count(*), count(DISTINCT seq), max(seq), count(*) FILTER (NOT first) {all}",
        "all",
    )
    entries, distinct, last, repeated = rows[0]
    size = 0 if last is None else last + 1
    gone = sum(max(0, min(end, size) - begin) for begin, end, _ in purged)
    return {
        "entries": entries,
        "purged": gone,
        "missing": max(0, size - distinct - gone),
        "repeated": repeated,
    }


def _object(text: str | None) -> dict[str, Any]:
    try:
        value = msgspec.json.decode(text or "null")
    except msgspec.DecodeError:
        return {}
    return value if isinstance(value, dict) else {}


def span_days(begin: str | None, end: dt.datetime) -> int:
    """Return whole days between a time as the log writes it and `end`; 0 without one."""
    if begin is None:
        return 0
    return max(0, (end - dt.datetime.fromisoformat(begin)).days)
