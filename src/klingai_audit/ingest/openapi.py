"""The description of the endpoint as OpenAPI 3.1, made from the types in `wire`."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any, Final

import msgspec

from klingai_audit.ingest.packing import ENCODINGS
from klingai_audit.ingest.wire import (
    CLOUDEVENT,
    CLOUDEVENTS,
    JSON,
    JSON_LINES,
    PROBLEM_JSON,
    Accepted,
    CloudEvent,
    Event,
    EventData,
    Problem,
)

__all__ = ["EVENTS_PATH", "STATUSES", "document"]

EVENTS_PATH: Final = "/v1/events"
"""Where events are posted."""

STATUSES: Final[Mapping[int, str]] = {
    200: "All events are recorded: one receipt for each.",
    400: "The body is not what its headers say: no JSON, not whole gzip or zstd; or `wait` is none of its values.",
    401: "No token, or none that is known.",
    403: "The producer may not claim an actor or a type of an event.",
    408: "The body did not arrive in time.",
    409: "An `event_id` belongs to another event already.",
    413: "The body, packed or unpacked, or the number of its events is too large.",
    415: "The media type or the content encoding is not read here.",
    422: "An event is none that the log can hold.",
    429: "As much is under way as may be: try again after `Retry-After` seconds.",
    500: "A fault of the endpoint.",
    503: "The log cannot record now: try again after `Retry-After` seconds.",
}
"""HTTP status -> when. Whatever is not 200 recorded nothing that was not recorded before, but for 500 and 503, where
what was recorded is not known: sent again with its event ids, it is recorded once."""

_REF: Final = "#/components/schemas/{name}"
_RETRY: Final = {"Retry-After": {"description": "Seconds.", "schema": {"type": "integer"}, "required": True}}
_EXAMPLE: Final = {
    "event_type": "x_storyboard_approved",
    "event_id": "0199b2c4-5d6e-7f80-9a1b-2c3d4e5f6071",
    "timestamp": "2026-11-21T19:28:23.123456Z",
    "actor_id": "user@example.com",
    "resource_type": "storyboard",
    "resource_id": "sb-17",
    "action": "approve",
}


@functools.cache
def document() -> dict[str, Any]:
    """Return the OpenAPI 3.1 document; JSON values only. Do not change it."""
    _, schemas = msgspec.json.schema_components([Event, CloudEvent, EventData, Accepted, Problem], ref_template=_REF)
    schemas = {name: _tidy(schema) for name, schema in schemas.items()}
    schemas["CloudEvent"]["properties"]["data"] = {
        "anyOf": [_ref(EventData), {"type": "null"}],
        "description": "An event, or an entry that was exported; what attributes say may be left out.",
    }
    schemas["CloudEvent"] |= _ATTRIBUTES
    from importlib.metadata import version

    return {
        "openapi": "3.1.0",
        "info": {
            "title": "klingai-audit ingest",
            "version": version("klingai-audit"),
            "summary": "Events of programs in any language, recorded in a tamper-evident log.",
            "description": "All events of a request are recorded, or none. What is answered with 200 is durable.",
            "license": {"name": "MIT", "identifier": "MIT"},
        },
        "servers": [{"url": "/"}],
        "paths": {
            EVENTS_PATH: {"post": _post()},
            "/openapi.json": {"get": _get("describe", "This document.", {200: ("It.", JSON, {"type": "object"})})},
            "/healthz": {
                "get": _get(
                    "healthz",
                    "Whether the process is worth keeping.",
                    {200: ("It is.", "text/plain", {"type": "string"}), 503: (_STOPPED, PROBLEM_JSON, _ref(Problem))},
                )
            },
            "/readyz": {
                "get": _get(
                    "readyz",
                    "Whether events can be recorded.",
                    {200: ("They can.", JSON, _READY), 503: ("They cannot, and why.", JSON, _READY)},
                )
            },
        },
        "components": {
            "schemas": schemas,
            "securitySchemes": {
                "producer": {"type": "http", "scheme": "bearer", "description": "The token of a producer."}
            },
        },
    }


_READY: Final = {
    "type": "object",
    "properties": {
        "ready": {"type": "boolean"},
        "checks": {"type": "object", "additionalProperties": {"type": "string"}},
    },
    "required": ["ready", "checks"],
}
_ATTRIBUTES: Final = {
    "propertyNames": {"anyOf": [{"pattern": "^[a-z0-9]{1,20}$"}, {"const": "data_base64"}]},
    "additionalProperties": {
        "description": "An extension attribute.",
        "anyOf": [
            {"type": ["string", "boolean", "null"]},
            {"type": "integer", "minimum": -(2**31), "maximum": 2**31 - 1},
        ],
    },
}
_STOPPED: Final = "The log takes no more in this process: it has to be started anew."


def _ref(kind: type) -> dict[str, Any]:
    return {"$ref": _REF.format(name=kind.__name__)}


def _get(name: str, summary: str, answers: Mapping[int, tuple[str, str, dict[str, Any]]]) -> dict[str, Any]:
    responses = {
        str(status): {"description": words, "content": {media: {"schema": schema}}}
        for status, (words, media, schema) in answers.items()
    }
    return {"operationId": name, "summary": summary, "responses": responses}


def _post() -> dict[str, Any]:
    event, cloudevent = _ref(Event), _ref(CloudEvent)
    return {
        "operationId": "ingest",
        "summary": "Record events.",
        "description": (
            "Send the same events again with their `event_id`s whenever no answer came: within 24 hours each is"
            " recorded once."
        ),
        "security": [{"producer": []}],
        "parameters": [
            {
                "name": "wait",
                "in": "query",
                "description": "`durable`: synced to disk. `published`: under a signed checkpoint, with proofs.",
                "schema": {"type": "string", "enum": ["durable", "published"], "default": "durable"},
            },
        ],
        "requestBody": {
            "required": True,
            "description": f"It may be packed; `Content-Encoding` says how: {ENCODINGS}.",
            "content": {
                JSON_LINES: {
                    "schema": {
                        "type": "array",
                        "items": event,
                        "minItems": 1,
                        "description": "One event a line, each ended by LF; not a JSON array.",
                    }
                },
                JSON: {"schema": event, "example": _EXAMPLE},
                CLOUDEVENT: {"schema": cloudevent},
                CLOUDEVENTS: {"schema": {"type": "array", "items": cloudevent, "minItems": 1}},
            },
        },
        "responses": {str(status): _response(status, words) for status, words in STATUSES.items()},
    }


def _response(status: int, words: str) -> dict[str, Any]:
    if status == 200:
        return {"description": words, "content": {JSON: {"schema": _ref(Accepted)}}}
    made: dict[str, Any] = {
        "description": words,
        "content": {PROBLEM_JSON: {"schema": _ref(Problem)}},
    }
    if status in (429, 503):
        made["headers"] = _RETRY
    return made


def _tidy(schema: dict[str, Any]) -> dict[str, Any]:
    """Put required members first, and take out what says nothing: defaults of null."""
    members, required = schema["properties"], schema.get("required", [])
    ordered = [*required, *(name for name in members if name not in required)]
    tidy = {
        name: {key: value for key, value in members[name].items() if (key, value) != ("default", None)}
        for name in ordered
    }
    return {**schema, "properties": tidy}
