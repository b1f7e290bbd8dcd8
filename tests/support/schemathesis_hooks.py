"""Teaches schemathesis JSON lines, which the document describes as the array of their events."""

from __future__ import annotations

import json
from typing import Any

import schemathesis


@schemathesis.serializer("application/x-ndjson")
def json_lines(_context: Any, value: Any) -> bytes:
    """Return the lines of an array; what is no array as one line that no event can be."""
    items = value if isinstance(value, list) else [[value]]
    return b"".join(json.dumps(item).encode() + b"\n" for item in items)
