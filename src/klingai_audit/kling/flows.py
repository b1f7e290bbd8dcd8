"""What our client does, without doing it: each operation is a generator of steps that a driver carries out.

A flow yields `Send`, `Fetch` and `Pause` and is sent an `Answer`; `KlingAI` drives it with threads and sleeps,
`AsyncKlingAI` with coroutines. All retrying, looking-up and deciding lives here, once.

Retry rules. A create is sent again after 1302 and 1303, and after an answer that leaves its effect unknown only
where the external id was observed to be idempotent, and only after a look-up that did not find the task.
Reads and downloads are repeated after network errors, 1302, 1303 and server errors.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from klingai_audit.capture.attempt import Mark
from klingai_audit.capture.facts import Operation
from klingai_audit.errors import StorageError
from klingai_audit.event.record import new_event_id
from klingai_audit.kling.account import inner_reply, read_packs
from klingai_audit.kling.answers import error_of, is_retryable, malformed, reply_of, write_error
from klingai_audit.kling.catalogue import DOWNLOAD, SEARCH_TASKS, TASKS_BY_ID, Match, Row, match_path
from klingai_audit.kling.endpoints import COSTS, DELETE_FILE, LEGACY_LISTS, LEGACY_ONES
from klingai_audit.kling.errors import (
    KlingDownloadFailed,
    KlingError,
    KlingOutcomeUnknown,
    KlingRequestError,
    KlingTaskFailed,
    KlingWaitTimeout,
)
from klingai_audit.kling.orders import Order
from klingai_audit.kling.reply import Reply, TaskRecord, clean_id, read_done, read_page, read_task, read_tasks
from klingai_audit.kling.steps import Answer, Fetch, Flow, Pause, Remove, Retries, Send, Target

__all__ = [
    "Answer",
    "Fetch",
    "Flow",
    "Page",
    "Pause",
    "Remove",
    "Retries",
    "Send",
    "ask",
    "create_task",
    "delete_file",
    "download",
    "ended_well",
    "fetch_packs",
    "fetch_task",
    "find_task",
    "list_page",
    "pay",
    "pay_for_task",
    "task_page",
    "wait_for_task",
]

MAX_PAGE: Final = 500
"""Largest page of the list calls."""

DEFAULT_PAGE: Final = 100


def create_task(order: Order, retries: Retries, extra: Mapping[str, Any] | None = None) -> Flow:
    """Order a task; returns its `TaskRecord`. The external id is the first intent's event id.

    Raises: KlingError by code; KlingConnectionError: nothing was sent; KlingOutcomeUnknown.
    """
    external_id = new_event_id()
    body = order.with_external_id(external_id)
    doubtful = False
    cause: Exception | None = None
    for attempt in range(1, retries.attempts + 1):
        more: dict[str, Any] = dict(extra or {})
        if attempt > 1:
            more |= {"attempt": attempt, "resend_of": external_id}
        mark = Mark(
            event_id=external_id if attempt == 1 else None, correlation_id=external_id, extra=more,
            operation=_order_operation(order),
        )  # fmt: skip
        answer = yield Send("POST", order.path, mark, body=body)
        reply = reply_of(answer)
        task = read_task(reply.data) if reply.verdict == "ok" else None
        if task is not None:
            return task
        if reply.verdict == "refused":
            if is_retryable(reply) and attempt < retries.attempts:
                yield retries.pause(attempt)
                continue
            if not doubtful and not (attempt > 1 and reply.code == 1201):
                raise error_of(order.row.action, answer)
            if reply.code != 1201:
                break  # this sending was refused; what became of the earlier one stays unknown
        doubtful = True
        cause = answer.error if answer is not None else None
        yield retries.pause(attempt)
        found = yield from _look_up(external_id, order.route, retries)
        if found is not None:
            return found
        if not order.row.idempotent:
            break
    raise KlingOutcomeUnknown(
        f"{order.row.action} was sent, and nobody knows whether Kling accepted it.",
        external_task_id=external_id,
        do="Look it up before ordering again: kling.find(error.external_task_id).",
    ) from cause


def pay(order: Order, retries: Retries) -> Flow:
    """Make a call that costs something and answers at once; returns its `Reply`. Sent again after 1302 and 1303 only.

    Raises: KlingError by code; KlingConnectionError: nothing was sent; KlingOutcomeUnknown.
    """
    event_id = new_event_id()
    for attempt in range(1, retries.attempts + 1):
        more = {} if attempt == 1 else {"attempt": attempt, "resend_of": event_id}
        mark = Mark(
            event_id=event_id if attempt == 1 else None, correlation_id=event_id, extra=more,
            operation=_order_operation(order),
        )  # fmt: skip
        answer = yield Send(order.row.method, order.path, mark, body=dict(order.body))
        reply = reply_of(answer)
        if reply.verdict == "ok":
            return reply
        if not is_retryable(reply) or attempt == retries.attempts:
            raise write_error(order.row.action, answer, "")
        yield retries.pause(attempt)
    raise AssertionError("unreachable: there is at least one attempt")


def pay_for_task(order: Order, retries: Retries) -> Flow:
    """Do as `pay`; returns what was made as a `TaskRecord`, whose id is empty if Kling made no task of it."""
    reply = yield from pay(order, retries)
    done = read_done(reply.data)
    if done is None:
        raise malformed(order.row.action, reply)
    return done


def ask(method: str, path: str, body: Any, params: Mapping[str, str], retries: Retries) -> Flow:
    """Make any call; returns its `Reply`. Reads are repeated while that helps, everything else is sent once.

    Raises: KlingError by code; KlingOutcomeUnknown: it may have taken effect.
    """
    found = match_path(method, path)
    if found.row.kind == "read":
        return (yield from _read(found, path, retries, method=method.upper(), params=params, body=body))
    mark = Mark(operation=_operation(found))
    answer = yield Send(method.upper(), path, mark, params=params, body=body)
    reply = reply_of(answer)
    if reply.verdict == "ok":
        return reply
    external = clean_id(body.get("external_task_id")) if isinstance(body, dict) else None
    raise write_error(found.action, answer, external or "")


def _look_up(external_id: str, route: str | None, retries: Retries) -> Flow:
    """Find the task of an ambiguous create; None if it is not there or nobody answers."""
    try:
        found = yield from find_task(external_id, route=route, retries=retries)
    except KlingError:
        return None
    return found


def find_task(external_id: str, *, route: str | None, retries: Retries) -> Flow:
    """Find a task by the caller's id; returns its `TaskRecord` or None. Raises: KlingError."""
    try:
        if route is not None:
            return (yield from fetch_task(external_id, route=route, retries=retries))
        params = {"external_task_ids": external_id}
        reply = yield from _read(_match(TASKS_BY_ID), "/tasks", retries, params=params, thing=external_id)
    except KlingRequestError:
        return None
    return next((task for task in read_tasks(reply.data) if task.external_id in (external_id, None)), None)


def fetch_task(task_id: str, *, route: str | None, retries: Retries) -> Flow:
    """Read one task; returns its `TaskRecord`. `route` is the path of a legacy create, None for `/tasks`.

    Raises: KlingError; KlingRequestError if there is none.
    """
    if route is not None:
        row = LEGACY_ONES[route]
        reply = yield from _read(_match(row, id=task_id), f"{route}/{task_id}", retries, thing=task_id)
        task = read_task(reply.data)
        if task is None:
            raise malformed(row.action, reply)
        return task
    reply = yield from _read(_match(TASKS_BY_ID), "/tasks", retries, params={"task_ids": task_id}, thing=task_id)
    for task in read_tasks(reply.data):
        if task.id == task_id:
            return task
    raise KlingRequestError(
        "Kling knows no task of this id.", do="Tasks are kept for 30 days.", request_id=reply.request_id
    )


def wait_for_task(
    task: TaskRecord,
    *,
    route: str | None,
    retries: Retries,
    timeout: float,
    poll_interval: float,
    report: Callable[[TaskRecord], None],
) -> Flow:
    """Poll until the task has ended well; returns its `TaskRecord`. Times in seconds.

    Raises: KlingTaskFailed, KlingWaitTimeout, KlingError.
    """
    deadline = time.monotonic() + timeout
    report(task)
    while not task.final:
        left = deadline - time.monotonic()
        if left <= 0:
            raise KlingWaitTimeout(
                f"The task is still {task.status} after {timeout:g} s; it goes on at Kling.",
                task_id=task.id,
                do="Call wait() again, or fetch it later with kling.task(id).",
            )
        yield Pause(min(poll_interval, left))
        task = yield from fetch_task(task.id, route=route, retries=retries)
        report(task)
    return task


def ended_well(task: TaskRecord) -> TaskRecord:
    """Return the task. Raises: KlingTaskFailed."""
    if task.status == "failed":
        raise KlingTaskFailed(
            "The task ended as failed.",
            task_id=task.id,
            provider_message=task.message or None,
            do="The reason, if Kling gave one, is in provider_message; failed tasks are not charged.",
        )
    return task


_Read = Callable[[Any], tuple[list[Any], str | None]]
"""From the data of an answer to its items and the cursor of the next page."""


@dataclass(frozen=True, slots=True)
class Page:
    """Where a listing continues: at a page number for GET, at a cursor for POST."""

    row: Row
    path: str
    read: _Read
    size: int = DEFAULT_PAGE
    number: int = 1
    cursor: str | None = None
    search: Mapping[str, Any] = field(default_factory=dict)


def task_page(route: str | None, *, size: int = DEFAULT_PAGE, search: Mapping[str, Any] | None = None) -> Page:
    """The first page of tasks: of one legacy product, or by `/tasks`."""
    if route is not None:
        return Page(LEGACY_LISTS[route], route, _tasks_only, size)
    return Page(SEARCH_TASKS, "/tasks", read_page, size, search=search or {})


def _tasks_only(data: Any) -> tuple[list[TaskRecord], None]:
    return read_tasks(data), None


def list_page(page: Page, retries: Retries) -> Flow:
    """Read one page; returns its items and the next `Page`, None after the last. Raises: KlingError."""
    if page.row.method == "GET":
        params = {"pageNum": str(page.number), "pageSize": str(page.size)}
        reply = yield from _read(_match(page.row), page.path, retries, params=params)
        full = isinstance(reply.data, list) and len(reply.data) >= page.size
        return page.read(reply.data)[0], replace(page, number=page.number + 1) if full else None
    body: dict[str, Any] = {**page.search, "limit": page.size}
    if page.cursor is not None:
        body["cursor"] = page.cursor
    reply = yield from _read(_match(page.row), page.path, retries, method="POST", body=body)
    items, cursor = page.read(reply.data)
    return items, None if cursor is None else replace(page, cursor=cursor)


def fetch_packs(params: Mapping[str, str], retries: Retries) -> Flow:
    """Read the account's resource packs; returns a list of `ResourcePack`. Raises: KlingError."""
    reply = inner_reply((yield from _read(_match(COSTS), COSTS.path, retries, params=params)))
    if reply.verdict != "ok":
        raise error_of(COSTS.action, Answer(reply))
    return read_packs(reply.data)


def download(
    url: str, target: Target, retries: Retries, *, task_id: str, result_id: str | None, medium: str = "video"
) -> Flow:
    """Fetch a result into `target`; returns None. Raises: KlingDownloadFailed."""
    found = _match(DOWNLOAD, medium=medium)
    reply = Reply("unclear", problem="no_answer")
    for attempt in range(1, retries.attempts + 1):
        target.restart()
        answer = yield Fetch(url, target, Mark(operation=_operation(found, thing=task_id or None, part=result_id)))
        reply = reply_of(answer)
        if reply.verdict == "ok":
            return
        again = reply.http_status is None or reply.http_status >= 500
        if not again or attempt == retries.attempts:
            break
        yield retries.pause(attempt)
    status = f"HTTP {reply.http_status}" if reply.http_status is not None else reply.problem
    raise KlingDownloadFailed(
        f"The result could not be fetched ({status}); nothing was left at the target.",
        http_status=reply.http_status,
        do="Links expire: task.refresh() gets new ones. Results are kept for 30 days.",
    )


def delete_file(
    path: Path, facts: Mapping[str, Any], *, task_id: str | None, result_id: str | None, medium: str
) -> Flow:
    """Delete a downloaded file, announced and recorded; returns None. Raises: StorageError: it is still there."""
    found = _match(DELETE_FILE, medium=medium)
    answer = yield Remove(path, Mark(operation=_operation(found, thing=task_id, part=result_id), extra=facts))
    if answer is not None and answer.error is not None:
        reason = answer.error.strerror if isinstance(answer.error, OSError) else type(answer.error).__name__
        raise StorageError(f"{path} could not be deleted: {reason}.") from answer.error


def _read(
    found: Match,
    path: str,
    retries: Retries,
    *,
    method: str = "GET",
    params: Mapping[str, str] | None = None,
    body: Any = None,
    thing: str | None = None,
) -> Flow:
    """One read call, repeated while that helps; returns a `Reply` that is ok."""
    for attempt in range(1, retries.attempts + 1):
        mark = Mark(operation=_operation(found, thing=thing))
        answer = yield Send(method, path, mark, params=params or {}, body=body)
        reply = reply_of(answer)
        if reply.verdict == "ok":
            return reply
        helps = reply.verdict == "unclear" or is_retryable(reply) or reply.http_status is None
        if not helps or attempt == retries.attempts:
            raise error_of(found.action, answer)
        yield retries.pause(attempt)
    raise AssertionError("unreachable: there is at least one attempt")


def _match(row: Row, **variables: str) -> Match:
    return Match(row, row.action, variables)


def _operation(found: Match, *, thing: str | None = None, part: str | None = None) -> Operation:
    return Operation(
        name=found.action, kind=found.row.kind, row=found, thing=thing, part=part, variables=found.variables
    )


def _order_operation(order: Order) -> Operation:
    return _operation(_match(order.row, **({} if order.model is None else {"model": order.model})))
