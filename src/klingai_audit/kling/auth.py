"""The two kinds of Kling credentials: how they sign a request, and who a signed request speaks for.

An API key is sent as it is and works everywhere. AccessKey and SecretKey sign a token (JWT, HS256) that works on
legacy and account paths only. Source: vendor documentation (fact sheet sections 1.2 and 1.3).
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec

from klingai_audit.capture.facts import Credential
from klingai_audit.errors import UsageError
from klingai_audit.privacy import secrets

__all__ = [
    "DEFAULT_BASE_URL",
    "RENEW_SECONDS",
    "TOKEN_SECONDS",
    "ApiKey",
    "KeyPair",
    "base_url_from",
    "credential_of",
    "credentials_from",
    "mint_token",
]

DEFAULT_BASE_URL: Final = "https://api-singapore.klingai.com"
"""For callers outside mainland China; inside it is https://api-beijing.klingai.com."""

TOKEN_SECONDS: Final = 1800
"""Life of a token, as in all vendor samples."""

BACKDATE_SECONDS: Final = 5
"""How long before now a token says it begins to be valid."""

RENEW_SECONDS: Final = 60
"""A token with less life than this left is signed anew."""

_HEADER: Final = {"alg": "HS256", "typ": "JWT"}
_encode_json: Final = msgspec.json.Encoder().encode


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A single API key: valid for both API generations."""

    key: str = field(repr=False)
    new_design: bool = True

    def __post_init__(self) -> None:
        _check("The API key", self.key)
        secrets.learn(self.key)

    def authorization(self) -> str:
        """The value of the `Authorization` header."""
        return f"Bearer {self.key}"


class KeyPair:
    """AccessKey and SecretKey: signs tokens for the legacy paths and the account."""

    new_design = False

    def __init__(self, access_key: str, secret_key: str, *, clock: Callable[[], float] = time.time) -> None:
        _check("The AccessKey", access_key)
        _check("The SecretKey", secret_key)
        secrets.learn(access_key)
        secrets.learn(secret_key)
        self._access_key = access_key
        self._secret_key = secret_key
        self._clock = clock
        self._token: tuple[str, float] = ("", 0.0)

    def __repr__(self) -> str:
        return "KeyPair()"

    def authorization(self) -> str:
        """The value of the `Authorization` header; its token lives for 60 s or more."""
        token, expires = self._token
        now = self._clock()
        # A clock that was set back makes a cached token one from the future: sign anew then, too.
        if not now + RENEW_SECONDS < expires <= now + TOKEN_SECONDS:
            token = mint_token(self._access_key, self._secret_key, now=int(now))
            self._token = (token, int(now) + TOKEN_SECONDS)
        return f"Bearer {token}"


def mint_token(access_key: str, secret_key: str, *, now: int) -> str:
    """Sign a token valid from 5 s before `now` (seconds since 1970 UTC) to 1800 s after it."""
    claims = {"iss": access_key, "exp": now + TOKEN_SECONDS, "nbf": now - BACKDATE_SECONDS}
    signed = f"{_base64url(_encode_json(_HEADER))}.{_base64url(_encode_json(claims))}"
    return f"{signed}.{_base64url(hmac.digest(secret_key.encode(), signed.encode(), hashlib.sha256))}"


def credential_of(authorization: str) -> Credential | None:
    """Name who an `Authorization` header speaks for: a token's AccessKey, else the key itself.

    Nothing of a token's signature is kept. None if the header holds no credential.
    """
    scheme, _, value = authorization.strip().partition(" ")
    value = value.strip()
    if not value:
        scheme, value = "", scheme
    if not value:
        return None
    issuer = _issuer(value)
    if issuer is not None:
        return Credential("access_key", issuer)
    return Credential("api_key" if scheme.lower() == "bearer" else "other", value)


def credentials_from(
    *,
    api_key: str | None = None,
    access_key: str | None = None,
    secret_key: str | None = None,
    environment: Mapping[str, str] | None = None,
) -> ApiKey | KeyPair:
    """Choose the credential: what is given, else KLINGAI_API_KEY, else KLINGAI_ACCESS_KEY with KLINGAI_SECRET_KEY.

    Raises: UsageError: none, half a pair, or both kinds given.
    """
    given = environment if environment is not None else os.environ
    if api_key is not None and (access_key is not None or secret_key is not None):
        raise UsageError("Both an API key and an AccessKey were given.", do="Give one kind of credential.")
    if api_key is None and access_key is None and secret_key is None:
        api_key = given.get("KLINGAI_API_KEY") or None
        if api_key is None:
            access_key = given.get("KLINGAI_ACCESS_KEY") or None
            secret_key = given.get("KLINGAI_SECRET_KEY") or None
    if api_key is not None:
        return ApiKey(api_key)
    if access_key is not None and secret_key is not None:
        return KeyPair(access_key, secret_key)
    if access_key is not None or secret_key is not None:
        raise UsageError("Half a credential was given.", do="AccessKey and SecretKey belong together.")
    raise UsageError(
        "No Kling credential was given.",
        do="Pass api_key=…, or set KLINGAI_API_KEY, or KLINGAI_ACCESS_KEY and KLINGAI_SECRET_KEY.",
    )


def base_url_from(base_url: str | None = None, environment: Mapping[str, str] | None = None) -> str:
    """Choose the base URL: what is given, else KLINGAI_BASE_URL, else the documented host; no slash at the end.

    Raises: UsageError: not an http or https URL.
    """
    given = environment if environment is not None else os.environ
    chosen = (base_url or given.get("KLINGAI_BASE_URL") or DEFAULT_BASE_URL).rstrip("/")
    if not chosen.startswith(("https://", "http://")):
        raise UsageError("The base URL is not an http or https URL.", do="It looks like https://api.example.com.")
    return chosen


def _check(what: str, value: Any) -> None:
    if not isinstance(value, str) or not value:
        raise UsageError(f"{what} is empty or not text.")
    if not value.isascii() or not value.isprintable() or " " in value:
        raise UsageError(f"{what} holds characters that no header can carry.", do="Look for a stray blank or line end.")


def _issuer(token: str) -> str | None:
    parts = token.split(".")
    if len(parts) != 3:
        return None
    try:
        claims = msgspec.json.decode(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))
    except (msgspec.MsgspecError, UnicodeDecodeError, binascii.Error, ValueError, RecursionError):
        return None
    issuer = claims.get("iss") if isinstance(claims, dict) else None
    return issuer if isinstance(issuer, str) and issuer else None


def _base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode("ascii")
