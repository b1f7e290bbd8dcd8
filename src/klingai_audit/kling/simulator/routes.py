"""Paths and what they answer. Source: fact sheet sections 2.2 and 3.

A handler gets the simulator (its lock is held), the request, the caller and the path's variable
part, and returns a reply or a refusal. Paths are matched after `normalise`.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from klingai_audit.kling.simulator import records
from klingai_audit.kling.simulator.auth import Identity
from klingai_audit.kling.simulator.fields import Field, check_fields, pick
from klingai_audit.kling.simulator.messages import Refusal, Request, Response, parse_object, success
from klingai_audit.kling.simulator.product import Product
from klingai_audit.kling.simulator.products import PRODUCTS
from klingai_audit.kling.simulator.tasks import STATUSES, Output, Task

if TYPE_CHECKING:
    from klingai_audit.kling.simulator.core import Simulator

MAX_IDS = 20
MAX_PAGE_NUMBER, MAX_PAGE_SIZE, PAGE_SIZE = 1000, 500, 30
MAX_LIMIT, LIMIT = 500, 100
DEFAULT_WINDOW_MS = 30 * 24 * 3600 * 1000
PRODUCT_TYPES = ("video", "image", "try_on")


@dataclass(frozen=True, slots=True)
class Call:
    """One authenticated request on its way to a handler."""

    sim: Simulator
    request: Request
    caller: Identity
    rest: str
    """The variable part of the path: an id, or empty."""


Handler = Callable[[Call], Response | Refusal]


@dataclass(frozen=True, slots=True)
class Route:
    """The methods of one path; `tokens`: AccessKey tokens are good here (sheet section 0)."""

    methods: Mapping[str, Handler]
    tokens: bool
    rest: str = ""


def normalise(path: str, prefix: str = "") -> str:
    """Drop `prefix` if present, repeated slashes (some clients send them) and the last slash."""
    path = re.sub("/{2,}", "/", path)
    if prefix and (path == prefix or path.startswith(prefix + "/")):
        path = path[len(prefix) :]
    return path.rstrip("/") or "/"


def find_route(path: str) -> Route | None:
    """The route of a normalised path, None if there is none."""
    product = PRODUCTS.get(path)
    if product is not None:
        return _product_route(product)
    if path == "/tasks":
        return Route({"GET": _get_tasks, "POST": _search_tasks}, tokens=False)
    parent, _, last = path.rpartition("/")
    product = PRODUCTS.get(parent)
    if product is not None and product.generation == "legacy":
        return Route({"GET": lambda call: _legacy_single(product, call)}, tokens=True, rest=unquote(last))
    return None


def _product_route(product: Product) -> Route:
    methods: dict[str, Handler] = {"POST": lambda call: _create(product, call)}
    if product.generation == "legacy":
        methods["GET"] = lambda call: _legacy_list(product, call)
    return Route(methods, tokens=product.generation == "legacy")


def _create(product: Product, call: Call) -> Response | Refusal:
    body = parse_object(call.request.body)
    if isinstance(body, Refusal):
        return body
    order = product.read(body)
    if isinstance(order, Refusal):
        return order
    task = call.sim.accept(product, order, call.caller)
    if isinstance(task, Refusal):
        return task
    return success(records.legacy_created(task) if product.generation == "legacy" else records.new_created(task))


def _legacy_single(product: Product, call: Call) -> Response | Refusal:
    book = call.sim.book
    task = book.by_id(call.rest) or book.by_external_id(call.rest)
    if task is None or task.path != product.path:
        return Refusal(1201, f"Task not found by id/external id: {call.rest}")
    return success(records.legacy_record(task, call.sim.now_ms(), _urls(call)))


def _legacy_list(product: Product, call: Call) -> Response | Refusal:
    number = _page_value(call.request.params, "pageNum", 1, MAX_PAGE_NUMBER)
    size = _page_value(call.request.params, "pageSize", PAGE_SIZE, MAX_PAGE_SIZE)
    if isinstance(number, Refusal):
        return number
    if isinstance(size, Refusal):
        return size
    own = [task for _, task in call.sim.book.newest_first() if task.path == product.path]
    begin, now, url = (number - 1) * size, call.sim.now_ms(), _urls(call)
    return success([records.legacy_record(task, now, url) for task in own[begin : begin + size]])


def _page_value(params: Mapping[str, str], name: str, default: int, high: int) -> int | Refusal:
    text = params.get(name, "")
    if not text:
        return default
    value = int(text) if re.fullmatch("[0-9]{1,9}", text, re.ASCII) else 0
    return value if 1 <= value <= high else Refusal(1201, f"{name} must be between 1 and {high}")


def _get_tasks(call: Call) -> Response | Refusal:
    params = call.request.params
    ids, external_ids = _split(params.get("task_ids", "")), _split(params.get("external_task_ids", ""))
    if len(ids) + len(external_ids) > MAX_IDS:
        return Refusal(1201, f"task_ids and external_task_ids cannot exceed {MAX_IDS} in total")
    if ids and external_ids:
        return Refusal(1201, "task_ids and external_task_ids cannot be used simultaneously")
    if not ids and not external_ids:
        return Refusal(1200, "task_ids or external_task_ids is required")
    book = call.sim.book
    found = [book.by_id(value) for value in ids] + [book.by_external_id(value) for value in external_ids]
    now, url = call.sim.now_ms(), _urls(call)
    return success([records.new_record(task, now, url) for task in found if task is not None])


def _split(text: str) -> list[str]:
    return list(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))


SEARCH_FIELDS = (
    Field("cursor", "string"),
    Field("limit", "integer", low=1, high=MAX_LIMIT),
    Field("filters", "array"),
)


def _search_tasks(call: Call) -> Response | Refusal:
    body = parse_object(call.request.body or b"{}")
    if isinstance(body, Refusal):
        return body
    refusal = check_fields(body, SEARCH_FIELDS)
    if refusal is not None:
        return refusal
    filters = _read_filters(pick(body, "filters", []))
    if isinstance(filters, Refusal):
        return filters
    now = call.sim.now_ms()
    window = _read_cursor(body["cursor"]) if pick(body, "cursor") else _read_window(body, now)
    if isinstance(window, Refusal):
        return window
    start, end, before = window
    found = [
        (position, task)
        for position, task in call.sim.book.newest_first(before)
        if start <= task.created_ms <= end and _passes(task, filters, now)
    ]
    limit = pick(body, "limit", LIMIT)
    page, more = found[:limit], len(found) > limit
    data: dict[str, Any] = {"count": len(page), "has_more": more}
    if page:
        url = _urls(call)
        data = {"result": [records.new_record(task, now, url) for _, task in page], **data}
    if more:
        data["next_cursor"] = _make_cursor(start, end, page[-1][0])
    return success(data)


def _read_filters(rows: list[Any]) -> list[tuple[str, list[Any]]] | Refusal:
    allowed: Mapping[str, tuple[str, ...]] = {"status": STATUSES, "product_type": PRODUCT_TYPES}
    filters = []
    for row in rows:
        key = row.get("key") if isinstance(row, dict) else None
        values = row.get("values") if isinstance(row, dict) else None
        if not isinstance(key, str) or key not in allowed:
            return Refusal(1201, "filters.key must be one of: status, product_type")
        if not isinstance(values, list) or any(value not in allowed[key] for value in values):
            return Refusal(1201, f"filters.values of {key} must be of: {', '.join(allowed[key])}")
        filters.append((key, values))
    return filters


def _passes(task: Task, filters: list[tuple[str, list[Any]]], now_ms: int) -> bool:
    """Values of one key are alternatives, keys must all hold."""
    have = {"status": task.status(now_ms), "product_type": task.product_type}
    return all(have[key] in values for key, values in filters if values)


def _read_window(body: Mapping[str, Any], now_ms: int) -> tuple[int, int, int | None] | Refusal:
    end = _millis(body, "end_time", now_ms)
    if isinstance(end, Refusal):
        return end
    start = _millis(body, "start_time", end - DEFAULT_WINDOW_MS)
    if isinstance(start, Refusal):
        return start
    return (start, end, None) if start < end else Refusal(1201, "start_time must be earlier than end_time")


def _millis(body: Mapping[str, Any], name: str, default: int) -> int | Refusal:
    """Number and string are both accepted (sheet 2.2)."""
    value = pick(body, name)
    if value is None:
        return default
    if isinstance(value, str) and re.fullmatch("[0-9]{1,15}", value, re.ASCII):
        return int(value)
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    return Refusal(1201, f"{name} must be a Unix timestamp in milliseconds")


def _make_cursor(start: int, end: int, before: int) -> str:
    return base64.urlsafe_b64encode(json.dumps([start, end, before]).encode()).decode()


def _read_cursor(cursor: str) -> tuple[int, int, int | None] | Refusal:
    try:
        start, end, before = json.loads(base64.urlsafe_b64decode(cursor.encode()))
        return int(start), int(end), int(before)
    except (ValueError, TypeError, binascii.Error, RecursionError):
        return Refusal(1201, "cursor is invalid")


def _urls(call: Call) -> records.UrlMaker:
    def url(task: Task, output: Output, *, marked: bool) -> str:
        return call.request.base_url + call.sim.media_path(task, output, marked=marked)

    return url
