"""The two kinds of credentials. Source: fact sheet sections 1.2 to 1.4."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
from dataclasses import dataclass, field
from typing import Any, TypeGuard

from klingai_audit.errors import UsageError
from klingai_audit.kling.simulator.messages import Refusal

DEFAULT_API_KEY = "sim-api-key"
DEFAULT_ACCESS_KEY = "sim-access-key"
DEFAULT_SECRET_KEY = "sim-secret-key-0123456789abcdef0123"  # noqa: S105 - documented value of the simulator

API_KEY_ONLY = (
    "Authentication error. The current API does not support AK/SK; "
    "please go to the console (https://kling.ai/dev/api-key) to create API key."
)
"""Seen for a token and for a garbage key alike on paths of the new design."""


@dataclass(frozen=True, slots=True)
class Identity:
    """Who is calling: `kind` is `api_key` or `access_key`, `name` never the secret itself."""

    kind: str
    name: str


@dataclass(slots=True)
class Credentials:
    """What the account accepts. Both tables may be changed while the simulator runs."""

    api_keys: dict[str, str] = field(default_factory=dict, repr=False)
    """API key -> its name in the console (`api_key_name` of the billing detail)."""
    access_keys: dict[str, str] = field(default_factory=dict, repr=False)
    """AccessKey -> SecretKey."""
    revoked: set[str] = field(default_factory=set, repr=False)
    """API keys and AccessKeys that were valid once."""

    @classmethod
    def default(cls) -> Credentials:
        """One key of each kind: the documented `sim-…` values."""
        return cls({DEFAULT_API_KEY: "default"}, {DEFAULT_ACCESS_KEY: DEFAULT_SECRET_KEY})

    def add_api_key(self, key: str, name: str) -> None:
        """Accept `key` from now on, under `name`. Raises: UsageError: no key or no name."""
        if not key or not name:
            raise UsageError("an API key needs a value and a name")
        self.revoked.discard(key)
        self.api_keys[key] = name

    def revoke(self, key: str) -> None:
        """Refuse an API key or an AccessKey from now on. Raises: UsageError: it was never accepted."""
        if key not in self.api_keys and key not in self.access_keys:
            raise UsageError("the key to revoke is not one of this simulator")
        self.revoked.add(key)

    def authenticate(self, header: str | None, *, tokens: bool, now_ms: int) -> Identity | Refusal:
        """Identify the caller by the `Authorization` header.

        `tokens` says whether the path takes AccessKey tokens (legacy and account paths only).
        """
        if header is None or not header.strip():
            return Refusal(1001)
        scheme, _, credential = header.partition(" ")
        invalid = Refusal(1002) if tokens else Refusal(1002, API_KEY_ONLY)
        if scheme != "Bearer" or not credential or credential != credential.strip():
            return invalid
        name = self._api_key_name(credential)
        if name is not None:
            # What a revoked key gets is unknown (sheet 1.4): we answer as for any invalid one.
            return Refusal(1002) if credential in self.revoked else Identity("api_key", name)
        return self._token(credential, now_ms) if tokens else invalid

    def _api_key_name(self, credential: str) -> str | None:
        sent = credential.encode()
        for key, name in list(self.api_keys.items()):
            if hmac.compare_digest(key.encode(), sent):
                return name
        return None

    def _token(self, token: str, now_ms: int) -> Identity | Refusal:
        parts = token.split(".")
        if len(parts) != 3:
            got = {1: "0", 2: "2"}.get(len(parts), "> 3")
            return Refusal(1002, f"The token was expected to have 3 parts, but got {got}")
        head, claims = _decode(parts[0]), _decode(parts[1])
        if head is None or claims is None or head.get("alg") != "HS256":
            return Refusal(1002)
        issuer = claims.get("iss")
        secret = self.access_keys.get(issuer) if isinstance(issuer, str) else None
        if secret is None or issuer in self.revoked:
            return Refusal(1002)
        if not hmac.compare_digest(_signature(f"{parts[0]}.{parts[1]}", secret).encode(), parts[2].encode()):
            return Refusal(1002)
        expires, not_before = claims.get("exp"), claims.get("nbf", 0)
        if not _is_number(expires) or not _is_number(not_before):
            return Refusal(1002)
        if not_before * 1000 > now_ms:
            return Refusal(1003)
        if expires * 1000 <= now_ms:
            return Refusal(1004)
        return Identity("access_key", str(issuer))


def mint_token(access_key: str, secret_key: str, *, now_ms: int, not_before: int = -5, lifetime: int = 1800) -> str:
    """A token as the vendor's samples make it; `not_before` and `lifetime` in seconds from `now_ms`."""
    now = now_ms // 1000
    head = _encode({"alg": "HS256", "typ": "JWT"})
    claims = _encode({"iss": access_key, "exp": now + lifetime, "nbf": now + not_before})
    return f"{head}.{claims}.{_signature(f'{head}.{claims}', secret_key)}"


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _signature(signed: str, secret: str) -> str:
    return _base64url(hmac.new(secret.encode(), signed.encode(), hashlib.sha256).digest())


def _encode(value: dict[str, Any]) -> str:
    return _base64url(json.dumps(value, separators=(",", ":")).encode())


def _decode(part: str) -> dict[str, Any] | None:
    try:
        value = json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))
    except (ValueError, binascii.Error, RecursionError):
        return None
    return value if isinstance(value, dict) else None
