"""The event types, and what each call of the catalogue leaves in the log, asked of the interpreter itself."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from klingai_audit.capture.facts import Exchange, Media, RequestFacts, Sight
from klingai_audit.capture.memory import Memory
from klingai_audit.event.record import new_event_id
from klingai_audit.event.types import ALIASES, CATEGORIES, EVENT_TYPES, EventInfo
from klingai_audit.kling import catalogue
from klingai_audit.kling.errors import CODES
from klingai_audit.kling.meaning import PROVIDER
from tools.docs_pages import escape, table

__all__ = ["CALLERS", "LATER", "acts", "aliases", "codes", "types"]

LATER = (
    "checkpoint_timestamped",
    "checkpoint_witnessed",
    "content_unsealed",
    "gap_opened",
    "legal_hold_released",
    "legal_hold_set",
    "log_exported",
    "log_migrated",
    "reconciled",
    "report_generated",
    "retention_applied",
    "subject_erased",
)
"""Types that nothing in this version writes; registered so that their names and meanings are settled."""

CALLERS = ("auth_event",)
"""Types that in this version only a user's own `log()` writes."""

HOST = "https://api-singapore.klingai.com"
TASK = "831045678901234567"
KINDS = {
    "create": (catalogue.NEW_TEXT_TO_VIDEO, catalogue.LEGACY_TEXT_TO_VIDEO),
    "query": (catalogue.LEGACY_ONE, catalogue.TASKS_BY_ID),
    "list": (catalogue.LEGACY_LIST, catalogue.SEARCH_TASKS),
    "download": (catalogue.DOWNLOAD,),
    "other-write": (catalogue.UNKNOWN_WRITE,),
    "other-read": (catalogue.UNKNOWN_READ,),
}
"""Rows that are told in one table, because what they leave is the same but for the names of products."""

TITLES = {
    "create": "Ordering a video",
    "query": "Asking for a task",
    "list": "Listing tasks",
    "download": "Fetching a result",
    "other-write": "Any other call that may change something",
    "other-read": "Any other read",
}
DOWNLOAD_PATH = "the link of a result"
OTHERS = {
    "other-write": "any method but GET, HEAD and OPTIONS, any other path of a Kling host",
    "other-read": "GET, HEAD or OPTIONS, any other path of a Kling host",
}


@dataclass(frozen=True)
class Ending:
    """One way in which a call can end; `kinds` are those of `KINDS` that can end so, none for all."""

    words: str
    exchange: Callable[[catalogue.Row], Mapping[str, Any]]
    kinds: tuple[str, ...] = ()


def types() -> str:
    """Return a table of event types for each category."""
    parts = []
    for category in CATEGORIES:
        rows = [
            (
                f"`{info.name}`",
                escape(info.meaning),
                _writer(info),
                ", ".join(f"`{name}`" for name in info.required) or "–",
                str(info.ocsf_class),
            )
            for info in EVENT_TYPES.values()
            if info.category == category
        ]
        head = ("event type", "meaning", "written by", "must have", "OCSF class")
        parts.append(f"### {category}\n\n{table(head, rows)}")
    return "\n\n".join(parts)


def _writer(info: EventInfo) -> str:
    """Return what writes a type in this version."""
    if info.name in LATER:
        return "nothing in this version"
    if info.name in CALLERS:
        return "your own `log()`"
    return f"the log itself only: {escape(info.act)}" if info.own else escape(info.act)


def aliases() -> str:
    """Return the table of accepted other names."""
    return table(("accepted", "stored as"), ((f"`{name}`", f"`{stored}`") for name, stored in ALIASES.items()))


def codes() -> str:
    """Return the table of Kling's error codes."""
    rows = (
        (str(info.code), str(info.http_status), info.category, escape(info.meaning), escape(info.do))
        for info in CODES.values()
    )
    return table(("code", "HTTP", "category", "meaning", "what to do"), rows)


def acts() -> str:
    """Return, for each kind of call, the rows of the catalogue and what each ending leaves in the log."""
    return "\n\n".join(_act(kind, rows) for kind, rows in KINDS.items())


def _act(kind: str, rows: tuple[catalogue.Row, ...]) -> str:
    calls = "; ".join(OTHERS.get(kind) or _name(row) for row in rows)
    intents = {_intent(row) for row in rows}
    head = ("what comes back", "entries, with their outcome")
    lines = [(ending.words, _told(kind, ending)) for ending in _endings(kind)]
    if len(intents) != 1:
        raise ValueError(f"rows of {kind} differ in their intents: {intents}")
    return f"### {TITLES[kind]}\n\n{calls}\n\nBefore: {intents.pop()}\n\n{table(head, lines)}"


def _name(row: catalogue.Row) -> str:
    return f"`{row.method} {row.path}`" if row.path else DOWNLOAD_PATH


def _endings(kind: str) -> Iterator[Ending]:
    known = (ending for ending in _ENDINGS if not ending.kinds or kind in ending.kinds)
    yield from known
    if kind != "download":
        for category in dict.fromkeys(info.category for info in CODES.values()):
            numbers = [info.code for info in CODES.values() if info.category == category]
            told = {_told(kind, _refusal(code)) for code in numbers}
            if len(told) != 1:
                raise ValueError(f"codes of {category} differ for {kind}: {told}")
            yield Ending(f"code {_ranges(numbers)} ({category.replace('_', ' ')})", _refusal(numbers[0]).exchange)


def _refusal(code: int) -> Ending:
    body = _envelope(None, code)
    return Ending(str(code), lambda _row: {"status": CODES[code].http_status, "body": body})


def _ranges(numbers: list[int]) -> str:
    """Return `1000–1004, 1103` for numbers in ascending order."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ", ".join(f"{run[0]}–{run[-1]}" if len(run) > 2 else ", ".join(map(str, run)) for run in runs)


def _told(kind: str, ending: Ending) -> str:
    """Return what one ending leaves; the rows of a kind must agree but for the product."""
    found = []
    for row in KINDS[kind]:
        told = ", then ".join(_entries(row, ending))
        found.append(told)
    if len(set(found)) == 1:
        return found[0]
    return "; ".join(f"{_name(row)}: {told}" for row, told in zip(KINDS[kind], found, strict=True))


def _entries(row: catalogue.Row, ending: Ending) -> Iterator[str]:
    operation, request, memory = _operation(row)
    intent = _draft(row)
    if row in KINDS["query"] + KINDS["list"]:
        note = {"product": "video"}
        seen = Sight(thing=TASK, correlation_id=new_event_id(), state="submitted", opens=True, note=note)
        memory.observe(seen, None, dt.datetime.now(dt.UTC), poll=False, all_reads=False)
    exchange = Exchange(request=request, **ending.exchange(row))
    for outcome in PROVIDER.outcome(operation, exchange, intent, memory):
        yield f"`{outcome.draft.event_type}` {outcome.draft.outcome}"


def _operation(row: catalogue.Row) -> tuple[Any, RequestFacts, Memory]:
    memory = Memory("log.example.com/docs")
    path = row.path.replace("{model}", "kling-3.0").replace("{id}", TASK) or "/v1/something"
    url = "https://cdn.klingai.com/a.mp4" if row is catalogue.DOWNLOAD else HOST + path
    if row is catalogue.TASKS_BY_ID:
        url += f"?task_ids={TASK}"
    method = {"*": "POST" if row is catalogue.UNKNOWN_WRITE else "GET"}.get(row.method, row.method)
    operation = PROVIDER.classify(method, url, memory)
    if operation is None or operation.row.row is not row:
        raise ValueError(f"{method} {path} is not the call of its own row")
    credential = {"kind": "api_key", "fingerprint": "0" * 16}
    return operation, RequestFacts(method=method, url=url, body=b'{"prompt":"a lake"}', credential=credential), memory


def _draft(row: catalogue.Row) -> Any:
    operation, request, _ = _operation(row)
    intent = PROVIDER.intent(operation, request, new_event_id(), {})
    return intent.replace(event_id=new_event_id(), correlation_id=new_event_id(), timestamp=dt.datetime.now(dt.UTC))


def _intent(row: catalogue.Row) -> str:
    draft = _draft(row)
    if draft.metadata.get("phase") != "intent":
        return "no entry (a read)."
    without = " (`task_submitted` without a prompt)" if draft.event_type == "prompt_submitted" else ""
    return f"`{draft.event_type}` {draft.outcome}{without}, `phase` intent, due in {draft.metadata['deadline_s']:,} s."


def _envelope(data: object, code: int = 0) -> bytes:
    return json.dumps({"code": code, "message": "", "request_id": "r", "data": data}).encode()


def _task(status: str) -> Callable[[catalogue.Row], Mapping[str, Any]]:
    def reply(row: catalogue.Row) -> Mapping[str, Any]:
        word = "succeed" if status == "succeeded" and row.generation == "legacy" else status
        task = {"task_id": TASK, "task_status": word} if row.generation == "legacy" else {"id": TASK, "status": word}
        shapes = {"tasks": [task], "page": {"result": [task], "count": 1}}
        return {"status": 200, "body": _envelope(shapes.get(row.reply, task))}

    return reply


def _plain(**ending: Any) -> Callable[[catalogue.Row], Mapping[str, Any]]:
    return lambda _row: ending


_WHOLE = Media(sha256="0" * 64, bytes=1, type="video/mp4")
_PART = Media(sha256="0" * 64, bytes=1, type="video/mp4", complete=False)
_CALLS = ("create", "query", "list", "other-write", "other-read")
_TASKS = ("query", "list")
_OTHERS = ("other-write", "other-read")

_ENDINGS = (
    Ending("a task that was accepted", _task("submitted"), ("create",)),
    Ending("a task that has ended at once", _task("succeeded"), ("create",)),
    Ending("a task in another state than last seen", _task("processing"), _TASKS),
    Ending("a task that succeeded", _task("succeeded"), _TASKS),
    Ending("a task that failed", _task("failed"), _TASKS),
    Ending(
        "any answer of Kling that is no error", _plain(status=200, body=_envelope({})), ("other-write", "other-read")
    ),
    Ending("the file, whole", _plain(status=200, media=_WHOLE), ("download",)),
    Ending("a part of the file", _plain(status=200, media=_PART, error="ReadError"), ("download",)),
    Ending("a refusal (HTTP 403, 404 …)", _plain(status=403), ("download",)),
    Ending("nothing; the request was not sent", _plain(error="ConnectError", sent=False)),
    Ending("nothing; the request was sent", _plain(error="ReadTimeout")),
    Ending("an answer that breaks off", _plain(status=200, error="ReadError"), _CALLS),
    Ending("an answer that is not Kling's (a proxy's page, HTTP 502)", _plain(status=502, body=b"<html>"), _CALLS),
    Ending("HTTP 401 or 403 without a code", _plain(status=401, body=b""), _CALLS),
    Ending("HTTP 429 without a code", _plain(status=429, body=b""), _CALLS),
    Ending("another HTTP 4xx without a code", _plain(status=404, body=b""), _CALLS),
)
