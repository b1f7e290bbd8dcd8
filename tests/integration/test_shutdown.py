"""The end of a process loses nothing that anybody was told of: commands, gunicorn's workers, Celery's pool."""

from __future__ import annotations

import http.client
import importlib.util
import json
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections import Counter
from pathlib import Path

import pytest

from klingai_audit.cli.run import run
from klingai_audit.event.record import decode_event
from klingai_audit.log import AuditLog
from tests.support.receivers import free_port, wait_until

pytestmark = pytest.mark.slow

WEB = """
from klingai_audit import AuditLog

audit = AuditLog.open("audit", create=False)


def application(environ, start_response):
    audit.log("x_request", "service-web", actor_type="service", metadata={"path": environ["PATH_INFO"]})
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"recorded"]
"""

QUEUE = """
import os, pathlib, time
from celery import Celery
from celery.signals import worker_process_shutdown
from klingai_audit import AuditLog

folder = pathlib.Path("queue").absolute()
(folder / "control").mkdir(parents=True, exist_ok=True)
app = Celery("films", broker="filesystem://")
app.conf.update(
    broker_transport_options={
        "data_folder_in": str(folder), "data_folder_out": str(folder), "control_folder": str(folder / "control")
    },
    task_ignore_result=True, broker_connection_retry_on_startup=False,
)
audit = AuditLog.open("audit", create=False)


@worker_process_shutdown.connect
def close(**_):
    audit.close()


@app.task
def make(number):
    time.sleep(0.05)
    audit.log("x_request", "service-queue", actor_type="service", metadata={"path": f"/{number}"})
    with open(f"done-{os.getpid()}", "a") as done:
        done.write(f"/{number}\\n")
"""


def entries(folder: Path) -> list[dict[str, object]]:
    """What stands in the log of a folder, as members."""
    lines = [line for day in sorted((folder / "audit").glob("audit-*.jsonl")) for line in day.read_bytes().split(b"\n")]
    return [{"type": decode_event(line).event_type, **decode_event(line).metadata} for line in lines if line]


def lines_in(folder: Path) -> int:
    """How many lines stand in the log of a folder; a writer may be in the middle of the next."""
    return sum(day.read_bytes().count(b"\n") for day in (folder / "audit").glob("audit-*.jsonl"))


def assert_in_order(folder: Path) -> list[str]:
    """Every writer that opened the log closed it, all of it is signed; returns the paths that were recorded."""
    found = entries(folder)
    opened = Counter(one["writer"] for one in found if one["type"] == "log_opened")
    assert opened == Counter(one["writer"] for one in found if one["type"] == "log_closed")
    assert 0 == run(["verify", "--log", str(folder / "audit"), "--json"])
    return [str(one["path"]) for one in found if one["type"] == "x_request"]


@pytest.mark.skipif(importlib.util.find_spec("gunicorn") is None, reason="gunicorn is not installed")
@pytest.mark.parametrize(
    "options",
    [[], ["--worker-class", "gthread", "--threads", "4"], ["--preload"]],
    ids=["sync", "threads", "preload"],
)
def test_gunicorn_ends_under_load(tmp_path: Path, options: list[str]) -> None:
    """No hooks, requests all the while: what was answered is in the log, and each worker closed it."""
    AuditLog.open(tmp_path / "audit").close()
    (tmp_path / "web.py").write_text(WEB)
    port = free_port()
    argv = [sys.executable, "-m", "gunicorn", "--workers", "2", *options, "-b", f"127.0.0.1:{port}", "web:application"]
    with subprocess.Popen(argv, cwd=tmp_path, stderr=subprocess.DEVNULL) as server:
        answered: list[str] = []
        ending = threading.Event()

        def ask(name: str) -> None:
            for count in range(100_000):
                try:
                    with urllib.request.urlopen(f"http://127.0.0.1:{port}/{name}-{count}", timeout=10) as reply:
                        if reply.read() == b"recorded":
                            answered.append(f"/{name}-{count}")
                except (OSError, http.client.HTTPException):
                    if ending.is_set():
                        return
                    time.sleep(0.05)

        people = [threading.Thread(target=ask, args=(name,), daemon=True) for name in "abcd"]
        for person in people:
            person.start()
        try:
            wait_until(lambda: len(answered) >= 50, 60)
            ending.set()
            server.terminate()
            assert 0 == server.wait(60)
        finally:
            ending.set()
            server.kill()
            for person in people:
                person.join(30)
    recorded = assert_in_order(tmp_path)
    assert set(answered) <= set(recorded)
    assert len(recorded) == len(set(recorded))


def test_celery_ends_in_the_middle_of_its_queue(tmp_path: Path) -> None:
    """With the hook of the how-to every task that was done is in the log, once, and each child closed it."""
    pytest.importorskip("celery", reason="make test-all installs celery")
    AuditLog.open(tmp_path / "audit").close()
    (tmp_path / "films.py").write_text(QUEUE)
    fill = "import films\nfor n in range(400): films.make.delay(n)\nfilms.audit.close()"
    subprocess.run([sys.executable, "-c", fill], cwd=tmp_path, check=True, timeout=60)
    argv = [sys.executable, "-m", "celery", "-A", "films", "worker", "--pool", "prefork", "--concurrency", "2"]
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    with subprocess.Popen(
        [*argv, "--without-gossip", "--without-mingle", "-n", "w@localhost"],
        cwd=tmp_path, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    ) as worker:  # fmt: skip
        try:
            wait_until(lambda: len(done(tmp_path)) >= 20, 60)
            worker.send_signal(signal.SIGTERM)
            assert 0 == worker.wait(60)
        finally:
            worker.kill()
    assert sorted(done(tmp_path)) == sorted(assert_in_order(tmp_path))
    assert len(done(tmp_path)) < 400


def done(folder: Path) -> list[str]:
    """The paths of tasks that were done."""
    return [line for file in folder.glob("done-*") for line in file.read_text().split("\n")[:-1]]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_command_that_writes_ends_in_order(tmp_path: Path, number: int, code: int) -> None:
    """`import` of a large file, ended in the middle: what it had queued is written, the log is closed and verifies."""
    lines = [
        json.dumps({"timestamp": "2026-11-20T10:00:00Z", "event_type": "login", "actor": "user@example.com",
                    "details": {"n": n}})
        for n in range(30_000)
    ]  # fmt: skip
    (tmp_path / "old.jsonl").write_text("\n".join(lines))
    AuditLog.open(tmp_path / "audit").close()
    argv = [sys.executable, "-m", "klingai_audit.cli", "import", "old.jsonl", "--log", "audit"]
    with subprocess.Popen(argv, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
        wait_until(lambda: process.poll() is not None or lines_in(tmp_path) > 200, 60)
        process.send_signal(number)
        _, told = process.communicate(timeout=60)
    assert (code, b"") == (process.returncode, told)
    assert 200 < len(entries(tmp_path)) < 30_000
    assert_in_order(tmp_path)


def test_a_script_that_is_interrupted_closes_its_log(tmp_path: Path) -> None:
    """With the two lines of the how-to SIGTERM is a normal end, also for what nobody waited for."""
    script = (
        "import signal, sys, time\n"
        "from klingai_audit import AuditLog\n"
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))\n"
        "audit = AuditLog.open('audit')\n"
        "for n in range(3000):\n"
        "    audit.log('x_request', 'service-a', actor_type='service', metadata={'path': f'/{n}'})\n"
        "print(n, flush=True)\n"
        "time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", script], cwd=tmp_path, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert b"2999\n" == process.stdout.readline()
        process.terminate()
        assert 0 == process.wait(60)
    assert [f"/{n}" for n in range(3000)] == assert_in_order(tmp_path)
