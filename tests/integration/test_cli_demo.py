"""`demo`: the whole story, its object, what it must never show, and being killed in the middle of it."""

from __future__ import annotations

import json
import os
import random
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from klingai_audit.cli import demo_scenes
from klingai_audit.kling.simulator import DEFAULT_ACCESS_KEY, DEFAULT_API_KEY, DEFAULT_SECRET_KEY

COMMAND = [sys.executable, "-m", "klingai_audit.cli"]
PEOPLE = ("MAKER", "EDITOR", "ARTIST", "INTERN", "LEAD")
ADDRESS = re.compile(rb"(?<![\w.])(?:\d{1,3}\.){3}\d{1,3}(?![\w.])")


def demo(folder: Path, *argv: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [*COMMAND, "demo", "--dir", "d", *argv], cwd=folder, capture_output=True, check=False, timeout=300
    )


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    """One run for programs: (folder, finished process, its object, seconds)."""
    folder = tmp_path_factory.mktemp("demo")
    began = time.monotonic()
    done = demo(folder, "--json")
    seconds = time.monotonic() - began
    assert (0, b"") == (done.returncode, done.stderr)
    return folder, done, json.loads(done.stdout), seconds


@pytest.fixture(scope="module")
def shown(told):
    """A second run on the same folder, for people."""
    folder, *_ = told
    done = demo(folder)
    assert (0, b"") == (done.returncode, done.stderr)
    return done.stdout.decode()


def secrets() -> list[bytes]:
    """Everything private that the demo handles."""
    people = [getattr(demo_scenes, name) for name in PEOPLE]
    found = [person.id for person in people] + [person.ip for person in people] + [demo_scenes.NEWCOMER]
    found += [*demo_scenes._PROMPTS.values(), DEFAULT_API_KEY, DEFAULT_ACCESS_KEY, DEFAULT_SECRET_KEY]
    return [text.encode() for text in found] + [b"demo-revoked", b"127.0.0.1"]


def files(*folders: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for folder in folders for path in folder.rglob("*") if path.is_file()}


def test_the_object(told):
    """Exactly the promised members; every way a generation can end occurs; everything is caught."""
    _, _, answer, seconds = told
    assert ["entries", "generations", "verdict", "drill", "places"] == list(answer)
    assert {"success": 4, "failure": 1, "blocked": 3, "unknown": 1} == answer["generations"]
    assert ["mutations", "caught", "missed", "skipped"] == list(answer["drill"])
    assert (True, []) == (answer["drill"]["mutations"] >= 25, answer["drill"]["missed"])
    assert answer["drill"]["mutations"] == answer["drill"]["caught"]
    assert (0, answer["entries"]) == (answer["verdict"]["exit"], answer["verdict"]["total"])
    assert {"log": "d/audit", "keys": "d/audit.keys", "subjects": "d/audit.keys/subjects.sqlite",
            "state": "d/audit.state"} == answer["places"]  # fmt: skip
    assert seconds < 60


def test_every_kind_of_event_of_the_story_is_there(told):
    """Successes in both API generations, refusals, a failure, a lost reply, a download, acts of an admin."""
    folder, *_ = told
    entries = [json.loads(line) for day in folder.glob("d/audit/*.jsonl") for line in day.read_bytes().splitlines()]
    kinds = {(entry["event_type"], entry["outcome"]) for entry in entries}
    assert set() == {
        ("prompt_submitted", "success"), ("api_key_used", "success"), ("video_generation_started", "success"),
        ("video_generation_started", "unknown"), ("task_status_changed", "success"),
        ("video_generation_completed", "success"), ("video_generation_failed", "failure"),
        ("video_downloaded", "success"), ("policy_violation", "blocked"), ("rate_limit_exceeded", "blocked"),
        ("access_denied", "blocked"), ("user_added", "success"), ("budget_modified", "success"),
        ("signing_key_rotated", "success"), ("log_closed", "success"),
    } - kinds  # fmt: skip
    assert {"legacy", "new"} == {
        entry["metadata"]["generation"] for entry in entries if "generation" in entry.get("metadata", {})
    }
    assert 4 <= len({entry["actor_id"] for entry in entries if entry["actor_id"].startswith("p_")})


def test_nothing_private_is_written_or_printed(told, shown):
    """No prompt, key, e-mail or IP address in the log, the state or the output; in the keys folder ids only sealed."""
    folder, done, *_ = told
    written = files(folder / "d" / "audit", folder / "d" / "audit.state")
    assert 5 <= len(written)
    haystacks = {**written, "json": done.stdout, "text": shown.encode()}
    assert [] == [(str(name), text) for name, data in haystacks.items() for text in secrets() if text in data]
    assert [] == [(str(name), ADDRESS.findall(data)) for name, data in haystacks.items() if ADDRESS.search(data)]
    sealed = files(folder / "d" / "audit.keys")
    ids = [text for text in secrets() if b"@" in text]
    assert [] == [(name, text) for name, data in sealed.items() for text in ids if text in data]


def test_people_see_masks_localhost_and_a_result(shown):
    """The narration names people by mask, the simulator by name, and ends with a verdict and a drill."""
    assert [True] * 4 == [
        part in shown for part in ("us***@example.com", "http://localhost:", "No change found in the log", " caught")
    ]


def test_the_next_commands_work_as_pasted(told, shown):
    """Each command line at the end runs from the same folder and exits 0."""
    folder, *_ = told
    lines = shown.split("\nNext\n")[1].splitlines()
    commands = [shlex.split(line) for line in lines if line.strip() and not line.strip().startswith("#")]
    assert 4 <= len(commands)
    codes = [subprocess.run(argv, cwd=folder, capture_output=True, check=False).returncode for argv in commands]
    assert [0] * len(commands) == codes


def test_an_attacked_copy_to_look_at(told):
    """With `--keep` one attacked copy stays, which the last command line finds broken; other places are refused."""
    folder, *_ = told
    done = demo(folder, "--keep")
    last = shlex.split(done.stdout.decode().splitlines()[-1])
    assert (0, 4) == (done.returncode, subprocess.run(last, cwd=folder, capture_output=True, check=False).returncode)
    assert 2 == demo(folder, "--keys", "elsewhere").returncode


def test_the_download_is_what_the_log_says(told):
    """The file on disk has the SHA-256 that its entry states."""
    import hashlib

    folder, *_ = told
    lines = [line for day in folder.glob("d/audit/*.jsonl") for line in day.read_bytes().splitlines()]
    stated = {json.loads(line)["metadata"].get("sha256") for line in lines if b'"video_downloaded"' in line}
    found = {hashlib.sha256(path.read_bytes()).hexdigest() for path in (folder / "d" / "videos").glob("*.mp4")}
    assert (True, set()) == (len(found) >= 1, found - stated)


def kill_after(folder: Path, seconds: float) -> int:
    process = subprocess.Popen(
        [*COMMAND, "demo", "--dir", "d", "--json"], cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        return process.wait(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGKILL)
        return process.wait()


@pytest.mark.parametrize("delays", [(0.45, 1.3, 2.2)])
def test_killed_and_run_again(tmp_path, delays):
    """After a kill at any moment the demo runs on the same folder and everything verifies."""
    for delay in delays:
        kill_after(tmp_path, delay)
    done = demo(tmp_path, "--json")
    assert (0, b"") == (done.returncode, done.stderr)
    assert json.loads(done.stdout)["verdict"]["integrity_ok"]


@pytest.mark.slow
def test_killed_at_many_moments(tmp_path):
    """The same, many times over, on one folder and on fresh ones."""
    chosen = random.Random(os.environ.get("DEMO_SEED", "7"))
    for number in range(40):
        folder = tmp_path / str(number // 4)
        folder.mkdir(exist_ok=True)
        kill_after(folder, chosen.uniform(0.2, 4.0))
        if number % 4 == 3:
            done = demo(folder, "--json")
            assert (0, b"") == (done.returncode, done.stderr)
            assert json.loads(done.stdout)["verdict"]["integrity_ok"]
