"""Process-wide capture: every client of httpx2, httpx, requests and aiohttp, made before or after, and no other call.

The classes of the installed libraries are changed in one place each, where their clients choose what sends a
request. What counts as Kling's is a `Scope`; what is out of it passes as if nothing were there.
"""

from __future__ import annotations

import functools
import os
import warnings
from collections.abc import Callable, Iterable
from fnmatch import fnmatchcase
from importlib import import_module
from importlib.util import find_spec
from types import TracebackType
from typing import Any, Final, Self
from urllib.parse import SplitResult, urlsplit

from klingai_audit.capture.facts import Operation
from klingai_audit.capture.recorder import Recorder
from klingai_audit.errors import UsageError

__all__ = ["Instrumentation", "Scope", "instrument_process"]

BASE_URL: Final = "KLINGAI_BASE_URL"
"""Environment variable with the address that our client and others take for Kling's."""

_KLING: Final = "api.klingai.com"
"""Stands for a host that somebody named as Kling's, so that its unknown paths are recorded, too."""

_PORTS: Final = {"http": 80, "https": 443}


class Scope:
    """Which requests of a process are Kling's; has of a recorder what transports need.

    Its hosts, `hosts` (`proxy.example`, `*.example`, `proxy.example:8080`), what is below `base_url`, catalogue paths
    on loopback, and links that a recorded reply has named.
    """

    def __init__(self, recorder: Recorder, hosts: Iterable[str] = (), base_url: str | None = None) -> None:
        if isinstance(hosts, str):
            raise UsageError("hosts is one string.", do="Give a list: hosts=[…].")
        self.recorder = recorder
        self.sink, self.desk = recorder.sink, recorder.desk
        self.begin, self.abegin = recorder.begin, recorder.abegin
        self._hosts = tuple(host.lower() for host in hosts)
        self._base = _base(base_url)
        self._is_kling = functools.lru_cache(maxsize=1024)(self._ask_provider)

    def recognise(self, method: str, url: str) -> Operation | None:
        """Name the operation of a request in scope; None: it passes untouched."""
        try:
            parts = urlsplit(url)
            host, port = _place(parts)
        except ValueError:
            return None
        found = self.recorder.recognise(method, url)
        if found is not None and found.kind == "download":
            return found
        if self._named(parts, host, port):
            as_kling = parts._replace(scheme="https", netloc=_KLING).geturl()
            return self.recorder.recognise(method, as_kling)
        in_scope = host in {"localhost", "::1"} or host.startswith("127.") or self._is_kling(host)
        return found if in_scope else None

    def _named(self, parts: SplitResult, host: str, port: int | None) -> bool:
        if any(fnmatchcase(name, pattern) for pattern in self._hosts for name in (host, f"{host}:{port}")):
            return True
        return self._base is not None and self._base[0] == (host, port) and f"{parts.path}/".startswith(self._base[1])

    def _ask_provider(self, host: str) -> bool:
        """Whether any path at all of a host is the provider's."""
        return bool(host) and self.recorder.recognise("POST", f"https://{host}/") is not None


def _base(url: str | None) -> tuple[tuple[str, int | None], str] | None:
    parts = urlsplit(url or "")
    try:
        place = _place(parts)
    except ValueError as exc:
        raise UsageError(f"{BASE_URL} is not an address.", do="Set it to https://… or unset it.") from exc
    return (place, f"{parts.path.rstrip('/')}/") if place[0] else None


def _place(parts: SplitResult) -> tuple[str, int | None]:
    return (parts.hostname or "").rstrip(".").lower(), parts.port or _PORTS.get(parts.scheme)


class Instrumentation:
    """What `audit.instrument()` changed; `undo()` takes it back. As a context manager it lasts for the block.

    `libraries` names those that are audited, `active` is False after `undo()`.
    """

    def __init__(self) -> None:
        self.active = True
        self.libraries: tuple[str, ...] = ()
        self._changes: list[tuple[Any, str, Any, Any]] = []

    def undo(self) -> None:
        """Let all clients be as they were; idempotent. Requests that are under way are recorded to their end."""
        self.active = False
        while self._changes:
            owner, name, original, ours = self._changes.pop()
            if vars(owner).get(name) is ours:  # else somebody changed it after us: ours stays below and does nothing
                setattr(owner, name, original)

    def replace(self, owner: Any, name: str, make: Callable[[Any], Any]) -> None:
        """Put `make(original)` in the place of a class's own function; it is asked only while this is active."""
        original = vars(owner).get(name)
        if original is None:
            raise UsageError(
                f"This version of {owner.__module__.partition('.')[0]} sends in a way that cannot be audited.",
                do="Attach its clients one by one, or install a version that this package was tested with.",
            )
        changed = make(original)

        @functools.wraps(original)
        def ours(*args: Any, **kwargs: Any) -> Any:
            return (changed if self.active else original)(*args, **kwargs)

        setattr(owner, name, ours)
        self._changes.append((owner, name, original, ours))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.undo()


def instrument_process(recorder: Recorder, hosts: Iterable[str] = ()) -> Instrumentation:
    """Audit every call to Kling of this process, through whichever installed library; see `Scope` for what is Kling's.

    `KLINGAI_BASE_URL` is read now. A library that cannot be audited in this version is left out with a warning.
    Raises: UsageError.
    """
    scope = Scope(recorder, hosts, os.environ.get(BASE_URL))
    made = Instrumentation()
    done = []
    for name, change in _LIBRARIES.items():
        if find_spec(name) is None:
            continue
        try:
            change(made, import_module(name), scope)
            done.append(name)
        except ImportError:
            continue  # nobody can have a client of it
        except UsageError as exc:
            warnings.warn(f"{name} is not audited: {exc}", stacklevel=3)
    made.libraries = tuple(done)
    return made


def _change_httpx(made: Instrumentation, library: Any, scope: Any) -> None:
    from klingai_audit.capture.httpx import AsyncAuditedTransport, AuditedTransport

    for client, wrap in ((library.Client, AuditedTransport), (library.AsyncClient, AsyncAuditedTransport)):

        def choosing(original: Any, wrap: Any = wrap) -> Any:
            return lambda self, url: wrap(original(self, url), scope)

        made.replace(client, "_transport_for_url", choosing)


def _change_requests(made: Instrumentation, library: Any, scope: Any) -> None:
    from klingai_audit.capture.requests import audited_adapter, on_one_trail

    def choosing(original: Any) -> Any:
        return lambda self, *args, **kwargs: audited_adapter(original(self, *args, **kwargs), scope)

    def sending(original: Any) -> Any:
        return lambda self, request, **kwargs: on_one_trail(request, lambda: original(self, request, **kwargs))

    made.replace(library.Session, "get_adapter", choosing)
    made.replace(library.Session, "send", sending)


def _change_aiohttp(made: Instrumentation, library: Any, scope: Any) -> None:
    from klingai_audit.capture.aiohttp import audited_request, check_version

    session = getattr(library, "ClientSession", None)
    if session is None:
        raise UsageError("This aiohttp has no ClientSession.", do="Install aiohttp 3.12.2 or later.")
    check_version(session)

    def requesting(original: Any) -> Any:
        async def request(self: Any, *args: Any, **kwargs: Any) -> Any:
            return await audited_request(self, functools.partial(original, self), scope, args, kwargs)

        return request

    made.replace(session, "_request", requesting)


_LIBRARIES: Final[dict[str, Callable[[Instrumentation, Any, Any], None]]] = {
    "httpx2": _change_httpx,
    "httpx": _change_httpx,
    "requests": _change_requests,
    "aiohttp": _change_aiohttp,
}
