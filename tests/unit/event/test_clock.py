"""Event ids and times."""

from __future__ import annotations

import datetime as dt
import hashlib
import os
import uuid

import pytest

from klingai_audit.errors import InvalidEvent, Malformed
from klingai_audit.event import clock
from klingai_audit.event.clock import (
    end_event_id,
    format_time,
    is_end_id,
    is_event_id,
    is_time,
    new_event_id,
    parse_time,
)

NS = 1_795_289_303_123_456_789  # 2026-11-21T19:28:23.123456789Z


def test_new_ids_are_uuid7_in_standard_text() -> None:
    """The standard library reads a new id as a version 7 UUID of the RFC's variant, and writes it the same."""
    text = new_event_id()
    parsed = uuid.UUID(text)
    assert (7, uuid.RFC_4122, text) == (parsed.version, parsed.variant, str(parsed))


def test_id_carries_its_time() -> None:
    """The first 48 bits are milliseconds, the next 12 after the version the fraction of a millisecond."""
    value = uuid.UUID(new_event_id(NS)).int
    assert NS // 1_000_000 == value >> 80
    assert NS % 1_000_000 * 4096 // 1_000_000 == value >> 64 & 0xFFF


def test_later_ids_sort_later() -> None:
    """Ids made a microsecond apart sort by time."""
    ids = [new_event_id(NS + step * 1000) for step in range(2000)]
    assert sorted(ids) == ids


def test_ids_do_not_repeat() -> None:
    """Many ids of one instant are all different, across refills of the pool."""
    assert 5000 == len({new_event_id(NS) for _ in range(5000)})


def test_a_fork_does_not_repeat_ids() -> None:
    """After a fork parent and child make different ids although both had the same pool."""
    clock._pool.clear()  # what earlier tests left of it may be one last id, and then there is nothing to share
    new_event_id()
    assert clock._pool
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.write(write, "".join(new_event_id(NS) for _ in range(100)).encode())
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    data = os.read(read, 8192).decode()
    os.close(read)
    os.close(write)
    theirs = {data[at : at + 36] for at in range(0, len(data), 36)}
    assert 100 == len(theirs)
    assert set() == theirs & {new_event_id(NS) for _ in range(600)}


def test_end_id_is_the_documented_hash() -> None:
    """An end id is UUIDv8 of the first 16 bytes of the hash that docs/format.md 9.1 names."""
    digest = bytearray(hashlib.sha256(b"klingai-audit/end/v1\0log.example.com/a\x00831\0succeeded").digest()[:16])
    digest[6] = digest[6] & 0x0F | 0x80
    digest[8] = digest[8] & 0x3F | 0x80
    found = end_event_id("log.example.com/a", "831", "succeeded")
    assert str(uuid.UUID(bytes=bytes(digest))) == found
    assert is_end_id(found)
    assert is_event_id(found)


@pytest.mark.parametrize("other", [("b", "831", "succeeded"), ("a", "832", "succeeded"), ("a", "831", "failed")])
def test_end_ids_differ(other: tuple[str, str, str]) -> None:
    """Another log, task or state gives another end id."""
    assert end_event_id("a", "831", "succeeded") != end_event_id(*other)


@pytest.mark.parametrize("parts", [("", "1", "failed"), ("a", "", "failed"), ("a", "1\x00", "failed"), ("a", "1", "x")])
def test_end_id_refuses_ambiguous_parts(parts: tuple[str, str, str]) -> None:
    """Empty parts, a NUL or another state would let two ends share an id: refused."""
    with pytest.raises(InvalidEvent):
        end_event_id(*parts)


def test_ordinary_ids_are_no_end_ids() -> None:
    """Only version 8 is an end id."""
    assert not is_end_id(new_event_id())
    assert not is_end_id("x")


@pytest.mark.parametrize(
    "text",
    [
        "01A1FB67-1224-7458-8ED7-E624060549DE",
        "01a1fb6712247458-8ed7-e624060549de",
        "01a1fb67-1224-7458-8ed7-e624060549de\n",
        "01a1fb67-1224-0458-8ed7-e624060549de",
        "01a1fb67-1224-7458-cED7-e624060549de",
        "{01a1fb67-1224-7458-8ed7-e624060549de}",
        "",
    ],
)
def test_other_spellings_are_no_event_ids(text: str) -> None:
    """Uppercase, other punctuation, version 0, another variant and line ends are refused."""
    assert not is_event_id(text)


def test_time_of_nanoseconds_is_rounded_down() -> None:
    """Nanoseconds become six digits, rounded down, in 27 characters."""
    assert "2026-11-21T19:28:23.123456Z" == format_time(NS)
    assert "1969-12-31T23:59:59.999999Z" == format_time(-1)


def test_cached_second_does_not_stick() -> None:
    """Times in another second than the last call's are right too, in both directions."""
    assert "2026-11-21T19:28:23.000000Z" == format_time(NS - 123_456_789)
    assert "2026-11-21T19:28:24.123456Z" == format_time(NS + 1_000_000_000)
    assert "2026-11-21T19:28:22.123456Z" == format_time(NS - 1_000_000_000)


def test_time_of_datetime_is_utc() -> None:
    """A datetime of another zone is converted; early years keep four digits."""
    zone = dt.timezone(dt.timedelta(hours=5, minutes=45))
    assert "2026-11-21T19:28:23.000000Z" == format_time(dt.datetime(2026, 11, 22, 1, 13, 23, tzinfo=zone))
    assert "0007-01-02T00:00:00.000001Z" == format_time(dt.datetime(7, 1, 2, 0, 0, 0, 1, tzinfo=dt.UTC))


@pytest.mark.parametrize(
    "when",
    [
        dt.datetime(2026, 11, 21, 19),  # noqa: DTZ001  # naive on purpose
        "2026-11-21T19:28:23.123456Z",
        1.5,
        True,
        None,
        dt.date(2026, 11, 21),
        dt.datetime.max.replace(tzinfo=dt.timezone(-dt.timedelta(hours=1))),
        10**30,
    ],
)
def test_no_time_is_guessed(when: object) -> None:
    """Naive datetimes, texts, floats and times beyond the calendar are refused."""
    with pytest.raises(InvalidEvent, match=r"^/timestamp"):
        format_time(when)  # type: ignore[arg-type]


def test_parse_time_reads_what_format_time_writes() -> None:
    """Reading gives the aware moment, writing it gives the text back."""
    moment = parse_time("2026-11-21T19:28:23.123456Z")
    assert dt.datetime(2026, 11, 21, 19, 28, 23, 123_456, dt.UTC) == moment
    assert "2026-11-21T19:28:23.123456Z" == format_time(moment)


@pytest.mark.parametrize(
    "text",
    [
        "2026-11-21T19:28:23.123456",
        "2026-11-21 19:28:23.123456Z",
        "2026-11-21T19:28:23.12345Z",
        "2026-11-21T19:28:23.123456+00:00",
        "2026-02-30T19:28:23.123456Z",
        "2026-13-01T19:28:23.123456Z",
        "2026-11-21T24:00:00.000000Z",
        "2026-11-21T23:59:60.000000Z",
        "0000-01-01T00:00:00.000000Z",
        "\uff12026-11-21T19:28:23.123456Z",
        "2026-11-21T19:28:23.123456Z\n",
    ],
)
def test_other_times_are_malformed(text: str) -> None:
    """Other spellings and moments that do not exist are refused, also right after a day that exists."""
    assert is_time("2026-11-21T19:28:23.123456Z")
    assert not is_time(text)
    with pytest.raises(Malformed):
        parse_time(text)
