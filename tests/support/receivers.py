"""Receivers of exports, over real sockets: syslog with octet counting, and OTLP logs over HTTP.

Both can be killed, which breaks their connections and loses what they had not read, and started again at their port.
"""

from __future__ import annotations

import contextlib
import gzip
import http.server
import re
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable
from typing import Any, Self

from tests.support.served import free_ports


def wait_until(done: Callable[[], bool], seconds: float = 120) -> None:
    """Wait until something is true. Fails when it takes too long."""
    deadline = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < deadline, "it took too long"
        time.sleep(0.01)


def free_port() -> int:
    """Return a port of this machine that nobody listens at, and that the kernel gives to nobody meanwhile."""
    (port,) = free_ports(1)
    return port


class SyslogReceiver:
    """A receiver that keeps each message.

    `closed` counts connections that ended in order, `torn` how many of them in the middle of a message.
    """

    def __init__(self, context: ssl.SSLContext | None = None) -> None:
        self.messages: list[bytes] = []
        self.closed = 0
        self.torn = 0
        self.paused = threading.Event()
        self._context = context
        self._connections: list[socket.socket] = []
        self._server: socket.socket | None = None
        self.port = free_port()
        self.start()

    def start(self) -> None:
        """Listen, at the same port each time."""
        self._server = socket.create_server(("127.0.0.1", self.port))
        threading.Thread(target=self._accept, args=(self._server,), daemon=True).start()

    def kill(self) -> None:
        """End at once: connections are reset, unread bytes are gone."""
        if self._server is not None:
            server, self._server = self._server, None
            with contextlib.suppress(OSError):
                server.shutdown(socket.SHUT_RDWR)
            server.close()
        doomed, self._connections = self._connections, []
        for connection in doomed:
            with contextlib.suppress(OSError):
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                connection.shutdown(socket.SHUT_RD)
            with contextlib.suppress(OSError):
                connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def _accept(self, server: socket.socket) -> None:
        while True:
            try:
                connection, _ = server.accept()
            except OSError:
                return
            try:
                if self._context is not None:
                    connection = self._context.wrap_socket(connection, server_side=True)
            except OSError:  # a client that broke off
                connection.close()
                continue
            self._connections.append(connection)
            if self._server is not server:  # killed meanwhile
                connection.close()
                return
            threading.Thread(target=self._read, args=(connection,), daemon=True).start()

    def _read(self, connection: socket.socket) -> None:
        buffer = b""
        try:
            while True:
                while self.paused.is_set() and self._lives(connection):
                    time.sleep(0.01)
                data = connection.recv(65_536)
                if not self._lives(connection):
                    return
                if not data:
                    break
                buffer += data
                while found := re.match(rb"([1-9][0-9]*) ", buffer):
                    end = found.end() + int(found[1])
                    if len(buffer) < end:
                        break
                    self.messages.append(buffer[found.end() : end])
                    buffer = buffer[end:]
        except (OSError, ValueError):
            return
        self.closed += 1
        self.torn += bool(buffer)
        with contextlib.suppress(OSError, ValueError):
            if isinstance(connection, ssl.SSLSocket):
                connection = connection.unwrap()
            connection.close()

    def _lives(self, connection: socket.socket) -> bool:
        return connection in self._connections


class OtlpReceiver:
    """A receiver that keeps each record; `answer` may decide otherwise before it does.

    `answer(count)` gets the number of records in a request and returns None to take them, or a status, or a status,
    headers and body.
    """

    def __init__(self, context: ssl.SSLContext | None = None) -> None:
        self.records: list[Any] = []
        self.resources: list[dict[str, str]] = []
        self.requests: list[dict[str, str]] = []
        self.answer: Callable[[int], Any] = lambda count: None
        self._context = context
        self._server: http.server.ThreadingHTTPServer | None = None
        self._connections: list[socket.socket] = []
        self.port = free_port()
        self.start()

    @property
    def url(self) -> str:
        """What to export to."""
        return f"{'http' if self._context is None else 'https'}://localhost:{self.port}"

    def start(self) -> None:
        """Listen, at the same port each time."""
        receiver = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def setup(self) -> None:
                super().setup()
                receiver._connections.append(self.connection)
                if receiver._server is not self.server:  # killed meanwhile
                    self.connection.shutdown(socket.SHUT_RDWR)

            def do_POST(self) -> None:
                receiver._take(self)

            def log_message(self, *_: Any) -> None:
                pass

        class Server(http.server.ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *_: Any) -> None:
                pass

        self._server = Server(("127.0.0.1", self.port), Handler)
        if self._context is not None:
            self._server.socket = self._context.wrap_socket(self._server.socket, server_side=True)
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    def kill(self) -> None:
        """End at once, requests that are under way included."""
        if self._server is not None:
            server, self._server = self._server, None
            server.shutdown()
            server.server_close()
        doomed, self._connections = self._connections, []
        for connection in doomed:
            with contextlib.suppress(OSError):  # its files would keep it open if it were closed only
                connection.shutdown(socket.SHUT_RDWR)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def _take(self, request: http.server.BaseHTTPRequestHandler) -> None:
        from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import (
            ExportLogsServiceRequest,
            ExportLogsServiceResponse,
        )

        body = request.rfile.read(int(request.headers["Content-Length"]))
        if request.headers.get("Content-Encoding") == "gzip":
            body = gzip.decompress(body)
        message = ExportLogsServiceRequest()
        message.ParseFromString(body)
        self.requests.append({"path": request.path, **{name.lower(): value for name, value in request.headers.items()}})
        scopes = [scope for resource in message.resource_logs for scope in resource.scope_logs]
        records = [record for scope in scopes for record in scope.log_records]
        decided = self.answer(len(records))
        status, headers, answer = 200, {"Content-Type": "application/x-protobuf"}, ExportLogsServiceResponse()
        data = answer.SerializeToString()
        if decided is None:
            self.records += records
            self.resources += [
                {attribute.key: attribute.value.string_value for attribute in resource.resource.attributes}
                for resource in message.resource_logs
            ]
        elif isinstance(decided, int):
            status = decided
        else:
            status, headers, data = decided
        request.send_response(status)
        for name, value in headers.items():
            request.send_header(name, value)
        request.send_header("Content-Length", str(len(data)))
        request.end_headers()
        request.wfile.write(data)
