"""Asking a time stamp authority over HTTP; nothing that it answers is believed unseen.

The reply is bounded in size and time, no redirect is followed, and a stamp counts only if it is over what was asked,
with the nonce that was sent. Source: RFC 3161 sections 2.4 and 3.4; needs the extra `trust`.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from klingai_audit.errors import InvalidSignature, Malformed, StorageError, UsageError
from klingai_audit.trust.authority import Roots, require_extra
from klingai_audit.trust.token import MAX_TOKEN_BYTES, Token, parse_status, parse_token

if TYPE_CHECKING:
    import httpx2

__all__ = ["TimeAuthority", "build_request"]

TIMEOUT: Final = 15.0
"""How long one request may take, in seconds."""

_QUERY: Final = "application/timestamp-query"
_REPLY: Final = "application/timestamp-reply"
_GRANTED: Final = (0, 1)
_LATER: Final = "Try again later, or name another authority with --tsa."


def build_request(data: bytes, *, nonce: bool = True) -> tuple[bytes, int | None]:
    """Return the TimeStampReq over the SHA-256 of `data` that asks for the certificate, and its nonce.

    Raises: MissingExtra.
    """
    library = require_extra()
    builder = library.TimestampRequestBuilder(data, library.HashAlgorithm.SHA256, nonce=nonce, cert_req=True)
    request = builder.build()
    return request.as_bytes(), request.nonce


class TimeAuthority:
    """One time stamp authority. Its stamps must lead to `roots` if these are given. `timeout` is in seconds."""

    def __init__(
        self,
        url: str,
        roots: Roots | None = None,
        *,
        timeout: float = TIMEOUT,
        http: Callable[[], httpx2.Client] | None = None,
    ) -> None:
        """Raises: UsageError for what is no address of an authority."""
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.username is not None:
            raise UsageError(
                "That is no address of a time stamp authority.", do="Give http://… or https://…, without credentials."
            )
        self.url = url
        self.name = parts.netloc
        self.roots = roots
        self._timeout = timeout
        self._http = http or self._default_http

    def stamp(self, data: bytes) -> tuple[bytes, Token]:
        """Have the SHA-256 of `data` stamped; returns the whole reply (TimeStampResp) and what it states.

        Raises: StorageError (no answer, or a refusal); Malformed, InvalidSignature (an answer that proves nothing);
        MissingExtra.
        """
        request, nonce = build_request(data)
        reply = self._post(request)
        try:
            status, _ = parse_status(reply)
            if status not in _GRANTED:
                raise StorageError(f"The time stamp authority {self.name} refuses (status {status}).", do=_LATER)
            token = parse_token(reply)
        except Malformed as exc:
            raise Malformed(f"{self.name} sent no time stamp: {exc.message}", do=_LATER) from exc
        digest = hashlib.sha256(data).digest()
        if token.digest != digest:
            raise InvalidSignature(f"{self.name} stamped something else.", do=_LATER)
        if token.nonce != nonce:
            raise InvalidSignature(f"{self.name} sent the answer to another request.", do=_LATER)
        if self.roots is not None:
            self.roots.verify(token, digest)
        return reply, token

    def _post(self, request: bytes) -> bytes:
        import httpx2

        headers = {"Content-Type": _QUERY, "Accept": _REPLY, "Accept-Encoding": "identity"}
        deadline = time.monotonic() + self._timeout
        try:
            with self._http() as http, http.stream("POST", self.url, content=request, headers=headers) as reply:
                kind = reply.headers.get("content-type", "").partition(";")[0].strip().lower()
                if reply.status_code != 200 or kind != _REPLY:
                    raise StorageError(
                        f"The time stamp authority {self.name} answers {reply.status_code}, not with a time stamp.",
                        do="Check the address; redirects are not followed.",
                    )
                return self._read(reply, deadline)
        except httpx2.HTTPError as exc:
            raise StorageError(
                f"The time stamp authority {self.name} cannot be reached: {type(exc).__name__}.", do=_LATER
            ) from exc

    def _read(self, reply: httpx2.Response, deadline: float) -> bytes:
        got = bytearray()
        for chunk in reply.iter_raw():
            got += chunk
            if len(got) > MAX_TOKEN_BYTES:
                raise StorageError(
                    f"The time stamp authority {self.name} answers more than {MAX_TOKEN_BYTES} bytes.", do=_LATER
                )
            if time.monotonic() > deadline:
                raise StorageError(
                    f"The time stamp authority {self.name} gave no whole answer within {self._timeout:g} s.", do=_LATER
                )
        return bytes(got)

    def _default_http(self) -> httpx2.Client:
        import httpx2

        return httpx2.Client(timeout=self._timeout, follow_redirects=False)
