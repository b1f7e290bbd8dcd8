"""The one place where Kling's answers are understood: envelopes, status words, task records, charges.

Both API generations, resellers that send codes as text, and answers that are broken become the same few
structs. Pure, and total: any bytes give a `Reply`. Source: fact sheet sections 3 and 4.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from http import HTTPStatus
from typing import Any, Final, Literal

import msgspec

from klingai_audit.kling.errors import code_info

__all__ = [
    "Charge",
    "Reply",
    "Result",
    "TaskRecord",
    "Verdict",
    "clean_id",
    "read_callback",
    "read_done",
    "read_page",
    "read_reply",
    "read_task",
    "read_tasks",
]

Verdict = Literal["ok", "refused", "unclear"]

STATUS_WORDS: Final[Mapping[str, str]] = {
    "submitted": "submitted",
    "processing": "processing",
    "succeed": "succeeded",
    "succeeded": "succeeded",
    "failed": "failed",
}
"""Status words of both generations -> ours, which are those of the new design."""

FINAL: Final = frozenset({"succeeded", "failed"})
MAX_RESULTS: Final = 100
MAX_CHARGES: Final = 16

_ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:-]{0,127}").fullmatch
_WORD: Final = re.compile(r"[a-z][a-z0-9_]{0,31}").fullmatch
_AMOUNT: Final = re.compile(r"-?[0-9]{1,18}(?:\.[0-9]{1,9})?").fullmatch
_INTEGER: Final = re.compile(r"0|-?[1-9][0-9]{0,8}").fullmatch
_MAX_NUMERIC_ID: Final = 10**20
_MAX_MILLIS: Final = 253_402_300_799_999
_LEGACY_LISTS: Final = (
    ("videos", "video"),
    ("images", "image"),
    ("series_images", "image"),
    ("audios", "audio"),
    ("voices", "voice"),
    ("elements", "element"),
)
_PRODUCTS: Final = ("video", "image", "audio", "voice", "element")


@dataclass(frozen=True, slots=True)
class Charge:
    """One deduction. `amount` and `list_price` are decimal text; units of different packages never add up."""

    charge_type: str
    amount: str
    package_type: str | None = None
    cash_type: str | None = None
    currency: str | None = None
    list_price: str | None = None

    def facts(self) -> dict[str, str]:
        """The members that have a value, by name."""
        return {name: value for name in self.__slots__ if (value := getattr(self, name)) is not None}


@dataclass(frozen=True, slots=True)
class Result:
    """One output of a task: a file (`video`, `image`, `audio`), or a `voice` or `element` of the account's library.

    `duration` is decimal text in seconds; `wav_url` is a sound's second file; `name` is what its owner called it.
    """

    kind: str
    id: str | None
    url: str | None = field(repr=False)
    watermark_url: str | None = field(default=None, repr=False)
    duration: str | None = None
    wav_url: str | None = field(default=None, repr=False)
    name: str | None = field(default=None, repr=False)
    owned_by: str | None = None
    state: str | None = None


@dataclass(frozen=True, slots=True)
class TaskRecord:
    """A task as either generation tells it; times in ms since 1970 UTC by the provider's clock.

    `id` is empty for what a synchronous call did without making a task of it. `parent_id` is the video that it was
    made from; `raw` is the record as Kling sent it.
    """

    id: str
    status: str
    message: str = field(default="", repr=False)
    external_id: str | None = None
    created_ms: int | None = None
    updated_ms: int | None = None
    results: tuple[Result, ...] = field(default=(), repr=False)
    charges: tuple[Charge, ...] = ()
    parent_id: str | None = None
    raw: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)

    @property
    def final(self) -> bool:
        """Whether the task has ended."""
        return self.status in FINAL

    @property
    def product(self) -> str | None:
        """What its results tell: `video`, `image`, `audio`, `voice` or `element`."""
        kinds = {result.kind for result in self.results}
        return next((kind for kind in _PRODUCTS if kind in kinds), None)


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer, read. `verdict` `unclear`: nobody can say from it whether the call took effect.

    `like_kling`: it has Kling's envelope. `problem` names what is wrong with an unclear one.
    """

    verdict: Verdict
    code: int | None = None
    http_status: int | None = None
    request_id: str | None = None
    message: str = field(default="", repr=False)
    data: Any = field(default=None, repr=False)
    problem: str | None = None
    like_kling: bool = False

    @property
    def key(self) -> str:
        """What tells this answer from another one of the same kind: the code, the problem or the status."""
        return str(self.code) if self.code else self.problem or f"http_{self.http_status}"


def read_reply(status: int, body: bytes | None) -> Reply:
    """Read an HTTP answer; `body` None: it was not read, or too long."""
    envelope = _decode(body)
    if envelope is None:
        return _bare(status, "reply_not_read" if body is None else "reply_not_json")
    code = _code(envelope.get("code"))
    data = envelope.get("data")
    like = "code" in envelope and ("request_id" in envelope or "data" in envelope)
    message = envelope.get("message")
    common: dict[str, Any] = {
        "http_status": status,
        "request_id": clean_id(envelope.get("request_id")),
        "message": message if isinstance(message, str) else "",
        "like_kling": like,
    }
    if code == 0 or (code is None and 200 <= status < 300 and read_task(data) is not None):
        # A success word under an error status, or the reverse, is an answer that contradicts itself.
        if 200 <= status < 300:
            return Reply("ok", 0, data=data, **common)
        return Reply("unclear", None, problem="reply_contradicts_status", **common)
    if code is None:
        bare = _bare(status, "reply_without_code")
        return Reply(bare.verdict, None, problem=bare.problem, **common)
    info = code_info(code)
    if info is None:
        verdict: Verdict = "refused" if 400 <= status < 500 else "unclear"
        return Reply(verdict, code, problem=None if verdict == "refused" else "code_not_documented", **common)
    return Reply("unclear" if info.category == "server" else "refused", code, **common)


def _bare(status: int, problem: str) -> Reply:
    """An answer without a readable envelope: only the status speaks, and a gateway may have written it."""
    if 400 <= status < 500 and status != HTTPStatus.REQUEST_TIMEOUT:
        return Reply("refused", None, status)
    return Reply("unclear", None, status, problem=problem)


def read_task(data: Any) -> TaskRecord | None:
    """Read one task record of either generation; None if it is none (no usable id)."""
    if not isinstance(data, dict):
        return None
    legacy = "task_id" in data
    task_id = clean_id(data.get("task_id") if legacy else data.get("id"))
    return None if task_id is None else _record(data, task_id, legacy=legacy)


def read_callback(body: bytes | None) -> TaskRecord | None:
    """Read the body of a callback, a bare task record of either generation; None if it is none."""
    return read_task(_decode(body))


def read_done(data: Any) -> TaskRecord | None:
    """Read what a synchronous call brought, which needs no id and may say no status; None if it is nothing."""
    if not isinstance(data, dict):
        return None
    task = _record(data, clean_id(data.get("task_id")) or "", legacy=True)
    return task if task.status != "unrecognised" else replace(task, status="succeeded")


def _record(data: dict[str, Any], task_id: str, *, legacy: bool) -> TaskRecord:
    prefix = "task_" if legacy else ""
    info = data.get("task_info")
    info = info if legacy and isinstance(info, dict) else {}
    parent = info.get("parent_video")
    message = data.get("task_status_msg" if legacy else "message")
    return TaskRecord(
        id=task_id,
        status=_status(data.get(f"{prefix}status")),
        message=message if isinstance(message, str) else "",
        external_id=clean_id(info.get("external_task_id") if legacy else data.get("external_id")),
        created_ms=_millis(data.get("created_at" if legacy else "create_time")),
        updated_ms=_millis(data.get("updated_at" if legacy else "update_time")),
        results=tuple(_legacy_results(data.get("task_result")) if legacy else _new_results(data.get("outputs"))),
        charges=tuple(_legacy_charges(data) if legacy else _new_charges(data.get("billing"))),
        parent_id=clean_id(parent.get("id")) if isinstance(parent, dict) else None,
        raw=data,
    )


def read_tasks(data: Any) -> list[TaskRecord]:
    """Read all task records of a reply: a list, one record, or a page with `result`."""
    if isinstance(data, dict) and isinstance(data.get("result"), list):
        data = data["result"]
    if isinstance(data, list):
        return [task for item in data if (task := read_task(item)) is not None]
    task = read_task(data)
    return [] if task is None else [task]


def read_page(data: Any) -> tuple[list[TaskRecord], str | None]:
    """Read a page of `POST /tasks` and the cursor of the next one; None after the last."""
    if not isinstance(data, dict):
        return [], None
    cursor = data.get("next_cursor")
    more = bool(data.get("has_more")) and isinstance(cursor, str) and bool(cursor)
    return read_tasks(data) if "result" in data else [], cursor if more else None


def clean_id(value: Any) -> str | None:
    """An id that may stand in an entry: 1 to 128 harmless characters. Numbers count as their text."""
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < _MAX_NUMERIC_ID:
        value = str(value)
    return value if isinstance(value, str) and _ID(value) else None


def _decode(body: bytes | None) -> dict[str, Any] | None:
    if not body:
        return None
    try:
        value = msgspec.json.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _code(value: Any) -> int | None:
    if isinstance(value, bool):
        return None
    if isinstance(value, int):
        return value
    if isinstance(value, str) and _INTEGER(value.strip()):
        return int(value)
    return None


def _status(value: Any) -> str:
    word = value.strip().lower() if isinstance(value, str) else ""
    if word in STATUS_WORDS:
        return STATUS_WORDS[word]
    return word if _WORD(word) else "unrecognised"


def _millis(value: Any) -> int | None:
    if isinstance(value, str) and value.isascii() and value.isdecimal() and len(value) <= 15:
        value = int(value)
    if isinstance(value, int) and not isinstance(value, bool) and 0 < value <= _MAX_MILLIS:
        return value
    return None


def _legacy_results(value: Any) -> Iterator[Result]:
    if not isinstance(value, dict):
        return
    count = 0
    for name, kind in _LEGACY_LISTS:
        items = value.get(name)
        for item in items if isinstance(items, list) else ():
            for result in _results(kind, item) if isinstance(item, dict) else ():
                count += 1
                if count <= MAX_RESULTS:
                    yield result


def _new_results(value: Any) -> Iterator[Result]:
    for item in value[:MAX_RESULTS] if isinstance(value, list) else ():
        if isinstance(item, dict):
            kind = item.get("type")
            known = isinstance(kind, str) and _WORD(kind)
            yield from _results(str(kind) if known else "unrecognised", item)


def _results(kind: str, item: Mapping[str, Any]) -> Iterator[Result]:
    """The results of one item: one, but for images that come as three views."""
    views = [item[name] for name in ("url_1", "url_2", "url_3") if isinstance(item.get(name), str)]
    links = ("url", "url_mp3", "mp3_url", "trial_url")
    state = item.get("status")
    for url in views or [next((item[name] for name in links if item.get(name)), None)]:
        yield Result(
            kind=kind,
            id=clean_id(next((item[name] for name in ("id", f"{kind}_id") if item.get(name)), None)),
            url=_text(url),
            watermark_url=_text(item.get("watermark_url")),
            duration=_amount(next((item[n] for n in ("duration", "duration_mp3", "mp3_duration") if n in item), None)),
            wav_url=_text(item.get("url_wav") or item.get("wav_url")),
            name=_text(item.get(f"{kind}_name") or item.get("name")),
            owned_by=clean_id(item.get("owned_by")),
            state=_status(state) if isinstance(state, str) else None,
        )


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) and value else None


def _legacy_charges(data: Mapping[str, Any]) -> Iterator[Charge]:
    units = _amount(data.get("final_unit_deduction"))
    if units is not None:
        yield Charge("unit", units)
    cash = data.get("final_balance_deduction")
    if isinstance(cash, dict) and (quota := _amount(cash.get("quota"))) is not None:
        yield Charge("cash", quota, list_price=_amount(cash.get("list_price")))


def _new_charges(value: Any) -> Iterator[Charge]:
    for item in value[:MAX_CHARGES] if isinstance(value, list) else ():
        if isinstance(item, dict) and (amount := _amount(item.get("amount"))) is not None:
            words = {name: _label(item.get(name)) for name in ("charge_type", "package_type", "cash_type", "currency")}
            yield Charge(
                words["charge_type"] or "unrecognised", amount, words["package_type"], words["cash_type"],
                words["currency"], _amount(item.get("list_price")),
            )  # fmt: skip


def _amount(value: Any) -> str | None:
    """Decimal text as sent; a number becomes its shortest text."""
    if isinstance(value, bool) or value is None:
        return None
    text = value.strip() if isinstance(value, str) else repr(value) if isinstance(value, int | float) else ""
    return text if _AMOUNT(text) else None


def _label(value: Any) -> str | None:
    return value if isinstance(value, str) and re.fullmatch(r"[A-Za-z][A-Za-z0-9_]{0,31}", value) else None
