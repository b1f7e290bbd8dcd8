"""The ways to audit clients that exist already, as `AuditLog` has them. Light: libraries are loaded on first use."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Protocol

from klingai_audit.errors import UsageError

if TYPE_CHECKING:
    from klingai_audit.capture.instrument import Instrumentation
    from klingai_audit.capture.recorder import Recorder

__all__ = ["HasRecorder", "attach", "httpx_transport", "instrument"]


class HasRecorder(Protocol):
    """An open log, or a recorder itself."""

    @property
    def recorder(self) -> Recorder:
        """What turns exchanges into entries."""
        ...


def httpx_transport(self: HasRecorder, inner: Any = None) -> Any:
    """Return a transport that records Kling's calls, for clients that you compose yourself.

    Serves httpx2 and httpx, sync and async; `inner` does the sending (default: a plain transport of the
    library whose request arrives). Proxies and mounts of the client need a wrapped transport of their own:
    `attach` wraps them all.
    """
    from klingai_audit.capture.httpx import audited_transport

    return audited_transport(self.recorder, inner)


def attach(self: HasRecorder, client: Any) -> None:
    """Audit an existing client in place, with its proxies, mounts and adapters; twice changes nothing.

    `client` is a `Client` or `AsyncClient` of httpx2 or httpx, a `requests.Session` or an `aiohttp.ClientSession`.
    Raises: UsageError: it is none of these, or its library cannot be audited in this version.
    """
    roots = {cls.__module__.partition(".")[0] for cls in type(client).__mro__}
    if roots & {"httpx2", "httpx"}:
        from klingai_audit.capture.httpx import attach_client

        attach_client(client, self.recorder)
    elif "requests" in roots:
        from klingai_audit.capture.requests import attach_session

        attach_session(client, self.recorder)
    elif "aiohttp" in roots:
        from klingai_audit.capture.aiohttp import attach_session as attach_async

        attach_async(client, self.recorder)
    else:
        raise UsageError(
            f"{type(client).__name__} is no client of httpx2, httpx, requests or aiohttp.",
            do="For an object whose methods are the calls, use audit.wrap(client, operations={…}).",
        )


def instrument(self: HasRecorder, *, hosts: Iterable[str] = ()) -> Instrumentation:
    """Audit every call to Kling of this process until `.undo()`: all clients, made before and after, nothing else.

    For httpx2, httpx, requests and aiohttp, their module-level functions included. Kling's are `*.klingai.com`, what is
    below `KLINGAI_BASE_URL`, `hosts` (names, with port or `*` if need be), and the paths of the catalogue on loopback.
    Raises: UsageError.
    """
    from klingai_audit.capture.instrument import instrument_process

    return instrument_process(self.recorder, hosts)
