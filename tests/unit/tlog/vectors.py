"""Reads the known-answer vectors of tests/vectors/tlog/known."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2] / "vectors" / "tlog"
KNOWN = ROOT / "known"


def load(name: str) -> Any:
    return json.loads((KNOWN / name).read_text(encoding="utf-8"))


def read(name: str) -> bytes:
    return (KNOWN / name).read_bytes()


def hexes(values: list[str]) -> list[bytes]:
    return [bytes.fromhex(value) for value in values]


CT = load("ct.json")
INTEGERS = load("integers.json")
KEYS = load("keys.json")
ENTRIES = [bytes.fromhex(item["entry"]) for item in CT["leaves"]]
LEAVES = [bytes.fromhex(item["hash"]) for item in CT["leaves"]]


@functools.cache
def integer_entries() -> list[bytes]:
    return [i.to_bytes(8, "big") for i in range(INTEGERS["size"])]
