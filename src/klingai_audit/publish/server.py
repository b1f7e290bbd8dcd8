"""Serves a log over HTTP as C2SP tlog-tiles, straight from its store. Reads only.

`checkpoint` and hash tiles say nothing about anybody and may be public. Entries need a reader's token, unless the
operator decided that they are public, too. Source: C2SP tlog-tiles.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import socket
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from klingai_audit.durable import read_optional
from klingai_audit.errors import KlingAuditError, Malformed, MissingExtra, UsageError
from klingai_audit.ledger.reader import LogReader
from klingai_audit.operation.listening import bind
from klingai_audit.publish.tiles import CHECKPOINT, tile_bytes
from klingai_audit.tlog.checkpoint import parse_checkpoint
from klingai_audit.tlog.note import parse_note
from klingai_audit.tlog.tile import TILE_WIDTH, parse_tile_path

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response

__all__ = ["bind", "log_app", "read_tokens", "run_app"]

_DIGEST: Final = re.compile(r"[0-9a-f]{64}", re.ASCII)
_FOR_EVER: Final = "max-age=31536000, immutable"
_FRESH: Final = "no-cache"
_SMALLEST_ZIPPED: Final = 1024


def read_tokens(path: Path) -> frozenset[str]:
    """Return the SHA-256 digests (64 lowercase hex digits, one a line; `#` begins a comment) of readers' tokens.

    Raises: UsageError for a file that cannot be read, holds anything else, or holds none.
    """
    try:
        data = read_optional(path)
    except OSError as exc:
        raise UsageError(f"{path} cannot be read: {exc.strerror}.") from exc
    if data is None:
        raise UsageError(f"There is no file {path}.", do="Write one SHA-256 digest of a token on each line.")
    found = set()
    for number, line in enumerate(data.decode("utf-8", "replace").split("\n"), 1):
        word = line.partition("#")[0].strip()
        if word and not _DIGEST.fullmatch(word):
            raise UsageError(f"{path}:{number} is no SHA-256 digest.", do="printf %s TOKEN | sha256sum")
        found.add(word)
    found.discard("")
    if not found:
        raise UsageError(f"{path} names no token.", do="Write one SHA-256 digest of a token on each line.")
    return frozenset(found)


def log_app(
    reader: LogReader,
    *,
    tokens: Collection[str] = (),
    public: bool = False,
    head: Callable[[], bytes] | None = None,
) -> Starlette:
    """Return the ASGI application: `GET /checkpoint`, `/tile/<L>/<N>[.p/<W>]` and `/tile/entries/<N>[.p/<W>]`.

    Only what the served checkpoint covers is served: the published one, or what `head` gives, such as `CosignedHead`.
    Entries are given to bearers of a token whose SHA-256 is in `tokens`, or to everybody if `public`.
    Raises: MissingExtra.
    """
    try:
        from starlette.applications import Starlette
        from starlette.middleware import Middleware
        from starlette.middleware.gzip import GZipMiddleware
        from starlette.responses import PlainTextResponse, Response
        from starlette.routing import Route
    except ImportError as exc:
        raise MissingExtra("Serving needs starlette and uvicorn.", do="pip install 'klingai-audit[serve]'") from exc

    known = frozenset(tokens)
    current = reader.checkpoint_note if head is None else head

    def checkpoint(_request: Request) -> Response:
        note = current()
        return Response(note, headers={"Cache-Control": _FRESH}, media_type="text/plain; charset=utf-8")

    def tile(request: Request) -> Response:
        try:
            level, n, width = parse_tile_path("tile/" + request.path_params["path"])
        except Malformed:
            return PlainTextResponse("There is no such path.\n", 404)
        entries = level == "entries"
        if entries and not public and not _is_known(request.headers.get("authorization", ""), known):
            head = {"WWW-Authenticate": 'Bearer realm="entries"', "Cache-Control": "no-store"}
            return PlainTextResponse("Entries are for readers with a token.\n", 401, headers=head)
        size = parse_checkpoint(parse_note(current()).text).size
        have = size // TILE_WIDTH ** (0 if level == "entries" else level)
        if n * TILE_WIDTH + width > have:
            return PlainTextResponse("The log has not grown so far.\n", 404, headers={"Cache-Control": _FRESH})
        data = tile_bytes(reader, level, n, width)
        if data is None:
            return PlainTextResponse("Entries in it were purged.\n", 410, headers={"Cache-Control": _FRESH})
        scope = "private" if entries and not public else "public"
        return Response(
            data,
            headers={"Cache-Control": f"{scope}, {_FOR_EVER}"},
            media_type="application/octet-stream",
        )

    def failed(_request: Request, exc: Exception) -> Response:
        message = exc.message if isinstance(exc, KlingAuditError) else "The log cannot be read."
        return PlainTextResponse(f"{message}\n", 503, headers={"Cache-Control": "no-store"})

    handlers: dict[Any, Callable[[Request, Exception], Response]] = {KlingAuditError: failed, OSError: failed}
    return Starlette(
        routes=[Route(f"/{CHECKPOINT}", checkpoint), Route("/tile/{path:path}", tile)],
        middleware=[Middleware(GZipMiddleware, minimum_size=_SMALLEST_ZIPPED)],
        exception_handlers=handlers,
    )


def run_app(
    app: Any,
    listening: socket.socket,
    *,
    certificate: Path | None = None,
    private_key: Path | None = None,
    ended: Sequence[int] = (),
) -> None:
    """Serve until SIGINT or SIGTERM; requests under way are answered first. Raises: MissingExtra, UsageError.

    `ended` are the signals that came while everything was being opened: nothing is served after one.
    """
    try:
        import uvicorn
    except ImportError as exc:
        raise MissingExtra("Serving needs starlette and uvicorn.", do="pip install 'klingai-audit[serve]'") from exc

    try:
        config = uvicorn.Config(
            app,
            http="h11",  # the one that bounds headers; others would be taken where they happen to be installed
            ws="none",
            loop="asyncio",
            log_config=None,
            log_level="warning",
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=10,
            ssl_certfile=None if certificate is None else str(certificate),
            ssl_keyfile=None if private_key is None else str(private_key),
        )
        config.load()
    except OSError as exc:
        raise UsageError(f"The certificate or its key cannot be used: {exc.strerror or exc}.") from exc

    class Server(uvicorn.Server):
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            if ended:  # only here the signals are uvicorn's, so none is lost in between
                self.should_exit = True
            else:
                await super().startup(sockets)

    with listening:
        Server(config).run(sockets=[listening])


def _is_known(header: str, known: Collection[str]) -> bool:
    scheme, _, token = header.partition(" ")
    if scheme.lower() != "bearer":
        return False
    digest = hashlib.sha256(token.strip().encode("utf-8", "surrogateescape")).hexdigest()
    return any(hmac.compare_digest(digest, one) for one in known)
