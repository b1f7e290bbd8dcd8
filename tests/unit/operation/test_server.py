"""/metrics, /healthz and /readyz of a process that has a log open."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from email.message import Message
from pathlib import Path

import pytest

from klingai_audit import AuditLog
from klingai_audit.errors import MissingExtra, StorageError, UsageError
from klingai_audit.operation import Board, MetricsServer, metrics, serve_metrics
from klingai_audit.operation import server as room
from klingai_audit.operation.health import can_record, has_room
from klingai_audit.operation.listening import bind, bind_in_range, url_of
from klingai_audit.operation.names import METRICS, PREFIX
from klingai_audit.operation.server import MAX_CLIENTS
from klingai_audit.testing import capture_events
from tests.support.children import Child

parser = pytest.importorskip("prometheus_client.parser", reason="the extra `serve` is not installed")


def ask(url: str, method: str = "GET", accept: str = "") -> tuple[int, bytes, Message]:
    request = urllib.request.Request(url, method=method, headers={"Accept": accept} if accept else {})
    try:
        with urllib.request.urlopen(request, timeout=20) as reply:
            return reply.status, reply.read(), reply.headers
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read(), error.headers


def samples(text: bytes) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    families = parser.text_string_to_metric_families(text.decode())
    return {(one.name, frozenset(one.labels.items())): one.value for family in families for one in family.samples}


@pytest.fixture
def audit() -> Iterator[AuditLog]:
    """A log in memory."""
    with capture_events() as captured:
        yield captured.audit


def test_the_numbers_are_those_of_the_log(audit: AuditLog) -> None:
    """What was appended is what Prometheus reads, under the log's name; each histogram adds up."""
    for number in range(7):
        audit.log("x_test", actor_id="user@example.com", action="test", number=number)
    audit.flush("published")
    with serve_metrics(audit) as server:
        status, body, headers = ask(f"{server.url}/metrics")
    found, log = samples(body), frozenset({("log", audit.origin)})
    assert (200, "text/plain") == (status, headers.get_content_type())
    assert found[f"{PREFIX}entries_appended_total", log] == found[f"{PREFIX}batch_entries_sum", log] >= 9
    assert found[f"{PREFIX}published_size_entries", log] == found[f"{PREFIX}durable_size_entries", log]
    commits = found[f"{PREFIX}commit_seconds_count", log]
    assert commits == found[f"{PREFIX}batch_entries_count", log]
    assert commits == found[f"{PREFIX}commit_seconds_bucket", log | {("le", "+Inf")}]
    assert 0 == found[f"{PREFIX}queue_entries", log]
    assert b"user@example.com" not in body


def test_each_declared_number_is_told(audit: AuditLog) -> None:
    """Every name of the table is a family of the text, with its kind and its words."""
    families = {family.name: family for family in parser.text_string_to_metric_families(metrics(audit).decode())}
    for name, metric in METRICS.items():
        family = families[PREFIX + name]
        assert (metric.kind, metric.help) == (family.type, family.documentation)
    assert {one for one in families if one.startswith(PREFIX)} == {PREFIX + name for name in METRICS}


def test_open_metrics_where_it_is_asked_for(audit: AuditLog) -> None:
    """The `Accept` header of a newer Prometheus gets its own format."""
    with serve_metrics(audit) as server:
        _, body, headers = ask(f"{server.url}/metrics", accept="application/openmetrics-text; version=1.0.0")
    assert "application/openmetrics-text" == headers.get_content_type()
    assert body.endswith(b"# EOF\n")


def test_alive_and_ready(audit: AuditLog) -> None:
    """While the log is open both say so; a process that closed it is alive and not ready, and says why."""
    with serve_metrics(audit) as server:
        assert (200, b"alive\n") == ask(f"{server.url}/healthz")[:2]
        status, body, _ = ask(f"{server.url}/readyz")
        assert (200, True) == (status, json.loads(body)["ready"])
        audit.close()
        status, body, _ = ask(f"{server.url}/readyz")
        assert (503, False) == (status, json.loads(body)["ready"])
        assert "does not have the log open" in json.loads(body)["checks"]["writer"]
        assert 200 == ask(f"{server.url}/healthz")[0]


def test_other_paths_and_methods(audit: AuditLog) -> None:
    """HEAD has no body; there is nothing else, and nothing can be changed."""
    with serve_metrics(audit) as server:
        status, body, headers = ask(f"{server.url}/metrics", "HEAD")
        assert (200, b"") == (status, body)
        assert int(headers["Content-Length"]) > 1000
        assert 404 == ask(f"{server.url}/")[0]
        assert 501 == ask(f"{server.url}/metrics", "POST")[0]


def test_those_who_only_connect_lock_nobody_out_for_long() -> None:
    """No more than so many at a time; who comes then is turned away, and as one goes the next is answered."""
    with MetricsServer(Board(), "127.0.0.1:0") as server:
        address = server.url.removeprefix("http://").split(":")
        idle = [socket.create_connection((address[0], int(address[1])), 10) for _ in range(MAX_CLIENTS)]
        try:
            with socket.create_connection((address[0], int(address[1])), 10) as late:
                with contextlib.suppress(ConnectionError):
                    late.sendall(b"GET /healthz HTTP/1.0\r\n\r\n")
                    assert b"" == late.recv(100)
        finally:
            for one in idle:
                one.close()
        until = time.monotonic() + 20
        while True:
            try:
                assert 200 == ask(f"{server.url}/healthz")[0]
                return
            except OSError:
                assert time.monotonic() < until
                time.sleep(0.01)


def test_who_sends_byte_by_byte_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client gets so many seconds in all, however diligently it goes on."""
    monkeypatch.setattr(room, "_PATIENCE_S", 0.5)
    with MetricsServer(Board(), "127.0.0.1:0") as server:
        host, port = server.url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), 10) as slow:
            slow.sendall(b"GET /healthz?")
            until = time.monotonic() + 60
            with contextlib.suppress(ConnectionError):
                while time.monotonic() < until:
                    slow.sendall(b"a")
                    slow.settimeout(0.05)
                    with contextlib.suppress(TimeoutError):
                        if not slow.recv(100):
                            break
            assert time.monotonic() < until
        monkeypatch.undo()
        assert 200 == ask(f"{server.url}/healthz")[0]


def test_a_range_of_ports_gives_the_first_free_one() -> None:
    """Workers get a port each; when all are taken, that is said."""
    with bind("127.0.0.1:0") as taken:
        port = taken.getsockname()[1]
        with pytest.raises(StorageError):
            bind_in_range(f"127.0.0.1:{port}-{port}")
        with bind_in_range(f"127.0.0.1:{port}-{min(port + 40, 65_535)}") as listening:
            assert port < listening.getsockname()[1] <= port + 40
    with bind_in_range("127.0.0.1:0") as any_port:
        assert url_of(any_port).startswith("http://127.0.0.1:")
    for wrong in ("127.0.0.1:9-8", "127.0.0.1:0-7", "127.0.0.1:80-70000", "127.0.0.1", "nowhere:x"):
        with pytest.raises(UsageError):
            bind_in_range(wrong)


def test_a_forked_child_lets_go_of_the_port() -> None:
    """When the parent stops serving, the port is free although a child lives on."""
    server = MetricsServer(Board(), "127.0.0.1:0")
    listen = server.url.removeprefix("http://")
    hold, let_go = os.pipe()
    child = Child(lambda tell: (os.close(let_go), tell("begun"), os.read(hold, 1))[1])
    until = time.monotonic() + 60
    while not child.lines:  # else it may have been forked and not have come to letting go
        assert time.monotonic() < until
        time.sleep(0.005)
    server.close()
    server.close()
    try:
        with bind(listen) as again:
            assert listen == url_of(again).removeprefix("http://")
    finally:
        os.close(let_go)
        os.close(hold)
        assert 0 == child.wait()


def test_where_nothing_can_listen() -> None:
    """A port that is taken is a storage error, an address that is none the caller's."""
    with bind("127.0.0.1:0") as taken:
        with pytest.raises(StorageError, match="in use"):
            MetricsServer(Board(), f"127.0.0.1:{taken.getsockname()[1]}")
    with pytest.raises(UsageError):
        MetricsServer(Board(), "9464")


def test_without_the_extra_its_name_is_said(audit: AuditLog, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing listens then, and whoever asked for numbers learns at once what to install."""
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    with pytest.raises(MissingExtra) as caught:
        serve_metrics(audit)
    assert "klingai-audit[serve]" in caught.value.do
    assert 2 == caught.value.exit_code


def test_a_disk_without_room_is_not_ready(tmp_path: Path) -> None:
    """Room and permission are looked for in the folders that are written."""
    assert has_room(tmp_path)() is None
    assert "MiB are free" in str(has_room(tmp_path, 1 << 60)())
    assert "cannot be written" in str(has_room(tmp_path / "nowhere")())


def test_a_writer_that_stopped_is_not_ready(audit: AuditLog) -> None:
    """After an error that ends all writing, readiness repeats its words."""
    check = can_record(audit.origin)
    assert check() is None
    audit._appender._stop(StorageError("The disk is gone."))
    assert "this process writes no more: The disk is gone." == check()
    with pytest.raises(StorageError):
        audit.close()
