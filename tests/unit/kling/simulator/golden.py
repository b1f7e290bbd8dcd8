"""The small language of tests/vectors/kling: placeholders in requests and in expected replies."""

from __future__ import annotations

import json
import re
import uuid
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

VECTORS = Path(__file__).resolve().parents[3] / "vectors" / "kling"


def load(name: str) -> Any:
    """One file of the vectors."""
    return json.loads((VECTORS / f"{name}.json").read_text(encoding="utf-8"))


def fill(value: Any, names: dict[str, str]) -> Any:
    """Put remembered names and repeated text into a request."""
    if isinstance(value, dict):
        return {key: fill(member, names) for key, member in value.items()}
    if isinstance(value, list):
        return [fill(member, names) for member in value]
    if not isinstance(value, str):
        return value
    value = re.sub(r"<(\d+) x (.+?)>", lambda found: found[2] * int(found[1]), value)
    return re.sub(r"(?<!<)<(\w+)>(?!>)", lambda found: names[found[1]], value)


def check(expected: Any, actual: Any, names: dict[str, str], where: str = "body") -> None:
    """Compare a reply with what the vectors expect."""
    if isinstance(expected, dict):
        assert isinstance(actual, dict), where
        assert sorted(expected) == sorted(actual), where
        for key, member in expected.items():
            check(member, actual[key], names, f"{where}.{key}")
    elif isinstance(expected, list):
        assert len(expected) == len(actual), where
        for index, member in enumerate(expected):
            check(member, actual[index], names, f"{where}[{index}]")
    elif isinstance(expected, str) and re.fullmatch("<.+>", expected):
        _check_placeholder(expected[1:-1], actual, names, where)
    else:
        assert (type(expected), expected) == (type(actual), actual), where


def _check_placeholder(name: str, actual: str, names: dict[str, str], where: str) -> None:
    kind, _, rest = name.partition(":")
    assert isinstance(actual, str), where
    assert actual, where
    if kind == "uuid":
        assert str(uuid.UUID(actual)) == actual, where
    elif kind == "id":
        assert re.fullmatch("[0-9]{18}", actual), where
        names[rest] = actual
    elif kind in ("url", "address"):
        parts = urlsplit(actual)
        assert (parts.scheme, bool(parts.query)) == ("http", True), where
        assert names.get(rest, "") in parts.path, where
        assert kind == "address" or rest in names, where
    elif kind != "text":
        assert actual == names[kind], where
