"""`watch` with the services it asks: the provider, a time stamp authority, a witness that knows better."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2
import pytest

from klingai_audit.cli.run import run
from klingai_audit.event.context import acting
from klingai_audit.event.record import decode_event
from klingai_audit.kling import KlingAI
from klingai_audit.kling.simulator import DEFAULT_API_KEY, RealClock, Simulator, serve
from klingai_audit.log import AuditLog
from klingai_audit.tlog.keys import VerifierKey
from klingai_audit.upkeep.witnessing import read_policy, witness_now
from klingai_audit.witness.book import Book
from klingai_audit.witness.client import WitnessClient
from klingai_audit.witness.server import Witness, witness_app
from tests.integration.test_witness import SIGNERS, policy_of, serving
from tests.support.logsmith import Smith
from tests.support.tsa import Tsa, honest
from tests.support.tsa import serving as stamping

pytestmark = pytest.mark.slow

ONLY = ["--quick-every", "off", "--detect-every", "off", "--witness-every", "off", "--reconcile-every", "off"]

Ask = Callable[..., tuple[int, dict[str, Any]]]


@pytest.fixture
def ask(tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> Ask:
    """One `watch --once --record` in this process: its exit code and what it printed."""

    def call(*argv: str) -> tuple[int, dict[str, Any]]:
        capfdbinary.readouterr()
        code = run(["watch", "--once", "--record", "--json", "--log", str(tmp_path / "audit"), *argv])
        out, err = capfdbinary.readouterr()
        return code, json.loads(out) if out else {"stderr": err.decode()}

    return call


def kinds(told: dict[str, Any]) -> list[tuple[str, str]]:
    return [(one["change"], one["kind"]) for one in told["alerts"]]


def types(folder: Path) -> list[str]:
    lines = [line for day in sorted((folder / "audit").glob("audit-*.jsonl")) for line in day.read_bytes().split(b"\n")]
    return [decode_event(line).event_type for line in lines if line]


def test_an_order_around_the_log_is_told_once(tmp_path: Path, ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a credential the log is compared with the provider; what went around it is an alert, once, exit 4."""
    with serve(Simulator(RealClock(speed=1000))) as server:
        monkeypatch.setenv("KLINGAI_BASE_URL", server.base_url)
        monkeypatch.setenv("KLINGAI_API_KEY", DEFAULT_API_KEY)
        with AuditLog.open(tmp_path / "audit") as audit, KlingAI(audit=audit) as kling, acting("user@example.com"):
            kling.text_to_video("a lake", duration=3).wait(poll_interval=0.02)
        code, told = ask(*ONLY[:-2])
        assert (0, []) == (code, kinds(told))
        assert 1 == types(tmp_path).count("reconciled")
        body = {"prompt": "nobody knows"}
        around = httpx2.post(
            f"{server.base_url}/text-to-video/kling-3.0", json=body,
            headers={"authorization": f"Bearer {DEFAULT_API_KEY}"},
        )  # fmt: skip
        time.sleep(1.1)
        code, told = ask(*ONLY[:-2], "--reconcile-every", "1s")
        assert (4, [("new", "missing_here")]) == (code, kinds(told))
        assert around.json()["data"]["id"] not in json.dumps(told)
        time.sleep(1.1)
        code, told = ask(*ONLY[:-2], "--reconcile-every", "1s")
        assert (0, []) == (code, kinds(told))
    time.sleep(1.1)
    monkeypatch.setenv("KLINGAI_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.setattr("klingai_audit.watch.jobs.ATTEMPTS", 1)
    code, told = ask(*ONLY[:-2], "--reconcile-every", "1s")
    assert (3, "new") == (code, told["alerts"][0]["change"])


def test_time_stamps_are_had_when_they_are_due(tmp_path: Path, ask: Ask) -> None:
    """By the policy's authority and interval; an authority that is away is a problem until it is back."""
    pytest.importorskip("rfc3161_client", reason="the extra trust is not installed")
    authority = Tsa(tmp_path / "tsa")
    with AuditLog.open(tmp_path / "audit") as audit:
        audit.log("x_note", "user@example.com")
    policy = tmp_path / "audit.keys" / "policy.toml"
    (tmp_path / "audit.keys" / "roots.pem").write_bytes(authority.root.read_bytes())
    with stamping(honest(authority)) as url:
        policy.write_text(f'[timestamp]\ntsa = "{url}"\nroots = "roots.pem"\ninterval = "1h"\n')
        code, told = ask(*ONLY)
        assert (0, 1) == (code, types(tmp_path).count("checkpoint_timestamped"))
        code, told = ask(*ONLY, "--full-every", "1s")
        assert (0, 1) == (code, types(tmp_path).count("checkpoint_timestamped"))
        assert 0 == run(["verify", "--log", str(tmp_path / "audit")])
    policy.write_text('[timestamp]\ntsa = "http://127.0.0.1:9/"\nroots = "roots.pem"\ninterval = "1s"\n')
    with AuditLog.open(tmp_path / "audit") as audit:
        audit.log("x_note", "user@example.com")
    memory = tmp_path / "audit.state" / "watch.json"
    memory.unlink()
    time.sleep(1.1)
    code, told = ask(*ONLY)
    assert (3, [("new", "StorageError")]) == (code, kinds(told))


def test_a_witness_that_holds_more_is_an_alarm(tmp_path: Path, ask: Ask) -> None:
    """An older state was put back: the witness knows, and nothing is recorded over it as if it were good."""
    with AuditLog.open(tmp_path / "audit") as audit:
        audit.log("x_note", "user@example.com")
    key = VerifierKey.parse((tmp_path / "audit.keys" / "log.pub").read_text().strip())
    with serving(witness_app(Witness(SIGNERS[0], [key], Book(tmp_path / "w0.sqlite")))) as url:
        (tmp_path / "audit.keys" / "witness.policy").write_bytes(policy_of(key, {0: url}, "all"))
        for name in ("audit", "audit.keys", "audit.state"):
            shutil.copytree(tmp_path / name, tmp_path / f"old-{name}")
        with AuditLog.open(tmp_path / "audit") as audit:
            policy = read_policy(audit.places.keys)
            assert policy is not None
            for _ in range(20):
                audit.log("x_note", "user@example.com")
            witness_now(audit, WitnessClient(policy))
        for name in ("audit", "audit.keys", "audit.state"):
            shutil.rmtree(tmp_path / name)
            (tmp_path / f"old-{name}").rename(tmp_path / name)
        code, told = ask()
        assert (4, [("new", "quorum_missing"), ("new", "witness_ahead")]) == (code, kinds(told))
        assert 0 == types(tmp_path).count("checkpoint_witnessed")


def test_a_writer_that_vanished_is_a_note_and_an_alert(tmp_path: Path, ask: Ask) -> None:
    """A silence of days while a writer was open: verify notes it, the watch tells it, and the exit code stays 0."""
    smith = Smith().create().work(6)
    smith.next_day().next_day()
    smith.batch(smith.event("x_note"))
    smith.closed()
    smith.write(tmp_path / "audit")
    (tmp_path / "audit.keys").mkdir()
    (tmp_path / "audit.keys" / "log.pub").write_text(smith.log_key.vkey + "\n")
    code, told = ask("--detect-every", "off", "--witness-every", "off")
    gaps = [one for one in told["alerts"] if one["kind"] == "heartbeat_gap"]
    assert [("new", "note", 7)] == [(one["change"], one["level"], one["seq"]) for one in gaps]
    assert ["heartbeat_gap", "LogNotFound"] == [one["kind"] for one in told["alerts"]]
    assert 3 == code
