"""Looks at reply and request bodies while they pass, for httpx2 and httpx alike; no I/O of its own.

Replies that are read as JSON are kept up to `MAX_REPLY_BYTES`; downloads are hashed chunk by chunk as they
are handed on. Nothing is read that the caller does not read.
"""

from __future__ import annotations

import functools
import hashlib
import sys
import weakref
import zlib
from collections.abc import AsyncIterator, Iterator
from types import ModuleType
from typing import Any, Final

from klingai_audit.capture.attempt import Attempt
from klingai_audit.capture.facts import Exchange, Media

__all__ = [
    "MAX_REPLY_BYTES",
    "MAX_REQUEST_BYTES",
    "Watch",
    "chained_stream",
    "library_of",
    "loaded_content",
    "read_body",
    "read_body_async",
    "watched_stream",
]

MAX_REPLY_BYTES: Final = 8 * 1024 * 1024
"""Longest reply that is interpreted, before and after decoding; a page of 500 tasks has about 1 MiB."""

MAX_REQUEST_BYTES: Final = 64 * 1024 * 1024
"""Longest streamed request body that is read before it is sent; of longer ones only the beginning is seen."""

REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})
_SLICE: Final = 4096
_ANY_ZLIB: Final = 47  # zlib and gzip headers, told apart by zlib itself


def library_of(message: object) -> ModuleType:
    """The library, httpx2 or httpx, that a request, response, stream or client is made of."""
    for cls in type(message).__mro__:
        root = cls.__module__.partition(".")[0]
        if root in {"httpx2", "httpx"}:
            return sys.modules[root]
    return sys.modules["httpx2"]


def loaded_content(message: Any) -> bytes | None:
    """The decoded body of a request or response that has been read, else None."""
    try:
        content: bytes = message.content
    except RuntimeError:  # RequestNotRead, ResponseNotRead
        return None
    return content


class Watch:
    """Takes in one reply and says how it ended. The methods that end it return None if a redirect may follow."""

    def __init__(self, attempt: Attempt, response: Any) -> None:
        self.attempt = attempt
        self._response = weakref.ref(response)
        self._library = library_of(response)
        self._status: int = response.status_code
        self._headers: dict[str, str] = dict(response.headers.items())
        lower = {name.lower(): value for name, value in self._headers.items()}
        self._encoding = lower.get("content-encoding", "").strip().lower()
        self._type = lower.get("content-type")
        self._length = int(lower["content-length"]) if lower.get("content-length", "").isdecimal() else None
        self._redirects = self._status in REDIRECTS and "location" in lower
        delivers = attempt.operation.kind == "download" and 200 <= self._status < 300
        self._digest = _Digest(self._encoding) if delivers else None
        self._kept: list[bytes] = []
        self._seen = 0
        self.over = False

    def feed(self, chunk: bytes) -> None:
        """Take in the next bytes as they come from the wire."""
        self._seen += len(chunk)
        if self._digest is not None:
            self._digest.feed(chunk)
        elif self._seen <= MAX_REPLY_BYTES:
            self._kept.append(chunk)

    def loaded(self, content: bytes) -> Exchange | None:
        """A reply that arrived whole and decoded."""
        if self._redirects:
            self.attempt.await_hop()
            return None
        if self._digest is None:
            body = content if len(content) <= MAX_REPLY_BYTES else None
            return self.attempt.reply(self._status, self._headers, body=body, truncated=body is None)
        self._digest = _Digest("")
        self._digest.feed(content)
        return self.attempt.reply(self._status, self._headers, media=self._digest.media(self._type, complete=True))

    def ended(self) -> Exchange | None:
        """The body has been read to its end."""
        self.over = True
        if self._redirects and not self._stops_here():
            self.attempt.await_hop()
            return None
        return self._whole()

    def broken(self, exc: BaseException) -> Exchange:
        """Reading failed, or was cancelled."""
        self.over = True
        return self._partial(type(exc).__name__)

    def closed(self) -> Exchange | None:
        """The caller is done; early, unless all bytes that were announced have been read."""
        self.over = True
        if self._redirects:
            return self.ended()
        unwanted = self.attempt.operation.kind == "download" and self._digest is None  # an error page says nothing
        return self._whole() if unwanted or self._seen == self._length else self._partial("ClosedEarly")

    def _whole(self) -> Exchange:
        if self._digest is not None:
            return self.attempt.reply(self._status, self._headers, media=self._digest.media(self._type, complete=True))
        body = None
        if self._seen <= MAX_REPLY_BYTES:
            body = _decoded(self._library, self._encoding, b"".join(self._kept))
        return self.attempt.reply(self._status, self._headers, body=body, truncated=self._seen > MAX_REPLY_BYTES)

    def _partial(self, error: str) -> Exchange:
        media = None if self._digest is None else self._digest.media(self._type, complete=False)
        return self.attempt.reply(self._status, self._headers, media=media, error=error)

    def _stops_here(self) -> bool:
        """Clients that will not follow a redirect say so on the response before they read it."""
        response = self._response()
        return response is None or getattr(response, "next_request", None) is not None


class _Digest:
    """SHA-256 of a file as the caller gets it: decoded where the standard library can, else as sent."""

    def __init__(self, encoding: str) -> None:
        self._encoding = encoding if encoding not in {"", "identity"} else ""
        self._raw = hashlib.sha256()
        self._raw_bytes = 0
        self._inflate = zlib.decompressobj(_ANY_ZLIB) if self._encoding in {"gzip", "x-gzip", "deflate"} else None
        self._plain = hashlib.sha256()
        self._plain_bytes = 0

    def feed(self, chunk: bytes) -> None:
        self._raw.update(chunk)
        self._raw_bytes += len(chunk)
        while self._inflate is not None and chunk:
            try:
                plain = self._inflate.decompress(chunk, MAX_REPLY_BYTES)
            except zlib.error:
                self._inflate = None
                return
            self._plain.update(plain)
            self._plain_bytes += len(plain)
            chunk = self._inflate.unconsumed_tail

    def media(self, type_: str | None, *, complete: bool) -> Media:
        if self._encoding and self._inflate is not None:
            return Media(
                sha256=self._plain.hexdigest(), bytes=self._plain_bytes, type=type_,
                complete=complete and self._inflate.eof,
            )  # fmt: skip
        return Media(
            sha256=self._raw.hexdigest(), bytes=self._raw_bytes, type=type_, encoding=self._encoding or None,
            complete=complete,
        )  # fmt: skip


def _decoded(library: ModuleType, encoding: str, raw: bytes) -> bytes | None:
    """Undo the content encoding with the library's own decoders, in small steps against exploding replies."""
    if encoding in {"", "identity"}:
        return raw
    stream = _classes(library).Sliced(raw)
    response = library.Response(200, headers={"content-encoding": encoding}, stream=stream)
    parts, size = [], 0
    try:
        for part in response.iter_bytes():
            parts.append(part)
            size += len(part)
            if size > MAX_REPLY_BYTES:
                return None
    except library.DecodingError:
        return None
    return b"".join(parts)


def read_body(request: Any) -> tuple[bytes | None, int]:
    """The request's body, read from its stream if need be and put back; None and the bytes seen if it is too long."""
    content = loaded_content(request)
    if content is not None:
        return content, len(content)
    chunks: list[bytes] = []
    size = 0
    iterator = iter(request.stream)
    for chunk in iterator:
        chunks.append(chunk)
        size += len(chunk)
        if size > MAX_REQUEST_BYTES:
            request.stream = chained_stream(library_of(request), chunks, rest=iterator)
            return None, size
    return _put_back(request, chunks), size


async def read_body_async(request: Any) -> tuple[bytes | None, int]:
    """Do the same for a request of an async client."""
    content = loaded_content(request)
    if content is not None:
        return content, len(content)
    chunks: list[bytes] = []
    size = 0
    iterator = aiter(request.stream)
    async for chunk in iterator:
        chunks.append(chunk)
        size += len(chunk)
        if size > MAX_REQUEST_BYTES:
            request.stream = chained_stream(library_of(request), chunks, rest_async=iterator)
            return None, size
    return _put_back(request, chunks), size


def _put_back(request: Any, chunks: list[bytes]) -> bytes:
    body = b"".join(chunks)
    request.stream = library_of(request).ByteStream(body)
    return body


def watched_stream(response: Any, watch: Watch, *, asynchronous: bool) -> Any:
    """Wrap a response's stream so that `watch` sees what passes and the attempt ends with it."""
    classes = _classes(library_of(response))
    return (classes.WatchedAsync if asynchronous else classes.Watched)(response.stream, watch)


def chained_stream(
    library: ModuleType,
    chunks: list[bytes],
    *,
    rest: Iterator[bytes] | None = None,
    rest_async: AsyncIterator[bytes] | None = None,
) -> Any:
    """A request stream of what was read already, followed by the rest."""
    classes = _classes(library)
    return classes.ChainedAsync(chunks, rest_async) if rest_async is not None else classes.Chained(chunks, rest)


@functools.cache
def _classes(library: ModuleType) -> Any:
    """The stream classes on top of one library's base classes, which its clients insist on."""

    class Watched(library.SyncByteStream):  # type: ignore[misc,name-defined]
        def __init__(self, inner: Any, watch: Watch) -> None:
            self._inner, self._watch = inner, watch

        def __iter__(self) -> Iterator[bytes]:
            try:
                for chunk in self._inner:
                    self._watch.feed(chunk)
                    yield chunk
            except GeneratorExit:
                raise  # the caller stopped reading; `close` follows
            except BaseException as exc:
                self._watch.attempt.finished(self._watch.broken(exc))
                raise
            self._watch.attempt.finished(self._watch.ended())

        def close(self) -> None:
            try:
                self._inner.close()
            finally:
                if not self._watch.over:
                    self._watch.attempt.finished(self._watch.closed())

    class WatchedAsync(library.AsyncByteStream):  # type: ignore[misc,name-defined]
        def __init__(self, inner: Any, watch: Watch) -> None:
            self._inner, self._watch = inner, watch

        async def __aiter__(self) -> AsyncIterator[bytes]:
            try:
                async for chunk in self._inner:
                    self._watch.feed(chunk)
                    yield chunk
            except GeneratorExit:
                raise
            except BaseException as exc:
                self._watch.attempt.finished(self._watch.broken(exc))
                raise
            self._watch.attempt.finished(self._watch.ended())

        async def aclose(self) -> None:
            try:
                await self._inner.aclose()
            finally:
                if not self._watch.over:
                    self._watch.attempt.finished(self._watch.closed())

    class Chained(library.SyncByteStream):  # type: ignore[misc,name-defined]
        def __init__(self, chunks: list[bytes], rest: Iterator[bytes] | None) -> None:
            self._chunks, self._rest = chunks, rest

        def __iter__(self) -> Iterator[bytes]:
            while self._chunks:
                yield self._chunks.pop(0)
            yield from self._rest or ()

    class ChainedAsync(library.AsyncByteStream):  # type: ignore[misc,name-defined]
        def __init__(self, chunks: list[bytes], rest: AsyncIterator[bytes]) -> None:
            self._chunks, self._rest = chunks, rest

        async def __aiter__(self) -> AsyncIterator[bytes]:
            while self._chunks:
                yield self._chunks.pop(0)
            async for chunk in self._rest:
                yield chunk

    class Sliced(library.SyncByteStream):  # type: ignore[misc,name-defined]
        def __init__(self, raw: bytes) -> None:
            self._raw = raw

        def __iter__(self) -> Iterator[bytes]:
            for start in range(0, len(self._raw), _SLICE):
                yield self._raw[start : start + _SLICE]

    class Classes:
        pass

    for cls in (Watched, WatchedAsync, Chained, ChainedAsync, Sliced):
        setattr(Classes, cls.__name__, cls)
    return Classes
