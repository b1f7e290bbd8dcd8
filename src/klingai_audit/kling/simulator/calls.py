"""What every handler works with: the call, its body, pages, cursors and times."""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from klingai_audit.kling.simulator.auth import Identity
from klingai_audit.kling.simulator.fields import pick
from klingai_audit.kling.simulator.messages import Refusal, Request, Response, parse_object
from klingai_audit.kling.simulator.records import View

if TYPE_CHECKING:
    from klingai_audit.kling.simulator.core import Simulator

MAX_PAGE_NUMBER, MAX_PAGE_SIZE, PAGE_SIZE = 1000, 500, 30
Item = TypeVar("Item")


@dataclass(frozen=True, slots=True)
class Call:
    """One authenticated request on its way to a handler."""

    sim: Simulator
    request: Request
    caller: Identity
    rest: str
    """The variable part of the path: an id, or empty."""


Handler = Callable[[Call], Response | Refusal]


def read_body(call: Call) -> dict[str, Any] | Refusal:
    """The JSON object of the request; an empty body is an empty object."""
    return parse_object(call.request.body or b"{}")


def view_of(call: Call) -> View:
    """What this caller sees now."""
    return call.sim.view(call.request.base_url)


def page(call: Call, rows: Sequence[Item], max_size: int = MAX_PAGE_SIZE) -> Sequence[Item] | Refusal:
    """The rows of the page that `pageNum` and `pageSize` name."""
    number = _page_value(call.request.params, "pageNum", 1, MAX_PAGE_NUMBER)
    size = _page_value(call.request.params, "pageSize", PAGE_SIZE, max_size)
    if isinstance(number, Refusal):
        return number
    if isinstance(size, Refusal):
        return size
    begin = (number - 1) * size
    return rows[begin : begin + size]


def _page_value(params: Mapping[str, str], name: str, default: int, high: int) -> int | Refusal:
    text = params.get(name, "")
    if not text:
        return default
    value = int(text) if re.fullmatch("[0-9]{1,9}", text, re.ASCII) else 0
    return value if 1 <= value <= high else Refusal(1201, f"{name} must be between 1 and {high}")


def millis(values: Mapping[str, Any], name: str, default: int | None) -> int | Refusal:
    """A time of a body or query; number and string are both accepted (sheet 2.2). No default: it is required."""
    value = pick(values, name)
    if value is None:
        return default if default is not None else Refusal(1200, f"{name} is required")
    if isinstance(value, str) and re.fullmatch("[0-9]{1,15}", value, re.ASCII):
        return int(value)
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    return Refusal(1201, f"{name} must be a Unix timestamp in milliseconds")


def time_window(values: Mapping[str, Any], end: int | None, length: int | None) -> tuple[int, int] | Refusal:
    """`start_time` and `end_time`; by default `end` and `length` ms before it."""
    last = millis(values, "end_time", end)
    if isinstance(last, Refusal):
        return last
    first = millis(values, "start_time", None if length is None else last - length)
    if isinstance(first, Refusal):
        return first
    return (first, last) if first < last else Refusal(1201, "start_time must be earlier than end_time")


def make_cursor(content: Any) -> str:
    """An opaque text for `next_cursor`."""
    return base64.urlsafe_b64encode(json.dumps(content).encode()).decode()


def read_cursor(cursor: str) -> Any | Refusal:
    """What `make_cursor` was given."""
    try:
        return json.loads(base64.urlsafe_b64decode(cursor.encode()))
    except (ValueError, binascii.Error, RecursionError):
        return Refusal(1201, "cursor is invalid")
