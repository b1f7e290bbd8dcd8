"""What the ingest endpoint reads and answers, from its OpenAPI document, as Markdown."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from klingai_audit.ingest.openapi import EVENTS_PATH, STATUSES, document
from klingai_audit.ingest.wire import CLOUDEVENT, CLOUDEVENTS, JSON, JSON_LINES
from tools.docs_pages import escape, table

__all__ = ["PARTS", "attributes", "bodies", "members", "receipts", "statuses"]

HOLDS = {
    JSON_LINES: "one event a line; empty lines are skipped",
    JSON: "one event",
    CLOUDEVENT: "one CloudEvent, structured",
    CLOUDEVENTS: "a JSON array of CloudEvents, structured",
}


def bodies() -> str:
    """Return the media types of bodies."""
    described = document()["paths"][EVENTS_PATH]["post"]["requestBody"]["content"]
    return table(("`Content-Type`", "the body is"), ((f"`{name}`", HOLDS[name]) for name in described))


def members() -> str:
    """Return the members of an event."""
    return table(("member", "form", "meaning"), _rows("Event"))


def attributes() -> str:
    """Return the attributes of a CloudEvent."""
    return table(("attribute", "form", "meaning"), _rows("CloudEvent"))


def receipts() -> str:
    """Return the members of the answer and of each receipt in it."""
    rows = [*_rows("Accepted"), *((f"`receipts[]`.{name}", form, words) for name, form, words in _rows("EventReceipt"))]
    return table(("member", "form", "meaning"), rows)


def statuses() -> str:
    """Return the statuses of answers."""
    return table(("status", "when"), ((str(status), escape(words)) for status, words in STATUSES.items()))


def _rows(name: str) -> Iterator[tuple[str, str, str]]:
    schema = document()["components"]["schemas"][name]
    required = schema.get("required", ())
    for member, described in schema["properties"].items():
        needed = " (required)" if member in required and name in ("Event", "CloudEvent") else ""
        yield f"`{member}`{needed}", _form(described), escape(described.get("description", ""))


def _form(described: dict[str, Any]) -> str:
    kinds = [one for one in described.get("anyOf", []) if {"type", "$ref"} & one.keys() and one.get("type") != "null"]
    kinds = kinds or [described]
    first = kinds[0]
    if "$ref" in described or "$ref" in first:
        return first.get("$ref", described.get("$ref", "")).rpartition("/")[2]
    if "enum" in first:
        return ", ".join(f"`{value}`" for value in first["enum"])
    if "const" in first:
        return f"`{first['const']}`"
    named = {"date-time": "time (RFC 3339)"}.get(first.get("format", ""))
    kind = described.get("type", first.get("type", ""))
    return named or {"string": "text", "object": "object", "array": "array", "integer": "integer"}.get(kind, str(kind))


PARTS = {
    "ingest-bodies": bodies,
    "ingest-members": members,
    "ingest-attributes": attributes,
    "ingest-receipts": receipts,
    "ingest-statuses": statuses,
}
"""Name of a generated part -> what makes it."""
