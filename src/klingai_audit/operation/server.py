"""A small HTTP server beside the real work: /metrics, /healthz and /readyz, in threads of its own.

It reads only, answers GET and HEAD, tells no content, and never stands in the way of the process: its threads are
daemons, a client gets ten seconds, and no more than `MAX_CLIENTS` are answered at a time.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
import weakref
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar, Final, Self

from klingai_audit.errors import AuditUnavailable
from klingai_audit.operation.board import Board
from klingai_audit.operation.exposition import expose, require_extra
from klingai_audit.operation.listening import bind_in_range, url_of

__all__ = ["MAX_CLIENTS", "MetricsServer", "serving"]

MAX_CLIENTS: Final = 16
"""Requests that are answered at the same time; who comes then is turned away."""

_PATIENCE_S: Final = 10.0
_TEXT: Final = "text/plain; charset=utf-8"
_JSON: Final = "application/json"


class MetricsServer:
    """Serves a board until `close`. `url` is where: `/metrics`, `/healthz` (200 while the process answers) and
    `/readyz` (200 if every check holds, else 503; JSON says what does not).

    `listen` is `HOST:PORT`, with port 0 for any free one, or `HOST:FIRST-LAST` for the first free one.
    Raises: MissingExtra, UsageError, StorageError: nothing can listen there.
    """

    def __init__(self, board: Board, listen: str) -> None:
        require_extra()
        self.board = board
        self._socket = bind_in_range(listen)
        self.url = url_of(self._socket)
        self._server = _Server(self._socket, board)
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.1,), name="klingai-audit-metrics", daemon=True
        )
        try:
            self._thread.start()
        except RuntimeError as exc:
            self._socket.close()
            raise AuditUnavailable("No thread can be started to serve metrics.", do="Raise the limit.") from exc
        _SERVERS.add(self)

    def close(self) -> None:
        """Stop; idempotent."""
        if self._thread.is_alive():
            self._server.shutdown()
            self._thread.join()
        self._socket.close()

    def after_fork(self) -> None:
        """In a forked child, where its thread is not: let go of the port."""
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


@contextlib.contextmanager
def serving(board: Board, listen: str | None) -> Iterator[MetricsServer | None]:
    """Serve a board for the length of a block; nothing if `listen` is None. Raises: as `MetricsServer`."""
    if listen is None:
        yield None
        return
    with MetricsServer(board, listen) as server:
        yield server


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def __init__(self, listening: socket.socket, board: Board) -> None:
        super().__init__(listening.getsockname()[:2], _Handler, bind_and_activate=False)
        self.socket.close()
        self.socket = listening
        self.board = board
        self._free = threading.BoundedSemaphore(MAX_CLIENTS)

    def process_request(self, request: Any, client_address: Any) -> None:
        if self._free.acquire(blocking=False):
            try:
                super().process_request(request, client_address)
            except RuntimeError:  # no thread can be started
                self._free.release()
                self.shutdown_request(request)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._free.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing: who went away in the middle is no news, and what he sent is not ours to tell."""


class _Handler(BaseHTTPRequestHandler):
    timeout = _PATIENCE_S
    server_version = "klingai-audit"
    sys_version = ""
    protocol_version = "HTTP/1.0"
    server: _Server
    error_message_format = "%(code)d %(message)s\n"
    error_content_type = _TEXT
    _paths: ClassVar = ("/metrics", "/healthz", "/readyz")

    def setup(self) -> None:
        super().setup()
        # `timeout` begins anew with each byte: without this, one a second would hold a place for ever.
        self._patience = threading.Timer(_PATIENCE_S, _hang_up, (self.connection,))
        self._patience.daemon = True
        self._patience.start()

    def finish(self) -> None:
        self._patience.cancel()
        super().finish()

    def do_GET(self) -> None:
        self._answer()

    def do_HEAD(self) -> None:
        self._answer()

    def _answer(self) -> None:
        self._patience.cancel()
        board = self.server.board
        match self.path.partition("?")[0]:
            case "/metrics":
                body, content_type = expose(board, self.headers.get("Accept", ""))
                self._send(200, body, content_type)
            case "/healthz":
                self._send(200, b"alive\n", _TEXT)
            case "/readyz":
                troubles = board.troubles()
                ready = not any(troubles.values())
                told = {"ready": ready, "checks": {name: trouble or "ok" for name, trouble in troubles.items()}}
                self._send(200 if ready else 503, json.dumps(told).encode() + b"\n", _JSON)
            case _:
                self._send(404, f"There are {', '.join(self._paths)}.\n".encode(), _TEXT)

    def _send(self, status: int, body: bytes, content_type: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing of each scrape."""


def _hang_up(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)


_SERVERS: weakref.WeakSet[MetricsServer] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    for server in list(_SERVERS):
        server.after_fork()


os.register_at_fork(after_in_child=_after_fork_in_child)
