"""`python -m bench erasure`: what 100,000 people cost a log call, and how long one of them takes to erase."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from klingai_audit import AuditLog, acting
from klingai_audit.event.record import Draft
from klingai_audit.privacy.subjects import SqliteSubjects
from klingai_audit.upkeep.erasure import Certificate, erase_subject

PEOPLE = 100_000
ENTRIES = 100_000
BAR_S = 5.0
"""What the project promises for the erasure of one subject with `ENTRIES` entries."""

_SAMPLES = 2_000
_NEW = 50


def measure(base: Path, rounds: int) -> dict[str, Any]:
    """Return seconds: p50 of admitting an event by somebody known, warm and cold, and new; erasures and their parts."""
    base.mkdir()
    cases: dict[str, list[float]] = {}

    def note(name: str, seconds: float) -> None:
        cases.setdefault(name, []).append(seconds)

    with AuditLog.open(base / "audit") as audit:
        table = audit.subjects
        assert isinstance(table, SqliteSubjects)
        heavy = [f"heavy{number}@example.com" for number in range(rounds)]
        for who in heavy:
            for number in range(ENTRIES):
                audit.log("video_downloaded", who, resource_type="video", resource_id=f"{831_000_000 + number}")
        audit.flush("published")
        fill(table)
        for number in range(rounds):
            note("one look whether anybody was erased", _each(table._erasures.read, range(_SAMPLES)))  # noqa: SLF001
            table.close()
            ids = [f"user{(number * _SAMPLES + at) % PEOPLE}@example.com" for at in range(_SAMPLES)]
            note("event admitted, table cold", _each(lambda who: audit.admit(_draft(who)), ids))
            note("event admitted, table warm", _each(lambda who: audit.admit(_draft(who)), ids))
            new = [f"new{number}-{at}@example.com" for at in range(_NEW)]
            note("event admitted, somebody new", _each(lambda who: audit.admit(_draft(who)), new))
            begin = time.perf_counter()
            made = _erase(audit, heavy[number])
            note("person with 100,000 entries erased, not verified", time.perf_counter() - begin)
            assert made.entries == ENTRIES
            begin = time.perf_counter()
            assert audit.verify().integrity_ok
            note("the log of all their entries verified", time.perf_counter() - begin)
            begin = time.perf_counter()
            _erase(audit, new[0])
            note("person without entries erased, not verified", time.perf_counter() - begin)
    begin = time.perf_counter()
    AuditLog.open(base / "audit").close()
    note("log opened and closed", time.perf_counter() - begin)
    return {"people": PEOPLE, "entries": ENTRIES, "cases": cases}


def fill(table: SqliteSubjects) -> None:
    """Add `PEOPLE` rows in one transaction."""
    file = table._file  # noqa: SLF001
    with file.session(writing=True) as database, file.transaction(database):
        for number in range(PEOPLE):
            table._add(database, f"user{number}@example.com", "person")  # noqa: SLF001


def report(found: dict[str, Any]) -> None:
    """Print the median over rounds and the spread."""
    print(f"\n{found['people']:,} people, erased ones with {found['entries']:,} entries each")
    for name, values in found["cases"].items():
        low, middle, high = (_shown(value) for value in (min(values), statistics.median(values), max(values)))
        print(f"  {name:52} {middle:>10}   ({low} to {high})")


def _shown(seconds: float) -> str:
    return (
        f"{seconds:.2f} s"
        if seconds > 0.2
        else f"{seconds * 1e3:.2f} ms"
        if seconds > 1e-3
        else f"{seconds * 1e6:.1f} µs"
    )


def _erase(audit: AuditLog, who: str) -> Certificate:
    with acting("officer@example.com", actor_type="admin"):
        return erase_subject(audit, who, basis="GDPR Art. 17(1)(b)", verify=False)


def _draft(who: str) -> Draft:
    return Draft(event_type="video_downloaded", actor_id=who, resource_type="video", resource_id="831")


def _each(act: Callable[..., Any], inputs: Iterable[Any]) -> float:
    """Return the median time of `act`, called with each input (without, for numbers)."""
    times = []
    for one in inputs:
        begin = time.perf_counter()
        if isinstance(one, int):
            act()
        else:
            act(one)
        times.append(time.perf_counter() - begin)
    return statistics.median(times)
