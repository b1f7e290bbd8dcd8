"""Requests, replies and the envelope. Source: fact sheet sections 3.1 and 4."""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl

JSON_TYPE = "application/json"

ERROR_CODES: Mapping[int, tuple[int, str]] = {
    1000: (401, "Authentication failed"),
    1001: (401, "Authorization is empty"),
    1002: (401, "Authorization is invalid"),
    1003: (401, "Authorization is not yet valid"),
    1004: (401, "Authorization has expired"),
    1100: (429, "Account exception"),
    1101: (429, "Account in arrears"),
    1102: (429, "Account balance not enough"),
    1103: (403, "Unauthorized access to the requested resource"),
    1200: (400, "Invalid request parameters"),
    1201: (400, "Invalid parameters"),
    1202: (404, "The requested method is invalid"),
    1203: (404, "The requested resource does not exist"),
    1300: (400, "Trigger strategy of the platform"),
    1301: (400, "Trigger the content security policy of the platform"),
    1302: (429, "The API request is too fast"),
    1303: (429, "parallel task over resource pack limit"),
    1304: (429, "Trigger the platform's IP whitelisting policy"),
    5000: (500, "Server internal error"),
    5001: (503, "Server temporarily unavailable"),
    5002: (504, "Server internal timeout"),
}
"""Business code -> (HTTP status, default message). All 21 documented codes."""

CODE_OF_STATUS: Mapping[int, int] = {
    400: 1200,
    401: 1002,
    403: 1103,
    404: 1203,
    429: 1302,
    500: 5000,
    503: 5001,
    504: 5002,
}
"""The business code that a scripted HTTP status gets when the script names none."""


@dataclass(frozen=True, slots=True)
class Request:
    """One HTTP request as the simulator sees it; `path` is as sent, without the query."""

    method: str
    path: str
    query: str = ""
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    """Names in lower case; the last of repeated headers."""
    body: bytes = field(default=b"", repr=False)
    base_url: str = "http://localhost"
    """Scheme and authority under which the client reaches this simulator; used in result URLs."""

    @property
    def params(self) -> dict[str, str]:
        """The query string; of a repeated name the last value."""
        return dict(parse_qsl(self.query, keep_blank_values=True))


@dataclass(frozen=True, slots=True)
class Response:
    """A complete HTTP reply."""

    status: int
    body: bytes = field(default=b"", repr=False)
    content_type: str = JSON_TYPE
    headers: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Refusal:
    """A business error; `message` may echo what the caller sent, as the real one does."""

    code: int
    message: str = field(default="", repr=False)
    status: int | None = None

    def response(self) -> Response:
        """The error reply: envelope without `data`."""
        known_status, known_message = ERROR_CODES.get(self.code, (500, "Unknown error"))
        status = known_status if self.status is None else self.status
        return _envelope(status, {"code": self.code, "message": self.message or known_message})


def success(data: Any) -> Response:
    """The envelope of a successful call around `data`."""
    return _envelope(200, {"code": 0, "message": "SUCCEED"}, data=data)


def _envelope(status: int, head: dict[str, Any], **data: Any) -> Response:
    body = {**head, "request_id": str(uuid.uuid4()), **data}
    return Response(status, json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace"))


def _refuse_constant(name: str) -> None:
    raise ValueError(name)  # NaN and Infinity are Python's, not JSON's


def parse_object(body: bytes) -> dict[str, Any] | Refusal:
    """The JSON object of a request body, or 1200."""
    try:
        value = json.loads(body, parse_constant=_refuse_constant)
    except (ValueError, RecursionError):
        return Refusal(1200, "Request body is not valid JSON")
    if not isinstance(value, dict):
        return Refusal(1200, "Request body must be a JSON object")
    return value
