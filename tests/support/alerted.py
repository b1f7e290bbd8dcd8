"""A receiver of alerts by webhook on a port of its own; it can be told to refuse, and checks signatures itself."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

SECRET = b"0123456789abcdef0123456789abcdef"


class Hook:
    """Keeps the bodies of what it took, in order; `answers` are status codes for the next requests, 200 after them."""

    def __init__(self) -> None:
        self.taken: list[dict[str, Any]] = []
        self.ids: list[str] = []
        self.signed: list[bool] = []
        self.answers: list[int] = []
        hook = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                hook.ids.append(self.headers["webhook-id"])
                signed = f"{self.headers['webhook-id']}.{self.headers['webhook-timestamp']}.".encode() + body
                wanted = "v1," + base64.b64encode(hmac.digest(SECRET, signed, hashlib.sha256)).decode()
                status = hook.answers.pop(0) if hook.answers else 200
                if status == 200:
                    hook.signed.append(self.headers.get("webhook-signature") == wanted)
                    hook.taken.append(json.loads(body))
                self.send_response(status)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/alerts"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    @property
    def alerts(self) -> list[tuple[str, str]]:
        """(change, kind) of everything taken."""
        return [(one["change"], one["kind"]) for body in self.taken for one in body["alerts"]]
