"""Counts the requests that an ASGI application answers: by what was asked for and by status, never by whom."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from time import perf_counter
from typing import Any

from klingai_audit.diagnostics import tell
from klingai_audit.operation.board import Board

__all__ = ["counted"]


def counted(app: Any, board: Board, routes: Sequence[str]) -> Callable[..., Any]:
    """Return the application `app`, each answer counted on the board under the route that its path begins with.

    A path that begins with none of `routes` (the longer first) counts as "other": strangers choose paths, not labels.
    """

    async def answer(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await app(scope, receive, send)
            return
        path = scope["path"]
        route = next((one for one in routes if path == one or path.startswith(one.rstrip("/") + "/")), "other")
        begun, status = perf_counter(), 500

        async def sent(message: Any) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await app(scope, receive, sent)
        except Exception as exc:
            board.count("errors", "serve", type(exc).__name__)
            raise
        finally:
            seconds = perf_counter() - begun
            board.count("http_requests", route, str(status))
            board.time("http_request_seconds", route, seconds=seconds)
            tell(logging.DEBUG, "request", "a request was answered", route=route.strip("/"), status=status)

    return answer
