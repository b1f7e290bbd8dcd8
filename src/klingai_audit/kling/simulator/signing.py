"""Signatures of callbacks: Standard Webhooks. Source: fact sheet section 5."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from collections.abc import Sequence
from dataclasses import dataclass, field

from klingai_audit.errors import UsageError

PREFIX = "whsec_"
ROTATION_MS = 7 * 24 * 3600 * 1000
"""Standard rotation: the old secret signs along for 7 days."""


def sign(secret: str, message_id: str, timestamp: int, body: bytes) -> str:
    """One signature, `v1,` and base64 of HMAC-SHA256 over `{id}.{timestamp}.{body}`; `timestamp` in seconds."""
    signed = f"{message_id}.{timestamp}.".encode() + body
    return "v1," + base64.b64encode(hmac.new(_key(secret), signed, hashlib.sha256).digest()).decode()


def signature_headers(secrets: Sequence[str], message_id: str, timestamp: int, body: bytes) -> dict[str, str]:
    """The three headers; two secrets give two signatures with a space between. None at all without a secret."""
    if not secrets:
        return {}
    return {
        "webhook-id": message_id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": " ".join(sign(secret, message_id, timestamp, body) for secret in secrets),
    }


@dataclass(slots=True)
class SecretRing:
    """The webhook secrets of the account: none, one, or two during a rotation."""

    _current: str = field(default="", repr=False)
    _former: str = field(default="", repr=False)
    _former_until_ms: int = 0

    def create(self, secret: str) -> None:
        """Sign with this secret from now on. Raises: UsageError: it is not `whsec_` and base64."""
        _key(secret)
        self._current, self._former = secret, ""

    def rotate(self, secret: str, *, now_ms: int, emergency: bool = False) -> None:
        """Change to a new secret; the old one signs along for 7 days, in an emergency not at all.

        Raises: UsageError: there is no secret to rotate, or the new one is malformed.
        """
        if not self._current:
            raise UsageError("there is no webhook secret to rotate", do="Create one first.")
        _key(secret)
        self._former = "" if emergency else self._current
        self._former_until_ms = now_ms + ROTATION_MS
        self._current = secret

    def remove(self) -> None:
        """Forget all secrets: callbacks are unsigned."""
        self._current = self._former = ""

    def valid(self, now_ms: int) -> tuple[str, ...]:
        """The secrets that sign at a moment, the newest first."""
        former = (self._former,) if self._former and now_ms < self._former_until_ms else ()
        return (self._current, *former) if self._current else ()


def _key(secret: str) -> bytes:
    try:
        key = base64.b64decode(secret.removeprefix(PREFIX), validate=True)
    except (ValueError, binascii.Error):
        key = b""
    if not secret.startswith(PREFIX) or not key:
        raise UsageError("a webhook secret is `whsec_` followed by base64")
    return key
