"""Field tables: what a request body may hold, checked in one place. No field is refused for being unknown."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from klingai_audit.kling.simulator.messages import Refusal

Kind = Literal["string", "integer", "number", "boolean", "object", "array"]

_TYPES: Mapping[Kind, tuple[type, ...]] = {
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "object": (dict,),
    "array": (list,),
}


@dataclass(frozen=True, slots=True)
class Field:
    """One row of a field table; `name` is dotted for members of members (`settings.duration`).

    Absent, null and the empty string count as not given. `max_chars` counts characters;
    `low` and `high` are inclusive. `as_string` also takes an integer where a decimal string
    is documented (some callers send one).
    """

    name: str
    kind: Kind
    required: bool = False
    choices: tuple[object, ...] = ()
    max_chars: int | None = None
    low: float | None = None
    high: float | None = None
    as_string: bool = False


def pick(body: Mapping[str, Any], name: str, default: Any = None) -> Any:
    """The value at the dotted `name`, or `default` if it or a parent is absent, null or empty."""
    value: Any = body
    for part in name.split("."):
        if not isinstance(value, Mapping):
            return default
        value = value.get(part)
    return default if value is None or value == "" else value


def check_fields(body: Mapping[str, Any], fields: Iterable[Field]) -> Refusal | None:
    """The first row that `body` breaks: 1200 for a missing field or wrong type, 1201 for a value."""
    for field in fields:
        value = pick(body, field.name)
        if value is None:
            if field.required:
                return Refusal(1200, f"{field.name} is required")
            continue
        refusal = _check_value(field, value)
        if refusal is not None:
            return refusal
    return None


def _check_value(field: Field, value: Any) -> Refusal | None:
    if field.as_string and isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    if not _has_kind(value, field.kind):
        return Refusal(1200, f"{field.name} must be of type {field.kind}")
    if field.choices and value not in field.choices:
        allowed = ", ".join(str(choice) for choice in field.choices)
        return Refusal(1201, f"{field.name} is invalid, must be one of: {allowed}")
    if field.max_chars is not None and len(value) > field.max_chars:
        return Refusal(1201, f"{field.name} exceeds {field.max_chars} characters")
    too_low = field.low is not None and value < field.low
    too_high = field.high is not None and value > field.high
    if too_low or too_high:
        return Refusal(1201, f"{field.name} must be between {field.low} and {field.high}")
    return None


def _has_kind(value: Any, kind: Kind) -> bool:
    return isinstance(value, _TYPES[kind]) and isinstance(value, bool) == (kind == "boolean")
