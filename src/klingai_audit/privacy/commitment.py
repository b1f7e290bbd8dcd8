"""Commitments: what stands in an entry instead of content, and what opens one of them.

salt = HMAC-SHA-256(subject key, `klingai-audit/commit/v1` ‖ 0 ‖ event id as 36 ASCII ‖ 0 ‖ JSON pointer);
commitment = SHA-256(`klingai-audit/commit/v1` ‖ 0 ‖ salt ‖ value). The value is text in UTF-8, bytes as they are,
or compact JSON as sent. Without the subject's key nobody can guess it; with one salt exactly one is opened.
Source: docs/format.md 9.2.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec

from klingai_audit.errors import InvalidEvent
from klingai_audit.event.plain import fault_of

__all__ = ["Sealing", "ToCommit", "check_opening", "commit", "is_commitment", "opening", "value_bytes"]

_DOMAIN: Final = b"klingai-audit/commit/v1\0"
_TYPE: Final = re.compile(r"[a-z][\w.+-]{0,63}(?:/[\w.+-]{1,63})?", re.ASCII).fullmatch
_COMMITMENT: Final = re.compile(r"[A-Za-z0-9_-]{42}[AEIMQUYcgkosw048]").fullmatch
_encode_json: Final = msgspec.json.Encoder().encode


class ToCommit:
    """Wraps a value in a draft's metadata that must enter as commitment: prompts, provider messages, media, URLs.

    `value` is text, bytes (media, or a body as sent), or a JSON value; `type` is the media type of media. The
    repr shows neither.
    """

    __slots__ = ("type", "value")

    def __init__(self, value: object, type: str | None = None) -> None:
        self.value = value
        self.type = type

    def __repr__(self) -> str:
        return "ToCommit(<hidden>)"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ToCommit) and self.value == other.value and self.type == other.type

    def __hash__(self) -> int:
        return hash((ToCommit, self.type))


@dataclass(frozen=True, slots=True)
class Sealing:
    """One content to seal: where it stands in the entry, the commitment there, and the bytes committed to."""

    pointer: str
    commitment: str
    value: bytes = field(repr=False)


def value_bytes(value: object, pointer: str = "") -> bytes:
    """Return the bytes that are committed to: UTF-8 of text, bytes as they are, compact JSON of anything else.

    A lone surrogate in text, which JSON can send, is kept as its three bytes.
    Raises: InvalidEvent naming `pointer`: not a JSON value.
    """
    if isinstance(value, str):
        return value.encode("utf-8", "surrogatepass")
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value)
    fault = fault_of(value)
    if fault is not None:
        # Without the path inside: the keys in there are content as well.
        raise InvalidEvent(f"{pointer}: {fault[0]} (in a value to commit to)")
    try:
        return _encode_json(value)
    except UnicodeEncodeError:
        pass
    # Raised outside the handler: the codec's error carries the text.
    raise InvalidEvent(f"{pointer}: text holds a lone surrogate, which UTF-8 cannot carry")


def opening(subject_key: bytes, event_id: str, pointer: str) -> bytes:
    """Return the salt of 32 bytes that opens the commitment at JSON pointer `pointer` of event `event_id`."""
    message = b"".join((_DOMAIN, event_id.encode("ascii"), b"\0", pointer.encode()))
    return hmac.digest(subject_key, message, "sha256")


def commit(subject_key: bytes, event_id: str, pointer: str, value: object) -> dict[str, Any]:
    """Return what stands in the entry: `{"commitment": 43 base64url, "bytes": length[, "type": media type]}`.

    `value` may be a `ToCommit`. Raises: InvalidEvent: a value that is not JSON, or a type that is no media type.
    """
    kind = None
    if isinstance(value, ToCommit):
        kind, value = value.type, value.value
    raw = value_bytes(value, pointer)
    stored: dict[str, Any] = {
        "commitment": _commitment(opening(subject_key, event_id, pointer), raw),
        "bytes": len(raw),
    }
    if kind is not None:
        if _TYPE(kind) is None:
            raise InvalidEvent(f"{pointer}: the type of a committed value is not a media type")
        stored["type"] = kind
    return stored


def _commitment(salt: bytes, raw: bytes) -> str:
    digest = hashlib.sha256(_DOMAIN + salt + raw).digest()
    return base64.urlsafe_b64encode(digest)[:43].decode("ascii")


def check_opening(stored: Mapping[str, Any], salt: bytes, value: object) -> bool:
    """Tell whether `value` with `salt` is what the stored commitment commits to. Never raises for bad data."""
    found, length = stored.get("commitment"), stored.get("bytes")
    if not isinstance(found, str) or not found.isascii() or type(length) is not int:
        return False
    try:
        raw = value_bytes(value.value if isinstance(value, ToCommit) else value)
    except InvalidEvent:
        return False
    return length == len(raw) and hmac.compare_digest(found, _commitment(salt, raw))


def is_commitment(value: object) -> bool:
    """Tell whether `value` has exactly the form that `commit` returns."""
    if not isinstance(value, Mapping) or not {"commitment", "bytes"} <= value.keys() <= {"commitment", "bytes", "type"}:
        return False
    found, length, kind = value["commitment"], value["bytes"], value.get("type", "a")
    return (
        isinstance(found, str)
        and _COMMITMENT(found) is not None
        and type(length) is int
        and length >= 0
        and isinstance(kind, str)
        and _TYPE(kind) is not None
    )
