"""One word for every client that exists already: `attach`, by the library that the client is made of."""

from __future__ import annotations

from typing import Any

from klingai_audit.capture.recorder import Recorder
from klingai_audit.errors import UsageError

__all__ = ["attach"]


def attach(client: Any, recorder: Recorder) -> None:
    """Audit an existing client in place; attaching twice changes nothing.

    `client` is a `Client` or `AsyncClient` of httpx2 or httpx, a `requests.Session` or an `aiohttp.ClientSession`.
    Raises: UsageError: it is none of these, or its library cannot be audited in this version.
    """
    roots = {cls.__module__.partition(".")[0] for cls in type(client).__mro__}
    if roots & {"httpx2", "httpx"}:
        from klingai_audit.capture.httpx import attach_client

        attach_client(client, recorder)
    elif "requests" in roots:
        from klingai_audit.capture.requests import attach_session

        attach_session(client, recorder)
    elif "aiohttp" in roots:
        from klingai_audit.capture.aiohttp import attach_session as attach_async

        attach_async(client, recorder)
    else:
        raise UsageError(
            f"{type(client).__name__} is no client of httpx2, httpx, requests or aiohttp.",
            do="For an object whose methods are the calls, use audit.wrap(client, operations={…}).",
        )
