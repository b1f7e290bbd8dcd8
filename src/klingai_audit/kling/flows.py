"""What our client does, without doing it: each operation is a generator of steps that a driver carries out.

A flow yields `Send`, `Fetch` and `Pause` and is sent an `Answer`; `KlingAI` drives it with threads and sleeps,
`AsyncKlingAI` with coroutines. All retrying, looking-up and deciding lives here, once.

Retry rules. A create is sent again after 1302 and 1303, and after an answer that leaves its effect unknown only
where the external id was observed to be idempotent, and only after a look-up that did not find the task.
Reads and downloads are repeated after network errors, 1302, 1303 and server errors.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final, Protocol

from klingai_audit.capture.attempt import Mark, was_sent
from klingai_audit.capture.facts import Operation
from klingai_audit.errors import UsageError
from klingai_audit.event.record import new_event_id
from klingai_audit.kling.catalogue import (
    DOWNLOAD,
    LEGACY_LIST,
    LEGACY_ONE,
    LEGACY_TEXT_TO_VIDEO,
    SEARCH_TASKS,
    TASKS_BY_ID,
    Match,
    Row,
)
from klingai_audit.kling.errors import (
    KlingConnectionError,
    KlingDownloadFailed,
    KlingError,
    KlingOutcomeUnknown,
    KlingReplyMalformed,
    KlingRequestError,
    KlingServerError,
    KlingTaskFailed,
    KlingWaitTimeout,
    code_info,
    refusal,
)
from klingai_audit.kling.orders import Order
from klingai_audit.kling.reply import Reply, TaskRecord, read_page, read_reply, read_task, read_tasks

__all__ = [
    "Answer",
    "Fetch",
    "Flow",
    "Page",
    "Pause",
    "Retries",
    "Send",
    "Target",
    "create_task",
    "download",
    "ended_well",
    "fetch_task",
    "find_task",
    "list_page",
    "wait_for_task",
]

MAX_PAGE: Final = 500
"""Largest page of both list calls."""

DEFAULT_PAGE: Final = 100


@dataclass(frozen=True, slots=True)
class Send:
    """Send one API call and read its answer whole; `path` begins with a slash, without the base URL."""

    method: str
    path: str
    mark: Mark
    params: Mapping[str, str] = field(default_factory=dict)
    body: Any = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Fetch:
    """Fetch a file into `target`, without any credential, following redirects."""

    url: str = field(repr=False)
    target: Target
    mark: Mark


@dataclass(frozen=True, slots=True)
class Pause:
    """Wait so many seconds."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of a `Send` or a `Fetch`: a reply, or the error of the HTTP library."""

    reply: Reply
    error: Exception | None = None

    @classmethod
    def of(cls, status: int, body: bytes) -> Answer:
        """An API answer."""
        return cls(read_reply(status, body))

    @classmethod
    def failed(cls, error: Exception) -> Answer:
        """No answer, or none that could be read to its end."""
        sent = was_sent(error)
        return cls(Reply("unclear" if sent else "refused", problem=type(error).__name__), error)


class Target(Protocol):
    """Where a download goes; `kling.download.PartFile` is one."""

    def restart(self) -> None:
        """Throw away what was written so far."""
        ...

    def write(self, chunk: bytes) -> None:
        """Append."""
        ...


Flow = Generator[Send | Fetch | Pause, Answer | None, Any]


@dataclass(frozen=True, slots=True)
class Retries:
    """How often and how patiently: `attempts` in all, pauses doubling from `first` to `cap` seconds, with jitter."""

    attempts: int = 5
    first: float = 1.0
    cap: float = 30.0
    random: Callable[[], float] = random.random

    def __post_init__(self) -> None:
        if self.attempts < 1:
            raise UsageError("A call is tried at least once: retries must be 1 or more.")

    def pause(self, attempt: int) -> Pause:
        """The pause after attempt number `attempt` (from 1): half to all of the current ceiling."""
        ceiling = min(self.cap, self.first * 2 ** min(attempt - 1, 16))
        return Pause(ceiling * (0.5 + self.random() / 2))


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
            operation=_operation(order.row, model=order.model),
        )  # fmt: skip
        answer = yield Send("POST", order.path, mark, body=body)
        reply = _reply(answer)
        task = read_task(reply.data) if reply.verdict == "ok" else None
        if task is not None:
            return task
        if reply.verdict == "refused":
            if _is_retryable(reply) and attempt < retries.attempts:
                yield retries.pause(attempt)
                continue
            if not doubtful and not (attempt > 1 and reply.code == 1201):
                raise _error(order.row.action, answer)
            if reply.code != 1201:
                break  # this sending was refused; what became of the earlier one stays unknown
        doubtful = True
        cause = answer.error if answer is not None else None
        yield retries.pause(attempt)
        found = yield from _look_up(external_id, order.generation == "legacy", retries)
        if found is not None:
            return found
        if not order.row.idempotent:
            break
    raise KlingOutcomeUnknown(
        f"{order.row.action} was sent, and nobody knows whether Kling accepted it.",
        external_task_id=external_id,
        do="Look it up before ordering again: kling.find(error.external_task_id).",
    ) from cause


def _look_up(external_id: str, legacy: bool, retries: Retries) -> Flow:  # noqa: FBT001  one caller
    """Find the task of an ambiguous create; None if it is not there or nobody answers."""
    try:
        found = yield from find_task(external_id, legacy=legacy, retries=retries)
    except KlingError:
        return None
    return found


def find_task(external_id: str, *, legacy: bool, retries: Retries) -> Flow:
    """Find a task by the caller's id; returns its `TaskRecord` or None. Raises: KlingError."""
    try:
        if legacy:
            return (yield from fetch_task(external_id, legacy=True, retries=retries))
        params = {"external_task_ids": external_id}
        reply = yield from _read(TASKS_BY_ID, "/tasks", retries, params=params, thing=external_id)
    except KlingRequestError:
        return None
    return next((task for task in read_tasks(reply.data) if task.external_id in (external_id, None)), None)


def fetch_task(task_id: str, *, legacy: bool, retries: Retries) -> Flow:
    """Read one task; returns its `TaskRecord`. Raises: KlingError; KlingRequestError if there is none."""
    if legacy:
        path = f"{LEGACY_TEXT_TO_VIDEO.path}/{task_id}"
        reply = yield from _read(LEGACY_ONE, path, retries, thing=task_id)
        task = read_task(reply.data)
        if task is None:
            raise _malformed(LEGACY_ONE.action, reply)
        return task
    reply = yield from _read(TASKS_BY_ID, "/tasks", retries, params={"task_ids": task_id}, thing=task_id)
    for task in read_tasks(reply.data):
        if task.id == task_id:
            return task
    raise KlingRequestError(
        "Kling knows no task of this id.", do="Tasks are kept for 30 days.", request_id=reply.request_id
    )


def wait_for_task(
    task: TaskRecord,
    *,
    legacy: bool,
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
        task = yield from fetch_task(task.id, legacy=legacy, retries=retries)
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


@dataclass(frozen=True, slots=True)
class Page:
    """Where a listing continues: a page number for legacy lists, a cursor for the new design."""

    legacy: bool
    size: int = DEFAULT_PAGE
    number: int = 1
    cursor: str | None = None
    search: Mapping[str, Any] = field(default_factory=dict)


def list_page(page: Page, retries: Retries) -> Flow:
    """Read one page; returns its tasks and the next `Page`, None after the last. Raises: KlingError."""
    if page.legacy:
        params = {"pageNum": str(page.number), "pageSize": str(page.size)}
        reply = yield from _read(LEGACY_LIST, LEGACY_LIST.path, retries, params=params)
        tasks = read_tasks(reply.data)
        more = replace(page, number=page.number + 1) if len(tasks) >= page.size else None
        return tasks, more
    body: dict[str, Any] = {**page.search, "limit": page.size}
    if page.cursor is not None:
        body["cursor"] = page.cursor
    reply = yield from _read(SEARCH_TASKS, "/tasks", retries, method="POST", body=body)
    tasks, cursor = read_page(reply.data)
    return tasks, None if cursor is None else replace(page, cursor=cursor)


def download(url: str, target: Target, retries: Retries, *, task_id: str, result_id: str | None) -> Flow:
    """Fetch a result into `target`; returns None. Raises: KlingDownloadFailed."""
    reply = Reply("unclear", problem="no_answer")
    for attempt in range(1, retries.attempts + 1):
        target.restart()
        answer = yield Fetch(url, target, Mark(operation=_operation(DOWNLOAD, thing=task_id, part=result_id)))
        reply = _reply(answer)
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


def _read(
    row: Row,
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
        mark = Mark(operation=_operation(row, thing=thing))
        answer = yield Send(method, path, mark, params=params or {}, body=body)
        reply = _reply(answer)
        if reply.verdict == "ok":
            return reply
        helps = reply.verdict == "unclear" or _is_retryable(reply) or reply.http_status is None
        if not helps or attempt == retries.attempts:
            raise _error(row.action, answer)
        yield retries.pause(attempt)
    raise AssertionError("unreachable: there is at least one attempt")


def _operation(row: Row, *, thing: str | None = None, part: str | None = None, **variables: str) -> Operation:
    return Operation(
        name=row.action, kind=row.kind, row=Match(row, row.action, variables), thing=thing, part=part,
        variables=variables,
    )  # fmt: skip


def _reply(answer: Answer | None) -> Reply:
    return Reply("unclear", problem="no_answer") if answer is None else answer.reply


def _is_retryable(reply: Reply) -> bool:
    info = code_info(reply.code)
    return info is not None and info.retryable == "safe"


def _error(action: str, answer: Answer | None) -> KlingError:
    """The exception for an answer that ends an operation, chained to the library's own error."""
    reply = _reply(answer)
    if reply.http_status is None:
        what = "was not sent" if reply.verdict == "refused" else "got no answer"
        error: KlingError = KlingConnectionError(
            f"{action} {what} ({reply.problem}).", do="Check network, proxy and base URL.", retryable=True
        )
    elif reply.code:
        error = refusal(
            action, code=reply.code, http_status=reply.http_status, request_id=reply.request_id,
            provider_message=reply.message or None,
        )  # fmt: skip
    elif reply.http_status >= 500:
        error = KlingServerError(
            f"Kling failed at {action} (HTTP {reply.http_status}).", http_status=reply.http_status, retryable=True
        )
    else:
        error = _malformed(action, reply)
    error.__cause__ = answer.error if answer is not None else None
    return error


def _malformed(action: str, reply: Reply) -> KlingReplyMalformed:
    return KlingReplyMalformed(
        f"The answer to {action} is not one of Kling's (HTTP {reply.http_status}).",
        do="Is the base URL right, and is a proxy answering in its place?",
        http_status=reply.http_status,
        request_id=reply.request_id,
    )
