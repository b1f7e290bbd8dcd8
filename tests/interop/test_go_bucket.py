"""Go's own trees and notes read a log straight from its bucket: what the writers put there is the public face."""

from __future__ import annotations

import contextlib
import http.server
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("obstore", reason="obstore comes with klingai-audit[objects]")

from klingai_audit.log import AuditLog
from tests.interop.conftest import Published
from tests.interop.test_go import ask, build, told
from tests.support.objects import ObjectServer

pytestmark = pytest.mark.slow


@contextlib.contextmanager
def readable(server: ObjectServer, url: str) -> Iterator[str]:
    """Give a web address under which anybody reads the objects of a prefix, as from a bucket that is public."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            answer = server.request("GET", f"/{url.removeprefix('s3://')}{self.path}")
            self.send_response(answer.status)
            self.send_header("content-length", str(len(answer.body)))
            self.end_headers()
            self.wfile.write(answer.body)

        def log_message(self, *arguments: object) -> None:
            """Say nothing."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as web:
        thread = threading.Thread(target=web.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{web.server_port}"
        finally:
            web.shutdown()
            thread.join()


def test_go_reads_the_bucket(objects: ObjectServer, bucket_url: str, tmp_path: Path) -> None:
    """At three sizes: every entry is under the signed tree, and each state continues those before."""
    program = build("reader", tmp_path)
    olds: list[Path] = []
    with (
        readable(objects, bucket_url) as address,
        AuditLog.open(bucket_url, keys=tmp_path / "keys", state=tmp_path / "state", post_quantum=True) as log,
    ):
        for count in (3, 250, 400):
            for number in range(count):
                log.log("x_note", "user@example.com", metadata={"number": number})
            log.flush("published")
            size = log.reader.size
            done = ask(program, Published(tmp_path, (log.vkey,), tuple(olds)), address)
            found = told(done)
            assert (size, size, len(olds)) == (found["size"], found["proven"], found["older"])
            olds.append(tmp_path / f"old-{size}")
            olds[-1].write_bytes(log.reader.checkpoint_note())
    assert size > 653
