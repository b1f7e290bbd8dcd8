"""Tests of the time expressions that people type."""

from __future__ import annotations

import datetime as dt

import pytest
from hypothesis import given
from hypothesis import strategies as st

from klingai_audit.errors import UsageError
from klingai_audit.views.times import format_instant, parse_instant

NOW = dt.datetime(2026, 11, 21, 19, 28, 23, 123456, tzinfo=dt.UTC)


def utc(*parts: int) -> dt.datetime:
    return dt.datetime(*parts, tzinfo=dt.UTC)


@pytest.mark.parametrize(
    "text,since,until",
    [
        ("now", NOW, NOW),
        ("-30d", utc(2026, 10, 22, 19, 28, 23, 123456), utc(2026, 10, 22, 19, 28, 23, 123456)),
        ("-12h", utc(2026, 11, 21, 7, 28, 23, 123456), utc(2026, 11, 21, 7, 28, 23, 123456)),
        ("-45m", utc(2026, 11, 21, 18, 43, 23, 123456), utc(2026, 11, 21, 18, 43, 23, 123456)),
        ("-2w", utc(2026, 11, 7, 19, 28, 23, 123456), utc(2026, 11, 7, 19, 28, 23, 123456)),
        ("-0s", NOW, NOW),
        ("today", utc(2026, 11, 21), utc(2026, 11, 22)),
        ("yesterday", utc(2026, 11, 20), utc(2026, 11, 21)),
        ("2026-02-28", utc(2026, 2, 28), utc(2026, 3, 1)),
        (" 2026-11-21T19:28:23Z ", utc(2026, 11, 21, 19, 28, 23), utc(2026, 11, 21, 19, 28, 23)),
        ("2026-11-21t19:28z", utc(2026, 11, 21, 19, 28), utc(2026, 11, 21, 19, 28)),
        ("2026-11-21T19:28:23.5+02:00", utc(2026, 11, 21, 17, 28, 23, 500000), utc(2026, 11, 21, 17, 28, 23, 500000)),
        (dt.date(2026, 1, 1), utc(2026, 1, 1), utc(2026, 1, 2)),
        (dt.datetime(2026, 1, 1, 2, tzinfo=dt.timezone(dt.timedelta(hours=2))), utc(2026, 1, 1), utc(2026, 1, 1)),
    ],
)
def test_both_edges_of_every_form(text, since, until):
    """Whole days reach to their end as `until`; everything else is the same instant at both edges."""
    assert (since, until) == (parse_instant(text, edge="since", now=NOW), parse_instant(text, edge="until", now=NOW))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "30d",
        "-d",
        "--30d",
        "-03d",
        "-1.5h",
        "-٣d",
        "-1y",
        "-99999999999d",
        "tomorrow-ish",
        "2026-13-01",
        "2026-02-30",
        "2026-11-21T19:28:23",
        "2026-11-21T25:00:00Z",
        "0001-01-01T00:00:00+23:59",
        "9999-12-31",
        dt.date(9999, 12, 31),
        dt.datetime(2026, 1, 1),  # noqa: DTZ001
    ],
)
def test_anything_else_is_refused_with_what_to_do(text):
    """A wrong, ambiguous or unrepresentable time is a usage error that names the accepted forms."""
    with pytest.raises(UsageError) as caught:
        parse_instant(text, edge="until", now=NOW)
    assert caught.value.do != ""


@given(st.datetimes(timezones=st.just(dt.UTC)), st.datetimes(timezones=st.just(dt.UTC)))
def test_log_form_sorts_as_time_does(one, other):
    """The 27 bytes of two instants compare as the instants do, in every year."""
    assert (one < other, one == other) == (
        format_instant(one) < format_instant(other),
        format_instant(one) == format_instant(other),
    )


@given(st.datetimes(timezones=st.just(dt.UTC), min_value=dt.datetime(1000, 1, 1)))  # noqa: DTZ001
def test_what_the_log_writes_is_read_back(moment):
    """A timestamp copied from an entry is a valid expression for exactly that instant."""
    assert moment == parse_instant(format_instant(moment).decode(), edge="since", now=NOW)
