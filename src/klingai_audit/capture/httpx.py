"""Audited transports for httpx2 and httpx: every request that is the provider's becomes entries.

The transport is the place where everything passes: redirect hops, proxies, mounts, streamed and loaded bodies,
failures before and after the request has left. Redirects are separate calls here and one act in the log.
What a transport cannot see: retries of the connection inside `HTTPTransport(retries=…)`, and what
a client reads from a cache. Source: the transports of httpx2 (`_transports`, `_client`).
"""

from __future__ import annotations

import contextvars
from types import ModuleType
from typing import Any, Final

import httpx2

from klingai_audit.capture.attempt import Attempt, Mark
from klingai_audit.capture.facts import Operation, RequestFacts
from klingai_audit.capture.recorder import Recorder
from klingai_audit.capture.watch import (
    Watch,
    library_of,
    loaded_content,
    read_body,
    read_body_async,
    watched_stream,
)
from klingai_audit.errors import UsageError

__all__ = ["MARK", "AsyncAuditedTransport", "AuditedTransport", "EitherTransport", "attach_client", "audited_transport"]

MARK: Final = "klingai_audit"
"""Name under which a request's `extensions` carry a `Mark`, which redirected requests inherit."""

_nesting: Final[contextvars.ContextVar[tuple[Mark, int] | None]] = contextvars.ContextVar(
    "klingai_audit_nesting", default=None
)


class _Audited:
    """What the sync and the async transport share: everything but waiting."""

    def __init__(self, inner: Any, recorder: Recorder) -> None:
        self.inner = inner
        self.recorder = recorder
        self._made: dict[tuple[str, bool], Any] = {}

    def _inner_for(self, request: Any, *, asynchronous: bool) -> Any:
        """The given inner transport, or one made from the library whose request arrives."""
        if self.inner is not None:
            return self.inner
        library = library_of(request)
        key = (library.__name__, asynchronous)
        if key not in self._made:
            self._made[key] = _transport_class(library, asynchronous=asynchronous)()
        return self._made[key]

    def _recognise(self, request: Any) -> tuple[Operation | None, Mark, Attempt | None]:
        """What the request is for, what its caller said of it, and the attempt whose redirect it follows."""
        given = request.extensions.get(MARK)
        if isinstance(given, Mark):
            waiting = given.attempts.get(_level(given))
            if waiting is not None and waiting.waits_for_hop and not waiting.ended:
                waiting.next_hop()
                return waiting.operation, given, waiting
            return given.operation or self.recorder.recognise(request.method, str(request.url)), given, None
        return self.recorder.recognise(request.method, str(request.url)), Mark(), None

    @staticmethod
    def _facts(request: Any, body: bytes | None, size: int) -> RequestFacts:
        headers = dict(request.headers.items())  # name by name would walk all of them for each
        return RequestFacts(method=request.method, url=str(request.url), headers=headers, body=body, body_bytes=size)

    @staticmethod
    def _began(request: Any, mark: Mark, attempt: Attempt) -> None:
        mark.attempts[_level(mark)] = attempt
        request.extensions[MARK] = mark


class AuditedTransport(_Audited, httpx2.BaseTransport):
    """Records what passes through `inner` (None: a plain transport of the library whose request arrives)."""

    def handle_request(self, request: Any) -> Any:
        """Send one request; its intent is durable before the first byte leaves. Raises: AuditUnavailable."""
        inner = self._inner_for(request, asynchronous=False)
        operation, mark, attempt = self._recognise(request)
        if operation is None:
            return inner.handle_request(request)
        if attempt is None:
            attempt = self.recorder.begin(self._facts(request, *read_body(request)), operation, mark)
            if attempt is None:
                return inner.handle_request(request)
            self._began(request, mark, attempt)
        token = _nesting.set((mark, _level(mark)))
        try:
            with attempt.covering():
                response = inner.handle_request(request)
        except BaseException as exc:
            attempt.failed(exc)
            raise
        finally:
            _nesting.reset(token)
        watch = Watch(attempt, response)
        content = loaded_content(response)
        if content is None:
            attempt.left_open()
            response.stream = watched_stream(response, watch, asynchronous=False)
        else:
            attempt.finished(watch.loaded(content))
        return response

    def close(self) -> None:
        """Close the inner transport."""
        for inner in (self.inner, *self._made.values()):
            if inner is not None and hasattr(inner, "close"):
                inner.close()


class AsyncAuditedTransport(_Audited, httpx2.AsyncBaseTransport):
    """Records what passes through `inner`, without blocking the loop."""

    async def handle_async_request(self, request: Any) -> Any:
        """Send one request; its intent is durable before the first byte leaves. Raises: AuditUnavailable."""
        inner = self._inner_for(request, asynchronous=True)
        operation, mark, attempt = self._recognise(request)
        if operation is None:
            return await inner.handle_async_request(request)
        if attempt is None:
            attempt = await self.recorder.abegin(self._facts(request, *await read_body_async(request)), operation, mark)
            if attempt is None:
                return await inner.handle_async_request(request)
            self._began(request, mark, attempt)
        token = _nesting.set((mark, _level(mark)))
        try:
            with attempt.covering():
                response = await inner.handle_async_request(request)
        except BaseException as exc:
            attempt.failed(exc)
            raise
        finally:
            _nesting.reset(token)
        watch = Watch(attempt, response)
        content = loaded_content(response)
        if content is None:
            attempt.left_open()
            response.stream = watched_stream(response, watch, asynchronous=True)
        else:
            attempt.finished(watch.loaded(content))
        return response

    async def aclose(self) -> None:
        """Close the inner transport."""
        for inner in (self.inner, *self._made.values()):
            if inner is not None and hasattr(inner, "aclose"):
                await inner.aclose()


class EitherTransport(AuditedTransport, AsyncAuditedTransport):
    """For a client of either kind: the arriving call decides."""


def audited_transport(
    recorder: Recorder, inner: Any = None
) -> AuditedTransport | AsyncAuditedTransport | EitherTransport:
    """Wrap a transport for clients that are composed by hand.

    With `inner` None the wire is reached through the library whose request arrives, without the proxies of the
    environment: httpx leaves those out for every client with a transport of its own.
    """
    blocking, coroutine = hasattr(inner, "handle_request"), hasattr(inner, "handle_async_request")
    if inner is None or (blocking and coroutine):
        return EitherTransport(inner, recorder)
    if not (blocking or coroutine):
        raise UsageError("this is not a transport of httpx2 or httpx: it handles no request")
    return AuditedTransport(inner, recorder) if blocking else AsyncAuditedTransport(inner, recorder)


def attach_client(client: Any, recorder: Recorder) -> None:
    """Audit an existing client in place: its transport, and that of every mount and proxy.

    `client` is a `Client` or `AsyncClient` of httpx2 or httpx. Attaching twice changes nothing.
    Raises: UsageError: it has no transports that can be wrapped.
    """
    transport = getattr(client, "_transport", None)
    mounts = getattr(client, "_mounts", None)
    if transport is None or not isinstance(mounts, dict):
        raise UsageError(
            "this is not a Client or AsyncClient of httpx2 or httpx: it has no transports to wrap",
            do="Build the client with transport=audit.httpx_transport(inner).",
        )
    wrap = AsyncAuditedTransport if hasattr(client, "aclose") else AuditedTransport

    def audited(inner: Any) -> Any:
        same = isinstance(inner, _Audited) and inner.recorder.sink is recorder.sink
        return inner if inner is None or same else wrap(inner, recorder)

    client._transport = audited(transport)  # noqa: SLF001  httpx offers no other way to a client that exists
    client._mounts = {pattern: audited(inner) for pattern, inner in mounts.items()}  # noqa: SLF001  as above


def _level(mark: Mark) -> int:
    """How many audited transports this request is inside of already."""
    nesting = _nesting.get()
    return nesting[1] + 1 if nesting is not None and nesting[0] is mark else 0


def _transport_class(library: ModuleType, *, asynchronous: bool) -> Any:
    return library.AsyncHTTPTransport if asynchronous else library.HTTPTransport
