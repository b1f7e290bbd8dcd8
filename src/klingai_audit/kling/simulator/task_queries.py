"""`/tasks`: records by ids and by search. Source: fact sheet section 2.2."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from klingai_audit.kling.simulator import records
from klingai_audit.kling.simulator.calls import Call, make_cursor, read_body, read_cursor, time_window, view_of
from klingai_audit.kling.simulator.fields import Field, check_fields, pick
from klingai_audit.kling.simulator.messages import Refusal, Response, success
from klingai_audit.kling.simulator.tasks import STATUSES, Task

MAX_IDS = 20
MAX_LIMIT, LIMIT = 500, 100
DEFAULT_WINDOW_MS = 30 * 24 * 3600 * 1000
PRODUCT_TYPES = ("video", "image", "try_on")
SEARCH_FIELDS = (
    Field("cursor", "string"),
    Field("limit", "integer", low=1, high=MAX_LIMIT),
    Field("filters", "array"),
)

Filters = list[tuple[str, list[Any]]]


def get_tasks(call: Call) -> Response | Refusal:
    """`GET /tasks`: up to 20 records by task ids or by external ids; unknown ids are left out."""
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
    view = view_of(call)
    return success([records.new_record(task, view) for task in found if task is not None])


def _split(text: str) -> list[str]:
    return list(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))


def search_tasks(call: Call) -> Response | Refusal:
    """`POST /tasks`: records by time and filters, newest first, in pages by cursor."""
    body = read_body(call)
    if isinstance(body, Refusal):
        return body
    refusal = check_fields(body, SEARCH_FIELDS)
    if refusal is not None:
        return refusal
    filters = read_filters(pick(body, "filters", []), {"status": STATUSES, "product_type": PRODUCT_TYPES})
    if isinstance(filters, Refusal):
        return filters
    view = view_of(call)
    window = _read_window(body, view.now_ms)
    if isinstance(window, Refusal):
        return window
    start, end, before = window
    found = [
        (position, task)
        for position, task in call.sim.book.newest_first(before)
        if start <= task.created_ms <= end and _passes(task, filters, view.now_ms)
    ]
    limit = pick(body, "limit", LIMIT)
    page, more = found[:limit], len(found) > limit
    data: dict[str, Any] = {"count": len(page), "has_more": more}
    if page:
        data = {"result": [records.new_record(task, view) for _, task in page], **data}
    if more:
        data["next_cursor"] = make_cursor([start, end, page[-1][0]])
    return success(data)


def read_filters(rows: list[Any], allowed: Mapping[str, tuple[str, ...]]) -> Filters | Refusal:
    """`filters[]` of `{key, values[]}`; `allowed` maps each key to its words (none: any text)."""
    filters: Filters = []
    for row in rows:
        key = row.get("key") if isinstance(row, dict) else None
        values = row.get("values") if isinstance(row, dict) else None
        if not isinstance(key, str) or key not in allowed:
            return Refusal(1201, f"filters.key must be one of: {', '.join(allowed)}")
        words = allowed[key]
        if not isinstance(values, list) or any(words and value not in words for value in values):
            return Refusal(1201, f"filters.values of {key} must be of: {', '.join(words)}")
        filters.append((key, values))
    return filters


def _passes(task: Task, filters: Filters, now_ms: int) -> bool:
    """Values of one key are alternatives, keys must all hold."""
    have = {"status": task.status(now_ms), "product_type": task.product_type}
    return all(have[key] in values for key, values in filters if values)


def _read_window(body: Mapping[str, Any], now_ms: int) -> tuple[int, int, int | None] | Refusal:
    """Start, end and the position to go on before; with a cursor the times of the body do not count."""
    if pick(body, "cursor"):
        content = read_cursor(body["cursor"])
        if isinstance(content, Refusal):
            return content
        if not isinstance(content, list) or len(content) != 3 or any(type(part) is not int for part in content):
            return Refusal(1201, "cursor is invalid")
        return content[0], content[1], content[2]
    window = time_window(body, now_ms, DEFAULT_WINDOW_MS)
    return window if isinstance(window, Refusal) else (*window, None)
