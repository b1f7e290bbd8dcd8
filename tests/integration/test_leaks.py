"""No prompt, key, token, raw e-mail or raw address in anything that the product writes or prints."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.integration.leak_scenario import PLANTED

SCENARIO = Path(__file__).with_name("leak_scenario.py")


@pytest.fixture(scope="module")
def outcome(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess[bytes]]:
    """Play every path once in a process of its own; returns its folder and what it printed."""
    folder = tmp_path_factory.mktemp("leaks")
    done = subprocess.run([sys.executable, str(SCENARIO), str(folder)], capture_output=True, timeout=400, check=False)
    return folder, done


def test_the_scenario_ran(outcome: tuple[Path, subprocess.CompletedProcess[bytes]]) -> None:
    """All paths were played to the end, and errors were really printed."""
    _, done = outcome
    assert done.returncode == 0, done.stderr.decode()[-3000:]
    assert b"KlingPolicyViolation" in done.stderr
    assert b"KlingOutcomeUnknown" in done.stderr
    assert b"AuditUnavailable" in done.stderr


def test_every_kind_of_entry_was_written(outcome: tuple[Path, subprocess.CompletedProcess[bytes]]) -> None:
    """The log under test holds successes, refusals, failures and unknown ends."""
    folder, _ = outcome
    log = b"".join(path.read_bytes() for path in (folder / "audit").glob("audit-*.jsonl"))
    for member in ("prompt_submitted", "video_generation_completed", "video_generation_failed", "policy_violation",
                   "rate_limit_exceeded", "access_denied", "video_downloaded"):  # fmt: skip
        assert f'"event_type":"{member}"'.encode() in log
    assert b'"outcome":"unknown"' in log


@pytest.mark.parametrize("number", range(len(PLANTED)))
def test_nothing_planted_is_printed(number: int, outcome: tuple[Path, subprocess.CompletedProcess[bytes]]) -> None:
    """No planted value is in standard output, errors, tracebacks, warnings or debug logs."""
    _, done = outcome
    planted = PLANTED[number].encode()
    assert planted not in done.stdout
    assert planted not in done.stderr


@pytest.mark.parametrize("number", range(len(PLANTED)))
def test_nothing_planted_is_written(number: int, outcome: tuple[Path, subprocess.CompletedProcess[bytes]]) -> None:
    """No planted value is in any file of log, state, keys or plain text log; ids occur only sealed."""
    folder, _ = outcome
    found = [
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.is_file() and path.suffix != ".mp4" and PLANTED[number].lower().encode() in path.read_bytes().lower()
    ]
    assert [] == found


def test_the_search_can_find(outcome: tuple[Path, subprocess.CompletedProcess[bytes]]) -> None:
    """What may stand there does: masks, coarse addresses and the team."""
    folder, done = outcome
    text = (folder / "plain.log").read_bytes()
    assert b"le***@example.com" in text
    log = b"".join(path.read_bytes() for path in (folder / "audit").glob("audit-*.jsonl"))
    assert b"203.0.xxx.xxx" in log
    assert b'"team":"team"' in log
    assert b"le***@example.com" in done.stdout
