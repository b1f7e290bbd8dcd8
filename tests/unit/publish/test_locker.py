"""The bucket of an archive: which places are none, and a server that takes a lock and does not keep it."""

from __future__ import annotations

import datetime as dt
import threading
from collections.abc import Iterator
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from klingai_audit.errors import StorageError, UsageError
from klingai_audit.publish.locker import open_locker

UNTIL = dt.datetime.now(dt.UTC).replace(microsecond=0) + dt.timedelta(days=3)


@pytest.mark.parametrize(
    "url", ["s3://AKIA:hidden@bucket/x", "s3://AKIA:hid/den@bucket/x", "s3://bucket/x?secret=hidden", "gs://k:hidden@b"]
)
def test_credentials_in_the_url(url: str) -> None:
    """Credentials in the URL are refused, and not repeated."""
    with pytest.raises(UsageError) as refused:
        open_locker(url)
    assert not any(word in str(refused.value) for word in ("hid", "den@", "AKIA"))


@pytest.mark.parametrize("prefix", ["a//b", "a/../b", "./a", "a\\b"])
def test_a_prefix_that_is_not_read_alike(prefix: str) -> None:
    """What is put under lock there could not be read as a log afterwards."""
    with pytest.raises(UsageError, match="is no place for an archive"):
        open_locker(f"s3://bucket/{prefix}")


@pytest.mark.slow
@pytest.mark.parametrize(("endpoint", "words"), [("s3.internal:9000", "no URL"), ("http://s3.internal", "plain http")])
def test_endpoints_that_are_refused(monkeypatch: pytest.MonkeyPatch, endpoint: str, words: str) -> None:
    """What is no URL, and what everybody on the way could read."""
    pytest.importorskip("boto3", reason="archives need boto3")
    monkeypatch.delenv("AWS_ALLOW_HTTP", raising=False)
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", endpoint)
    with pytest.raises(UsageError, match=words):
        open_locker("s3://bucket/x")


class Forgetful(BaseHTTPRequestHandler):
    """Takes every object, tells nobody whether the bucket locks, and forgets until when an object is to be kept."""

    protocol_version = "HTTP/1.1"
    paths: list[str]

    def do_GET(self) -> None:
        self.answer(HTTPStatus.FORBIDDEN, b"<Error><Code>AccessDenied</Code></Error>")

    def do_HEAD(self) -> None:
        self.answer(HTTPStatus.OK)

    def do_PUT(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        self.paths.append(self.path)
        self.answer(HTTPStatus.OK)

    def answer(self, status: HTTPStatus, body: bytes = b"") -> None:
        self.send_response(status)
        self.send_header("etag", '"1"')
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *values: object) -> None:
        """Say nothing."""


@pytest.fixture
def forgetful(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    pytest.importorskip("boto3", reason="archives need boto3")
    paths: list[str] = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (Forgetful,), {"paths": paths}))
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    monkeypatch.delenv("AWS_ENDPOINT_URL_S3", raising=False)
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "k")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "s")
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    yield paths
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.slow
def test_a_server_that_does_not_keep(forgetful: list[str]) -> None:
    """The first object shows it, not the last."""
    locker = open_locker("s3://bucket/x")
    with pytest.raises(StorageError, match="does not say that it keeps it"):
        locker.put_new("tile/0/000", b"hashes", UNTIL)
    assert ["/bucket/x/tile/0/000"] == forgetful
