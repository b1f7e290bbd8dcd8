"""The simulator over HTTP/1.1: standard library only, one thread per connection, loopback by default."""

from __future__ import annotations

import re
import socket
import ssl
import threading
from collections.abc import Callable, Iterable
from email.utils import formatdate
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from klingai_audit.errors import Malformed, UsageError
from klingai_audit.kling.simulator.core import Simulator
from klingai_audit.kling.simulator.faults import Delivery
from klingai_audit.kling.simulator.messages import Request, Response

if TYPE_CHECKING:
    from klingai_audit.kling.simulator.tls import ServerCertificate

MAX_BODY_BYTES = 256 * 1024 * 1024  # several images of 50 MB as base64 in one body
MAX_LINE = 1024
IDLE_SECONDS = 120
KLING_HOSTS = ("api-singapore.klingai.com", "api-beijing.klingai.com", "api.klingai.com")
"""Whom a stand-in answers for. Source: fact sheet section 1.1."""
_HTTPS_PORT = 443
_PHRASES = {status.value: status.phrase for status in HTTPStatus}


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    timeout = IDLE_SECONDS
    server: _HttpServer
    origin = ""
    """Scheme and host that the client believes to talk to, inside a tunnel."""

    def parse_request(self) -> bool:
        """Route every method to one place, also those that this server has never heard of."""
        if not super().parse_request():
            return False
        setattr(self, f"do_{self.command}", self._serve)
        return True

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing: the simulator keeps what it received in `requests`."""

    def finish(self) -> None:
        """End a tunnel, too: the server knows only the connection that it accepted."""
        super().finish()
        if self.origin:
            self.server.shutdown_request(self.request)

    def _tunnel(self) -> None:
        """Speak TLS inside the connection as the host that was asked for; nothing is passed on to anyone."""
        host, _, port = self.path.rpartition(":")
        context = self.server.stand_in_for(host.lower(), port)
        self.close_connection = True
        if context is None:
            self._send(Response(HTTPStatus.FORBIDDEN, b"The simulator is no proxy to other hosts.\n", "text/plain"))
            return
        self.wfile.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        self.request = self.server.secured(self.request, context)
        self.setup()
        self.origin = f"https://{host.lower()}"
        self.close_connection = False

    def _serve(self) -> None:
        if self.command == "CONNECT" and self.server.stands_in and not self.origin:
            self._tunnel()
            return
        try:
            body = self._read_body()
        except Malformed:
            self.close_connection = True
            self._send(Response(HTTPStatus.BAD_REQUEST, b"", "text/plain"))
            return
        path, _, query = self.path.partition("?")
        headers = {name.lower(): value for name, value in self.headers.items()}
        request = Request(self.command, path, query, headers, body, self.origin or self.server.origin)
        callbacks = self.server.simulator.callbacks
        delivery = self.server.simulator.handle(request, hold=True)
        if delivery.task_id is None:
            self._deliver(delivery)
            return
        callbacks.before_reply(delivery.task_id)
        try:
            self._deliver(delivery)
        finally:
            callbacks.release(delivery.task_id)

    def _deliver(self, delivery: Delivery) -> None:
        stopping = self.server.stopping
        if delivery.delay:
            stopping.wait(delivery.delay)
        if delivery.hang is not None:
            stopping.wait(delivery.hang)
        if delivery.response is None:
            self.close_connection = True
            return
        if delivery.truncate is not None:
            self.close_connection = True
        self._send(delivery.response, delivery.truncate)

    def _read_body(self) -> bytes:
        if "chunked" in self.headers.get("Transfer-Encoding", "").lower():
            return self._read_chunks()
        text = self.headers.get("Content-Length", "0").strip()
        if not re.fullmatch("[0-9]{1,12}", text, re.ASCII):
            raise Malformed("Content-Length is not a number")
        return self._read_exactly(int(text))

    def _read_chunks(self) -> bytes:
        body = bytearray()
        while True:
            size = self.rfile.readline(MAX_LINE).split(b";")[0].strip()
            if not re.fullmatch(rb"[0-9A-Fa-f]{1,8}", size):
                raise Malformed("a chunk has no size")
            chunk = self._read_exactly(int(size, 16), already=len(body))
            if not chunk:
                break
            body += chunk
            self.rfile.readline(MAX_LINE)
        while self.rfile.readline(MAX_LINE).strip():
            continue
        return bytes(body)

    def _read_exactly(self, size: int, *, already: int = 0) -> bytes:
        if already + size > MAX_BODY_BYTES:
            raise Malformed("the request body is too long")
        data = self.rfile.read(size)
        if len(data) < size:
            raise Malformed("the request body is cut short")
        return data

    def _send(self, response: Response, truncate: int | None = None) -> None:
        """Write head and body in one go; `truncate` cuts the body but not the announced length."""
        phrase = _PHRASES.get(response.status, "Unknown")
        lines = [f"HTTP/1.1 {int(response.status)} {phrase}", f"Date: {formatdate(usegmt=True)}"]
        lines += [f"Content-Type: {response.content_type}", f"Content-Length: {len(response.body)}"]
        lines += [f"{name}: {value}" for name, value in response.headers]
        if self.close_connection:
            lines.append("Connection: close")
        head = "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n"
        body = b"" if self.command == "HEAD" else response.body[:truncate]
        try:
            self.wfile.write(head + body)
        except OSError:
            self.close_connection = True  # the client went away, as clients do after a time-out


class _HttpServer(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128
    allow_reuse_address = True

    def __init__(self, address: tuple[str, int], simulator: Simulator) -> None:
        super().__init__(address, _Handler)
        self.simulator = simulator
        self.origin = ""
        self.stands_in: tuple[frozenset[str], ssl.SSLContext] | None = None
        self.stopping = threading.Event()
        self._connections: set[socket.socket] = set()
        self._connections_lock = threading.Lock()

    def process_request(self, request: Any, client_address: Any) -> None:
        """Remember the connection, so that stopping can end idle ones."""
        with self._connections_lock:
            self._connections.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        """Forget and close a connection."""
        with self._connections_lock:
            self._connections.discard(request)
        super().shutdown_request(request)

    def stand_in_for(self, host: str, port: str) -> ssl.SSLContext | None:
        """The TLS settings with which this server plays `host`; None: it does not."""
        if self.stands_in is None or port != str(_HTTPS_PORT) or host not in self.stands_in[0]:
            return None
        return self.stands_in[1]

    def secured(self, request: socket.socket, context: ssl.SSLContext) -> ssl.SSLSocket:
        """Begin TLS on a connection and remember it in the place of the plain one. Raises: OSError: no handshake."""
        with self._connections_lock:
            self._connections.discard(request)
            secure = context.wrap_socket(request, server_side=True, do_handshake_on_connect=False)
            self._connections.add(secure)
        try:
            secure.do_handshake()
        except (OSError, AttributeError) as exc:  # the latter where `end_connections` was there before the handshake
            self.shutdown_request(secure)
            raise ConnectionError("There was no handshake.") from exc
        return secure

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A connection that breaks is the client's affair; nothing is written anywhere."""

    def end_connections(self) -> None:
        """Wake every thread that waits on a connection."""
        with self._connections_lock:
            for connection in self._connections:
                try:
                    connection.shutdown(socket.SHUT_RDWR)
                except OSError:
                    continue  # already closed by the other side


class SimulatorServer:
    """Serves one `Simulator`; a context manager, running from `start()` to `stop()`.

    `base_url` is what a client is given (with the simulator's path prefix), `origin` the
    scheme and authority alone. With `tls` it speaks https under a certificate of its own,
    good for loopback, `host` and `names`; clients trust it by `ca_file` or `client_context()`.
    With `stand_in` it is what clients whose address cannot be set are given as their proxy
    (`proxy_url`): it then answers https itself as each of `KLING_HOSTS` and `names`, under the same
    kind of certificate, and refuses tunnels to all others.
    """

    def __init__(
        self,
        simulator: Simulator,
        host: str = "127.0.0.1",
        port: int = 0,
        *,
        tls: bool = False,
        names: Iterable[str] = (),
        stand_in: bool = False,
    ) -> None:
        if tls and stand_in:
            raise UsageError(
                "a stand-in is a plain proxy that speaks TLS inside its tunnels", do="Choose one of the two."
            )
        self.simulator = simulator
        self._played = frozenset(name.lower() for name in (*KLING_HOSTS, *names)) if stand_in else None
        self._names = (*names, *(() if host in ("", "0.0.0.0", "::") else (host,)))  # noqa: S104 - not bound here
        self._tls = tls
        self._certificate: ServerCertificate | None = None
        self._host = host
        self._port = port
        self._http: _HttpServer | None = None
        self._thread: threading.Thread | None = None

    @property
    def port(self) -> int:
        """The TCP port that is listened on. Raises: UsageError: not started."""
        return int(self._running().server_address[1])

    @property
    def origin(self) -> str:
        """For example `http://localhost:41234`; loopback addresses are shown as `localhost`."""
        return self._running().origin

    @property
    def ca_file(self) -> str:
        """Path of the certificate authority (PEM) that clients must trust; gone after `stop()`.

        Raises: UsageError: the server is stopped or does not speak TLS.
        """
        return self._issued().ca_file

    def client_context(self) -> ssl.SSLContext:
        """TLS settings for a client that trusts this server alone. Raises: UsageError: as `ca_file`."""
        return self._issued().client_context()

    def _issued(self) -> ServerCertificate:
        self._running()
        if self._certificate is None:
            raise UsageError("the simulator does not speak TLS", do="Start it with tls=True or stand_in=True.")
        return self._certificate

    @property
    def base_url(self) -> str:
        """The origin followed by the simulator's path prefix; no slash at the end."""
        return self.origin + self.simulator.prefix

    @property
    def proxy_url(self) -> str:
        """What a client is given as its proxy for https. Raises: UsageError: stopped, or no stand-in."""
        if self._running().stands_in is None:
            raise UsageError("the simulator is no proxy", do="Start it with stand_in=True.")
        return self.origin

    def start(self) -> Self:
        """Listen and serve in the background; on return the port is open.

        Raises: UsageError: already started, or the port cannot be used.
        """
        if self._http is not None:
            raise UsageError("the simulator is already running")
        try:
            http = _HttpServer((self._host, self._port), self.simulator)
        except (OSError, OverflowError) as exc:
            raise UsageError(f"cannot listen on port {self._port}", do="Choose another port.") from exc
        scheme = "http"
        if self._tls or self._played:
            from klingai_audit.kling.simulator.tls import ServerCertificate

            self._certificate = ServerCertificate([*self._names, *(self._played or ())])
        if self._played and self._certificate is not None:
            http.stands_in = (self._played, self._certificate.server_context())
        elif self._certificate is not None:
            scheme, context = "https", self._certificate.server_context()
            # The handshake happens in the connection's own thread, at its first read.
            http.socket = context.wrap_socket(http.socket, server_side=True, do_handshake_on_connect=False)
        shown = "localhost" if self._host in ("127.0.0.1", "localhost") else self._host
        http.origin = f"{scheme}://{shown}:{http.server_address[1]}"
        self._http = http
        self._thread = _start_thread(http.serve_forever)
        self.simulator.callbacks.start()
        return self

    def stop(self) -> None:
        """Stop listening, end delays and hangs, close all connections. Harmless when stopped."""
        http, thread = self._http, self._thread
        self._http = self._thread = None
        if http is None or thread is None:
            return
        http.stopping.set()
        http.shutdown()
        http.end_connections()
        http.server_close()
        thread.join()
        self.simulator.callbacks.stop()
        if self._certificate is not None:
            self._certificate.close()
            self._certificate = None

    def wait(self) -> None:
        """Block until another thread calls `stop()` (or the user interrupts)."""
        self._running().stopping.wait()

    def _running(self) -> _HttpServer:
        if self._http is None:
            raise UsageError("the simulator is not running", do="Call start() or use it in a with statement.")
        return self._http

    def __enter__(self) -> Self:
        return self if self._http is not None else self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()


def serve(
    simulator: Simulator,
    *,
    host: str = "127.0.0.1",
    port: int = 0,
    tls: bool = False,
    names: Iterable[str] = (),
    stand_in: bool = False,
) -> SimulatorServer:
    """A server for `simulator` on `port` (0: any free one), already listening; `tls`: under https."""
    return SimulatorServer(simulator, host, port, tls=tls, names=names, stand_in=stand_in).start()


def _start_thread(run: Callable[..., None]) -> threading.Thread:
    thread = threading.Thread(target=run, kwargs={"poll_interval": 0.05}, name="kling-simulator", daemon=True)
    thread.start()
    return thread
