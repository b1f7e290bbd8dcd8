"""`--metrics` of every command that runs on and on: real processes, read as Prometheus and a kubelet would."""

from __future__ import annotations

import json
import shutil
import signal
import time
from pathlib import Path

import httpx2
import pytest

from klingai_audit.cli.run import run
from klingai_audit.log import AuditLog
from klingai_audit.operation.listening import bind
from klingai_audit.tlog.keys import COSIGNATURE, SignerKey
from tests.support.receivers import SyslogReceiver, wait_until
from tests.support.running import running

pytestmark = pytest.mark.slow

SIGNER = SignerKey("witness.example/process", b"\x31" * 32, COSIGNATURE)


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """A log of some entries, in the folder that commands run in."""
    with AuditLog.open(tmp_path / "audit") as audit:
        for number in range(5):
            audit.log("x_note", "user@example.com", metadata={"number": number})
    return tmp_path / "audit"


def test_a_watch_tells_when_it_verified_and_what_it_found(log: Path) -> None:
    """Before and after somebody changes an entry, and after a restart although nothing is due."""
    day = next(path for path in log.glob("audit-*.jsonl") if b'"number":3' in path.read_bytes())
    with running("watch", "--quick-every", "1s", "--full-every", "2s", "--record", cwd=log.parent) as watch:
        wait_until(lambda: watch.number("verification_result", mode="full") == 0)
        assert abs((watch.number("verification_time_seconds", mode="full") or 0) - time.time()) < 60
        assert 0 == watch.number("findings", source="verify", level="broken")
        wait_until(lambda: 1 < (watch.number("entries_appended_total") or 0))
        assert 200 == watch.ask("/readyz")[0]
        with day.open("r+b") as file:  # one byte in its place: the watch may be writing, too
            file.seek(file.read().index(b'"number":3') + len(b'"number":'))
            file.write(b"7")
        wait_until(lambda: watch.number("verification_result", mode="full") == 4)
        assert 1 <= (watch.number("findings", source="verify", level="broken") or 0)
        wait_until(lambda: (watch.number("alerts_total", change="new") or 0) >= 1)
        assert 0 == watch.end()
        alerts = [line for line in watch.told if line.get("event") == "alert"]
    assert {"entry_changed"} <= {line["kind"] for line in alerts}
    assert not any("example.com" in json.dumps(line) for line in watch.told)
    with running("watch", "--quick-every", "1h", "--full-every", "2h", cwd=log.parent) as watch:
        wait_until(lambda: watch.number("verification_result", mode="full") == 4)
        assert 0 == watch.end()


def test_a_watch_without_its_log_is_alive_and_not_ready(log: Path) -> None:
    """What cannot be read is named; when it is back, so is readiness."""
    with running(
        "watch", "--quick-every", "1s", "--full-every", "1s", "--detect-every", "off", cwd=log.parent
    ) as watch:
        wait_until(lambda: watch.number("verification_result", mode="full") == 0)
        shutil.move(log, log.with_name("away"))
        wait_until(lambda: watch.ask("/readyz")[0] == 503)
        assert "log" in json.loads(watch.ask("/readyz")[1])["checks"]
        assert 200 == watch.ask("/healthz")[0]
        shutil.move(log.with_name("away"), log)
        wait_until(lambda: json.loads(watch.ask("/readyz")[1])["checks"]["log"] == "ok")
        assert 0 == watch.end()


def test_an_export_tells_how_far_it_is(log: Path) -> None:
    """Entries sent and left; while the receiver is away it is not ready, and SIGTERM still ends it soon."""
    with (
        SyslogReceiver() as receiver,
        running(
            "export", "--follow", "--format", "syslog", "--to", f"tcp://localhost:{receiver.port}", cwd=log.parent
        ) as export,
    ):
        wait_until(lambda: export.number("export_lag_entries") == 0)
        assert 8 <= (export.number("exported_entries_total") or 0)
        assert 200 == export.ask("/readyz")[0]
        receiver.__exit__(None, None, None)
        with AuditLog.open(log) as audit:
            audit.log("x_note", "user@example.com").wait("published")
        wait_until(lambda: export.ask("/readyz")[0] == 503)
        assert "receiver" in export.ask("/readyz")[1]
        wait_until(lambda: (export.number("errors_total", stage="export") or 0) >= 4)  # pauses are seconds by now
        assert export.end() == 3  # what was to go out has not


def test_a_served_log_counts_its_requests(log: Path) -> None:
    """By what was asked for and status; a path that a stranger made up is no label."""
    with running("serve-log", "--listen", "127.0.0.1:0", cwd=log.parent) as served:
        wait_until(lambda: bool(served.said))
        url = json.loads(served.said[0])["url"]
        for path in ("/checkpoint", "/tile/0/000.p/3", "/tile/entries/000.p/3", "/user@example.com"):
            httpx2.get(url + path, trust_env=False)
        wait_until(lambda: served.number("http_requests_total", route="other", status="404") == 1)
        assert 1 == served.number("http_requests_total", route="/checkpoint", status="200")
        assert 1 == served.number("http_requests_total", route="/tile", status="200")
        assert 1 == served.number("http_requests_total", route="/tile/entries", status="401")
        assert 200 == served.ask("/readyz")[0]
        assert "example.com" not in served.ask("/metrics")[1]
        assert 0 == served.end()
    assert "example.com" not in json.dumps(served.told)


def test_a_witness_and_who_submits_to_it(log: Path) -> None:
    """Both have numbers, both end in order; what was being written is closed."""
    (log.parent / "key").write_text(f"{SIGNER.format()}\n")
    (log.parent / "key").chmod(0o600)
    (log.parent / "logs.txt").write_bytes((log.with_name("audit.keys") / "log.pub").read_bytes())
    options = ["--key", "key", "--logs", "logs.txt", "--database", "memory.sqlite", "--listen", "127.0.0.1:0"]
    with running("witness", "serve", *options, cwd=log.parent) as witness:
        wait_until(lambda: bool(witness.said))
        url = json.loads(witness.said[0])["url"]
        policy = f"witness one {SIGNER.verifier.format()} {url}\ngroup all all one\nquorum all\n"
        (log.with_name("audit.keys") / "witness.policy").write_text(policy)
        with running("witness", "submit", "--every", "0.2", cwd=log.parent) as submit:
            wait_until(lambda: bool(witness.number("http_requests_total", route="/add-checkpoint", status="200")))
            assert 200 == submit.ask("/readyz")[0]
            wait_until(lambda: 0 < (submit.number("entries_appended_total") or 0))
            assert 130 == submit.end(signal.SIGINT)
        assert 0 == witness.number("findings", source="witness")
        assert 200 == witness.ask("/readyz")[0]
        assert 0 == witness.end()
    day = max(log.glob("audit-*.jsonl"))
    assert b'"event_type":"log_closed"' in day.read_bytes().splitlines()[-1]


def test_what_ends_by_itself_has_no_numbers(log: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """An export that does not follow is over before anybody could ask."""
    assert 2 == run(["export", "--format", "csv", "--metrics", "127.0.0.1:0", "--log", str(log)])
    assert "--follow" in capfd.readouterr().err


def test_an_address_that_is_taken_is_said_at_once(log: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """The command does not run without what was asked for."""
    with bind("127.0.0.1:0") as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        assert 3 == run(["watch", "--metrics", address, "--log", str(log)])
    assert address in capfd.readouterr().err
