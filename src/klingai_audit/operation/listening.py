"""Sockets to listen on."""

from __future__ import annotations

import errno
import re
import socket
from typing import Final

from klingai_audit.errors import StorageError, UsageError

__all__ = ["bind", "bind_in_range", "url_of"]

_RANGE: Final = re.compile(r"(.+):([0-9]{1,5})-([0-9]{1,5})", re.ASCII)


def bind(listen: str) -> socket.socket:
    """Return a listening socket for `HOST:PORT` (port 0: any free one; `[::1]:80` for IPv6).

    Raises: UsageError for another form; StorageError if it cannot be had.
    """
    host, colon, port = listen.rpartition(":")
    if not colon or not host or not port.isascii() or not port.isdigit() or int(port) > 65_535:
        raise UsageError(f"{listen!r} is no address to listen on.", do="Use HOST:PORT, such as 127.0.0.1:8080")
    host = host.removeprefix("[").removesuffix("]")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listening = socket.create_server((host, int(port)), family=family, backlog=128)
    except (OSError, UnicodeError) as exc:
        reason = getattr(exc, "strerror", None) or "no such host"
        raise StorageError(f"Nothing can listen on {listen}: {reason}.", do="Choose another address.") from exc
    # Connections inherit it: asyncio does not see that these are TCP, and an answer in two writes takes 40 ms without.
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listening


def bind_in_range(listen: str) -> socket.socket:
    """As `bind`, but `HOST:FIRST-LAST` takes the first free port from FIRST to LAST, both included.

    So the workers of one server, which start and end as they like, get a port each. Raises: as `bind`.
    """
    found = _RANGE.fullmatch(listen)
    if found is None:
        return bind(listen)
    host, first, last = found[1], int(found[2]), int(found[3])
    if not 0 < first <= last <= 65_535:
        raise UsageError(f"{listen!r} is no range of ports.", do="Use HOST:FIRST-LAST, such as 127.0.0.1:9464-9471")
    for port in range(first, last):
        try:
            return bind(f"{host}:{port}")
        except StorageError as error:
            if getattr(error.__cause__, "errno", None) != errno.EADDRINUSE:
                raise
    return bind(f"{host}:{last}")


def url_of(listening: socket.socket, scheme: str = "http") -> str:
    """Return the address of a listening socket, such as `http://127.0.0.1:9464`."""
    host, port = listening.getsockname()[:2]
    return f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}"
