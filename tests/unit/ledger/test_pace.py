"""The clock rule, step by step on a clock that the test moves."""

from __future__ import annotations

import pytest

from klingai_audit.errors import AuditUnavailable
from klingai_audit.ledger.pace import ClockWatch, parse_logged_at
from tests.support.ledgers import NOON, HandClock

HOUR = 3_600


def committed(clock: HandClock, **options: bool) -> ClockWatch:
    """A watch whose process committed now."""
    watch = ClockWatch(clock, **options)
    watch.check(clock.now_ns(), clock.now_ns())
    watch.committed(clock.now_ns())
    return watch


@pytest.mark.parametrize(
    ("seconds", "step"),
    [
        (0, None),
        (-5, None),
        (-6, {"direction": "back", "seconds": 6}),
        (-86_400, {"direction": "back", "seconds": 86_400}),
        (300, None),
        (301, {"direction": "ahead", "seconds": 301}),
        (86_400, {"direction": "ahead", "seconds": 86_400}),
    ],
)
def test_steps(seconds: int, step: dict[str, object] | None) -> None:
    """Five seconds back and five minutes ahead are tolerated; more becomes an entry."""
    clock = HandClock()
    watch = committed(clock)
    last = clock.now_ns()
    clock.step(seconds)
    assert step == watch.check(clock.now_ns(), last)


def test_time_that_passes_is_no_step() -> None:
    """A pause, a suspended machine: both clocks move."""
    clock = HandClock()
    watch = committed(clock)
    last = clock.now_ns()
    clock.advance(10 * 86_400)
    assert watch.check(clock.now_ns(), last) is None


def test_a_pause_between_processes_is_no_step() -> None:
    """A process that has not committed yet compares with nothing of its own."""
    clock = HandClock()
    assert ClockWatch(clock).check(clock.now_ns(), NOON - 90 * 86_400 * 10**9) is None


def test_a_jump_of_days_is_refused_until_accepted() -> None:
    """Over a day ahead nothing is appended, unless the operator accepts the clock."""
    for accept in (False, True):
        clock = HandClock()
        watch = committed(clock, accept=accept)
        last = clock.now_ns()
        clock.step(86_401)
        if accept:
            assert {"direction": "ahead", "seconds": 86_401} == watch.check(clock.now_ns(), last)
        else:
            with pytest.raises(AuditUnavailable, match="accept_clock"):
                watch.check(clock.now_ns(), last)


def test_one_report_an_hour() -> None:
    """A clock that keeps stepping does not fill the log."""
    clock = HandClock()
    watch = committed(clock)
    last = clock.now_ns()
    clock.step(-60)
    reports = []
    for _ in range(5):
        reports.append(watch.check(clock.now_ns(), last) is not None)
        clock.boot += 1_000 * 10**9
    assert [True, False, False, False, True] == reports


def test_logged_at_is_read_to_the_microsecond() -> None:
    """The text of an entry gives its nanoseconds back."""
    assert NOON == parse_logged_at("2026-11-21T12:00:00.000000Z")
    assert NOON + 123_456_000 == parse_logged_at("2026-11-21T12:00:00.123456Z")
