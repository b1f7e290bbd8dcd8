"""A method call as a request: which operation its name stands for, and its arguments as the body of one. No I/O
but the reading of files that are handed over to be sent.
"""

from __future__ import annotations

import base64
import dataclasses
import datetime as dt
import difflib
import enum
import inspect
import math
import os
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final
from urllib.parse import quote

import msgspec

from klingai_audit.capture.facts import Operation, RequestFacts
from klingai_audit.capture.recorder import Recorder
from klingai_audit.capture.watch import MAX_REQUEST_BYTES
from klingai_audit.errors import UsageError
from klingai_audit.privacy import secrets

__all__ = ["DOWNLOAD", "Catalogue", "bind", "credential_of", "fields_of", "operation_id", "plain"]

DOWNLOAD: Final = "download"
"""The operation that fetches a result; it has no path of its own."""

_KLING: Final = "https://api.klingai.com"
_ANY_FILE: Final = "https://cdn.klingai.com/file.mp4"
_METHOD: Final = "method:"
"""Scheme of the address of a call that is no request, as far as is known: it has no host."""

_NEUTRAL: Final = {"query_task": "query_tasks", "list_tasks": "search_tasks"}
"""Queries that exist once per product, and the one that fits all."""

_PAYLOADS: Final = frozenset({"body", "data", "input", "json", "options", "params", "payload", "request", "settings"})
"""Parameters whose fields are the request's own fields."""

_IDS: Final = ("task_id", "id", "job_id", "video_id", "generation_id", "external_task_id")
_LINKS: Final = ("url", "video_url", "image_url", "audio_url", "link")
_CREDENTIALS: Final = (("access_key", "access_key"), ("ak", "access_key"), ("api_key", "api_key"), ("token", "other"))
_SECRETS: Final = ("secret_key", "sk", "api_secret")
_HOLDERS: Final = ("config", "settings", "credentials", "auth", "options")
MAX_DEPTH: Final = 8


class Catalogue:
    """The operations that methods may stand for, by name; legacy rows before others, whose fields are flatter."""

    def __init__(self, rows: Iterable[Any], recorder: Recorder) -> None:
        self._recorder = recorder
        self._rows: dict[str, Any] = {}
        for row in rows:
            kept = self._rows.get(row.action)
            if kept is None or (row.generation == "legacy" and kept.generation != "legacy"):
                self._rows[row.action] = row

    def __contains__(self, name: object) -> bool:
        return name == DOWNLOAD or name in self._rows

    def check(self, name: str) -> None:
        """Refuse a name that is no operation. Raises: UsageError, with names that are near."""
        if name not in self:
            near = difflib.get_close_matches(name, [*self._rows, DOWNLOAD], 3)
            raise UsageError(
                f"{name} is no operation of the catalogue.",
                do=f"Near are: {', '.join(near)}." if near else "See docs/events.md for the operations.",
            )

    def request(self, name: str, arguments: Mapping[str, Any], key: Mapping[str, str] | None) -> tuple[
        Operation, RequestFacts
    ]:  # fmt: skip
        """Return the operation of a call and what is known of its request."""
        if name == DOWNLOAD:
            link = next((arguments[field] for field in _LINKS if isinstance(arguments.get(field), str)), "")
            operation = self._recorder.recognise("GET", link)
            if operation is None or operation.kind != "download":
                thing = operation_id(arguments)
                operation = dataclasses.replace(self._recognise("GET", _ANY_FILE), thing=thing)
            return operation, RequestFacts(method="GET", url=link or _METHOD + name, credential=key)
        row = self._rows[_NEUTRAL.get(name, name)]
        path = row.path
        if "{" in path:
            path = f"{path.partition('{')[0]}{quote(str(arguments.get('model') or 'model'), safe='')}"
        if row.action == _NEUTRAL["query_task"] and (thing := operation_id(arguments)) is not None:
            path = f"{path}?task_ids={quote(thing, safe='')}"
        operation = self._recognise(row.method, _KLING + path)
        body = None
        if row.method == "POST":
            operation = _of_no_generation(operation)
            body = msgspec.json.encode(_body(arguments))
        return operation, RequestFacts(method=row.method, url=_METHOD + name, body=body, credential=key)

    def _recognise(self, method: str, url: str) -> Operation:
        found = self._recorder.recognise(method, url)
        if found is None:
            raise UsageError("The provider does not know its own catalogue.")
        return found


def operation_id(arguments: Mapping[str, Any]) -> str | None:
    """The id that a call is about: by the parameter's name, else the only text given."""
    for name in _IDS:
        if isinstance(arguments.get(name), str | int):
            return str(arguments[name])
    texts = [value for value in arguments.values() if isinstance(value, str)]
    return texts[0] if len(texts) == 1 else None


def _of_no_generation(operation: Operation) -> Operation:
    """A method does not tell which generation of the API is behind it."""
    found = operation.row
    return dataclasses.replace(
        operation, row=dataclasses.replace(found, row=dataclasses.replace(found.row, generation=None))
    )


def bind(function: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any] | None:
    """Name the arguments of a call, defaults included; None for a call that does not fit and will fail by itself."""
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        return {**({"args": list(args)} if args else {}), **kwargs}
    try:
        bound = signature.bind(*args, **kwargs)
    except TypeError:
        return None
    bound.apply_defaults()
    named = dict(bound.arguments)
    for name, parameter in signature.parameters.items():
        if parameter.kind is inspect.Parameter.VAR_KEYWORD:
            named |= named.pop(name)
    return {name: value for name, value in named.items() if value is not None and value != ()}


def _body(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments as the fields of a request; fields of a payload are the request's own."""
    body: dict[str, Any] = {}
    for name, value in arguments.items():
        fields = fields_of(value) if name in _PAYLOADS or len(arguments) == 1 else None
        body |= {name: value} if fields is None else fields
    if "model" in body and "model_name" not in body:
        body["model_name"] = body.pop("model")
    return {str(name): plain(value) for name, value in body.items() if value is not None}


def fields_of(value: Any) -> dict[str, Any] | None:
    """The fields of a mapping, dataclass, model or plain object; None for anything else."""
    if isinstance(value, Mapping):
        return {str(name): value[name] for name in value}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    slots = getattr(type(value), "model_fields", None) or getattr(type(value), "__struct_fields__", None)
    if slots:
        return {name: getattr(value, name, None) for name in slots}
    if hasattr(value, "_asdict"):
        return dict(value._asdict())
    own = getattr(value, "__dict__", None)
    return {name: own[name] for name in own if name[:1] != "_"} if own and not callable(value) else None


def plain(value: Any, depth: int = 0) -> Any:
    """A value as JSON can hold it: bytes and files in base64, objects as their fields, nothing by its repr."""
    if isinstance(value, enum.Enum):
        value = value.value
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, int):
        return value if abs(value) < 2**63 else str(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, bytes | bytearray | memoryview):
        return base64.b64encode(value).decode()
    if isinstance(value, os.PathLike):
        return os.fsdecode(value)
    if isinstance(value, dt.datetime | dt.date):
        return value.isoformat()
    if depth >= MAX_DEPTH:
        return None
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(item, depth + 1) for item in value]
    if callable(getattr(value, "read", None)):
        return _file(value)
    fields = fields_of(value)
    return {} if fields is None else {name: plain(item, depth + 1) for name, item in fields.items()}


def _file(file: Any) -> Any:
    """An open file's bytes from where it stands, if it can go back there."""
    try:
        position = file.tell()
        data = file.read(MAX_REQUEST_BYTES)
        file.seek(position)
    except (AttributeError, OSError, ValueError):
        return {}
    return data if isinstance(data, str) else base64.b64encode(data).decode()


def credential_of(thing: Any, recorder: Recorder) -> dict[str, str] | None:
    """The fingerprint of the credential that a client object holds; its secrets are learned, to be removed anywhere."""
    holders = (_attribute(thing, spelled) for name in _HOLDERS for spelled in (name, f"_{name}"))
    found = None
    for place in (thing, *holders):
        for name in () if place is None else _SECRETS:
            if (secret := _text(place, name)) is not None:
                secrets.learn(secret)
        for name, kind in () if place is None or found else _CREDENTIALS:
            if (value := _text(place, name)) is not None:
                secrets.learn(value)
                found = found or {"kind": kind, "fingerprint": recorder.sink.fingerprint(value)}
    return found


def _text(place: Any, name: str) -> str | None:
    for spelled in (name, f"_{name}"):
        value = place.get(spelled) if isinstance(place, Mapping) else _attribute(place, spelled)
        if callable(unveil := _attribute(value, "get_secret_value")):
            value = unveil()
        if isinstance(value, str) and value:
            return value
    return None


def _attribute(thing: Any, name: str) -> Any:
    try:
        return getattr(thing, name, None)
    except Exception:  # noqa: BLE001  a property of somebody else's may do anything
        return None
