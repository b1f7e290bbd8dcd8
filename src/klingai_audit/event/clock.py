"""Event ids and times: cheap, strict, safe after a fork.

Ids are UUIDs of 36 lowercase characters (RFC 9562): version 7 made on the caller's side, version 8 for the
one end of a task. Times are UTC with six digits and `Z`, 27 characters.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import os
import re
import time
from typing import Final, Literal

from klingai_audit.errors import InvalidEvent, Malformed

__all__ = ["end_event_id", "format_time", "is_day", "is_end_id", "is_event_id", "is_time", "new_event_id", "parse_time"]

_UUID: Final = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[1-8][0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}").fullmatch
_TIME: Final = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T(?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9]\.[0-9]{6}Z").fullmatch

_END_DOMAIN: Final = b"klingai-audit/end/v1"
_POOL_BYTES: Final = 1024
_VARIANT: Final = {digit: "89ab"[int(digit, 16) & 3] for digit in "0123456789abcdef"}
_MILLISECONDS_MASK: Final = (1 << 48) - 1

# The random halves of ids to come. `pop` is atomic, so threads share it without a lock; a fork empties it.
_pool: list[str] = []
# One item: a millisecond and its text with the version; replaced as a whole, so threads read it without a lock.
_millisecond: list[tuple[int, str]] = [(-1, "")]
# One item: seconds since 1970 and their text up to the dot; replaced as a whole, so threads read it without a lock.
_second: list[tuple[int, str]] = [(-1, "")]
# One item: a day that exists, as text.
_day: list[str] = [""]

os.register_at_fork(after_in_child=_pool.clear)


def new_event_id(now_ns: int | None = None) -> str:
    """Return a fresh UUIDv7: 48 bits of milliseconds, 12 bits below a millisecond, 62 random bits.

    `now_ns` is nanoseconds since 1970 UTC, the wall clock if None.
    """
    milliseconds, rest = divmod(time.time_ns() if now_ns is None else now_ns, 1_000_000)
    cached = _millisecond[0]
    if cached[0] != milliseconds:
        digits = f"{milliseconds & _MILLISECONDS_MASK:012x}"
        cached = (milliseconds, f"{digits[:8]}-{digits[8:]}-7")
        _millisecond[0] = cached
    try:
        random = _pool.pop()
    except IndexError:
        random = _refill()
    return f"{cached[1]}{rest * 4096 // 1_000_000:03x}-{random}"


def _refill() -> str:
    digits = os.urandom(_POOL_BYTES).hex()
    fresh = [
        f"{_VARIANT[digits[at]]}{digits[at + 1 : at + 4]}-{digits[at + 4 : at + 16]}"
        for at in range(0, len(digits), 16)
    ]
    random = fresh.pop()
    _pool.extend(fresh)
    return random


def _uuid_text(digits: str) -> str:
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"


def end_event_id(origin: str, provider_task_id: str, state: Literal["succeeded", "failed"]) -> str:
    """Return the one id of a task's end: UUIDv8 of origin, task and state, the same for every observer.

    First 16 bytes of SHA-256(`klingai-audit/end/v1` ‖ 0 ‖ origin ‖ 0 ‖ task id ‖ 0 ‖ state).
    Raises: InvalidEvent: an empty part, a NUL in it, or another state. Source: docs/format.md, "Ids".
    """
    if state not in ("succeeded", "failed"):
        raise InvalidEvent("the end state of a task is 'succeeded' or 'failed'")
    for name, part in (("origin", origin), ("provider task id", provider_task_id)):
        if not part or "\0" in part:
            raise InvalidEvent(f"the {name} of an end event is empty or holds a NUL")
    parts = (_END_DOMAIN, origin.encode(), provider_task_id.encode(), state.encode())
    digest = bytearray(hashlib.sha256(b"\0".join(parts)).digest()[:16])
    digest[6] = digest[6] & 0x0F | 0x80
    digest[8] = digest[8] & 0x3F | 0x80
    return _uuid_text(digest.hex())


def is_event_id(text: str) -> bool:
    """Tell whether `text` is a UUID of versions 1 to 8 in 36 lowercase characters."""
    return _UUID(text) is not None


def is_end_id(event_id: str) -> bool:
    """Tell whether `event_id` is a UUIDv8, the form of the ids of end events."""
    return _UUID(event_id) is not None and event_id[14] == "8"


def format_time(when: dt.datetime | int) -> str:
    """Return an aware `datetime`, or nanoseconds since 1970 UTC (rounded down), as 27 characters of UTC.

    Raises: InvalidEvent: a naive `datetime`, another type, or a time outside the years 1 to 9999.
    """
    if type(when) is int:
        seconds, rest = divmod(when, 1_000_000_000)
        cached = _second[0]
        if cached[0] != seconds:
            cached = (seconds, _prefix(seconds))
            _second[0] = cached
        return f"{cached[1]}{rest // 1000:06d}Z"
    if not isinstance(when, dt.datetime) or when.tzinfo is None or when.utcoffset() is None:
        raise InvalidEvent(f"/timestamp: expected an aware datetime, got {_time_kind(when)}")
    try:
        return when.astimezone(dt.UTC).isoformat(timespec="microseconds")[:26] + "Z"
    except OverflowError as exc:
        raise InvalidEvent("/timestamp: outside the years 1 to 9999") from exc


def _prefix(seconds: int) -> str:
    try:
        moment = dt.datetime.fromtimestamp(seconds, dt.UTC)
    except (OverflowError, ValueError, OSError) as exc:
        raise InvalidEvent("/timestamp: outside the years 1 to 9999") from exc
    return moment.isoformat(timespec="seconds")[:19] + "."


def _time_kind(when: object) -> str:
    return "a naive datetime" if isinstance(when, dt.datetime) else f"a value of type {type(when).__name__}"


def is_time(text: str) -> bool:
    """Tell whether `text` is an existing moment in the form `2026-11-21T19:28:23.123456Z`."""
    return _TIME(text) is not None and is_day(text[:10])


def is_day(text: str) -> bool:
    """Tell whether `text`, ten characters of the form `2026-11-21`, is a day that exists."""
    if text == _day[0]:
        return True
    try:
        dt.date.fromisoformat(text)
    except ValueError:
        return False
    _day[0] = text
    return True


def parse_time(text: str) -> dt.datetime:
    """Return the aware UTC `datetime` of 27 characters as `format_time` makes them.

    Raises: Malformed: any other spelling, or a moment that does not exist.
    """
    if not is_time(text):
        raise Malformed("not UTC time in the form 2026-11-21T19:28:23.123456Z")
    return dt.datetime.fromisoformat(text[:26]).replace(tzinfo=dt.UTC)
