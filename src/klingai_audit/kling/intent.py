"""What a request says before it is sent: the fields of its body as an entry may hold them. Pure and total."""

from __future__ import annotations

import functools
import ipaddress
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlsplit

import msgspec

from klingai_audit.capture.facts import Operation, RequestFacts
from klingai_audit.event.record import Draft
from klingai_audit.event.types import EventType
from klingai_audit.kling.catalogue import Match, Row
from klingai_audit.kling.endpoints import DELETE_FILE
from klingai_audit.kling.media import decode_base64, is_link, sniff
from klingai_audit.kling.reply import clean_id
from klingai_audit.kling.rows import pick, pick_all
from klingai_audit.privacy.commitment import ToCommit

__all__ = ["CREATE_DEADLINE", "DOWNLOAD_DEADLINE", "describe_request", "intent_draft", "medium_of"]

CREATE_DEADLINE: Final = 300
"""Seconds after which a create without an outcome is a finding: longer than any time-out in use."""

DOWNLOAD_DEADLINE: Final = 3600
"""The same for downloads."""

MAX_NAMES: Final = 20
MAX_INPUTS: Final = 32
"""Media of one request that get a commitment of their own; a request has up to ten, in documented use."""

MAX_INTEGER: Final = 2**53

_PLAIN: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ._:+/-]{0,63}").fullmatch
_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,39}").fullmatch
_MEDIA_TYPE: Final = re.compile(r"[a-z][\w.+-]{0,63}/[\w.+-]{1,63}", re.ASCII).match
_PROMPTS: Final = ("prompt", "multi_prompt", "text", "sound_effect_prompt", "bgm_prompt")
_MEDIA_NAMES: Final[Mapping[str, str]] = {
    **dict.fromkeys(("mp4", "mov", "webm"), "video"),
    **dict.fromkeys(("png", "jpg", "jpeg", "webp"), "image"),
    **dict.fromkeys(("mp3", "wav", "m4a"), "audio"),
}


def intent_draft(operation: Operation, request: RequestFacts, extra: Mapping[str, Any]) -> Draft:
    """Build the entry before the act; for a read, the pattern of the entry that it may become."""
    found: Match = operation.row
    row = found.row
    if row.kind == "read":
        return Draft(
            event_type=EventType.QUOTA_CHECKED if row.product == "account" else EventType.RESOURCE_READ,
            resource_type=row.product or "task", resource_id=operation.thing, action=found.action,
            metadata={**_key(request), **extra},
        )  # fmt: skip
    head: dict[str, Any] = {"phase": "intent"}
    if row.kind == "download" or row is DELETE_FILE:
        medium = operation.variables.get("medium") or medium_of(request.url, operation.variables.get("product"))
        deadline = DOWNLOAD_DEADLINE if row.kind == "download" else CREATE_DEADLINE
        return Draft(
            event_type=f"{medium}_{'downloaded' if row.kind == 'download' else 'deleted'}", resource_type=medium,
            resource_id=operation.thing, action=found.action, outcome="unknown",
            metadata={**head, "deadline_s": deadline, **_part(operation), "url": ToCommit(request.url), **extra},
        )  # fmt: skip
    said = describe_request(found, request)
    head["deadline_s"] = CREATE_DEADLINE
    if row.kind == "destructive":
        addressed = found.variables.get("id") or pick(_decode(request.body), row.addresses)
        return Draft(
            event_type=EventType.RESOURCE_DELETED, resource_type=row.product or "resource",
            resource_id=clean_id(addressed), action=found.action, outcome="unknown",
            metadata={**head, **said, **_key(request), **extra},
        )  # fmt: skip
    return Draft(
        event_type=EventType.PROMPT_SUBMITTED if any(name in said for name in _PROMPTS) else EventType.TASK_SUBMITTED,
        resource_type=row.product or "task", action=found.action, metadata={**head, **said, **_key(request), **extra},
    )  # fmt: skip


def describe_request(found: Match, request: RequestFacts) -> dict[str, Any]:
    """What may be said of a create request: committed content, settings, model, external id, names of the rest."""
    row = found.row
    said: dict[str, Any] = {}
    if row.generation is not None:
        said["generation"] = row.generation
    host = _host(request.url)
    if host is not None:
        said["host"] = host
    body = _decode(request.body)
    model = clean_id(found.variables.get("model")) or (clean_id(pick(body, row.fields.model)) if body else None)
    if model is not None:
        said["model"] = model
    if body is None:
        said.update(_opaque_body(request))
        return said
    plan = _plan(row)
    for name, path, head in plan.committed:
        value = pick(body, path) if head in body else None
        if value is not None and value != "":
            said[name] = _committed(value)
    settings = {name: _setting(body, path) for name, path, head in plan.kept if head in body}
    inputs = [(path.partition("[]")[0], value) for path in row.fields.media for value in pick_all(body, path)]
    if row.fields.contents:
        _read_contents(body.get("contents"), said, settings, inputs)
    settings = {name: value for name, value in settings.items() if value not in (None, [])}
    if settings:
        said["settings"] = settings
    if inputs:
        said["inputs"] = [_input(field, value) for field, value in inputs[:MAX_INPUTS]]
        if len(inputs) > MAX_INPUTS:
            said["inputs_left_out"] = len(inputs) - MAX_INPUTS
    external = next((value for path in row.fields.external_id if (value := pick(body, path))), None)
    if external is not None:
        said["external_task_id"] = clean_id(external) or _committed(external)
    others = _other_names(row, body)
    if others:
        said["other_fields"] = others
    return said


@dataclass(frozen=True, slots=True)
class _Plan:
    """What a row's paths say, taken apart once: (name in the entry, path, first name of the path)."""

    committed: tuple[tuple[str, str, str], ...]
    kept: tuple[tuple[str, str, str], ...]
    known: frozenset[str]
    parents: frozenset[str]


@functools.cache
def _plan(row: Row) -> _Plan:
    known = frozenset(path.partition("[]")[0] for path in row.fields.paths)
    committed, kept = (
        tuple((name, path, path.partition("[]")[0].partition(".")[0]) for name, path in paths.items())
        for paths in (row.fields.committed, row.fields.kept)
    )
    parents = frozenset(".".join(path.split(".")[:depth]) for path in known for depth in range(1, path.count(".") + 1))
    return _Plan(committed, kept, known, parents)


def _setting(body: dict[str, Any], path: str) -> Any:
    if "[]" not in path:
        value = pick(body, path)
        return None if value is None else _kept(value)
    return [_kept(value) for _, value in zip(range(MAX_NAMES), pick_all(body, path), strict=False)]


def _read_contents(
    contents: Any, said: dict[str, Any], settings: dict[str, Any], inputs: list[tuple[str, Any]]
) -> None:
    """Take the new design's typed list apart: the prompt, ids of elements and voices, media. Total."""
    if contents is not None and not isinstance(contents, list):
        said["contents"] = _committed(contents)
    for item in contents if isinstance(contents, list) else ():
        kind = item.get("type") if isinstance(item, dict) else None
        if kind == "prompt" or (isinstance(item, dict) and kind is None and "prompt" in item):
            text = item.get("text", item.get("prompt"))
            if text is not None and text != "":
                said.setdefault("prompt", _committed(text))
        elif kind in ("element", "voice") and clean_id(item.get(f"{kind}_id")) is not None:
            ids = settings.setdefault(f"{kind}s", [])
            ids += [clean_id(item[f"{kind}_id"])] if len(ids) < MAX_NAMES else []
        elif isinstance(item, dict) and "url" in item and isinstance(kind, str) and _NAME(kind):
            inputs.append((kind, item["url"]))
        else:
            inputs.append(("contents", item))


def _input(field: str, value: Any) -> dict[str, Any]:
    """One image, sound or video: a commitment to the link, or to the file's own bytes."""
    if not isinstance(value, str):
        return {"field": field, "media": _committed(value)}
    if is_link(value):
        return {"field": field, "url": ToCommit(value)}
    data = decode_base64(value)
    return {"field": field, "media": ToCommit(value) if data is None else ToCommit(data, sniff(data))}


def medium_of(url: str, product: str | None = None) -> str:
    """The medium that a link's file name tells, else the product of its task, else `video`."""
    return _MEDIA_NAMES.get(urlsplit(url).path.rpartition(".")[2].lower(), product or "video")


def _key(request: RequestFacts) -> dict[str, str]:
    return {f"key_{name}": value for name, value in (request.credential or {}).items()}


def _part(operation: Operation) -> dict[str, str]:
    return {} if operation.part is None else {"result_id": operation.part}


def _host(url: str) -> str | None:
    return _named_host(urlsplit(url).hostname or "")


@functools.lru_cache(maxsize=256)
def _named_host(host: str) -> str | None:
    """The host, if it is a name and no address."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return host if 0 < len(host) <= 255 and host.isascii() else None
    return None


def _decode(body: bytes | None) -> dict[str, Any] | None:
    try:
        value = msgspec.json.decode(body or b"")
    except (msgspec.MsgspecError, UnicodeDecodeError, ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _opaque_body(request: RequestFacts) -> dict[str, Any]:
    if request.body is None:
        return {"body_bytes": request.body_bytes} if request.body_bytes else {}
    found = _MEDIA_TYPE(request.headers.get("content-type", "").lower())
    return {"body": ToCommit(request.body, found.group() if found else None)} if request.body else {}


def _committed(value: Any) -> ToCommit:
    """A commitment to text, or to the compact JSON of anything else."""
    return ToCommit(value if isinstance(value, str) else msgspec.json.encode(value))


def _kept(value: Any) -> Any:
    """A setting in the clear if it looks like one; whatever else someone put there is committed."""
    if isinstance(value, bool):
        return value
    if isinstance(value, int) and abs(value) <= MAX_INTEGER:
        return value
    if isinstance(value, float) and math.isfinite(value):
        return value
    if isinstance(value, str) and _PLAIN(value):
        return value
    if isinstance(value, dict) and len(value) <= MAX_NAMES and all(_is_dial(item) for item in value.items()):
        return value
    return _committed(value)


def _is_dial(item: tuple[Any, Any]) -> bool:
    name, value = item
    number = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= MAX_INTEGER
    return isinstance(name, str) and _NAME(name) is not None and number


def _other_names(row: Row, body: dict[str, Any]) -> list[str]:
    """Names of the fields that the table does not know, one level deep where the table itself goes deeper."""
    known, parents = _plan(row).known, _plan(row).parents
    names = [name for name in _names(body, parents) if name not in known and name not in parents]
    return sorted(name for name in names if all(_NAME(part) for part in name.split(".")))[:MAX_NAMES]


def _names(body: dict[str, Any], parents: frozenset[str], prefix: str = "") -> Iterator[str]:
    for name, value in body.items():
        path = f"{prefix}{name}"
        if path in parents and isinstance(value, dict):
            yield from _names(value, parents, f"{path}.")
        else:
            yield path
