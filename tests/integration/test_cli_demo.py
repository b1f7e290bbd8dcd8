"""`demo`: the whole story, its object, what it must never show, and being killed in the middle of it."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import random
import re
import resource
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from klingai_audit.cli import demo_callbacks, demo_scenes, demo_script, demo_stage
from klingai_audit.kling.simulator import DEFAULT_ACCESS_KEY, DEFAULT_API_KEY, DEFAULT_SECRET_KEY

COMMAND = [sys.executable, "-m", "klingai_audit.cli"]
HOSTILE = {
    "HTTP_PROXY": "http://localhost:9",
    "http_proxy": "http://localhost:9",
    "KLINGAI_API_KEY": "somebody-elses",
    "KLINGAI_BASE_URL": "http://localhost:9",
}
"""An environment that must not reach the simulator's clients."""
ADDRESS = re.compile(rb"(?<![\w.])(?:\d{1,3}\.){3}\d{1,3}(?![\w.])")


def demo(folder: Path, *argv: str, **environment: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [*COMMAND, "demo", "--dir", "d", *argv],
        cwd=folder,
        env={**os.environ, **environment},
        capture_output=True,
        check=False,
        timeout=300,
    )


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    """One run for programs: (folder, finished process, its object, seconds of processor time)."""
    folder = tmp_path_factory.mktemp("demo")
    began = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = demo(folder, "--json", **HOSTILE)
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = ended.ru_utime + ended.ru_stime - began.ru_utime - began.ru_stime
    assert (0, b"") == (done.returncode, done.stderr)
    return folder, done, json.loads(done.stdout), seconds


@pytest.fixture(scope="module")
def shown(told):
    """A second run on the same folder, for people with a small screen."""
    folder, *_ = told
    done = demo(folder, COLUMNS="80")
    assert (0, b"") == (done.returncode, done.stderr)
    return done.stdout.decode()


def secrets() -> list[bytes]:
    """Everything private that the demo handles."""
    people = demo_stage.PEOPLE
    found = [person.id for person in people] + [person.ip for person in people] + [demo_stage.NEWCOMER]
    found += [*demo_scenes.PROMPTS.values(), demo_callbacks._PROMPT, demo_script._PROMPT]
    found += [DEFAULT_API_KEY, DEFAULT_ACCESS_KEY, DEFAULT_SECRET_KEY, demo_callbacks.SECRET]
    return [text.encode() for text in found] + [b"demo-revoked", b"127.0.0.1"]


def files(*folders: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for folder in folders for path in folder.rglob("*") if path.is_file()}


def test_the_object(told):
    """Exactly the promised members; every way a generation can end occurs; everything is caught."""
    _, _, answer, seconds = told
    members = ["entries", "generations", "verdict", "drill", "places", "callbacks", "script", "costs", "reconciliation"]
    assert [*members, "trust", "privacy", "report"] == list(answer)
    assert {"success": 8, "failure": 1, "blocked": 3, "unknown": 1} == answer["generations"]
    assert ["mutations", "caught", "missed", "skipped", "open"] == list(answer["drill"])
    assert (True, []) == (answer["drill"]["mutations"] >= 25, answer["drill"]["missed"])
    assert answer["drill"]["mutations"] == answer["drill"]["caught"]
    assert (0, answer["entries"]) == (answer["verdict"]["exit"], answer["verdict"]["total"])
    assert {"log": "d/audit", "keys": "d/audit.keys", "subjects": "d/audit.keys/subjects.sqlite",
            "state": "d/audit.state", "vault": "d/audit.vault"} == answer["places"]  # fmt: skip
    assert seconds < 60


def test_it_ends_with_a_report(told):
    """One HTML file of the log as it is then; tests have the extra, a bare core says how to get it."""
    folder, _, answer, _ = told
    assert "d/report.html" == answer["report"]
    page = (folder / "d" / "report.html").read_bytes()
    assert (True, True) == (page.startswith(b"<!doctype html>"), b"No change found" in page)


def test_a_witness_in_another_process(told):
    """It cosigned what the scenes left; the verdict rules out what one hand could do, the drill attacks its entry."""
    folder, _, answer, _ = told
    seen = answer["trust"]["witness"]
    assert "witness.example/demo" == seen["name"]
    (entry,) = [entry for entry in entries_of(folder) if entry["seq"] == seen["seq"]]
    assert ("checkpoint_witnessed", seen["size"]) == (entry["event_type"], entry["metadata"]["size"])
    states = {threat["threat"]: threat["state"] for threat in answer["verdict"]["threats"]}
    assert {"ruled_out"} == {states[name] for name in ("fork", "key_holder", "key_theft")}
    reasons = {one["why"].partition(":")[0] for one in answer["drill"]["skipped"]}
    missing = {"the log has no time stamps", "the log has no ML-DSA-44 key"}
    assert missing | {"no entry of the log is purged", "no day of the log is sealed"} == reasons
    assert {"strip_cosignatures", "another_witness"} <= {one["attack"] for one in answer["drill"]["open"]}
    assert 0o600 == (folder / "d" / "witness" / "key").stat().st_mode & 0o777


def test_a_prompt_opened_and_a_person_erased(told):
    """Both stand in the log before they happen; what was sealed of that person is gone, and an attempt is refused."""
    folder, _, answer, _ = told
    private, entries = answer["privacy"], {entry["seq"]: entry for entry in entries_of(folder)}
    opened, erased = entries[private["recorded"]], entries[private["erased"]]
    assert ("content_unsealed", private["seq"]) == (opened["event_type"], opened["metadata"]["seq"])
    assert ("subject_erased", private["sealed"]) == (erased["event_type"], erased["metadata"]["vault_files"])
    assert private["sealed"] >= 1
    (pseudonym,) = {erased["resource_id"]}
    assert [] == list((folder / "d" / "audit.vault").glob(f"*/{pseudonym}/*"))
    refused = [entry for entry in entries.values() if entry.get("metadata", {}).get("why") == "erased"]
    assert {"access_denied"} == {entry["event_type"] for entry in refused}


@pytest.mark.slow
def test_without_the_libraries_of_a_server(tmp_path):
    """The bare core has no witness: the demo says so and goes on, the verdict and the drill leave open what it does."""
    bare = (
        "import importlib.util as util, sys; find = util.find_spec\n"
        "util.find_spec = lambda name, *more: None if name in ('starlette', 'uvicorn') else find(name, *more)\n"
        "from klingai_audit.cli.run import run; sys.exit(run(sys.argv[1:]))"
    )
    argv = [sys.executable, "-c", bare, "demo", "--dir", "d"]
    environment = {**os.environ, "COLUMNS": "80"}
    said = subprocess.run(argv, cwd=tmp_path, env=environment, capture_output=True, check=True, timeout=300)
    done = subprocess.run([*argv, "--json"], cwd=tmp_path, capture_output=True, check=True, timeout=300)
    answer = json.loads(done.stdout)
    assert "pip install 'klingai-audit[serve]'" in " ".join(said.stdout.decode().split())
    assert (None, False) == (answer["trust"]["witness"], (tmp_path / "d" / "audit.keys" / "witness.policy").exists())
    states = {threat["threat"]: threat["state"] for threat in answer["verdict"]["threats"]}
    assert {"not_ruled_out"} == {states[name] for name in ("fork", "key_holder", "key_theft")}
    assert "no witness is asked for" in {one["why"].partition(":")[0] for one in answer["drill"]["skipped"]}
    assert [] == answer["drill"]["missed"]


@pytest.mark.slow
def test_what_is_handed_out_holds_without_the_log(told, tmp_path):
    """The proof and the bundle are checked with copies of them and of the public key, far from the log."""
    folder, _, answer, _ = told
    trust = answer["trust"]
    for name in ("video.tlog-proof", "evidence.zip", "audit.keys/log.pub"):
        (tmp_path / Path(name).name).write_bytes((folder / "d" / name).read_bytes())
    environment = {**os.environ, "HOME": str(tmp_path), "XDG_STATE_HOME": str(tmp_path / "state")}
    found = []
    for name in ("video.tlog-proof", "evidence.zip"):
        argv = [*COMMAND, "check", name, "--key", "log.pub", "--json"]
        done = subprocess.run(argv, cwd=tmp_path, env=environment, capture_output=True, check=True)
        found.append(json.loads(done.stdout))
    proof, bundle = found
    assert (trust["proof"]["seq"], trust["proof"]["tree_size"]) == (proof["seq"], proof["tree_size"])
    assert "video_generation_completed" in proof["entry"]
    assert trust["bundle"]["entries"] == len(bundle["seqs"]) >= 5
    key = (tmp_path / "log.pub").read_text().strip()
    assert hashlib.sha256(key.encode()).hexdigest() == trust["bundle"]["fingerprint"]
    assert (folder / "d" / "verify.html").read_bytes().startswith(b"<!doctype html>")


def entries_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for day in folder.glob("d/audit/*.jsonl") for line in day.read_bytes().splitlines()]


def test_every_kind_of_event_of_the_story_is_there(told):
    """Success in both API generations, an image, speech, refusals, a failure, a lost reply, acts of an admin."""
    folder, *_ = told
    entries = entries_of(folder)
    kinds = {(entry["event_type"], entry["outcome"]) for entry in entries}
    assert set() == {
        ("prompt_submitted", "success"), ("api_key_used", "success"), ("video_generation_started", "success"),
        ("video_generation_started", "unknown"), ("task_status_changed", "success"),
        ("video_generation_completed", "success"), ("video_generation_failed", "failure"),
        ("video_downloaded", "success"), ("policy_violation", "blocked"), ("rate_limit_exceeded", "blocked"),
        ("access_denied", "blocked"), ("user_added", "success"), ("budget_modified", "success"),
        ("signing_key_rotated", "success"), ("log_closed", "success"), ("image_generation_started", "success"),
        ("image_generation_completed", "success"), ("image_downloaded", "success"),
        ("audio_generation_completed", "success"), ("task_status_changed", "unknown"),
    } - kinds  # fmt: skip
    assert {"legacy", "new"} == {
        entry["metadata"]["generation"] for entry in entries if "generation" in entry.get("metadata", {})
    }
    assert 4 <= len({entry["actor_id"] for entry in entries if entry["actor_id"].startswith("p_")})


def test_a_paid_call_that_answers_at_once(told):
    """It is announced before and charged in its one end; no poll belongs to it."""
    folder, *_ = told
    entries = entries_of(folder)
    (end,) = [entry for entry in entries if entry["event_type"] == "audio_generation_completed"]
    story = [entry for entry in entries if entry.get("correlation_id") == end["correlation_id"]]
    assert ["prompt_submitted", "audio_generation_completed"] == [entry["event_type"] for entry in story]
    assert ["0.05"] == [charge["amount"] for charge in end["metadata"]["charge"]]


def test_callbacks_true_and_forged(told):
    """The forged one is a claim and no end; the signed one is the end, without a poll; the object counts both."""
    folder, _, answer, _ = told
    assert 1 == answer["callbacks"]["claim"]
    assert 1 <= answer["callbacks"]["verified"] <= 3
    entries = entries_of(folder)
    (claim,) = [entry for entry in entries if entry.get("metadata", {}).get("claim")]
    assert ("task_status_changed", "unknown", "failed") == (
        claim["event_type"], claim["outcome"], claim["metadata"]["status"],
    )  # fmt: skip
    told_by = [entry for entry in entries if entry.get("resource_id") == claim["resource_id"] and entry is not claim]
    kinds = [entry["event_type"] for entry in told_by]  # a callback may be quicker than the order's reply
    assert {"callback"} == {
        one["metadata"]["via"] for one in told_by if one["event_type"] != "video_generation_started"
    }
    assert {"video_generation_started", "video_generation_completed"} == set(kinds) - {"task_status_changed"}
    assert 1 == kinds.count("video_generation_completed")


def test_a_script_and_one_line(told):
    """As it is the log has nothing of its task until the comparison; with one line added the story, by nobody known."""
    folder, _, answer, _ = told
    script = answer["script"]
    assert ["library", "as_it_is", "with_one_line"] == list(script)
    unseen, seen = script["as_it_is"], script["with_one_line"]
    entries = entries_of(folder)
    naming = [entry for entry in entries if unseen["task_id"] in json.dumps(entry)]
    assert 0 == unseen["entries"]
    assert ["video_generation_completed", "reconciled"] == [entry["event_type"] for entry in naming]
    (end,) = [
        entry
        for entry in entries
        if entry.get("resource_id") == seen["task_id"] and entry["event_type"] == "video_generation_completed"
    ]
    story = [entry for entry in entries if entry.get("correlation_id") == end["correlation_id"]]
    assert seen["entries"] == len(story) >= 4
    assert "prompt_submitted" == story[0]["event_type"]
    assert {"unknown"} == {entry["actor_id"] for entry in story}
    assert "requests" == script["library"]
    assert "python-requests/2" == end["user_agent"]


def test_what_was_spent_and_what_went_around(told):
    """The comparison finds the script's call and nothing else; the costs of it are no team's, and the sums agree."""
    _, _, answer, _ = told
    compared, costs = answer["reconciliation"], answer["costs"]
    assert [answer["script"]["as_it_is"]["task_id"]] == compared["around"]
    assert (1, 1) == (compared["unexplained"], compared["counts"]["dangling_found"])
    teams = {row["team"]: row["amounts"] for row in costs["rows"]}
    assert {"studio-a", "studio-b", None} == set(teams)
    assert {"image units": "8", "video units": "4.2"} == teams["studio-b"]
    assert (1, True) == (costs["outside"], costs["ledger"]["agrees"])


def test_the_scripts_differ_by_the_line(told):
    """The two files are the same but for the one line that is shown."""
    folder, *_ = told
    before, after = ((folder / "d" / name).read_text().splitlines() for name in ("order.py", "order_audited.py"))
    added = [line for line in after if line not in before]
    assert [demo_script.ADDED_LINE] == added
    assert before == [line for line in after if line not in added]


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


def test_lines_fit_a_small_screen(shown):
    """At 80 columns nothing is wider, but for the command lines at the end, which must stay whole."""
    story, *_ = shown.split("\nNext\n")
    assert [] == [line for line in story.splitlines() if len(line) > 80]


def test_people_see_masks_localhost_and_a_result(shown):
    """The narration names people by mask, simulator and witness by name, and has a verdict, a drill, evidence."""
    parts = (
        "us***@example.com", "The provider is a simulator at http://localhost:", "No change found in the log",
        " caught", "witness.example/demo at http://localhost:", "Proven: ", "Bundled: ", "d/verify.html",
    )  # fmt: skip
    assert [True] * len(parts) == [part in shown for part in parts]


@pytest.mark.slow
def test_the_next_commands_work_as_pasted(told, shown):
    """Each command line at the end runs from the same folder and exits 0."""
    folder, *_ = told
    lines = shown.split("\nNext\n")[1].splitlines()
    commands = [shlex.split(line) for line in lines if line.strip() and not line.strip().startswith("#")]
    assert 10 <= len(commands)
    codes = [subprocess.run(argv, cwd=folder, capture_output=True, check=False).returncode for argv in commands]
    assert [0] * len(commands) == codes


@pytest.mark.slow
def test_an_attacked_copy_to_look_at_and_no_requests(told, tmp_path):
    """With `--keep` one attacked copy stays, which the last command line finds broken; other places are refused.

    Where requests is not installed, the script uses httpx2 and the demo says so.
    """
    folder, *_ = told
    (tmp_path / "requests.py").write_text("raise ImportError")
    done = demo(folder, "--keep", PYTHONPATH=str(tmp_path))
    shown = done.stdout.decode()
    assert [True] * 2 == [part in shown for part in ("order.py, over httpx2", "requests is not installed here")]
    assert "import httpx2\n" in (folder / "d" / "order.py").read_text()
    last = shlex.split(shown.splitlines()[-1])
    assert (0, 4) == (done.returncode, subprocess.run(last, cwd=folder, capture_output=True, check=False).returncode)
    assert 2 == demo(folder, "--keys", "elsewhere").returncode


def test_the_download_is_what_the_log_says(told):
    """The file on disk has the SHA-256 that its entry states."""
    folder, *_ = told
    lines = [line for day in folder.glob("d/audit/*.jsonl") for line in day.read_bytes().splitlines()]
    stated = {json.loads(line)["metadata"].get("sha256") for line in lines if b'"video_downloaded"' in line}
    found = {hashlib.sha256(path.read_bytes()).hexdigest() for path in (folder / "d" / "videos").glob("*.mp4")}
    assert (True, set()) == (len(found) >= 1, found - stated)


def witnesses_of(folder: Path) -> list[str]:
    """Command lines of witnesses that still serve out of a folder."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            line = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            if "witness serve" in line and (process / "cwd").readlink() == folder:
                found.append(line)
    return found


def kill_after(folder: Path, seconds: float) -> int:
    process = subprocess.Popen(
        [*COMMAND, "demo", "--dir", "d", "--json"], cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        return process.wait(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGKILL)
        return process.wait()


@pytest.mark.slow
@pytest.mark.parametrize("delays", [(1.3,)])
def test_killed_and_run_again(tmp_path, delays):
    """After a kill at any moment the demo runs on the same folder, everything verifies, and no witness is left."""
    for delay in delays:
        kill_after(tmp_path, delay)
    deadline = time.monotonic() + 60
    while witnesses_of(tmp_path) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert [] == witnesses_of(tmp_path)
    done = demo(tmp_path, "--json")
    assert (0, b"") == (done.returncode, done.stderr)
    assert json.loads(done.stdout)["verdict"]["integrity_ok"]


@pytest.mark.slow
@pytest.mark.parametrize("number", range(10))
def test_killed_at_many_moments(tmp_path, number):
    """The same, four times over on one folder."""
    chosen = random.Random(f"{os.environ.get('DEMO_SEED', '7')} {number}")
    for _ in range(4):
        kill_after(tmp_path, chosen.uniform(0.2, 6.0))
    done = demo(tmp_path, "--json")
    assert (0, b"") == (done.returncode, done.stderr)
    assert json.loads(done.stdout)["verdict"]["integrity_ok"]
