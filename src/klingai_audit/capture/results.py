"""What a method returned or raised, as the exchange that it stands for: ids, states, results, codes.

Results come as dictionaries, models, plain objects, replies of HTTP libraries, texts and bytes. Total: what is not
understood is an answer that says nothing, never an error.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import msgspec

from klingai_audit.capture.attempt import Attempt, was_sent
from klingai_audit.capture.calls import fields_of, plain
from klingai_audit.capture.facts import Exchange, Media
from klingai_audit.capture.watch import MAX_REPLY_BYTES

__all__ = ["Seen", "raised", "returned"]

_STATES: Final[Mapping[str, str]] = {
    **dict.fromkeys(("completed", "complete", "success", "successful", "done", "finished", "ready"), "succeed"),
    **dict.fromkeys(("error", "failure", "cancelled", "canceled"), "failed"),
    **dict.fromkeys(("pending", "queued", "created"), "submitted"),
    **dict.fromkeys(("running", "in_progress", "started"), "processing"),
}
"""Words of home-grown clients for states -> Kling's own words, whose meaning stands elsewhere."""

_INNER: Final = ("data", "task", "result", "response", "raw", "raw_response")
_IDS: Final = ("task_id", "taskId", "id", "job_id", "generation_id")
_WORDS: Final = ("task_status", "status", "state")
_RESULTS: Final = (
    ("videos", ("videos", "video_urls", "video", "video_url")),
    ("images", ("images", "image_urls", "image", "image_url")),
    ("audios", ("audios", "audio_urls", "audio", "audio_url")),
)
_UNNAMED: Final = ("urls", "url", "outputs", "works", "download_url", "output")
_PLACES: Final = ("path", "dest", "destination", "filename", "file_path", "output", "output_path", "save_path", "to")
_CODES: Final = ("code", "error_code", "service_code")
_STATUSES: Final = ("status_code", "http_status", "status")
_RECORDS: Final = ("task", "tasks", "page")
MAX_CAUSES: Final = 8
_CHUNK: Final = 1024 * 1024


def returned(attempt: Attempt, result: Any, arguments: Mapping[str, Any]) -> Exchange:
    """The exchange behind a result."""
    try:
        if attempt.operation.kind == "download":
            return _downloaded(attempt, result, arguments)
        reply = _http_reply(result)
        if reply is not None:
            return attempt.reply(reply[0], {}, body=reply[1])
        return attempt.reply(200, {}, body=msgspec.json.encode(_envelope(attempt, result)))
    except Exception:  # noqa: BLE001  attributes of somebody else's objects may do anything
        return attempt.reply(200, {}, body=None)


def raised(attempt: Attempt, exc: BaseException) -> Exchange:
    """The exchange behind an exception: with a code or a status it is Kling's refusal, else nobody knows."""
    try:
        for cause in _causes(exc):
            reply = _http_reply(getattr(cause, "response", None))
            if reply is not None:
                return attempt.reply(reply[0], {}, body=reply[1])
            code = next((number for name in _CODES if (number := _number(cause, name)) is not None), None)
            status = next((number for name in _STATUSES if (number := _number(cause, name)) is not None), None)
            if code is not None and code >= 1000:
                said = {"code": code, "request_id": _text(cause, "request_id"), "message": _text(cause, "message")}
                return attempt.reply(status or 400, {}, body=msgspec.json.encode(said))
            if status is not None and 400 <= status < 600:
                return attempt.reply(status, {}, body=None)
    except Exception:  # noqa: BLE001  as above
        return attempt.failure(exc)
    return attempt.failure(exc, sent=all(was_sent(cause) for cause in _causes(exc)))


class Seen:
    """What a generator has shown so far: an id that came early still counts at the end."""

    def __init__(self) -> None:
        self._last: Any = None
        self._merged: dict[str, Any] = {}

    def add(self, item: Any) -> None:
        """Take in one item."""
        self._last = item
        try:
            fields = fields_of(item)
            self._merged |= {name: value for name, value in (fields or {}).items() if value is not None}
            if fields is None and isinstance(item, str):
                self._merged.setdefault("status", item)
        except Exception:  # noqa: BLE001  as above
            return

    @property
    def result(self) -> Any:
        """All of it as one result; the last item where items have no fields."""
        return self._merged or self._last


def _envelope(attempt: Attempt, result: Any) -> dict[str, Any]:
    """A reply in Kling's form."""
    if isinstance(result, Mapping) and "code" in result and {"data", "request_id", "message"} & set(result):
        return {str(name): plain(value) for name, value in result.items()}
    code, data = _get(result, "code"), _get(result, "data")
    if isinstance(code, int) and (code or data is not None) and not isinstance(result, Mapping):
        said = {"code": code, "message": _text(result, "message"), "request_id": _text(result, "request_id")}
        return {**said, "data": plain(data)}
    row = attempt.operation.row.row
    if row.reply not in _RECORDS:
        told: Any = plain(result)
    elif isinstance(result, list | tuple):
        told = [_record(attempt, item) for item in result]
    else:
        told = _record(attempt, result)
    return {"code": 0, "message": "", "request_id": _text(result, "request_id"), "data": told}


def _record(attempt: Attempt, result: Any) -> dict[str, Any]:
    """A task record as the legacy API tells it, or Kling's own record as it is."""
    if isinstance(result, str | int) and not isinstance(result, bool):
        return {"task_id": str(result), "task_status": "submitted"}
    for place in _places(result):
        fields = fields_of(place) or {}
        if "task_status" in fields or {"status", "outputs"} <= set(fields):
            return {name: plain(value) for name, value in fields.items()}
    results = dict(_results(attempt, result))
    word = _word(result) or ("succeed" if results else "submitted")
    record = {
        "task_id": _first(result, _IDS),
        "task_status": word,
        "task_status_msg": _first(result, ("task_status_msg", "error_message", "error", "message")),
        "task_info": {"external_task_id": _first(result, ("external_task_id", "external_id"))},
        "task_result": results,
        "final_unit_deduction": _first(result, ("final_unit_deduction",)),
    }
    return {name: plain(value) for name, value in record.items() if value is not None}


def _word(result: Any) -> str | None:
    word = plain(_first(result, _WORDS))
    if not isinstance(word, str):
        return None
    word = word.strip().lower().rpartition(".")[2].replace("-", "_").replace(" ", "_")
    return _STATES.get(word, word)


def _results(attempt: Attempt, result: Any) -> Iterator[tuple[str, list[Any]]]:
    product = f"{attempt.operation.row.row.product}s"
    for kind, names in _RESULTS:
        found = _first(result, names)
        if found is None and kind == (product if product in ("images", "audios") else "videos"):
            found = _first(result, _UNNAMED)
        items = found if isinstance(found, list | tuple) else [] if found is None else [found]
        told = [{"url": item} if isinstance(item, str) else plain(item) for item in items]
        if told := [item for item in told if isinstance(item, dict)]:
            yield kind, told


def _places(result: Any) -> Iterator[Any]:
    """A result and what it may hold the facts in."""
    yield result
    for name in _INNER:
        inner = _get(result, name)
        if inner is not None and not isinstance(inner, str | bytes | int | float):
            yield inner


def _first(result: Any, names: tuple[str, ...]) -> Any:
    for place in _places(result):
        for name in names:
            value = _get(place, name)
            if value is not None and value != "" and not callable(value):
                return value
    return None


def _get(place: Any, name: str) -> Any:
    if isinstance(place, Mapping):
        return place.get(name)
    return None if isinstance(place, str | bytes | list | tuple) else getattr(place, name, None)


def _text(place: Any, name: str) -> str:
    value = _get(place, name)
    return value if isinstance(value, str) else ""


def _number(place: Any, name: str) -> int | None:
    value = plain(_get(place, name))
    if isinstance(value, str) and value.isdecimal() and len(value) < 6:
        value = int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _http_reply(result: Any) -> tuple[int, bytes | None] | None:
    """Status and body of a reply of an HTTP library that has been read."""
    status = _get(result, "status_code")
    if not isinstance(status, int):
        return None
    try:
        content = result.content
    except Exception:  # noqa: BLE001  a reply that nobody has read
        content = None
    return status, content if isinstance(content, bytes) and len(content) <= MAX_REPLY_BYTES else None


def _causes(exc: BaseException) -> Iterator[BaseException]:
    cause: BaseException | None = exc
    for _ in range(MAX_CAUSES):
        if cause is None:
            return
        yield cause
        cause = cause.__cause__


def _downloaded(attempt: Attempt, result: Any, arguments: Mapping[str, Any]) -> Exchange:
    """The digest of what was delivered: bytes, a reply, or the file that was written."""
    reply = _http_reply(result)
    data = reply[1] if reply is not None else result
    if reply is not None and not 200 <= reply[0] < 300:
        return attempt.reply(reply[0], {}, body=None)
    if isinstance(data, bytes | bytearray):
        return attempt.reply(200, {}, media=Media(sha256=hashlib.sha256(data).hexdigest(), bytes=len(data)))
    for place in (result, *(arguments.get(name) for name in _PLACES)):
        if isinstance(place, str | os.PathLike) and Path(place).is_file():
            return attempt.reply(200, {}, media=_digest(Path(place)))
    return attempt.reply(200, {}, error="NotSeen")


def _digest(path: Path) -> Media:
    digest, size = hashlib.sha256(), 0
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
            size += len(chunk)
    return Media(sha256=digest.hexdigest(), bytes=size)
