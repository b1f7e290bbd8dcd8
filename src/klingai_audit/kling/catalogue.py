"""The endpoint table: what each method and path of Kling is for, what it costs, and which fields may be kept.

A further endpoint is a further row. Paths are matched from their end, so any prefix in front (resellers, base
URLs that hold `/v1`) and doubled slashes do not matter. A path that no row names is still recorded when the host is
Kling's own: as the generic row of its method. Source: fact sheet sections 2 and 7.1 (vendor documentation 2026-09-20).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Literal
from urllib.parse import unquote, urlsplit

from klingai_audit.capture.facts import Kind

__all__ = [
    "DOWNLOAD",
    "LEGACY_LIST",
    "LEGACY_ONE",
    "LEGACY_TEXT_TO_VIDEO",
    "NEW_TEXT_TO_VIDEO",
    "ROWS",
    "SEARCH_TASKS",
    "TASKS_BY_ID",
    "UNKNOWN_READ",
    "UNKNOWN_WRITE",
    "Fields",
    "Generation",
    "Match",
    "Reply",
    "Row",
    "is_kling_host",
    "is_legacy_model",
    "match",
]

Generation = Literal["legacy", "new"]
Reply = Literal["task", "tasks", "page", "file", "any"]
"""What a successful reply holds: one task record, a list of them, a page with a cursor, a file's bytes, or unknown."""

KLING_DOMAINS: Final = ("klingai.com", "kling.ai")
RESULT_DOMAINS: Final = ("klingai.com", "kling.ai", "kechuangai.com", "inkwai.com")
"""Where result links were seen to point (fact sheet section 6); other hosts are known by the links themselves."""

_API_HOST: Final = re.compile(r"api(?:-[a-z0-9]+)?\.klingai\.com").fullmatch
_MEDIA_NAME: Final = re.compile(r".+\.(?:mp4|mov|webm|png|jpe?g|webp|mp3|wav|m4a)", re.IGNORECASE).fullmatch
_LEGACY_MODEL: Final = re.compile(r"kling-(?:v[0-9]|video-)").match
_LONG_NUMBER: Final = re.compile(r"[0-9a-f-]*[0-9][0-9a-f-]{7,}", re.IGNORECASE).fullmatch
_READS: Final = frozenset({"GET", "HEAD", "OPTIONS"})
MAX_ACTION_CHARACTERS: Final = 120


@dataclass(frozen=True, slots=True)
class Fields:
    """Which fields of a request body an entry may hold; paths are dotted, names are those in the entry.

    `committed` enter as commitments, `kept` in the clear as `settings`. Fields in neither are named, not held.
    """

    committed: Mapping[str, str] = field(default_factory=dict)
    kept: Mapping[str, str] = field(default_factory=dict)
    external_id: tuple[str, ...] = ("external_task_id",)
    model: str | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Row:
    """One endpoint. `{name}` in `path` stands for one segment.

    `product` is the medium in event names, None where the reply must tell. `idempotent`: a second create with
    the same external id was observed to be refused, so that an ambiguous create may be sent again.
    `distinct`: the path alone says that it is Kling's; others count only with a Kling envelope in the reply.
    """

    method: str
    path: str
    action: str
    kind: Kind
    reply: Reply
    product: str | None = None
    generation: Generation | None = None
    fields: Fields = Fields()
    idempotent: bool = False
    distinct: bool = True

    @property
    def segments(self) -> tuple[str, ...]:
        """The path's parts between slashes."""
        return tuple(self.path.strip("/").split("/"))


@dataclass(frozen=True, slots=True)
class Match:
    """A row and what stood in the place of its variables; `action` is the row's, or the path itself.

    Without `sure` the request is Kling's only if the reply looks like Kling's.
    """

    row: Row
    action: str
    variables: Mapping[str, str] = field(default_factory=dict)
    sure: bool = True


NEW_TEXT_TO_VIDEO: Final = Row(
    "POST", "/text-to-video/{model}", "text_to_video", "paid_create", "task", "video", "new", idempotent=True,
    fields=Fields(
        committed={"prompt": "prompt", "callback_url": "options.callback_url"},
        kept={
            "resolution": "settings.resolution", "aspect_ratio": "settings.aspect_ratio",
            "duration": "settings.duration", "sound": "settings.audio", "multi_shot": "settings.multi_shot",
            "watermark": "options.watermark_info.enabled",
        },
        external_id=("options.external_task_id",),
    ),
)  # fmt: skip
"""Text to video of the new design; the model list is open. Idempotency of the external id: sheet 3.4, seen once."""

LEGACY_TEXT_TO_VIDEO: Final = Row(
    "POST", "/v1/videos/text2video", "text_to_video", "paid_create", "task", "video", "legacy", idempotent=True,
    fields=Fields(
        committed={
            "prompt": "prompt", "negative_prompt": "negative_prompt", "multi_prompt": "multi_prompt",
            "callback_url": "callback_url",
        },
        kept={
            "mode": "mode", "sound": "sound", "cfg_scale": "cfg_scale", "aspect_ratio": "aspect_ratio",
            "duration": "duration", "camera": "camera_control.type", "camera_moves": "camera_control.config",
            "multi_shot": "multi_shot", "shot_type": "shot_type", "watermark": "watermark_info.enabled",
        },
        model="model_name",
    ),
)  # fmt: skip

LEGACY_ONE: Final = Row("GET", "/v1/videos/text2video/{id}", "query_task", "read", "task", "video", "legacy")
LEGACY_LIST: Final = Row("GET", "/v1/videos/text2video", "list_tasks", "read", "tasks", "video", "legacy")
TASKS_BY_ID: Final = Row("GET", "/tasks", "query_tasks", "read", "tasks", None, "new", distinct=False)
SEARCH_TASKS: Final = Row("POST", "/tasks", "search_tasks", "read", "page", None, "new", distinct=False)

ROWS: Final[tuple[Row, ...]] = (
    NEW_TEXT_TO_VIDEO,
    LEGACY_TEXT_TO_VIDEO,
    LEGACY_ONE,
    LEGACY_LIST,
    TASKS_BY_ID,
    SEARCH_TASKS,
)
"""The endpoints that this version interprets; everything else of a Kling host is a generic row."""

DOWNLOAD: Final = Row("GET", "", "download", "download", "file", "video")
"""A result's file, wherever its link points."""

UNKNOWN_WRITE: Final = Row(
    "*", "", "", "paid_create", "any",
    fields=Fields(
        committed={
            "prompt": "prompt", "negative_prompt": "negative_prompt", "text": "text", "contents": "contents",
            "callback_url": "callback_url",
        },
        external_id=("external_task_id", "options.external_task_id"),
        model="model_name",
    ),
)  # fmt: skip
"""Any call of a Kling host that may change something and that no row names: taken as paid."""

UNKNOWN_READ: Final = Row("*", "", "", "read", "any")
"""Any GET, HEAD or OPTIONS of a Kling host that no row names."""


def match(method: str, url: str) -> Match | None:
    """Find the row of a request; None for a request that is not Kling's as far as method and URL tell."""
    parts = urlsplit(url)
    method = method.upper()
    segments = tuple(unquote(part) for part in parts.path.split("/") if part)
    host = (parts.hostname or "").rstrip(".").lower()
    for row in ROWS:
        if row.method == method:
            variables = _variables(row.segments, segments)
            if variables is not None:
                sure = row.distinct or is_kling_host(host) or _is_loopback(host)
                return Match(row, row.action, variables, sure)
    if not is_kling_host(host):
        return Match(DOWNLOAD, DOWNLOAD.action) if method == "GET" and _delivers(host, segments) else None
    if method == "GET" and _API_HOST(host) is None and _delivers(host, segments):
        return Match(DOWNLOAD, DOWNLOAD.action)
    row = UNKNOWN_READ if method in _READS else UNKNOWN_WRITE
    return Match(row, _path_action(segments))


def is_kling_host(host: str) -> bool:
    """Whether a host belongs to Kling."""
    return any(host == domain or host.endswith(f".{domain}") for domain in KLING_DOMAINS)


def is_legacy_model(model: str) -> bool:
    """Whether a model's name is one of the legacy generation: `kling-v2-6`, `kling-video-o1`."""
    return _LEGACY_MODEL(model) is not None


def _is_loopback(host: str) -> bool:
    return host in {"localhost", "::1"} or host.startswith("127.")


def _variables(template: tuple[str, ...], segments: tuple[str, ...]) -> dict[str, str] | None:
    if len(segments) < len(template):
        return None
    found: dict[str, str] = {}
    for wanted, given in zip(template, segments[-len(template) :], strict=True):
        if wanted.startswith("{"):
            found[wanted[1:-1]] = given
        elif wanted != given:
            return None
    return found


def _delivers(host: str, segments: tuple[str, ...]) -> bool:
    known = any(host == domain or host.endswith(f".{domain}") for domain in RESULT_DOMAINS)
    return known and bool(segments) and _MEDIA_NAME(segments[-1]) is not None


def _path_action(segments: tuple[str, ...]) -> str:
    """The path as an action: ids are left out, so that equal calls have equal names."""
    shown = ["{id}" if _LONG_NUMBER(part) else part for part in segments]
    return ("/" + "/".join(shown))[:MAX_ACTION_CHARACTERS]
