"""The demo's callbacks: a receiver as a web application would have it, a signed callback, and a forged one."""

from __future__ import annotations

import queue
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self

from klingai_audit.cli.demo_stage import MAKER, Stage, as_person
from klingai_audit.errors import StorageError
from klingai_audit.kling.reply import FINAL

if TYPE_CHECKING:
    from klingai_audit.kling.webhook import Callback
    from klingai_audit.log import AuditLog

SECRET: Final = "whsec_ZGVtby1zZWNyZXQtb2YtdGhlLXNpbXVsYXRvcg=="  # noqa: S105  the simulator's, of no use elsewhere
"""The webhook secret that the console would have shown."""

SECONDS: Final = 30.0
"""How long a callback may take."""

_PROMPT: Final = "A ferry at dusk, lights on the water"
_MAX_BODY: Final = 1 << 20


class _Handler(BaseHTTPRequestHandler):
    """Hands headers and raw body to the log, and answers what the log says."""

    server: _HttpServer

    def do_POST(self) -> None:
        """Take one callback in."""
        length = self.headers.get("content-length", "")
        body = self.rfile.read(min(int(length), _MAX_BODY)) if length.isdecimal() else b""
        told = self.server.audit.webhook(self.headers, body, secret=SECRET)
        self.send_response(told.http_status)
        self.send_header("content-length", "0")
        self.end_headers()
        self.server.told.put(told)

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing; the log has it."""


class _HttpServer(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, audit: AuditLog) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.audit = audit
        self.told: queue.Queue[Callback] = queue.Queue()


class Receiver:
    """Receives callbacks on a free port of this machine while its `with` block lasts."""

    def __init__(self, audit: AuditLog) -> None:
        self._http = _HttpServer(audit)
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.05,), name="receiver", daemon=True)
        self.url = f"http://localhost:{self._http.server_port}/kling"

    def next(self) -> Callback:
        """Return what became of the next callback. Raises: StorageError: none came."""
        try:
            return self._http.told.get(timeout=SECONDS)
        except queue.Empty as exc:
            raise StorageError(
                f"No callback came to {self.url} in {SECONDS:g} s.",
                do="Let programs of this machine reach each other on localhost.",
            ) from exc

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()


def callbacks_true_and_forged(stage: Stage) -> None:
    """Order with a callback address: a forged callback comes, then the provider's own."""
    narrator, provider = stage.narrator, stage.simulator.callbacks
    provider.use_secret(SECRET)
    with Receiver(stage.audit) as receiver:
        narrator.scene(MAKER, "orders a video and does not ask how it goes: the provider is to call back")
        with as_person(MAKER), stage.client() as kling:
            task = kling.text_to_video(_PROMPT, model="kling-3.0-turbo", duration=5, callback_url=receiver.url)
        provider.forge(receiver.url, {"id": task.id, "status": "failed", "message": "no such luck"})
        claimed = ended = False
        while not (claimed and ended):
            told = receiver.next()
            stage.callbacks[told.verdict] += 1
            if told.verdict == "claim":
                narrator.result("unknown", "somebody says without a signature that it failed: kept as a claim, no end")
                claimed = True
            ended = ended or (told.verdict == "verified" and told.status in FINAL)
    stage.tasks.append(task.id)
    narrator.result("success", "a callback that the provider signed says it is done: the one end, and nobody polled")
