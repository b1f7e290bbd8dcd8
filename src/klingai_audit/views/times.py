"""Time expressions that people type: `-30d`, `today`, `2026-11-21`, RFC 3339.

Pure: the present moment is handed in. Everything is UTC, as in the log. Allowed callers: views, exports and cli.
"""

from __future__ import annotations

import datetime as dt
import re
from typing import Final, Literal

from klingai_audit.errors import UsageError

__all__ = ["FORMS", "Edge", "format_instant", "parse_instant", "stated_instant"]

FORMS: Final = "-30d, -12h, -45m, -2w, now, today, yesterday, 2026-11-21 or 2026-11-21T19:28:23Z"
"""The accepted forms, for help texts and messages."""

Edge = Literal["since", "until"]

_RELATIVE: Final = re.compile(r"-(0|[1-9][0-9]*)([smhdw])", re.ASCII)
_UNITS: Final = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
_DATE: Final = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", re.ASCII)
_INSTANT: Final = re.compile(
    r"([0-9]{4}-[0-9]{2}-[0-9]{2})[Tt ]([0-9]{2}:[0-9]{2}(?::[0-9]{2}(?:\.[0-9]{1,6})?)?)([Zz]|[+-][0-9]{2}:[0-9]{2})",
    re.ASCII,
)
_DAY: Final = dt.timedelta(days=1)


def parse_instant(text: str | dt.datetime | dt.date, *, edge: Edge, now: dt.datetime) -> dt.datetime:
    """Turn one expression into an instant in UTC.

    A range is half-open: an entry belongs to it if since <= timestamp < until. A whole day (`2026-11-21`, `today`,
    `yesterday`) as `until` includes that day. `-30d` is 30 times 24 hours before `now`.

    Args: `edge` says which end of the range is meant; `now` is an aware datetime.
    Raises: UsageError for anything else, times without an offset included.
    """
    if isinstance(text, dt.datetime) and text.utcoffset() is None:
        raise UsageError(f"{edge} has no time zone: {text.isoformat()}.", do="Use an aware datetime, best in UTC.")
    try:
        if isinstance(text, dt.datetime):
            return text.astimezone(dt.UTC)
        if isinstance(text, dt.date):
            return _day_edge(text, edge)
        return _parse(text.strip(), edge, now.astimezone(dt.UTC))
    except (ValueError, OverflowError) as exc:
        raise UsageError(f"{edge} {str(text)!r} is not a time.", do=f"Use one of: {FORMS}.") from exc


def format_instant(moment: dt.datetime) -> bytes:
    """Return the log's own form of an instant, 27 ASCII bytes, which sorts as time does."""
    return moment.astimezone(dt.UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ").rjust(27, "0").encode("ascii")


def stated_instant(value: object) -> dt.datetime | None:
    """Return the aware time that a value of metadata states in ISO 8601; None for anything else."""
    if not isinstance(value, str):
        return None
    try:
        found = dt.datetime.fromisoformat(value)
    except ValueError:
        return None
    return found if found.tzinfo is not None else None


def _parse(word: str, edge: Edge, now: dt.datetime) -> dt.datetime:
    if word == "now":
        return now
    if word == "today":
        return _day_edge(now.date(), edge)
    if word == "yesterday":
        return _day_edge(now.date() - _DAY, edge)
    if match := _RELATIVE.fullmatch(word):
        return now - dt.timedelta(**{_UNITS[match[2]]: int(match[1])})
    if _DATE.fullmatch(word):
        return _day_edge(dt.date.fromisoformat(word), edge)
    if match := _INSTANT.fullmatch(word):
        offset = "+00:00" if match[3] in "Zz" else match[3]
        return dt.datetime.fromisoformat(f"{match[1]}T{match[2]}{offset}").astimezone(dt.UTC)
    raise ValueError(word)


def _day_edge(day: dt.date, edge: Edge) -> dt.datetime:
    start = dt.datetime(day.year, day.month, day.day, tzinfo=dt.UTC)
    return start if edge == "since" else start + _DAY
