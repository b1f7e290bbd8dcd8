"""`watch` as people run it: real processes that are killed and started again, real receivers, real exit codes."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from klingai_audit.event.record import decode_event
from klingai_audit.log import AuditLog
from klingai_audit.tlog.keys import VerifierKey
from klingai_audit.witness.book import Book
from klingai_audit.witness.server import Witness, witness_app
from tests.integration.test_witness import SIGNERS, policy_of, serving
from tests.support.alerted import SECRET, Hook
from tests.support.receivers import SyslogReceiver, wait_until

pytestmark = pytest.mark.slow

COMMAND = [sys.executable, "-m", "klingai_audit.cli", "watch"]
QUICKLY = ["--quick-every", "1s", "--full-every", "2s", "--detect-every", "off"]


@pytest.fixture
def log(tmp_path: Path) -> Path:
    with AuditLog.open(tmp_path / "audit") as audit:
        for number in range(5):
            audit.log("x_note", "user@example.com", metadata={"number": number})
    return tmp_path / "audit"


def once(log: Path, *argv: str, **environment: str) -> tuple[int, dict[str, Any]]:
    command = [*COMMAND, "--log", str(log), "--json", "--once", *argv]
    done = subprocess.run(
        command, env={**os.environ, **environment}, capture_output=True, text=True, check=False, timeout=120
    )
    return done.returncode, json.loads(done.stdout) if done.stdout else {"stderr": done.stderr}


@contextlib.contextmanager
def watching(log: Path, *argv: str) -> Iterator[subprocess.Popen[str]]:
    command = [*COMMAND, "--log", str(log), "--json", *argv]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            if process.poll() is None:
                process.kill()


def tamper(log: Path) -> bytes:
    """Change one entry in place; returns the file as it was."""
    (day,) = log.glob("audit-*.jsonl")
    before = day.read_bytes()
    put(day, before.replace(b'"number":3', b'"number":7'))
    return before


def put(day: Path, data: bytes) -> None:
    """Replace a file at once: a verification beside it sees one or the other."""
    beside = day.parent.with_name("beside")
    beside.write_bytes(data)
    beside.rename(day)


def secret_file(folder: Path) -> Path:
    path = folder / "secret"
    path.write_text("whsec_" + base64.b64encode(SECRET).decode())
    path.chmod(0o600)
    return path


def types(log: Path) -> list[str]:
    lines = [line for day in sorted(log.glob("audit-*.jsonl")) for line in day.read_bytes().split(b"\n") if line]
    return [decode_event(line).event_type for line in lines]


def memory(log: Path) -> dict[str, Any]:
    made: dict[str, Any] = json.loads(log.with_name("audit.state").joinpath("watch.json").read_bytes())
    return made


def test_a_tampered_log_is_told_once_over_kills_and_restarts(log: Path, tmp_path: Path) -> None:
    """By webhook and by syslog: each gets it once, whoever is killed and started; then that it is gone."""
    with Hook() as hook, SyslogReceiver() as receiver:
        channels = ["--webhook", hook.url, "--webhook-secret", str(secret_file(tmp_path))]
        channels += ["--syslog", f"tcp://127.0.0.1:{receiver.port}"]
        with watching(log, *QUICKLY, *channels) as process:
            wait_until(lambda: log.with_name("audit.state").joinpath("watch.json").exists())
            before = tamper(log)
            wait_until(lambda: hook.alerts == [("new", "entry_changed")])
            wait_until(lambda: len(receiver.messages) == 1)
            wait_until(lambda: memory(log)["waiting"] == {"http://" + hook.url.split("/")[2]: [], channels[-1]: []})
            process.kill()
        with watching(log, *QUICKLY, *channels) as process:
            done = memory(log)["done"]["full"]
            wait_until(lambda: memory(log)["done"]["full"] > done + 2)
            assert [("new", "entry_changed")] == hook.alerts
            (day,) = log.glob("audit-*.jsonl")
            put(day, before)
            wait_until(lambda: hook.alerts == [("new", "entry_changed"), ("gone", "entry_changed")])
            wait_until(lambda: len(receiver.messages) == 2)
            begun = time.monotonic()
            process.send_signal(signal.SIGTERM)
            assert 0 == process.wait(20)
            assert time.monotonic() - begun < 10
        assert [True, True] == hook.signed
    assert b'finding="entry_changed"' in receiver.messages[0]
    assert b"example" not in b"".join(receiver.messages)
    assert "example" not in json.dumps(hook.taken)


def test_exit_codes_of_once(log: Path, tmp_path: Path) -> None:
    """0 and what was done; nothing to do; 3 when nobody could be told; 4 as long as evidence does not hold; 2."""
    code, told = once(log)
    assert (0, ["full", "detect"], []) == (code, [job["job"] for job in told["jobs"]], told["alerts"])
    assert {"stderr": ""} == once(log)[1]
    tamper(log)
    time.sleep(1.1)
    code, told = once(log, "--full-every", "1s")
    assert (4, [("new", "verify", "entry_changed", 5)]) == (
        code, [(one["change"], one["source"], one["kind"], one["seq"]) for one in told["alerts"]],
    )  # fmt: skip
    assert 4 == once(log)[0]
    time.sleep(1.1)
    code, told = once(log, "--full-every", "1s")
    assert (4, [], ["entry_changed"]) == (code, told["alerts"], [one["kind"] for one in told["open"]])
    assert 2 == once(log, "--quick-every", "soon")[0]
    assert 2 == once(log, "--expect-heartbeat", "5m")[0]
    assert 2 == once(log, "--webhook-secret", str(tmp_path))[0]
    assert 3 == once(tmp_path / "nothing")[0]


def test_a_copy_is_watched_with_a_public_key_alone(log: Path, tmp_path: Path) -> None:
    """No keys folder, a state folder of its own that is made: what was done is remembered there."""
    shutil.copytree(log, tmp_path / "copy" / "audit")
    options = ["--key", str(tmp_path / "audit.keys" / "log.pub"), "--state", str(tmp_path / "mine")]
    options += ["--detect-every", "off"]
    code, told = once(tmp_path / "copy" / "audit", *options, XDG_STATE_HOME=str(tmp_path / "nothing"))
    assert (0, ["full"]) == (code, [job["job"] for job in told["jobs"]])
    assert {"verified.json", "watch.json", "watch.lock"} == {path.name for path in (tmp_path / "mine").iterdir()}
    assert [tmp_path / "copy" / "audit"] == list((tmp_path / "copy").iterdir())


def test_exit_on_finding_ends_with_the_first(log: Path) -> None:
    """It goes on while all is well."""
    with watching(log, *QUICKLY, "--exit-on-finding") as process:
        wait_until(lambda: log.with_name("audit.state").joinpath("watch.json").exists())
        tamper(log)
        assert 4 == process.wait(60)


def test_two_watches_of_one_log(log: Path) -> None:
    """The second is told so at once."""
    with watching(log, *QUICKLY):
        wait_until(lambda: log.with_name("audit.state").joinpath("watch.json").exists())
        assert 2 == once(log)[0]


def test_a_first_detection_is_told_and_recorded_once(log: Path) -> None:
    """Refusals in a row make a rule fire: exit 1 once, an entry, and no second time, over a log of its own entries."""
    with AuditLog.open(log) as audit:
        for _ in range(30):
            audit.log("access_denied", "user@example.com", outcome="blocked", metadata={"code": 1002})
    code, told = once(log, "--record")
    fresh = [one for one in told["alerts"] if one["source"] == "detect"]
    assert code == (1 if fresh else 0)
    assert [one["kind"] for one in fresh] == [
        decode_event(line).details["rule"]
        for day in log.glob("audit-*.jsonl")
        for line in day.read_bytes().split(b"\n")
        if line and decode_event(line).event_type == "suspicious_activity"
    ]
    assert len(fresh) > 0
    size = len(types(log))
    time.sleep(1.1)
    code, told = once(log, "--record", "--detect-every", "1s", "--quick-every", "off", "--full-every", "off")
    assert (0, ["detect"], size) == (code, [job["job"] for job in told["jobs"]], len(types(log)))


def test_witnesses_are_asked_by_the_watch_and_once_a_news(log: Path, tmp_path: Path) -> None:
    """With a policy of witnesses the checkpoint is cosigned, over its own entries too; then all is quiet."""
    keys = log.with_name("audit.keys")
    key = VerifierKey.parse((keys / "log.pub").read_text().strip())
    with serving(witness_app(Witness(SIGNERS[0], [key], Book(tmp_path / "w0.sqlite")))) as url:
        (keys / "witness.policy").write_bytes(policy_of(key, {0: url}, "all"))
        often = ["--record", "--full-every", "1h", "--detect-every", "off", "--witness-every", "1s"]
        code, told = once(log, *often)
        assert (0, [True, True]) == (code, [job["recorded"] for job in told["jobs"]])
        size = len(types(log))
        assert 1 == types(log).count("checkpoint_witnessed")
        for _ in range(3):
            time.sleep(1.1)
            assert 0 == once(log, *often)[0]
        assert size == len(types(log))
    with AuditLog.open(log) as audit:
        audit.log("x_note", "user@example.com")
    time.sleep(1.1)
    code, told = once(log, *often)
    assert (1, ["quorum_missing"]) == (code, [one["kind"] for one in told["alerts"]])
    size = len(types(log))
    time.sleep(1.1)
    assert (1, size) == (once(log, *often)[0], len(types(log)))


def test_the_policy_sets_what_options_do_not(log: Path) -> None:
    """Intervals and recording come from policy.toml; a watch that records is no other for the log than `verify`."""
    policy = log.with_name("audit.keys") / "policy.toml"
    policy.write_text('[watch]\nrecord = true\ndetect = "off"\nquick = "off"\n')
    code, told = once(log)
    assert (0, ["full", "witness"]) == (code, [job["job"] for job in told["jobs"]])
    assert 1 == types(log).count("log_verified")
    policy.write_text('[watch]\nquick = "5"\n')
    assert 2 == once(log)[0]
