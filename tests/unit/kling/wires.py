"""Small real network pieces for tests: a proxy that forwards and tunnels, and TLS in front of a plain server."""

from __future__ import annotations

import contextlib
import datetime as dt
import ipaddress
import select
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID


class Listener:
    """Accepts connections on a loopback port and hands each to `handle` in a thread."""

    def __init__(self, handle: Callable[[socket.socket], None]) -> None:
        self._handle = handle
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port = self._socket.getsockname()[1]
        self._open: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._socket.accept()
                self._open.append(connection)
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError, ValueError), connection:
            self._handle(connection)

    def close(self) -> None:
        """Stop listening and drop all connections."""
        for connection in [self._socket, *self._open]:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
            connection.close()


def relay(one: socket.socket, other: socket.socket) -> None:
    """Copy bytes both ways until one side ends."""
    while True:
        for source in select.select([one, other], [], [], 30)[0] or [None]:
            data = source.recv(65_536) if source is not None else b""
            if not data:
                return
            (other if source is one else one).sendall(data)


class Proxy:
    """Forwards absolute-form requests and tunnels CONNECT; keeps the first line of each. `refuse` answers 403."""

    def __init__(self, *, refuse: bool = False) -> None:
        self.lines: list[str] = []
        self._refuse = refuse
        self._listener = Listener(self._serve)
        self.url = f"http://127.0.0.1:{self._listener.port}"

    def _serve(self, client: socket.socket) -> None:
        head = b""
        while b"\r\n\r\n" not in head:
            chunk = client.recv(65_536)
            if not chunk:
                return
            head += chunk
        first, _, rest = head.partition(b"\r\n")
        method, target, version = first.decode("latin-1").split(" ")
        self.lines.append(f"{method} {target}")
        if self._refuse:
            client.sendall(b"HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
            return
        if method == "CONNECT":
            host, _, port = target.rpartition(":")
            with socket.create_connection((host, int(port))) as server:
                client.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
                relay(client, server)
            return
        url = urlsplit(target)
        with socket.create_connection((url.hostname or "", url.port or 80)) as server:
            path = f"{url.path or '/'}{'?' + url.query if url.query else ''}"
            server.sendall(f"{method} {path} {version}\r\nconnection: close\r\n".encode() + rest)
            relay(client, server)

    def close(self) -> None:
        """Stop."""
        self._listener.close()


@contextlib.contextmanager
def proxy(*, refuse: bool = False) -> Iterator[Proxy]:
    """Run a proxy."""
    running = Proxy(refuse=refuse)
    try:
        yield running
    finally:
        running.close()


@contextlib.contextmanager
def tls_in_front_of(port: int, folder: Path) -> Iterator[tuple[int, ssl.SSLContext]]:
    """Serve TLS as `localhost` before a plain port; gives the TLS port and a context that trusts it."""
    certificate = _certificate(folder)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)

    def serve(client: socket.socket) -> None:
        secure = context.wrap_socket(client, server_side=True)
        with secure, socket.create_connection(("127.0.0.1", port)) as server:
            _relay_tls(secure, server)

    listener = Listener(serve)
    try:
        yield listener.port, ssl.create_default_context(cafile=str(certificate))
    finally:
        listener.close()


def _relay_tls(secure: ssl.SSLSocket, server: socket.socket) -> None:
    while True:
        ready = [secure] if secure.pending() else select.select([secure, server], [], [], 30)[0]
        for source in ready or [None]:
            data = source.recv(65_536) if source is not None else b""
            if not data:
                return
            (server if source is secure else secure).sendall(data)


def _certificate(folder: Path) -> Path:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = dt.datetime.now(dt.UTC)
    names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    path = folder / "localhost.pem"
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path.write_bytes(private + certificate.public_bytes(serialization.Encoding.PEM))
    return path
