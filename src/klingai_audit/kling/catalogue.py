"""Which request is which row of the endpoint table.

Paths are matched from their end, so any prefix in front (resellers, base URLs that hold `/v1`) and doubled slashes
do not matter. A path that no row names is still recorded when the host is Kling's own: as the generic row of its
method. The table: `kling.endpoints`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import unquote, urlsplit

from klingai_audit.kling.endpoints import (
    DOWNLOAD,
    LEGACY_LISTS,
    LEGACY_ONES,
    NEW_TEXT_TO_VIDEO,
    ROWS,
    SEARCH_TASKS,
    TASKS_BY_ID,
    UNKNOWN_DELETE,
    UNKNOWN_READ,
    UNKNOWN_WRITE,
    legacy_create,
)
from klingai_audit.kling.rows import Fields, Generation, Row

__all__ = [
    "DOWNLOAD",
    "LEGACY_LIST",
    "LEGACY_ONE",
    "LEGACY_TEXT_TO_VIDEO",
    "NEW_TEXT_TO_VIDEO",
    "ROWS",
    "SEARCH_TASKS",
    "TASKS_BY_ID",
    "UNKNOWN_DELETE",
    "UNKNOWN_READ",
    "UNKNOWN_WRITE",
    "Fields",
    "Generation",
    "Match",
    "Row",
    "is_kling_host",
    "is_legacy_model",
    "match",
    "match_path",
]

KLING_DOMAINS: Final = ("klingai.com", "kling.ai")
_BELOW_KLING: Final = tuple(f".{domain}" for domain in KLING_DOMAINS)
RESULT_DOMAINS: Final = ("klingai.com", "kling.ai", "kechuangai.com", "inkwai.com")
"""Where result links were seen to point (fact sheet section 6); other hosts are known by the links themselves."""

_API_HOST: Final = re.compile(r"api(?:-[a-z0-9]+)?\.klingai\.com").fullmatch
_MEDIA_NAME: Final = re.compile(r".+\.(?:mp4|mov|webm|png|jpe?g|webp|mp3|wav|m4a)", re.IGNORECASE).fullmatch
_LEGACY_MODEL: Final = re.compile(r"kling-(?:v[0-9]|video-)").match
_LONG_NUMBER: Final = re.compile(r"[0-9a-f-]*[0-9][0-9a-f-]{7,}", re.IGNORECASE).fullmatch
_READS: Final = frozenset({"GET", "HEAD", "OPTIONS"})
MAX_ACTION_CHARACTERS: Final = 120


@dataclass(frozen=True, slots=True)
class Match:
    """A row and what stood in the place of its variables; `action` is the row's, or the path itself.

    Without `sure` the request is Kling's only if the reply looks like Kling's.
    """

    row: Row
    action: str
    variables: Mapping[str, str] = field(default_factory=dict)
    sure: bool = True


LEGACY_TEXT_TO_VIDEO: Final = legacy_create("text_to_video")
LEGACY_ONE: Final = LEGACY_ONES[LEGACY_TEXT_TO_VIDEO.path]
LEGACY_LIST: Final = LEGACY_LISTS[LEGACY_TEXT_TO_VIDEO.path]

_Index = dict[tuple[str, tuple[str, ...]], Row]


def _index(*, open_ended: bool) -> _Index:
    """Rows by method and literal segments; `open_ended`: those that end with a variable, without it."""
    found = {}
    for row in ROWS:
        segments = row.segments
        if segments[-1].startswith("{") is open_ended:
            found[row.method, segments[:-1] if open_ended else segments] = row
    return found


_EXACT: Final = _index(open_ended=False)
_OPEN: Final = _index(open_ended=True)
_LONGEST: Final = max(len(row.segments) for row in ROWS)


def match(method: str, url: str) -> Match | None:
    """Find the row of a request; None for a request that is not Kling's as far as method and URL tell."""
    parts = urlsplit(url)
    method = method.upper()
    segments = tuple(unquote(part) for part in parts.path.split("/") if part)
    host = (parts.hostname or "").rstrip(".").lower()
    found = _find(method, segments)
    if found is not None:
        row, variables = found
        sure = row.distinct or is_kling_host(host) or _is_loopback(host)
        return Match(row, row.action, variables, sure)
    if not is_kling_host(host):
        return Match(DOWNLOAD, DOWNLOAD.action) if method == "GET" and _delivers(host, segments) else None
    if method == "GET" and _API_HOST(host) is None and _delivers(host, segments):
        return Match(DOWNLOAD, DOWNLOAD.action)
    return _generic(method, segments)


def match_path(method: str, path: str) -> Match:
    """Find the row of a call that is known to be Kling's, wherever it is sent; there is always one."""
    method = method.upper()
    segments = tuple(unquote(part) for part in urlsplit(path).path.split("/") if part)
    found = _find(method, segments)
    if found is not None:
        return Match(found[0], found[0].action, found[1])
    return _generic(method, segments)


def is_kling_host(host: str) -> bool:
    """Whether a host belongs to Kling."""
    return host in KLING_DOMAINS or host.endswith(_BELOW_KLING)


def is_legacy_model(model: str) -> bool:
    """Whether a model's name is one of the legacy generation: `kling-v2-6`, `kling-video-o1`."""
    return _LEGACY_MODEL(model) is not None


def _is_loopback(host: str) -> bool:
    return host in {"localhost", "::1"} or host.startswith("127.")


def _find(method: str, segments: tuple[str, ...]) -> tuple[Row, dict[str, str]] | None:
    """The row whose path is the longest end of `segments`."""
    for length in range(min(_LONGEST, len(segments)), 0, -1):
        tail = segments[-length:]
        row = _EXACT.get((method, tail))
        if row is not None:
            return row, {}
        row = _OPEN.get((method, tail[:-1])) if length > 1 else None
        if row is not None:
            return row, {row.segments[-1][1:-1]: tail[-1]}
    return None


def _delivers(host: str, segments: tuple[str, ...]) -> bool:
    known = any(host == domain or host.endswith(f".{domain}") for domain in RESULT_DOMAINS)
    return known and bool(segments) and _MEDIA_NAME(segments[-1]) is not None


def _generic(method: str, segments: tuple[str, ...]) -> Match:
    """The row for a call that no row names, with the id that a DELETE's path ends with."""
    if method == "DELETE":
        last = segments[-1] if segments and _LONG_NUMBER(segments[-1]) else None
        return Match(UNKNOWN_DELETE, _path_action(segments), {} if last is None else {"id": last})
    return Match(UNKNOWN_READ if method in _READS else UNKNOWN_WRITE, _path_action(segments))


def _path_action(segments: tuple[str, ...]) -> str:
    """The path as an action: ids are left out, so that equal calls have equal names."""
    shown = ["{id}" if _LONG_NUMBER(part) else part for part in segments]
    return ("/" + "/".join(shown))[:MAX_ACTION_CHARACTERS]
