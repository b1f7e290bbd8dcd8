"""Audited sessions of aiohttp: every request that is the provider's becomes entries.

A client middleware, put behind those of the session and of the call, so that it sees what they send and each
redirect hop. Replies are seen while the caller reads them; only an error's reply is read at once, because callers
that raise for the status never read it. Never blocks the loop.
Not seen: request bodies from files that cannot be rewound (they are sent, not committed to).
Source: aiohttp 3.14 (`client`, `client_reqrep`, `streams`).
"""

from __future__ import annotations

import contextvars
import functools
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable
from importlib import import_module
from typing import Any, Final

from klingai_audit.capture import watch as limits
from klingai_audit.capture.attempt import was_sent
from klingai_audit.capture.facts import RequestFacts
from klingai_audit.capture.recorder import Recorder
from klingai_audit.capture.trail import HopWatch, Trail
from klingai_audit.errors import UsageError

__all__ = ["attach_session", "audited_request", "check_version"]

_NOT_SENT: Final = frozenset({"ClientConnectorError", "ClientHttpProxyError", "ConnectionTimeoutError", "InvalidURL"})
"""Names of exceptions (of aiohttp) after which no byte of the request can have reached the provider."""

_UPGRADE: Final = "Install aiohttp 3.12.2 or later."
_ERROR: Final = 400
_SWITCHING: Final = 101

_Handler = Callable[[Any], Awaitable[Any]]


class _Call:
    """One outermost call of a session: the trail of its redirects, and whether it undoes content encodings."""

    def __init__(self, *, decodes: bool) -> None:
        self.trail = Trail()
        self.decodes = decodes


_call: Final[contextvars.ContextVar[_Call | None]] = contextvars.ContextVar("klingai_audit_call", default=None)


def check_version(kind: Any) -> None:
    """Refuse a class of sessions of an aiohttp that cannot be audited, and what is no session. Raises: UsageError."""
    home = next((cls for cls in kind.__mro__ if cls.__module__.partition(".")[0] == "aiohttp"), kind)
    sends = getattr(home, "_request", None)  # all methods of a session end there
    if sends is None and not hasattr(home, "request"):
        raise UsageError(
            f"{kind.__name__} is no session of aiohttp.", do="Give audit.attach(…) an aiohttp.ClientSession."
        )
    if "middlewares" not in _parameters(sends):
        raise UsageError(
            "This version of aiohttp has no client middlewares, so that its requests cannot be audited.", do=_UPGRADE
        )
    payload = getattr(import_module("aiohttp"), "payload", None)
    if not hasattr(getattr(payload, "Payload", None), "as_bytes"):
        raise UsageError(
            "This version of aiohttp does not show its middlewares what it sends, so that it cannot be audited.",
            do=_UPGRADE,
        )


def _parameters(function: Any) -> frozenset[str]:
    """The names of a function's parameters; none for what has no signature, or is no function."""
    try:
        return frozenset(inspect.signature(function).parameters)
    except (TypeError, ValueError):
        return frozenset()


def attach_session(session: Any, recorder: Recorder) -> None:
    """Audit an existing `aiohttp.ClientSession` in place; attaching twice changes nothing. Raises: UsageError."""
    check_version(type(session))
    attached = vars(session).setdefault("_klingai_audit", [])
    if any(sink is recorder.sink for sink in attached):
        return
    attached.append(recorder.sink)
    original = session._request  # noqa: SLF001  all methods of a session end there

    @functools.wraps(original)
    async def request(*args: Any, **kwargs: Any) -> Any:
        return await audited_request(session, original, recorder, args, kwargs)

    object.__setattr__(session, "_request", request)


async def audited_request(
    session: Any, original: Callable[..., Awaitable[Any]], recorder: Recorder, args: Any, kwargs: dict[str, Any]
) -> Any:
    """Run a session's `_request` with the audit behind all middlewares; ends what its redirects left open."""
    given = kwargs.get("middlewares")
    others = session._middlewares if given is None else given  # noqa: SLF001  those of a call replace the session's
    kwargs["middlewares"] = (*others, functools.partial(_audit, recorder))
    decodes = kwargs.get("auto_decompress")
    call = _Call(decodes=session.auto_decompress if decodes is None else decodes)
    token = _call.set(call)
    try:
        return await original(*args, **kwargs)
    finally:
        _call.reset(token)
        await call.trail.asettle()


async def _audit(recorder: Recorder, request: Any, handler: _Handler) -> Any:
    """The middleware: the intent is durable before the first byte leaves. Raises: AuditUnavailable."""
    call = _call.get() or _Call(decodes=True)
    attempt = call.trail.follow(recorder.sink)
    url = str(request.url)
    operation = attempt.operation if attempt else recorder.recognise(request.method, url)
    if operation is None:
        return await handler(request)
    if attempt is None:
        body, size = await _read_body(request)
        headers = dict(request.headers)
        facts = RequestFacts(method=request.method, url=url, headers=headers, body=body, body_bytes=size)
        attempt = await recorder.abegin(facts, operation)
        if attempt is None:
            return await handler(request)
    try:
        with attempt.covering():
            response = await handler(request)
    except BaseException as exc:
        attempt.failed(exc, sent=was_sent(exc, _NOT_SENT))
        raise
    if not attempt.ended:  # by an inner capture of the same act
        watch = HopWatch(attempt, _Status(response))
        if call.decodes:
            watch.reads_decoded()
        call.trail.wait(recorder.sink, attempt, watch)
        await _watch_reply(recorder, response, watch)
    return response


class _Status:
    """A reply as a watch wants it."""

    def __init__(self, response: Any) -> None:
        self.status_code = response.status
        self.headers = response.headers


async def _watch_reply(recorder: Recorder, response: Any, watch: HopWatch) -> None:
    attempt = watch.attempt
    if response.status == _SWITCHING or response.content.at_eof():
        attempt.finished(watch.ended())
        return
    attempt.left_open()
    _watch_end(recorder, response, watch)
    response.content = _Content(response.content, watch)
    if response.status >= _ERROR and attempt.operation.kind != "download":
        await _read_now(response)


async def _read_now(response: Any) -> None:
    """Read an error's reply and put it back; a failure to read it is the caller's to meet."""
    if (response.content_length or 0) > limits.MAX_REPLY_BYTES:
        return
    watched = response.content
    try:
        body = await watched.read()
    except Exception:  # noqa: BLE001  recorded, and raised again by the same content when the caller reads
        return
    loop = response._loop  # noqa: SLF001  the loop that the response belongs to
    protocol = import_module("aiohttp.base_protocol").BaseProtocol(loop)
    content = import_module("aiohttp").StreamReader(protocol, len(body) + 1, loop=loop)
    if body:
        content.feed_data(body)
    content.feed_eof()
    response.content = content


def _watch_end(recorder: Recorder, response: Any, watch: HopWatch) -> None:
    """See a reply that is let go of before it has been read; that cannot wait for the disk."""

    def ending(original: Callable[[], Any]) -> Callable[[], Any]:
        @functools.wraps(original)
        def end() -> Any:
            try:
                return original()
            finally:
                if not watch.over:
                    recorder.desk.post(watch.attempt.conclude(watch.closed()))

        return end

    response.release, response.close = ending(response.release), ending(response.close)


class _Content:
    """The stream of a reply; what is read from it is seen, everything else is the stream's own."""

    def __init__(self, inner: Any, watch: HopWatch) -> None:
        self._inner = inner
        self._watch = watch

    async def read(self, n: int = -1) -> bytes:
        return bytes(await self._seen(self._inner.read(n)))

    async def readany(self) -> bytes:
        return bytes(await self._seen(self._inner.readany()))

    async def readline(self, **limit: Any) -> bytes:
        return bytes(await self._seen(self._inner.readline(**limit)))

    async def readuntil(self, *separator: bytes, **limit: Any) -> bytes:
        return bytes(await self._seen(self._inner.readuntil(*separator, **limit)))

    async def readexactly(self, n: int) -> bytes:
        return bytes(await self._seen(self._inner.readexactly(n)))

    async def readchunk(self) -> Any:
        return await self._seen(self._inner.readchunk())

    def read_nowait(self, n: int = -1) -> bytes:
        data: bytes = self._inner.read_nowait(n)
        self._watch.feed(data)
        return data

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while line := await self.readline():
            yield line

    async def iter_chunked(self, n: int) -> AsyncIterator[bytes]:
        while chunk := await self.read(n):
            yield chunk

    async def iter_any(self) -> AsyncIterator[bytes]:
        while chunk := await self.readany():
            yield chunk

    async def iter_chunks(self) -> AsyncIterator[tuple[bytes, bool]]:
        while (pair := await self.readchunk()) != (b"", False):
            yield pair

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    async def _seen(self, reading: Awaitable[Any]) -> Any:
        watch = self._watch
        try:
            data = await reading
        except BaseException as exc:
            if not watch.over:
                watch.attempt.finished(watch.broken(exc))
            raise
        if not watch.over:
            watch.feed(data[0] if isinstance(data, tuple) else data)
            if self._inner.at_eof():
                watch.attempt.finished(watch.ended())
        return data


async def _read_body(request: Any) -> tuple[bytes | None, int]:
    """The request's body as it will be sent; None and what is known of its length if it cannot be read here."""
    body = request.body
    if not body:
        return b"", 0
    size: int | None = body.size
    if hasattr(body, "_iter"):
        return await _read_iterable(body)
    file = getattr(body, "_value", None)
    fixed = isinstance(file, str | bytes | bytearray | memoryview) or not hasattr(file, "read")
    if size is None or size > limits.MAX_REQUEST_BYTES or not (fixed or _rewinds(file)):
        return None, size or 0
    data: bytes = await body.as_bytes()
    return data, len(data)


async def _read_iterable(body: Any) -> tuple[bytes | None, int]:
    """Read an asynchronous body; it keeps what was read, as after its own `as_bytes`, or gets it back in front."""
    if body._iter is None:  # noqa: SLF001  read already, and kept
        data: bytes = await body.as_bytes()
        return data, len(data)
    chunks: list[bytes] = []
    size = 0
    iterator = body._iter  # noqa: SLF001  a body that is read whole could not be kept small
    async for chunk in iterator:
        chunks.append(chunk)
        size += len(chunk)
        if size > limits.MAX_REQUEST_BYTES:
            body._iter = _chained(chunks, iterator)  # noqa: SLF001  as above
            return None, size
    body._iter, body._cached_chunks = None, chunks  # noqa: SLF001  what `as_bytes` leaves behind
    return b"".join(chunks), size


async def _chained(chunks: list[bytes], rest: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    while chunks:
        yield chunks.pop(0)
    async for chunk in rest:
        yield chunk


def _rewinds(file: Any) -> bool:
    try:
        return bool(file.seekable())
    except (AttributeError, OSError, ValueError):
        return False
