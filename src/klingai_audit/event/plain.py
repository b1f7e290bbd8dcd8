"""Plain JSON values: what metadata may hold, checked before anything is encoded.

Strings, booleans, null, integers within ±2**53, finite floats, arrays and objects with string keys, at most 16
levels deep. Exact types only: whatever else an encoder would turn into JSON on its own is refused.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, Final

from klingai_audit.errors import InvalidEvent

__all__ = ["MAX_DEPTH", "MAX_INTEGER", "check_json", "fault_of", "find_surrogate", "pointer_of"]

MAX_DEPTH: Final = 16
"""Nesting limit: the checked value is level 1; an object or array on level 17 is refused."""

MAX_INTEGER: Final = 2**53
"""Integers lie in `[-2**53, 2**53]`: every JSON reader holds them exactly."""

_POINTER_TOKEN_CHARACTERS: Final = 64


def check_json(value: object, pointer: str = "", *, depth: int = 0) -> None:
    """Check that `value` is plain JSON: exact types, string keys, finite numbers, bounded integers and depth.

    `pointer` is where `value` stands, `depth` how many levels are above it.
    Raises: InvalidEvent naming pointer and type.
    """
    fault = fault_of(value, depth=depth)
    if fault is not None:
        raise InvalidEvent(f"{pointer}{pointer_of(fault[1], shorten=True)}: {fault[0]}")


def fault_of(value: object, *, depth: int = 0) -> tuple[str, list[str | int]] | None:
    """Return why `value` is not plain JSON and the path of keys and indexes to the first fault, or None."""
    try:
        _check(value, depth + 1)
    except _NotJsonError as exc:
        return exc.reason, exc.path[::-1]
    return None


def pointer_of(path: Iterable[str | int], *, shorten: bool = False) -> str:
    """Return the JSON pointer (RFC 6901) of keys and indexes; `shorten` cuts long keys, for messages."""
    out = []
    for part in path:
        token = str(part).replace("~", "~0").replace("/", "~1")
        if shorten and len(token) > _POINTER_TOKEN_CHARACTERS:
            token = token[:_POINTER_TOKEN_CHARACTERS] + "…"
        out.append("/" + token)
    return "".join(out)


class _NotJsonError(Exception):
    """Unwinds `_check`; each level adds its key, so that no path is built for good values."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason
        self.path: list[str | int] = []


def _check(value: Any, level: int) -> None:
    kind = type(value)
    if kind is str or kind is bool or value is None:
        return
    if kind is int:
        if not -MAX_INTEGER <= value <= MAX_INTEGER:
            raise _NotJsonError("an int beyond 2**53 (pass it as text)")
    elif kind is float:
        if not math.isfinite(value):
            raise _NotJsonError("a float that is NaN or infinite")
    elif kind is dict:
        _check_object(value, level)
    elif kind is list:
        if level > MAX_DEPTH:
            raise _NotJsonError(f"nested deeper than {MAX_DEPTH} levels")
        for index, item in enumerate(value):
            if type(item) is str:
                continue
            try:
                _check(item, level + 1)
            except _NotJsonError as exc:
                exc.path.append(index)
                raise
    else:
        raise _NotJsonError(f"a value of type {kind.__name__} is not JSON")


def _check_object(value: dict[Any, Any], level: int) -> None:
    if level > MAX_DEPTH:
        raise _NotJsonError(f"nested deeper than {MAX_DEPTH} levels")
    for key, item in value.items():
        if type(key) is not str:
            raise _NotJsonError(f"a key of type {type(key).__name__}, keys are str")
        kind = type(item)
        if kind is str or kind is bool or item is None:
            continue
        try:
            _check(item, level + 1)
        except _NotJsonError as exc:
            exc.path.append(key)
            raise


def find_surrogate(value: Any) -> str:
    """Return the JSON pointer of the first text (key or value) that UTF-8 cannot carry, or the empty string."""
    if isinstance(value, str):
        return "" if _encodable(value) else "/"
    if isinstance(value, dict):
        for key, item in value.items():
            if not _encodable(key):
                return "/"
            if inner := find_surrogate(item):
                return pointer_of([key], shorten=True) + inner.removesuffix("/")
    elif isinstance(value, list):
        for index, item in enumerate(value):
            if inner := find_surrogate(item):
                return f"/{index}{inner.removesuffix('/')}"
    return ""


def _encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
