"""The ASGI application: the endpoint, health, and the description of both."""

from __future__ import annotations

import logging
from collections.abc import Callable
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final

import msgspec

from klingai_audit.diagnostics import tell
from klingai_audit.errors import MissingExtra
from klingai_audit.ingest.endpoint import Answer, Endpoint, problem_of
from klingai_audit.ingest.openapi import EVENTS_PATH, document
from klingai_audit.ingest.wire import JSON, Refused
from klingai_audit.ledger.counters import writers_of
from klingai_audit.operation.asgi import counted
from klingai_audit.operation.board import Board
from klingai_audit.operation.health import observe

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

__all__ = ["ingest_app"]

_NO_STORE: Final = {"Cache-Control": "no-store"}
_ROUTES: Final = (EVENTS_PATH, "/openapi.json", "/healthz", "/readyz")


def ingest_app(endpoint: Endpoint, board: Board | None = None) -> Callable[..., Any]:
    """Return the ASGI application: `POST /v1/events`, `GET /openapi.json`, `/healthz` and `/readyz`.

    Answers are counted on `board`, which also tells whether the log can record. Raises: MissingExtra.
    """
    try:
        from starlette.applications import Starlette
        from starlette.exceptions import HTTPException
        from starlette.requests import ClientDisconnect
        from starlette.responses import JSONResponse, PlainTextResponse, Response
        from starlette.routing import Route
    except ImportError as exc:
        raise MissingExtra("Serving needs starlette and uvicorn.", do="pip install 'klingai-audit[serve]'") from exc

    board = board or Board()
    observe(board, endpoint.intake.audit)
    described = msgspec.json.encode(document())

    def answered(answer: Answer) -> Response:
        headers = {**_NO_STORE, **dict(answer.headers)}
        return Response(answer.body, answer.status, headers=headers, media_type=answer.media_type)

    async def events(request: Request) -> Response:
        try:
            return answered(await endpoint.answer(request))
        except ClientDisconnect:
            return Response(status_code=400)
        except Exception as exc:  # noqa: BLE001  # the text of an error of ours, or its traceback, could hold anything
            tell(logging.ERROR, "ingest_failed", "a request could not be answered", error=exc)
            return answered(problem_of(_INTERNAL))

    def openapi(_request: Request) -> Response:
        return Response(described, media_type=JSON, headers={"Cache-Control": "no-cache"})

    def healthz(_request: Request) -> Response:
        if any(one.stopped for one in writers_of(endpoint.intake.audit.origin)):
            return answered(problem_of(_STOPPED))
        return PlainTextResponse("alive\n", headers=_NO_STORE)

    def readyz(_request: Request) -> Response:
        troubles = board.troubles()
        ready = not any(troubles.values())
        # What is wrong may name places of this machine: --metrics tells it, on a port of its own.
        told = {"ready": ready, "checks": {name: "wrong" if trouble else "ok" for name, trouble in troubles.items()}}
        return JSONResponse(told, 200 if ready else 503, headers=_NO_STORE)

    def refused(_request: Request, exc: Exception) -> Response:
        status = exc.status_code if isinstance(exc, HTTPException) else 500
        headers = tuple((exc.headers or {}).items()) if isinstance(exc, HTTPException) else ()
        kind = {404: "not_found", 405: "method_not_allowed"}.get(status, "malformed")
        words = f"{HTTPStatus(status).phrase}: events go to POST {EVENTS_PATH}."
        return answered(problem_of(Refused(status, kind, words, headers=headers)))

    app = Starlette(
        routes=[
            Route(EVENTS_PATH, events, methods=["POST"]),
            Route("/openapi.json", openapi),
            Route("/healthz", healthz),
            Route("/readyz", readyz),
        ],
        exception_handlers={HTTPException: refused},
    )
    app.router.redirect_slashes = False
    return counted(app, board, _ROUTES)


_STOPPED: Final = Refused(503, "log_unavailable", "This process writes no more.", do="Start it anew; see diagnostics.")
_INTERNAL: Final = Refused(
    500, "internal", "This is a fault of the endpoint.", do="Its diagnostics name the place. Nothing was acknowledged."
)
