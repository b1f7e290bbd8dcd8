"""One POST to a callback address: no proxy, no redirect, no reading beyond the status."""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from urllib.parse import urlsplit


def post(url: str, headers: Mapping[str, str], body: bytes, *, timeout: float, ca_file: str | None) -> int | None:
    """Send `body`; return the HTTP status, or None if no reply came within `timeout` seconds.

    An https receiver is checked against the system's authorities and the one in `ca_file`.
    """
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
        if not host:  # which would be this machine
            return None
        if parts.scheme == "https":
            context = ssl.create_default_context()
            if ca_file is not None:
                context.load_verify_locations(ca_file)
            connection: HTTPConnection = HTTPSConnection(host, port, timeout=timeout, context=context)
        else:
            connection = HTTPConnection(host, port, timeout=timeout)
    except (ValueError, OSError):
        return None
    try:
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        connection.request("POST", target, body, dict(headers))
        return connection.getresponse().status
    except (OSError, HTTPException, ValueError):
        return None
    finally:
        connection.close()
