"""Two Python clients of others, unmodified, against the simulator, with capture on: their stories are complete."""

from __future__ import annotations

import hashlib
import json
import time
from decimal import Decimal
from itertools import pairwise

import pytest

from klingai_audit import AuditLog
from tests.support.others import PROMPT, make_stage, need_python, seen, told

pytestmark = pytest.mark.slow

QUOTA = ("quota_checked", "success")
SAID = ("prompt_submitted", "success")
STARTED = ("video_generation_started", "success")
CHANGED = ("task_status_changed", "success")
ENDED = ("video_generation_completed", "success")
FETCHED = [("video_downloaded", "unknown"), ("video_downloaded", "success")]
LIFE = [SAID, STARTED, CHANGED, ENDED]

SESSION = """
import hashlib, json, os, sys, time
import requests
from api import KlingAiAPI, Text2VideoModel
from klingai_audit import AuditLog, acting

with AuditLog.open(sys.argv[1]) as audit, audit.instrument(), acting("user@example.com", team="studio-a"):
    with KlingAiAPI() as kling:
        task_id = kling.text2video(os.environ["PROMPT"], model_name=Text2VideoModel.kling_v2_6)["data"]["task_id"]
        while (task := kling.get_text2video(task_id)["data"])["task_status"] != "succeed":
            time.sleep(0.2)
        film = requests.get(task["task_result"]["videos"][0]["url"]).content
print(json.dumps([task_id, hashlib.sha256(film).hexdigest()]))
"""
LAUNCHER = """
import sys
from klingai_audit import AuditLog, acting

with AuditLog.open(sys.argv.pop(1)) as audit, audit.instrument(), acting("user@example.com"):
    import cli
    cli.app(prog_name="klingai")
"""
WRAPPED = """
import contextlib, os, sys, time
from api import KlingAiAPI
from klingai_audit import AuditLog, acting

NAMES = {
    "text2video": "text_to_video", "get_text2video": "query_task", "list_text2video": "list_tasks",
    "image2video": "image_to_video", "get_image2video": "query_task", "list_image2video": "list_tasks",
}
with AuditLog.open(sys.argv[1]) as audit, acting("user@example.com"), KlingAiAPI() as api:
    kling = audit.wrap(api, operations=NAMES)
    with audit.instrument() if sys.argv[2] == "both" else contextlib.nullcontext():
        task_id = kling.text2video(os.environ["PROMPT"])["data"]["task_id"]
        while kling.get_text2video(task_id)["data"]["task_status"] != "succeed":
            time.sleep(0.2)
"""
FILMS = """
import asyncio, json, os, sys
from klingai_audit import AuditLog, acting
from sip_videogen.generators import KlingVideoGenerator
from sip_videogen.models.music import MusicBrief
from sip_videogen.models.script import SceneAction, VideoScript

words = json.loads(sys.argv[2])
scenes = [
    SceneAction(scene_number=number, duration_seconds=6, setting_description=word, action_description="Mist rises")
    for number, word in enumerate(words, 1)
]
music = MusicBrief(prompt="A harp", mood="calm", genre="ambient", rationale="It is a lake.")
script = VideoScript(title="Lakes", logline="Three lakes.", tone="calm", scenes=scenes, music_brief=music)

async def make():
    kling = KlingVideoGenerator(os.environ["KLING_ACCESS_KEY"], os.environ["KLING_SECRET_KEY"])
    try:
        return await kling.generate_all_video_clips(script, "out", show_progress=False)
    finally:
        await kling.close()

with AuditLog.open(sys.argv[1]) as audit, audit.instrument(), acting("user@example.com"):
    made = asyncio.run(make())
print(json.dumps([asset.local_path for asset in made]))
"""


@pytest.fixture
def stage(tmp_path):
    """Give a simulator that stands in for Kling, and the folder of a log."""
    need_python()
    with make_stage(tmp_path, speed=20) as made:
        yield made


def check_paid(stage, entries):
    """Demand that one charge was taken and that the log names it, and no other."""
    said = [Decimal(charge["amount"]) for entry in entries for charge in entry["metadata"].get("charge", ())]
    taken = [line.before - line.after for line in stage.sim.account.deductions]
    assert (1, [amount for amount in said if amount]) == (len(taken), taken)


def test_klingai_api_in_a_script(stage):
    """Its whole story, from the check of its key to the film on another host, with the charge and no secret."""
    done = stage.python(SESSION)
    assert ("", 0) == (done.stderr, done.returncode)
    task_id, digest = json.loads(done.stdout)
    entries = stage.entries()
    assert seen(told(entries), [QUOTA, *LIFE, *FETCHED])
    story = entries[2:]
    assert 1 == len({entry["correlation_id"] for entry in story})
    assert {task_id} == {entry["resource_id"] for entry in story[1:]}
    intent, fetched = story[0]["metadata"], story[-1]["metadata"]
    assert "api-singapore.klingai.com" == intent["host"]
    assert len(PROMPT) == intent["prompt"]["bytes"]
    assert (digest, True) == (fetched["sha256"], fetched["complete"])
    check_paid(stage, entries)
    assert {"python-requests"} == {entry["user_agent"].partition("/")[0] for entry in story}
    assert 1 == sum(entry["event_type"] == "api_key_used" for entry in entries)
    assert [] == stage.leaks()
    with AuditLog.open(stage.log, create=False) as audit:
        assert 0 == audit.verify().exit_code


def test_klingai_api_as_a_program(stage):
    """Its command under a launcher of four lines: ordered by one process, polled by others, one story."""
    made = stage.python(LAUNCHER, "text2video", "--prompt", PROMPT)
    assert ("", 0) == (made.stderr, made.returncode)
    task_id = json.loads(made.stdout)["data"]["task_id"]
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        reply = json.loads(stage.python(LAUNCHER, "get-text2video", "--task-id", task_id).stdout)
        if reply["data"]["task_status"] == "succeed":
            break
    quiet = (QUOTA[0], "api_key_used")
    story = [entry for entry in stage.entries() if entry["event_type"] not in quiet]
    assert [SAID, STARTED, ENDED] == [one for one in told(story) if one != CHANGED]
    assert 1 == len({entry["correlation_id"] for entry in story})
    check_paid(stage, story)
    assert [] == stage.leaks()


def test_klingai_api_loses_a_reply(stage):
    """The order counts and its reply is lost behind the proxy: unknown, then the end with its charge, from a list."""
    stage.sim.fail_next("POST", "/v1/videos/text2video", drop=True, after_accept=True)
    lost = stage.python(LAUNCHER, "text2video", "--prompt", PROMPT)
    assert (1, True) == (lost.returncode, "ProxyError" in lost.stderr)
    time.sleep(2)
    assert 0 == stage.python(LAUNCHER, "list-text2video").returncode
    entries = stage.entries()
    assert [QUOTA, SAID, (STARTED[0], "unknown"), QUOTA, ENDED, ("resource_read", "success")] == told(entries)
    end = next(entry for entry in entries if entry["event_type"] == ENDED[0])
    assert [stage.sim.tasks[0].task_id] == [end["resource_id"]]
    check_paid(stage, entries)


def test_klingai_api_finds_what_it_lost(stage):
    """By an id of the caller's own, in another process: the film joins the order that was lost, not the refused one."""
    order = ("text2video", "--prompt", PROMPT, "--external-task-id", "film-7")
    stage.sim.fail_next("POST", "/v1/videos/text2video", drop=True, after_accept=True)
    assert 1 == stage.python(LAUNCHER, *order).returncode
    assert 1 == stage.python(LAUNCHER, *order).returncode
    assert 0 == stage.python(LAUNCHER, "get-text2video", "--task-id", "film-7").returncode
    entries = [entry for entry in stage.entries() if entry["event_type"] not in (QUOTA[0], "api_key_used")]
    first, _ = (entry["correlation_id"] for entry in entries if entry["event_type"] == SAID[0])
    found = [entry for entry in entries if entry["correlation_id"] == first]
    assert [SAID, (STARTED[0], "unknown"), STARTED] == told(found)[:3]
    assert found[2]["metadata"]["found_by"] == "query_task"
    assert [SAID, ("video_generation_failed", "failure")] == told(entry for entry in entries if entry not in found)
    assert 1 == len(stage.sim.tasks)


def test_klingai_api_with_a_wrong_key(stage):
    """It finds out by asking for the quota, and so does the log."""
    done = stage.python(LAUNCHER, "test-credentials", SECRET_TOKEN="wrong" * 10)
    assert (1, True) == (done.returncode, "Authentication failed" in done.stderr)
    assert [("access_denied", "blocked")] == told(stage.entries())


@pytest.mark.parametrize("how", ["wrapped", "both"])
def test_klingai_api_wrapped(stage, how):
    """As an object with named methods: the same story, and one only when its transport is captured besides."""
    done = stage.python(WRAPPED, how)
    assert ("", 0) == (done.stderr, done.returncode)
    entries = [entry for entry in stage.entries() if entry["event_type"] != "api_key_used"]
    assert seen(told(entries), LIFE)
    by_name = [entry["metadata"].get("via") == "method" for entry in entries]
    assert [True, *[how == "wrapped"] * (len(entries) - 1)] == by_name
    check_paid(stage, entries)
    assert [] == stage.leaks()


def test_sip_videogen_makes_films(stage):
    """Three scenes at once over one client: a film with its charge, one that fails, one that is refused, unmixed."""
    done = stage.python(FILMS, json.dumps(["A lake", "A doomed lake", "A forbidden lake"]))
    assert (["out/scene_001.mp4"], 0) == (json.loads(done.stdout), done.returncode)
    entries = stage.entries()
    stories = {entry["correlation_id"]: [] for entry in entries if entry["event_type"] != "api_key_used"}
    for entry in entries:
        if entry["event_type"] != "api_key_used":
            stories[entry["correlation_id"]].append(entry)
    refused, failed, made = sorted(map(told, stories.values()), key=len)
    assert [SAID, ("policy_violation", "blocked")] == refused
    assert seen(failed, [SAID, STARTED, CHANGED, ("video_generation_failed", "failure")])
    assert seen(made, [*LIFE, *FETCHED])
    film = max(stories.values(), key=len)
    content = (stage.folder / "out" / "scene_001.mp4").read_bytes()
    assert hashlib.sha256(content).hexdigest() == film[-1]["metadata"]["sha256"]
    check_paid(stage, entries)
    assert all(older["timestamp"] <= newer["timestamp"] for older, newer in pairwise(film))
    assert "api.klingai.com" == film[0]["metadata"]["host"]
    assert [] == stage.leaks()


def test_sip_videogen_loses_a_reply(stage):
    """It gives up, and the log says that nobody knows."""
    stage.sim.fail_next("POST", "/v1/videos/text2video", drop=True, after_accept=True)
    done = stage.python(FILMS, json.dumps(["A lake"]))
    assert ([], 1) == (json.loads(done.stdout), len(stage.sim.tasks))
    assert [SAID, (STARTED[0], "unknown")] == told(stage.entries())
