"""Stops requests to Kling that leave without being recorded by any log.

It stands where requests leave: in the transports of httpx2 and httpx, in the pools of urllib3 (and so of requests), in
http.client (and so in urllib), in the connectors of aiohttp. There, a request is audited if a recorder's attempt covers
it. What never comes so far, because a mocking library took it out before, is not seen; use the simulator instead.
"""

from __future__ import annotations

import functools
import http.client
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from importlib import import_module
from importlib.util import find_spec
from typing import Any, Final
from unittest.mock import patch
from urllib.parse import urlsplit

from klingai_audit.capture.attempt import covering_attempt
from klingai_audit.capture.memory import Memory
from klingai_audit.kling.meaning import PROVIDER

__all__ = ["Unaudited", "UnauditedRequest", "refuse_unaudited"]

_TRANSPORTS: Final = ("HTTPTransport", "MockTransport", "WSGITransport")
_ASYNC_TRANSPORTS: Final = ("AsyncHTTPTransport", "MockTransport", "ASGITransport")


class UnauditedRequest(AssertionError):
    """A request to Kling was about to leave without being recorded. It names method, host and path, nothing else."""


class Unaudited:
    """The requests that were stopped, as `METHOD host/path`."""

    def __init__(self) -> None:
        self.requests: list[str] = []

    def __repr__(self) -> str:
        return f"Unaudited({self.requests})"

    def check(self, *, since: int = 0) -> None:
        """Raise UnauditedRequest if any was stopped from the `since`-th on, also if its error was swallowed."""
        if len(self.requests) > since:
            raise UnauditedRequest(_message(self.requests[since], len(self.requests) - since))

    def _look(self, method: str, url: str) -> None:
        if covering_attempt() is not None or PROVIDER.classify(method, url, Memory("")) is None:
            return
        parts = urlsplit(url)
        self.requests.append(f"{method} {parts.hostname}{parts.path}")
        raise UnauditedRequest(_message(self.requests[-1], 1))


@contextmanager
def refuse_unaudited() -> Iterator[Unaudited]:
    """While the block runs, let no request to Kling leave that no log records: it raises UnauditedRequest instead.

    To Kling are requests to its hosts, and those anywhere whose path is one of its API's, a simulator included. All
    threads of the process are watched. The block yields what was stopped; `check()` raises if anything was.
    """
    found = Unaudited()
    with ExitStack() as stack:
        for owner, name, around in _wires(found):
            original = getattr(owner, name)
            stack.enter_context(patch.object(owner, name, functools.wraps(original)(around(original))))
        yield found


def _message(request: str, count: int) -> str:
    more = f" (and {count - 1} more)" if count > 1 else ""
    return f"{request} was about to leave unaudited{more}. Give its client an audited transport: audit.attach(client)"


def _wires(found: Unaudited) -> Iterator[tuple[Any, str, Callable[[Any], Any]]]:
    """Yield class, method and wrapper for every place where requests leave."""
    look = found._look  # noqa: SLF001  one module, two halves

    def in_transport(original: Any) -> Any:
        def handle_request(self: Any, request: Any) -> Any:
            look(request.method, str(request.url))
            return original(self, request)

        return handle_request

    def in_async_transport(original: Any) -> Any:
        async def handle_async_request(self: Any, request: Any) -> Any:
            look(request.method, str(request.url))
            return await original(self, request)

        return handle_async_request

    def in_connection(original: Any) -> Any:
        def putrequest(self: Any, method: str, url: str, *rest: Any, **more: Any) -> Any:
            look(method, _absolute(self, url))
            return original(self, method, url, *rest, **more)

        return putrequest

    def in_pool(original: Any) -> Any:
        def urlopen(self: Any, method: str, url: str, *rest: Any, **more: Any) -> Any:
            look(method, url if "://" in url else f"{self.scheme}://{_bracketed(self.host)}{url}")
            return original(self, method, url, *rest, **more)

        return urlopen

    def in_connector(original: Any) -> Any:
        async def connect(self: Any, req: Any, *rest: Any, **more: Any) -> Any:
            look(req.method, str(req.url))
            return await original(self, req, *rest, **more)

        return connect

    for library in filter(find_spec, ("httpx2", "httpx")):
        module = import_module(library)
        for name in _TRANSPORTS:
            yield getattr(module, name), "handle_request", in_transport
        for name in _ASYNC_TRANSPORTS:
            yield getattr(module, name), "handle_async_request", in_async_transport
    yield http.client.HTTPConnection, "putrequest", in_connection
    if find_spec("urllib3"):
        yield import_module("urllib3").HTTPConnectionPool, "urlopen", in_pool
    if find_spec("aiohttp"):
        yield import_module("aiohttp").BaseConnector, "connect", in_connector


def _absolute(connection: Any, url: str) -> str:
    """Return the whole URL of a request, also through a tunnel or a proxy."""
    if "://" in url:
        return url
    host = getattr(connection, "_tunnel_host", None) or connection.host
    scheme = "https" if isinstance(connection, http.client.HTTPSConnection) else "http"
    return f"{scheme}://{_bracketed(host)}{url}"


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host and not host.startswith("[") else host
