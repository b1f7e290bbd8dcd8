"""One setting of a policy.toml changed in place, so that the comments of its owner stay. Pure.

The result is parsed and compared with what was meant: an edit that means anything else is refused.
"""

from __future__ import annotations

import re
import tomllib
from typing import Any, Final

import msgspec

from klingai_audit.errors import InvalidPolicy, UsageError

__all__ = ["Setting", "change_setting", "parse_value", "read_setting"]

Setting = str | bool | int | list[str]

_KEY: Final = re.compile(r"[a-z_]+\.[a-z_]+").fullmatch
_TABLE: Final = re.compile(r"\s*\[\s*([A-Za-z0-9_-]+)\s*\]\s*(?:#.*)?").fullmatch
_ANY_TABLE: Final = re.compile(r"\s*\[").match
_FILLER: Final = re.compile(r"\s*(?:#.*)?").fullmatch


def parse_value(text: str) -> Setting:
    """Read a value as it is typed: TOML if it is a text, truth value, number or list of texts, else the text itself."""
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text
    if isinstance(value, str | bool | int) or (isinstance(value, list) and all(isinstance(v, str) for v in value)):
        return value
    raise UsageError("The value is neither a text, true, false, a number nor a list of texts.")


def read_setting(text: str, key: str) -> Any:
    """Return the value of `table.name` in the file's text, or None if it is not set there."""
    table, name = _split(key)
    found = tomllib.loads(text).get(table)
    return found.get(name) if isinstance(found, dict) else None


def change_setting(text: str, key: str, value: Setting) -> str:
    """Return the file's text with `table.name` set to `value`; every other line, comments included, stays.

    Raises: UsageError: not a key of the form `table.name`. InvalidPolicy: the file says it in a way that cannot be
    changed in place (`privacy = { … }`, `privacy.reads = …`).
    """
    table, name = _split(key)
    lines = text.split("\n")
    begin = next((at for at, line in enumerate(lines) if (head := _TABLE(line)) and head[1] == table), None)
    if begin is None:
        tail = [] if not text.strip() else [text.rstrip("\n"), ""]
        changed = "\n".join([*tail, f"[{table}]", f"{name} = {_toml(value)}", ""])
    else:
        end = next((at for at in range(begin + 1, len(lines)) if _opens_table(lines, at, begin)), len(lines))
        changed = "\n".join([*lines[: begin + 1], *_in_table(lines[begin + 1 : end], name, value), *lines[end:]])
    meant = _meant(text, table, name, value)
    if meant is None or _parsed(changed) != meant:
        raise InvalidPolicy(
            f"policy.toml: {key} stands there in a way that cannot be changed from here.",
            do="Change it with an editor; the next opening of the log records that the policy is another one.",
        )
    return changed


def _split(key: str) -> tuple[str, str]:
    if _KEY(key) is None:
        raise UsageError(f"{key!r} is no setting.", do="Name table and key, as in privacy.reads; see docs/policy.md.")
    table, _, name = key.partition(".")
    return table, name


def _opens_table(lines: list[str], at: int, begin: int) -> bool:
    """Whether a line opens the next table and is not the inside of a list: what precedes it must be whole."""
    return _ANY_TABLE(lines[at]) is not None and _is_whole(lines[begin:at])


def _in_table(lines: list[str], name: str, value: Setting) -> list[str]:
    fresh = f"{name} = {_toml(value)}"
    starts = re.compile(rf"\s*{re.escape(name)}\s*=").match
    for begin, line in enumerate(lines):
        if starts(line) and _is_whole(lines[:begin]):
            end = next((end for end in range(begin + 1, len(lines) + 1) if _is_whole(lines[begin:end])), begin + 1)
            comment = _comment(line) if end == begin + 1 else ""
            return [*lines[:begin], fresh + comment, *lines[end:]]
    last = max((at for at, line in enumerate(lines, 1) if not _FILLER(line)), default=0)
    return [*lines[:last], fresh, *lines[last:]]


def _comment(line: str) -> str:
    """Return what follows the value of a whole line: blanks and a comment."""
    for at, character in enumerate(line):
        if character == "#" and _is_whole([line[:at]]):
            return line[len(line[:at].rstrip()) :]
    return ""


def _is_whole(lines: list[str]) -> bool:
    return _parsed("\n".join(lines)) is not None


def _parsed(text: str) -> dict[str, Any] | None:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        return None


def _meant(text: str, table: str, name: str, value: Setting) -> dict[str, Any] | None:
    tables = _parsed(text)
    if tables is None or not isinstance(tables.setdefault(table, {}), dict):
        return None
    tables[table][name] = value
    return tables


def _toml(value: Setting) -> str:
    # A JSON text, number, truth value or list of them is the same in TOML, but for DEL, which JSON leaves as it is.
    if isinstance(value, list):
        return f"[{', '.join(map(_toml, value))}]"
    return msgspec.json.encode(value).decode().replace("\x7f", "\\u007f")
