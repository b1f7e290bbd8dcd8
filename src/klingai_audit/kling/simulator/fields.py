"""Field tables: what a request body may hold, checked in one place. No field is refused for being unknown."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from klingai_audit.kling.simulator.inputs import MEGABYTE, MediaKind, media_problem
from klingai_audit.kling.simulator.messages import Refusal

Kind = Literal["string", "integer", "number", "boolean", "object", "array", "id"]

_TYPES: Mapping[Kind, tuple[type, ...]] = {
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "object": (dict,),
    "array": (list,),
    "id": (str, int),
}


@dataclass(frozen=True, slots=True)
class Field:
    """One row of a field table; `name` is dotted for members of members (`settings.duration`).

    Absent, null and the empty string count as not given. `max_chars` counts characters;
    `low` and `high` are inclusive, `least` and `most` count the members of an array. `items`
    is the table of each member (then every member is an object), `by_type` the table of a member
    by its `type` (other types are refused). `as_string` also takes an
    integer where a decimal string is documented (some callers send one). `media`: the string
    is an input of that kind, of at most `max_bytes` decoded.
    """

    name: str
    kind: Kind
    required: bool = False
    choices: tuple[object, ...] = ()
    max_chars: int | None = None
    low: float | None = None
    high: float | None = None
    as_string: bool = False
    least: int | None = None
    most: int | None = None
    items: tuple[Field, ...] = ()
    by_type: Mapping[str, tuple[Field, ...]] = field(default_factory=dict)
    media: MediaKind | None = None
    max_bytes: int = 10 * MEGABYTE


def pick(body: Mapping[str, Any], name: str, default: Any = None) -> Any:
    """The value at the dotted `name`, or `default` if it or a parent is absent, null or empty."""
    value: Any = body
    for part in name.split("."):
        if not isinstance(value, Mapping):
            return default
        value = value.get(part)
    return default if value is None or value == "" else value


def check_fields(
    body: Mapping[str, Any], rows: Iterable[Field], where: str = "", *, strict: bool = False
) -> Refusal | None:
    """The first row that `body` breaks: 1200 for a missing field or wrong type, 1201 for a value.

    `where` is put before names in messages; `strict` also looks into pictures.
    """
    for row in rows:
        value, name = pick(body, row.name), where + row.name
        if value is None:
            if row.required:
                return Refusal(1200, f"{name} is required")
            continue
        refusal = _check_value(row, name, value) or _check_inside(row, name, value, strict=strict)
        if refusal is not None:
            return refusal
    return None


def one_of(body: Mapping[str, Any], *names: str) -> Refusal | None:
    """Refuse a body that has none of the fields (1200) or more than one of them (1201)."""
    given = [name for name in names if pick(body, name) is not None]
    if not given:
        return Refusal(1200, f"{' or '.join(names)} is required")
    return None if len(given) == 1 else Refusal(1201, f"{' and '.join(given)} cannot be used simultaneously")


def _check_value(row: Field, name: str, value: Any) -> Refusal | None:
    if row.as_string and isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    if not _has_kind(value, row.kind):
        return Refusal(1200, f"{name} must be of type {row.kind}")
    if row.choices and value not in row.choices:
        allowed = ", ".join(str(choice) for choice in row.choices)
        return Refusal(1201, f"{name} is invalid, must be one of: {allowed}")
    if row.max_chars is not None and len(value) > row.max_chars:
        return Refusal(1201, f"{name} exceeds {row.max_chars} characters")
    too_low = row.low is not None and value < row.low
    too_high = row.high is not None and value > row.high
    if too_low or too_high:
        return Refusal(1201, f"{name} must be between {row.low} and {row.high}")
    return None


def _check_inside(row: Field, name: str, value: Any, *, strict: bool) -> Refusal | None:
    if row.media is not None:
        problem = media_problem(row.media, value, row.max_bytes, strict=strict)
        return Refusal(1201, f"{name} {problem}") if problem else None
    if row.kind != "array":
        return None
    if (row.least is not None and len(value) < row.least) or (row.most is not None and len(value) > row.most):
        return Refusal(1201, f"{name} must hold {row.least or 0} to {row.most or 'more'} members")
    if not row.items and not row.by_type:
        return None
    for number, item in enumerate(value):
        if not isinstance(item, dict):
            return Refusal(1200, f"{name} must hold objects")
        rows, where = row.items, f"{name}[{number}]."
        if row.by_type:
            kind = pick(item, "type")
            if not isinstance(kind, str):
                return Refusal(1200, f"{where}type is required")
            if kind not in row.by_type:
                return Refusal(1201, f"{where}type is invalid, must be one of: {', '.join(row.by_type)}")
            rows = row.by_type[kind]
        refusal = check_fields(item, rows, where, strict=strict)
        if refusal is not None:
            return refusal
    return None


def _has_kind(value: Any, kind: Kind) -> bool:
    return isinstance(value, _TYPES[kind]) and isinstance(value, bool) == (kind == "boolean")
