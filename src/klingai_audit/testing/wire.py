"""What a fault proxy is told to do, and the pair of connections that it does it to. Used by `testing.proxy` alone."""

from __future__ import annotations

import contextlib
import select
import socket
import struct
import threading
from collections import deque
from dataclasses import dataclass, field
from typing import Final, Literal

__all__ = ["Cut", "Delay", "Direction", "Duplicate", "Fault", "Link", "Repeat", "Severed", "hang_up"]

Direction = Literal["up", "down"]
"""`up`: what the client says to the server; `down`: what the server answers."""

_CHUNK: Final = 1 << 16
_RESET: Final = struct.pack("ii", 1, 0)


@dataclass(frozen=True)
class Cut:
    """End the connection after exactly `at` bytes in one direction went through; both sides see it end.

    `Cut("down", 0)` waits for the first byte of the server's answer and lets nothing of it through: the server did
    what it was asked, and the client will not hear of it. With `reset` the client sees the connection reset,
    otherwise closed.
    """

    direction: Direction
    at: int
    reset: bool = True


@dataclass(frozen=True)
class Delay:
    """Hold everything that follows byte `at` of one direction back for `seconds`, on its connection."""

    direction: Direction
    at: int
    seconds: float


@dataclass(frozen=True)
class Duplicate:
    """Send the `length` bytes that follow byte `at` of one direction twice, one copy after the other.

    They end earlier if their connection does, or when the other side speaks: bytes of one run are duplicated, never
    of two.
    """

    direction: Direction
    at: int
    length: int


@dataclass(frozen=True)
class Repeat:
    """Let the server handle a whole request twice and give the client the second answer alone.

    It is the first request to begin after byte `at` of what clients say. When its answer begins, the connection to
    the server is given up and the same bytes are sent on a new one: what a client or a gateway does that tries again
    after a lost answer. For protocols whose requests stand for themselves, as HTTP's.
    """

    at: int = 0


Fault = Cut | Delay | Duplicate | Repeat


class Severed(Exception):
    """A connection is to end here; without `reset` it is closed as if its owner had done that."""

    def __init__(self, *, reset: bool = True) -> None:
        super().__init__()
        self.reset = reset


@dataclass(eq=False)
class Link:
    """One client's connection and the one to the server that belongs to it; a thread of its own forwards for it.

    `request` is what the client said since the server last spoke; `copying` a duplicate in the making; `backlog` what
    was read while the other direction was full. Whoever wants the link to end sets `stop` and calls `wake`.
    """

    client: socket.socket
    server: socket.socket
    request: bytearray = field(default_factory=bytearray)
    repeat: bool = False
    last: Direction = "down"
    copying: tuple[Duplicate, bytearray] | None = None
    backlog: deque[tuple[Direction, bytes]] = field(default_factory=deque)
    stop: threading.Event = field(default_factory=threading.Event)
    done: threading.Event = field(default_factory=threading.Event)

    def wake(self) -> None:
        """Let reads of its thread end; the other ends of the connections see nothing of it."""
        for end in (self.client, self.server):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RD)

    def check(self) -> None:
        """Raises: Severed if the link is to end."""
        if self.stop.is_set():
            raise Severed

    def send(self, side: Direction, data: bytes) -> None:
        """Send to the server (`up`) or the client, and read what comes from there meanwhile, lest both wait."""
        target = self.server if side == "up" else self.client
        left = memoryview(data)
        waiting = select.poll()
        waiting.register(target, select.POLLIN | select.POLLOUT)
        while left:
            events = waiting.poll()[0][1]
            self.check()
            if events & select.POLLOUT:
                left = left[target.send(left, socket.MSG_DONTWAIT) :]
            elif events & select.POLLIN:
                said = target.recv(_CHUNK)
                self.backlog.append(("down" if side == "up" else "up", said))
                if not said:
                    waiting.modify(target, select.POLLOUT)
            else:
                raise ConnectionResetError

    def send_copy(self) -> None:
        """Send the duplicate that is in the making."""
        if self.copying is not None:
            fault, copy = self.copying
            self.copying = None
            self.send(fault.direction, bytes(copy))

    def receive(self, sides: set[Direction]) -> tuple[Direction, bytes]:
        """Return what one of `sides` says next, empty at its end."""
        if self.backlog:
            return self.backlog.popleft()
        waiting = select.poll()
        ends: dict[int, Direction] = {}
        for side in sides:
            end = self.client if side == "up" else self.server
            ends[end.fileno()] = side
            waiting.register(end, select.POLLIN)
        found = ends[waiting.poll()[0][0]]
        self.check()
        return found, (self.client if found == "up" else self.server).recv(_CHUNK)


def hang_up(end: socket.socket, *, reset: bool) -> None:
    """Close a socket, with `reset` so that the other end hears of no orderly end."""
    with contextlib.suppress(OSError):
        if reset:
            end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        else:
            end.shutdown(socket.SHUT_RDWR)
    with contextlib.suppress(OSError):
        end.close()
