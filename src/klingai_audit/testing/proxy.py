"""A proxy between a client and its server that cuts, delays and duplicates at chosen bytes: for tests of stores.

A server that dies in the middle of a commit is rare, and never dies where a test wants it. This proxy ends a
connection after exactly as many bytes as it is told, in either direction, so that every place of a conversation can
be tried: before the request is whole, after it is whole and before the answer, in the middle of the answer.

    with FaultProxy("127.0.0.1", 5432) as proxy:
        store = open_store(port=proxy.port)
        with proxy.watched() as traffic:
            commit(store)                          # how many bytes does it take? `traffic.up`, `traffic.down`
        proxy.arm(Cut("up", traffic.up // 2))      # the next one gets half of its request through
        commit(store)

Bytes are counted over all connections, from the moment of `arm` on; each fault happens once. It speaks TCP and knows
no protocol. See docs/how-to/write-a-store.md.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Self

from klingai_audit.errors import UsageError
from klingai_audit.testing.wire import Cut, Delay, Direction, Duplicate, Fault, Link, Repeat, Severed, hang_up

__all__ = ["Cut", "Delay", "Direction", "Duplicate", "Fault", "FaultProxy", "Repeat", "Traffic"]

_PATIENCE: Final = 30


@dataclass
class Traffic:
    """What went through since `arm` or `watched`: bytes in both directions, and connections that clients opened."""

    up: int = 0
    down: int = 0
    connections: int = 0


class FaultProxy:
    """Listens on a port of 127.0.0.1 that the kernel chose, and forwards to `host` and `port`.

    Args:
        host: where the server is.
        port: the server's port; it need not listen yet, and may come back.

    """

    def __init__(self, host: str, port: int) -> None:
        self._target = (host, port)
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.port: int = self._listener.getsockname()[1]
        self._lock = threading.Lock()
        self._links: set[Link] = set()
        self._faults: list[Fault] = []
        self._fired: list[Fault] = []
        self._traffic = Traffic()
        self._refusing = False
        self._closed = False
        threading.Thread(target=self._accept, name="fault-proxy", daemon=True).start()

    def arm(self, *faults: Fault) -> None:
        """Begin to count at zero; from here on each of `faults` happens once, and those armed before do not.

        Raises: UsageError (an offset, a length or a time below zero).
        """
        for fault in faults:
            if fault.at < 0 or getattr(fault, "seconds", 0) < 0 or getattr(fault, "length", 0) < 0:
                raise UsageError(f"{fault} has a number below zero.")
        with self._lock:
            self._faults = list(faults)
            self._fired = []
            self._traffic = Traffic()
            for link in self._links:
                link.copying = None
                link.repeat = False

    def disarm(self) -> None:
        """Let everything through, and count from zero."""
        self.arm()

    @property
    def fired(self) -> tuple[Fault, ...]:
        """The faults that happened since `arm`, in their order."""
        with self._lock:
            return tuple(self._fired)

    @property
    def traffic(self) -> Traffic:
        """What went through since `arm`; goes on counting."""
        return self._traffic

    @contextlib.contextmanager
    def watched(self) -> Iterator[Traffic]:
        """Disarm, and count what goes through in the block."""
        self.disarm()
        yield self._traffic

    def refuse(self) -> None:
        """Reset all connections, and each new one as soon as it is made, until `admit`."""
        self._refusing = True
        self.sever()

    def admit(self) -> None:
        """Take connections again."""
        self._refusing = False

    def sever(self) -> None:
        """Reset all connections that are open."""
        with self._lock:
            links = list(self._links)
        for link in links:
            link.stop.set()
            link.wake()
        for link in links:
            link.done.wait(_PATIENCE)

    def close(self) -> None:
        """Reset all connections and stop listening."""
        self._closed = True
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.sever()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # --- connections -------------------------------------------------------------------------------------------

    def _accept(self) -> None:
        while not self._closed:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            with self._lock:
                self._traffic.connections += 1
            threading.Thread(target=self._serve, args=(client,), name="fault-proxy-link", daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        try:
            if self._refusing:
                raise ConnectionRefusedError
            server = self._dial()
        except OSError:
            hang_up(client, reset=True)
            return
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        link = Link(client, server)
        with self._lock:
            self._links.add(link)
        reset = self._closed or self._refusing
        try:
            if not reset:
                self._pump(link)
        except Severed as severed:
            reset = severed.reset
        except OSError:
            reset = True
        finally:
            with self._lock:
                self._links.discard(link)
            hang_up(link.client, reset=reset)
            hang_up(link.server, reset=False)
            link.done.set()

    def _dial(self) -> socket.socket:
        server = socket.create_connection(self._target, timeout=_PATIENCE)
        server.settimeout(None)
        server.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return server

    # --- bytes -------------------------------------------------------------------------------------------------

    def _pump(self, link: Link) -> None:
        """Forward both directions until both have ended."""
        sides: set[Direction] = {"up", "down"}
        while sides:
            side, data = link.receive(sides)
            if data:
                self._forward(link, side, data)
            elif side in sides:
                sides.discard(side)
                link.send_copy()
                (link.server if side == "up" else link.client).shutdown(socket.SHUT_WR)

    def _forward(self, link: Link, side: Direction, data: bytes) -> None:
        if side != link.last:
            link.send_copy()
            link.last = side
            if side == "up":
                link.request.clear()
                self._begin_request(link)
        if link.repeat and side == "down":
            self._ask_again(link)
            return
        if link.repeat:
            link.request += data
        while data:
            fault, ahead = self._next_fault(side, len(data))
            self._pass(link, side, data[:ahead])
            data = data[ahead:]
            match fault:
                case Cut(reset=reset):
                    raise Severed(reset=reset)
                case Delay(seconds=seconds):
                    link.stop.wait(seconds)
                case Duplicate():
                    link.send_copy()
                    link.copying = (fault, bytearray())

    def _next_fault(self, side: Direction, length: int) -> tuple[Fault | None, int]:
        """Take the first fault within the next `length` bytes of a side: (fault, bytes before it); counts those."""
        with self._lock:
            passed = getattr(self._traffic, side)
            due = [fault for fault in self._faults if _about(fault, side) and fault.at <= passed + length]
            first = min(due, key=lambda fault: fault.at, default=None)
            ahead = length
            if first is not None:
                ahead = max(0, first.at - passed)
                self._faults.remove(first)
                self._fired.append(first)
            setattr(self._traffic, side, passed + ahead)
            return first, ahead

    def _pass(self, link: Link, side: Direction, data: bytes) -> None:
        if link.copying is None or link.copying[0].direction != side:
            link.send(side, data)
            return
        fault, copy = link.copying
        missing = fault.length - len(copy)
        copy += data[:missing]
        link.send(side, data[:missing])
        if len(copy) == fault.length:
            link.send_copy()
        link.send(side, data[missing:])

    def _begin_request(self, link: Link) -> None:
        with self._lock:
            for fault in self._faults:
                if isinstance(fault, Repeat) and fault.at <= self._traffic.up:
                    self._faults.remove(fault)
                    self._fired.append(fault)
                    link.repeat = True
                    return

    def _ask_again(self, link: Link) -> None:
        """Give the answer up, and ask again on a new connection."""
        given_up, link.server = link.server, self._dial()
        hang_up(given_up, reset=False)
        link.repeat = False
        link.last = "up"
        link.send("up", bytes(link.request))


def _about(fault: Fault, side: Direction) -> bool:
    return not isinstance(fault, Repeat) and fault.direction == side
