"""A receiver of callbacks on a port of its own, as a web application has one."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from klingai_audit import AuditLog
from klingai_audit.kling.webhook import Callback


class Receiver(BaseHTTPRequestHandler):
    """What a service does with a callback."""

    def do_POST(self) -> None:
        """Hand it to the log and answer what the log says."""
        body = self.rfile.read(int(self.headers["content-length"]))
        done = self.server.audit.webhook(self.headers, body, secret=self.server.secret, client=self.server.client)
        self.server.told.append(done)
        self.send_response(done.http_status)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *arguments: Any) -> None:
        """Say nothing."""


class Gate(ThreadingHTTPServer):
    """The receiver's server; `told` holds what became of each callback, `client` may confirm."""

    daemon_threads = True

    def __init__(self, audit: AuditLog, secret: str) -> None:
        super().__init__(("127.0.0.1", 0), Receiver)
        self.audit = audit
        self.secret = secret
        self.client: Any = None
        self.told: list[Callback] = []
        self.url = f"http://localhost:{self.server_port}/kling"

    def wait(self, count: int) -> list[str]:
        """Return the verdicts, as soon as there are so many."""
        deadline = time.monotonic() + 120
        while len(self.told) < count and time.monotonic() < deadline:
            time.sleep(0.01)
        assert len(self.told) >= count
        return [told.verdict for told in self.told]


@contextmanager
def receiving(audit: AuditLog, secret: str) -> Iterator[Gate]:
    """Receive while the block lasts."""
    server = Gate(audit, secret)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
