"""Asking a server whether an object is under lock: what counts as an answer, and what is told of the question."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator, Sequence
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("obstore", reason="obstore comes with klingai-audit[objects]")

from klingai_audit.errors import AuditUnavailable
from klingai_audit.stores import objects_client
from klingai_audit.stores.objects_client import Bucket
from klingai_audit.stores.objects_driver import Driver, driver

LOCK = "x-amz-object-lock-legal-hold"
SIGNATURE = "X-Amz-Signature=not-for-logs"


class Server(ThreadingHTTPServer):
    """Answers each request with the next of `statuses`, the last one again and again; `asked` are the targets."""

    def __init__(self) -> None:
        self.statuses: Sequence[HTTPStatus] = [HTTPStatus.OK]
        self.asked: list[str] = []
        super().__init__(("127.0.0.1", 0), Handler)


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_HEAD(self) -> None:
        statuses, asked = self.server.statuses, self.server.asked
        asked.append(self.path)
        self.send_response(statuses[min(len(asked), len(statuses)) - 1])
        self.send_header(LOCK.upper(), "ON")
        self.end_headers()

    def log_message(self, format: str, *values: object) -> None:
        """Say nothing."""


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    thread = threading.Thread(target=made.serve_forever, args=(0.01,))
    thread.start()
    yield made
    made.shutdown()
    thread.join()
    made.server_close()


@pytest.fixture
def bucket(server: Server, monkeypatch: pytest.MonkeyPatch) -> Bucket:
    def sign(store: Any, method: str, path: str, span: Any) -> str:
        return f"http://127.0.0.1:{server.server_port}/b/log/{path}?{SIGNATURE}"

    made = Bucket(lambda api: SimpleNamespace(config={}), "s3://b/log")
    client = Driver(SimpleNamespace(sign=sign), None, driver().exceptions), SimpleNamespace(config={})
    monkeypatch.setattr(made, "_client", lambda: client)
    return made


def test_the_signature_is_in_no_log(server: Server, bucket: Bucket, caplog: pytest.LogCaptureFixture) -> None:
    """The server gets it; whoever reads the logs of the HTTP client does not."""
    with caplog.at_level(logging.DEBUG):
        assert "ON" == bucket.lock_headers("tile/entries/000")[LOCK]
    assert [f"/b/log/tile/entries/000?{SIGNATURE}"] == server.asked
    assert "tile/entries/000" in caplog.text
    assert "not-for-logs" not in caplog.text


def test_no_such_object(server: Server, bucket: Bucket) -> None:
    """What is not there is under no lock."""
    server.statuses = [HTTPStatus.NOT_FOUND]
    assert {} == bucket.lock_headers("tile/entries/000")


def test_a_server_that_is_busy_for_a_moment(server: Server, bucket: Bucket) -> None:
    """It is asked again."""
    server.statuses = [HTTPStatus.SERVICE_UNAVAILABLE, HTTPStatus.OK]
    assert "ON" == bucket.lock_headers("tile/entries/000")[LOCK]


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (HTTPStatus.SERVICE_UNAVAILABLE, "answered 503"),
        (HTTPStatus.NOT_IMPLEMENTED, "answered 501"),
        (HTTPStatus.FORBIDDEN, "answered 403.*credentials"),
    ],
)
def test_no_answer_is_not_free(
    server: Server, bucket: Bucket, monkeypatch: pytest.MonkeyPatch, status: HTTPStatus, words: str
) -> None:
    """Where it cannot be told whether an object is under lock, nothing is purged."""
    monkeypatch.setattr(objects_client, "PATIENCE_S", 0.1)
    server.statuses = [status]
    with pytest.raises(AuditUnavailable, match=words) as caught:
        bucket.lock_headers("tile/entries/000")
    assert "not-for-logs" not in str(caught.value)
