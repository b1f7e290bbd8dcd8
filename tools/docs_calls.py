"""What each call of the catalogue leaves in the log, asked of the interpreter itself, as Markdown.

Rows are told together by kind and reply, in one column for all products that leave the same. `GROUPS` has every row
of the catalogue exactly once; a row of a new kind stops the generator until somebody says where it is told.
"""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from klingai_audit.capture.facts import Exchange, Media, Operation, RequestFacts, Sight
from klingai_audit.capture.memory import Memory
from klingai_audit.event.record import Draft, new_event_id
from klingai_audit.kling import catalogue, endpoints
from klingai_audit.kling.catalogue import Match, Row
from klingai_audit.kling.errors import CODES
from klingai_audit.kling.meaning import PROVIDER
from klingai_audit.kling.rows import MEDIA
from tools.docs_pages import table

__all__ = ["GROUPS", "Group", "calls"]

HOST = "https://api-singapore.klingai.com"
TASK = "831045678901234567"
PRODUCTS = ("video", "image", "audio", "voice", "element", None)
FILES = {"video": "a.mp4", "image": "a.png", "audio": "a.mp3"}
UNKNOWN = "product not known"

Answer = Callable[[Row], Mapping[str, Any]]
"""Row -> how its exchange ends: the arguments of an `Exchange`."""


@dataclass(frozen=True)
class Ending:
    """One way in which a call can end; with `known` the task was seen before, as submitted."""

    words: str
    answer: Answer
    known: bool = True


@dataclass(frozen=True)
class Group:
    """Rows that are told in one table. `calls`: what the page says instead of their methods and paths."""

    title: str
    rows: tuple[Row, ...]
    endings: tuple[Ending, ...]
    calls: str = ""
    head: str = "what comes back"


@dataclass(frozen=True)
class _Case:
    """A row and the product that it has, or that this process knows its task by."""

    row: Row
    product: str | None


def _envelope(data: object, code: int = 0) -> bytes:
    return json.dumps({"code": code, "message": "", "request_id": "r", "data": data}).encode()


def _task(status: str) -> Answer:
    def answer(row: Row) -> Mapping[str, Any]:
        word = "succeed" if status == "succeeded" and row.generation == "legacy" else status
        task = {"task_id": TASK, "task_status": word} if row.generation == "legacy" else {"id": TASK, "status": word}
        if row in (endpoints.CALLBACK, endpoints.CLAIM):
            return {"body": json.dumps(task).encode()}
        shapes = {"tasks": [task], "page": {"result": [task], "count": 1}}
        return {"status": 200, "body": _envelope(shapes.get(row.reply, task))}

    return answer


def _plain(**ending: Any) -> Answer:
    return lambda _row: ending


def _of_kling(data: object) -> Answer:
    return _plain(status=200, body=_envelope(data))


def _code(number: int) -> Answer:
    return _plain(status=CODES[number].http_status, body=_envelope(None, number))


_WHOLE = Media(sha256="0" * 64, bytes=1, type="video/mp4")
_PART = Media(sha256="0" * 64, bytes=1, type="video/mp4", complete=False)

_NO_ANSWER = (
    Ending("nothing; the request was not sent", _plain(error="ConnectError", sent=False)),
    Ending("nothing; the request was sent", _plain(error="ReadTimeout")),
)
_NO_ERROR = (
    *_NO_ANSWER,
    Ending("an answer that breaks off", _plain(status=200, error="ReadError")),
    Ending("an answer that is not Kling's (a proxy's page, HTTP 502)", _plain(status=502, body=b"<html>")),
    Ending("HTTP 401 or 403 without a code", _plain(status=401, body=b"")),
    Ending("HTTP 429 without a code", _plain(status=429, body=b"")),
    Ending("another HTTP 4xx without a code", _plain(status=404, body=b"")),
)
_ANY = Ending("any answer of Kling that is no error", _of_kling({}))
_SEEN = (
    Ending("a task in another state than last seen", _task("processing")),
    Ending("a task that succeeded", _task("succeeded")),
    Ending("a task that failed", _task("failed")),
)
_CREATED = (
    Ending("a task that was accepted", _task("submitted"), known=False),
    Ending("a task that has succeeded at once", _task("succeeded"), known=False),
    Ending("a task that has failed at once", _task("failed"), known=False),
    Ending("an answer of Kling that is no error and names no task", _of_kling({}), known=False),
)
_DONE = (
    Ending("the result, or any other answer of Kling that is no error", _of_kling({"final_unit_deduction": "1"})),
    Ending("a task that is still running", _task("processing")),
    Ending("a task that failed", _task("failed")),
)
_NOT_READ = Ending("something that names no task", _plain(body=b"{}"), known=False)
_STRANGE = Ending("a running task that this process does not know", _task("processing"), known=False)


def _rows(test: Callable[[Row], bool]) -> tuple[Row, ...]:
    return tuple(row for row in catalogue.ROWS if test(row))


def _lists(row: Row) -> bool:
    return row.reply == "page" or (row.reply == "tasks" and row.generation == "legacy")


GROUPS = (
    Group("Ordering", _rows(lambda row: row.kind == "paid_create"), (*_CREATED, *_NO_ERROR)),
    Group("Paid calls that answer at once", _rows(lambda row: row.kind == "paid_sync"), (*_DONE, *_NO_ERROR)),
    Group(
        "Asking for a task",
        _rows(lambda row: row.reply == "task" and row.kind == "read"),
        (*_SEEN, Ending("an answer of Kling that is no error and names no task", _of_kling({})), *_NO_ERROR),
    ),
    Group(
        "Asking for tasks by their ids",
        (catalogue.TASKS_BY_ID,),
        (*_SEEN, Ending("an answer of Kling that is no error and names no task", _of_kling([])), *_NO_ERROR),
    ),
    Group("Listing tasks", _rows(_lists), (*_SEEN, _STRANGE, *_NO_ERROR)),
    Group("Looking at the account", _rows(lambda row: row.product == "account"), (_ANY, *_NO_ERROR)),
    Group(
        "Listing what the library offers",
        _rows(lambda row: row.kind == "read" and row.reply == "any"),
        (_ANY, *_NO_ERROR),
    ),
    Group(
        "Deleting from the library",
        _rows(lambda row: row.kind == "destructive"),
        (_ANY, Ending("a task that failed", _task("failed")), *_NO_ERROR),
    ),
    Group(
        "Fetching a result",
        (catalogue.DOWNLOAD,),
        (
            Ending("the file, whole", _plain(status=200, media=_WHOLE)),
            Ending("a part of the file", _plain(status=200, media=_PART, error="ReadError")),
            Ending("a refusal (HTTP 403, 404 …)", _plain(status=403)),
            *_NO_ANSWER,
        ),
        calls="`GET` of the link of a result",
    ),
    Group(
        "Deleting a fetched file",
        (endpoints.DELETE_FILE,),
        (
            Ending("the file is gone", _plain()),
            Ending("the file is still there", _plain(error="PermissionError")),
        ),
        calls="`Download.delete()`, on this machine",
    ),
    Group(
        "A callback with a good signature",
        (endpoints.CALLBACK,),
        (*_SEEN, _NOT_READ),
        calls="what `audit.webhook(…)` is given",
        head="what it speaks of",
    ),
    Group(
        "A callback without a good signature",
        (endpoints.CLAIM,),
        (*_SEEN, _NOT_READ),
        calls="what `audit.webhook(…)` is given",
        head="what it speaks of",
    ),
    Group(
        "Any other call that may change something",
        (catalogue.UNKNOWN_WRITE,),
        (_ANY, *_NO_ERROR),
        calls="any method but GET, HEAD, OPTIONS and DELETE, any other path of a Kling host",
    ),
    Group(
        "Any other deletion",
        (catalogue.UNKNOWN_DELETE,),
        (_ANY, Ending("a task that failed", _task("failed")), *_NO_ERROR),
        calls="`DELETE`, any path of a Kling host",
    ),
    Group(
        "Any other read",
        (catalogue.UNKNOWN_READ,),
        (_ANY, *_NO_ERROR),
        calls="GET, HEAD or OPTIONS, any other path of a Kling host",
    ),
)
"""Every row of the catalogue, once."""


def calls() -> str:
    """Return a section for each group. Raises: ValueError: a row is in no group, or what is told is not one thing."""
    told = [row for group in GROUPS for row in group.rows]
    if set(catalogue.ROWS) - set(told) or len(told) != len(set(told)):
        raise ValueError("not every row of the catalogue is in exactly one group")
    return "\n\n".join(_section(group) for group in GROUPS)


def _section(group: Group) -> str:
    intents = {_intent(row) for row in group.rows}
    if len(intents) != 1:
        raise ValueError(f"rows of {group.title!r} differ in their intents: {intents}")
    columns = _columns(group)
    lines: dict[tuple[str, ...], list[str]] = {}
    for index, (words, _) in enumerate(_endings(group)):
        cells = tuple(_worded(told[index], products) for products, told in columns)
        lines.setdefault(cells, []).append(words)
    nothing = UNKNOWN if group.rows[0].kind == "read" else "–"
    heads = (
        [_head(products, nothing) for products, _ in columns] if len(columns) > 1 else ["entries, with their outcome"]
    )
    outcome = table((group.head, *heads), (("<br>".join(words), *cells) for cells, words in lines.items()))
    return "\n\n".join((f"### {group.title}", _calls(group), f"Before: {intents.pop()}", outcome))


def _calls(group: Group) -> str:
    """The calls of a group, by product."""
    if group.calls:
        return group.calls[0].upper() + group.calls[1:] + "."
    products = [product for product in (*PRODUCTS, "account") if any(row.product == product for row in group.rows)]
    lines = [
        (product or "–", ", ".join(f"`{row.method} {row.path}`" for row in group.rows if row.product == product))
        for product in products
    ]
    return table(("product", "calls"), lines)


def _columns(group: Group) -> list[tuple[list[str | None], list[str]]]:
    """What products leave, those that leave the same together: their names and a cell for each ending."""
    found: dict[tuple[str, ...], list[str | None]] = {}
    for case in _cases(group.rows):
        cells = tuple(_cell(case, endings) for _, endings in _endings(group))
        products = found.setdefault(cells, [])
        if case.product not in products:
            products.append(case.product)
    named = [product for products in found.values() for product in products]
    if len(named) != len(set(named)):
        raise ValueError(f"rows of one product differ in {group.title!r}")
    return [(products, list(cells)) for cells, products in found.items()]


def _cases(rows: Sequence[Row]) -> Iterator[_Case]:
    """Each row with its product; one without, whose reply tells of tasks, with each that a process may know."""
    for row in rows:
        if row.reply == "file":
            yield from (_Case(row, product) for product in FILES)
        elif row.kind == "read" and row.product is None and row.reply != "any":
            yield from (_Case(row, product) for product in PRODUCTS)
        else:
            yield _Case(row, row.product)


def _endings(group: Group) -> Iterator[tuple[str, list[Ending]]]:
    """The words of each line of a table with the endings that it stands for, which must leave the same."""
    for ending in group.endings:
        yield ending.words, [ending]
    if any(row.reply == "file" or row in (endpoints.CALLBACK, endpoints.CLAIM) for row in group.rows):
        return
    for category in dict.fromkeys(info.category for info in CODES.values()):
        numbers = [info.code for info in CODES.values() if info.category == category]
        words = f"code {_ranges(numbers)} ({category.replace('_', ' ')})"
        yield words, [Ending(words, _code(number)) for number in numbers]


def _ranges(numbers: list[int]) -> str:
    """Return `1000–1004, 1103` for numbers in ascending order."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ", ".join(f"{run[0]}–{run[-1]}" if len(run) > 2 else ", ".join(map(str, run)) for run in runs)


def _cell(case: _Case, endings: list[Ending]) -> str:
    """Return what endings leave, with `…` for the name of a medium."""
    told = {", then ".join(_entries(case, ending)) for ending in endings}
    if len(told) != 1:
        raise ValueError(f"endings of {case.row.path} that are told as one differ: {told}")
    cell = told.pop()
    return cell.replace(f"`{case.product}_", "`…_") if case.product in MEDIA else cell


def _worded(cell: str, products: list[str | None]) -> str:
    return cell.replace("`…_", f"`{products[0]}_") if len(products) == 1 else cell


def _head(products: list[str | None], nothing: str) -> str:
    """The head of a column; `nothing`: what stands for no product."""
    names = ", ".join(product or nothing for product in products)
    return f"{names} (`…`)" if len(products) > 1 and MEDIA.issuperset(filter(None, products)) else names


def _entries(case: _Case, ending: Ending) -> Iterator[str]:
    operation, request, memory = _operation(case)
    intent = _draft(request, operation)
    if ending.known:
        note = {"product": case.product} if case.product else {}
        seen = Sight(thing=TASK, correlation_id=new_event_id(), state="submitted", opens=True, note=note)
        memory.observe(seen, None, dt.datetime.now(dt.UTC), poll=False, all_reads=False)
    exchange = Exchange(request=request, **ending.answer(case.row))
    for outcome in PROVIDER.outcome(operation, exchange, intent, memory):
        yield f"`{outcome.draft.event_type}` {outcome.draft.outcome}"


def _operation(case: _Case) -> tuple[Operation, RequestFacts, Memory]:
    row, memory = case.row, Memory("log.example.com/docs")
    path = row.path.replace("{model}", "kling-3.0").replace("{id}", TASK) or "/v1/something"
    url = f"https://cdn.klingai.com/{FILES[case.product or '']}" if row.reply == "file" else HOST + path
    if row is catalogue.TASKS_BY_ID:
        url += f"?task_ids={TASK}"
    method = {"*": "POST" if row is catalogue.UNKNOWN_WRITE else "GET"}.get(row.method, row.method)
    if row in (endpoints.DELETE_FILE, endpoints.CALLBACK, endpoints.CLAIM):
        operation: Operation | None = Operation(name=row.action, kind=row.kind, row=Match(row, row.action))
    else:
        operation = PROVIDER.classify(method, url, memory)
    if operation is None or operation.row.row is not row:
        raise ValueError(f"{method} {path} is not the call of its own row")
    credential = {"kind": "api_key", "fingerprint": "0" * 16}
    return operation, RequestFacts(method=method, url=url, body=b"{}", credential=credential), memory


def _draft(request: RequestFacts, operation: Operation) -> Draft:
    intent = PROVIDER.intent(operation, request, new_event_id(), {})
    return intent.replace(event_id=new_event_id(), correlation_id=new_event_id(), timestamp=dt.datetime.now(dt.UTC))


def _intent(row: Row) -> str:
    """Return what stands in the log before any call of a row leaves."""
    told = set()
    for case in _cases((row,)):
        operation, request, _ = _operation(case)
        draft = _draft(request, operation)
        if draft.metadata.get("phase") != "intent":
            told.add("no entry.")
            continue
        name = str(draft.event_type)
        if row.kind in ("paid_create", "paid_sync"):
            said = "`prompt_submitted` success where the request has a prompt or a text to speak, else "
        else:
            said = ""
        medium = f"`{name}`".replace(f"`{case.product}_", "`…_") if row.reply == "file" else f"`{name}`"
        told.add(f"{said}{medium} {draft.outcome}; `phase` intent, due in {draft.metadata['deadline_s']:,} s.")
    if len(told) != 1:
        raise ValueError(f"intents of {row.path} differ: {told}")
    return told.pop()
