"""Syslog over TLS (RFC 5425) or plain TCP (RFC 6587), framed by octet counting.

Syslog has no acknowledgement. A message counts as settled when it was written more than `resend` seconds ago, the
connection still stood, and the receiver's system had taken every byte; or when both sides closed the connection in
order. After a break everything that is not settled is sent again.
Known hole: a receiver that dies with older messages still in its own memory. Such a loss shows as a gap in `seq`.
"""

from __future__ import annotations

import contextlib
import fcntl
import socket
import ssl
import struct
import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from klingai_audit.errors import StorageError, UsageError
from klingai_audit.exports.record import Position, Record, TreeHead
from klingai_audit.exports.sink import SinkLost
from klingai_audit.exports.syslog import frame

__all__ = ["RESEND_SECONDS", "Peer", "SyslogSink"]

RESEND_SECONDS: Final = 5.0
"""What was sent in so many seconds before a break is sent again."""

TAKES_SECONDS: Final = 30.0
"""A receiver that takes no byte for so long counts as gone."""

_CLOSE_SECONDS: Final = 10.0
_SIOCOUTQ: Final = 0x5411
_BYTES_ACKED: Final = 120  # of tcpi_bytes_acked in struct tcp_info (linux/tcp.h)


@dataclass(frozen=True, slots=True)
class Peer:
    """A receiver: host, port, and how to be certain that it is the right one.

    With `tls` its certificate must be valid for `host`, under the authorities in the PEM file `ca` (None: those that
    this system trusts); `certificate` and `key` are PEM files for receivers that want to know their senders.
    """

    host: str
    port: int
    tls: bool = True
    ca: str | None = None
    certificate: str | None = None
    key: str | None = None

    def context(self) -> ssl.SSLContext | None:
        """Return the TLS settings, None for plain TCP. Raises: UsageError for a file that is not what it should be."""
        if not self.tls:
            return None
        try:
            context = ssl.create_default_context(cafile=self.ca)
            context.minimum_version = ssl.TLSVersion.TLSv1_2
            if self.certificate is not None:
                context.load_cert_chain(self.certificate, self.key)
        except (OSError, ssl.SSLError) as exc:
            raise UsageError(
                f"The certificates for {self.host} cannot be loaded: {exc.strerror or 'they are not PEM'}.",
                do="--ca, --cert and --cert-key name PEM files; a key with a passphrase is not supported.",
            ) from exc
        return context


class _Octets(NamedTuple):
    """Octets that the other system has taken, and that were written in all, counted by this system's kernel."""

    taken: int
    written: int


class _Sent(NamedTuple):
    """A batch: when it was written, how many octets were written by then, and the position that it leads to."""

    at: float
    octets: int
    position: Position


class SyslogSink:
    """One connection to a syslog receiver, made anew by `open` after a break."""

    def __init__(
        self,
        peer: Peer,
        encode: Callable[[Record], bytes],
        *,
        resend: float = RESEND_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._peer = peer
        self._context = peer.context()
        self._encode = encode
        self._resend = resend
        self._clock = clock
        self._socket: socket.socket | None = None
        self.settled = Position(0, None)
        self._sent: deque[_Sent] = deque()

    def open(self, position: Position) -> bool:
        self.abandon()
        self.settled = position
        self._sent.clear()
        peer = self._peer
        try:
            plain = socket.create_connection((peer.host, peer.port), timeout=TAKES_SECONDS)
        except OSError as exc:
            raise SinkLost(
                f"{peer.host}:{peer.port} cannot be reached: {exc.strerror or exc}.",
                do="Is the receiver running, and the address right?",
            ) from exc
        try:
            plain.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            if self._context is not None:
                plain = self._context.wrap_socket(plain, server_hostname=peer.host)
        except ssl.SSLCertVerificationError as exc:
            plain.close()
            raise StorageError(
                f"The certificate of {peer.host}:{peer.port} is not to be trusted: {exc.verify_message}.",
                do="Name the authority that issued it: --ca FILE",
            ) from exc
        except OSError as exc:
            plain.close()
            raise SinkLost(f"{peer.host}:{peer.port} does not answer in TLS: {_reason(exc)}.") from exc
        self._socket = plain
        return True

    def send(self, records: Sequence[Record], position: Position) -> None:
        connection = self._living()
        self._settle(connection)
        data = b"".join(frame(self._encode(record)) for record in records)
        try:
            connection.settimeout(TAKES_SECONDS)
            connection.sendall(data)
        except OSError as exc:
            raise self._lost(exc) from exc
        self._sent.append(_Sent(self._clock(), _octets(connection).written, position))

    def check(self, head: TreeHead) -> None:
        self._settle(self._living())

    def finish(self, head: TreeHead) -> None:
        """Close in order: whoever closes its side after us has read what came before."""
        connection = self._living()
        try:
            connection.settimeout(_CLOSE_SECONDS)
            if isinstance(connection, ssl.SSLSocket):
                with contextlib.suppress(ssl.SSLEOFError, ssl.SSLZeroReturnError):
                    connection = connection.unwrap()
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_WR)
            while not isinstance(connection, ssl.SSLSocket) and connection.recv(4096):
                pass
        except OSError as exc:
            raise self._lost(exc) from exc
        if self._sent:
            self.settled = self._sent[-1].position
            self._sent.clear()
        self.abandon()

    def abandon(self) -> None:
        if self._socket is not None:
            with contextlib.suppress(OSError):
                self._socket.close()
            self._socket = None

    def _settle(self, connection: socket.socket) -> None:
        if not self._sent:
            return
        taken, now = _octets(connection).taken, self._clock()
        while self._sent and self._sent[0].octets <= taken and now - self._sent[0].at >= self._resend:
            self.settled = self._sent.popleft().position

    def _living(self) -> socket.socket:
        """Return the connection if the receiver did not close it. Raises: SinkLost."""
        connection = self._socket
        if connection is None:
            raise self._lost(None)
        try:
            connection.settimeout(0)
            if connection.recv(4096):
                return connection  # a receiver of syslog has nothing to say
        except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return connection
        except OSError as exc:
            raise self._lost(exc) from exc
        raise self._lost(None)

    def _lost(self, exc: OSError | None) -> SinkLost:
        self.abandon()
        why = "it closed the connection" if exc is None else _reason(exc)
        return SinkLost(f"The connection to {self._peer.host}:{self._peer.port} broke: {why}.")


def _reason(exc: OSError) -> str:
    if isinstance(exc, TimeoutError):
        return "it takes nothing any more"
    if isinstance(exc, ssl.SSLError):
        return (exc.reason or "TLS failed").replace("_", " ").lower()
    return exc.strerror or type(exc).__name__


def _octets(connection: socket.socket) -> _Octets:
    """Return how far a connection has come; where this system cannot tell, everything counts as taken."""
    if sys.platform != "linux":
        return _Octets(0, 0)
    try:
        state = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _BYTES_ACKED + 8)
        waiting = struct.unpack("i", fcntl.ioctl(connection.fileno(), _SIOCOUTQ, b"\0" * 4))[0]
        taken = struct.unpack_from("Q", state, _BYTES_ACKED)[0]
    except (OSError, struct.error):
        return _Octets(0, 0)
    return _Octets(taken, taken + waiting)
