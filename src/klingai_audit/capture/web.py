"""Who acts, taken from the web request that is being served: middleware for ASGI and WSGI.

A middleware authenticates nobody. It asks, behind whatever does, who the user is, and binds that with `acting` for
the time of the request, streamed answers and background tasks included.
"""

from __future__ import annotations

import contextlib
import contextvars
import inspect
import ipaddress
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping
from typing import Any, Final

from klingai_audit.errors import UsageError
from klingai_audit.event.context import UNKNOWN_ACTOR, acting, current

__all__ = ["ActingASGI", "ActingWSGI", "signed_in"]

_CORRELATION: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:=+/-]{0,127}").fullmatch
_CORRELATION_HEADERS: Final = ("x-request-id", "x-correlation-id")
_FORWARDED: Final = "x-forwarded-for"
MAX_FORWARDED: Final = 20
"""Hops of `X-Forwarded-For` that are looked at, from the nearest."""

_Scope = MutableMapping[str, Any]


def signed_in(actor_id: str, **more: Any) -> acting:
    """Bind the user whom a handler has authenticated itself, keeping what the middleware knows of the request.

    Takes what `acting` takes; use it like that: `with signed_in(user.email, team=user.team):`.
    """
    former = current()
    if former is not None:
        known = {"ip": former.ip_address, "user_agent": former.user_agent, "correlation_id": former.correlation_id}
        more = {**{name: value for name, value in known.items() if value is not None}, **more}
    return acting(actor_id, **more)


class _Acting:
    """What both middlewares do: from a request to the arguments of `acting`."""

    def __init__(
        self,
        app: Any,
        user: str | Callable[[MutableMapping[str, Any]], Any] | None = None,
        *,
        trusted_proxies: Iterable[str] = (),
        correlation_headers: Iterable[str] = _CORRELATION_HEADERS,
    ) -> None:
        """Take the application and who its user is; see the classes. Raises: UsageError."""
        self.app = app
        self._user = user
        self._correlation = tuple(name.lower() for name in correlation_headers)
        try:
            self._proxies = tuple(ipaddress.ip_network(proxy) for proxy in trusted_proxies)
        except ValueError as exc:
            raise UsageError("trusted_proxies holds what is no address and no network.") from exc

    def _who(self, found: Any, headers: Mapping[str, str], peer: str | None) -> acting:
        """Build the binding; a user nobody knows is `unknown`, with the address all the same."""
        given = dict(found) if isinstance(found, Mapping) else {"actor_id": found}
        if not given.get("actor_id"):
            given = {"actor_id": UNKNOWN_ACTOR, "actor_type": "system"}
        named = (headers.get(name, "") for name in self._correlation)
        about = {
            "ip": self._address(peer, headers.get(_FORWARDED, "")),
            "user_agent": headers.get("user-agent") or None,
            "correlation_id": next((value for value in named if _CORRELATION(value)), None),
        }
        return acting(**{**about, **given, "actor_id": str(given["actor_id"])})

    def _address(self, peer: str | None, forwarded: str) -> str | None:
        """The nearest address that is none of the trusted proxies; a peer that is no address is nobody's."""
        hops = [part.strip() for part in forwarded.split(",")] if forwarded else []
        believed = None
        for hop in [peer, *reversed(hops[-MAX_FORWARDED:])]:
            try:
                address = ipaddress.ip_address(hop or "")
            except ValueError:
                break
            believed = str(address)
            if not any(address in network for network in self._proxies):
                break
        return believed


class ActingASGI(_Acting):
    """ASGI middleware: binds who acts for each HTTP request and WebSocket connection.

    `user`: the name of a header that a trusted front sets, or a function of the ASGI scope, also an `async` one, that
    returns an id, a mapping of `acting`'s arguments, or None for nobody; default: `scope["user"]`, as Starlette's
    authentication leaves it. `trusted_proxies`: addresses or networks whose `X-Forwarded-For` is believed.
    `correlation_headers`: whose value becomes the correlation id, the first that there is.
    Raises: UsageError: one of `trusted_proxies` is neither address nor network.
    """

    async def __call__(self, scope: _Scope, receive: Any, send: Any) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope.get("headers", ())}
        if isinstance(self._user, str):
            found: Any = headers.get(self._user.lower())
        else:
            found = (self._user or _scope_user)(scope)
            if inspect.isawaitable(found):
                found = await found
        client = scope.get("client")
        async with self._who(found, headers, client[0] if client else None):
            await self.app(scope, receive, send)


class ActingWSGI(_Acting):
    """WSGI middleware: binds who acts for each request, also while its answer is iterated.

    `user` is a header's name, or a function of the WSGI environment; default: `REMOTE_USER`. The rest is that of
    `ActingASGI`. The application runs in a copy of the server's context.
    Raises: UsageError: one of `trusted_proxies` is neither address nor network.
    """

    def __call__(self, environ: _Scope, start_response: Any) -> Iterable[bytes]:
        headers = {
            name[5:].replace("_", "-").lower(): value for name, value in environ.items() if name.startswith("HTTP_")
        }
        if isinstance(self._user, str):
            found: Any = headers.get(self._user.lower())
        else:
            found = (self._user or _remote_user)(environ)
        context = contextvars.copy_context()
        context.run(self._who(found, headers, environ.get("REMOTE_ADDR")).__enter__)  # left with the context
        answer = context.run(self.app, environ, start_response)
        file_wrapper = environ.get("wsgi.file_wrapper")
        sends_file = isinstance(file_wrapper, type) and isinstance(answer, file_wrapper)
        return answer if sends_file or isinstance(answer, list | tuple) else _Answer(answer, context)


class _Answer:
    """An application's answer, iterated and closed in the context that it was made in."""

    def __init__(self, answer: Iterable[bytes], context: contextvars.Context) -> None:
        self._context = context
        self._answer = answer
        self._parts: Iterator[bytes] = context.run(iter, answer)

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        return self._context.run(next, self._parts)

    def close(self) -> None:
        close = getattr(self._answer, "close", None)
        if close is not None:
            self._context.run(close)


def _scope_user(scope: _Scope) -> Any:
    user = scope.get("user")
    if user is None or not getattr(user, "is_authenticated", True):
        return None
    for name in ("identity", "username", "display_name"):
        found = None
        with contextlib.suppress(Exception):  # Starlette's base class has all three and defines none
            found = getattr(user, name, None)
        if found:
            return found
    return user if isinstance(user, str) else None


def _remote_user(environ: _Scope) -> Any:
    return environ.get("REMOTE_USER")
