"""Diagnostics at their most talkative: a life with planted content, and none of it in any line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.integration.leak_scenario import ADDRESSES, API_KEY, PEOPLE, PLANTED, PROMPT, SECRET_KEY

pytestmark = pytest.mark.slow

SCENARIO = Path(__file__).with_name("leak_scenario.py")
PLAY = f"""
import runpy, sys
from klingai_audit.operation.logs import set_up
set_up("json", "debug")
sys.argv[0] = {str(SCENARIO)!r}
runpy.run_path(sys.argv[0], run_name="__main__")
"""
TALKATIVE = {"KLINGAI_AUDIT_LOG_FORMAT": "json", "KLINGAI_AUDIT_LOG_LEVEL": "debug"}


def lines(data: bytes) -> list[dict[str, Any]]:
    """The diagnostics among what was printed."""
    return [json.loads(line) for line in data.splitlines() if line.startswith(b'{"time":')]


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, bytes]:
    """Every path of capture, privacy and refusal in one process; its folder and its standard error."""
    folder = tmp_path_factory.mktemp("talkative")
    done = subprocess.run([sys.executable, "-c", PLAY, str(folder)], capture_output=True, timeout=240, check=False)
    assert 0 == done.returncode, done.stderr.decode()[-3000:]
    return folder, done.stderr


def call(folder: Path, *argv: str, code: int = 0) -> bytes:
    """Run one command with everything that diagnostics can say; returns its standard error."""
    command = [sys.executable, "-m", "klingai_audit.cli", *argv, "--log", str(folder / "audit")]
    done = subprocess.run(command, env={**os.environ, **TALKATIVE}, capture_output=True, timeout=120, check=False)
    assert code == done.returncode, done.stderr.decode()[-3000:]
    return done.stderr


def search(data: bytes) -> list[str]:
    return [planted for planted in PLANTED if planted.lower().encode() in data.lower()]


def test_the_library_tells_of_its_work_and_not_of_content(played: tuple[Path, bytes]) -> None:
    """Prompts, keys, people and addresses went through; lines have names, levels and facts."""
    _, told = played
    found = lines(told)
    assert {"log_opened", "batch_committed", "published", "log_closed", "log_stopped"} <= {
        one["event"] for one in found
    }
    assert {"debug", "info", "error"} <= {one["level"] for one in found}
    assert all({"time", "level", "event", "message", "pid"} <= one.keys() for one in found)
    assert [] == search(told)


def test_commands_tell_no_content(played: tuple[Path, bytes]) -> None:
    """Writing, reading, verifying, watching, exporting, erasing, also where it fails."""
    folder, _ = played
    told = [
        call(folder, "log", "x_leak", "--actor", PEOPLE[0], "--ip", ADDRESSES[0], "--user-agent", f"app/1 {API_KEY}",
             "--metadata", f"prompt={PROMPT}", "--metadata", f"password={SECRET_KEY}"),
        call(folder, "log", "x_leak", "--actor", PEOPLE[0], "--outcome", PROMPT, code=2),
        call(folder, "log", PROMPT, "--actor", PEOPLE[1], code=2),
        call(folder, "query", "--actor", PEOPLE[0], "--text", PROMPT, "--record"),
        call(folder, "query", "--cost", "much", "--actor", PEOPLE[0], code=2),
        call(folder, "activity", PEOPLE[0]),
        call(folder, "verify"),
        call(folder, "watch", "--once", "--record"),
        call(folder, "export", "--format", "ocsf", "-o", str(folder / "out.jsonl"), "--record"),
        call(folder, "subject", "export", PEOPLE[0], "-o", str(folder / "person.json")),
        call(folder, "erase", PEOPLE[1], "--basis", "request 17"),
    ]  # fmt: skip
    assert [] == search(b"".join(told))
    events = {one["event"] for data in told for one in lines(data)}
    assert {"log_opened", "log_closed", "check", "command_failed"} <= events


def test_every_line_of_a_command_is_json(played: tuple[Path, bytes]) -> None:
    """With `--json` all of standard error can be fed to a collector of logs."""
    folder, _ = played
    told = call(folder, "watch", "--once", "--record", "--full-every", "1s", "--json")
    assert told
    for line in told.splitlines():
        json.loads(line)
