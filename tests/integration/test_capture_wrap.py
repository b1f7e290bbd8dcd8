"""Home-grown clients, as people write them, against the simulator: wrapped, their stories are complete."""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request
from dataclasses import dataclass, field

import pytest
import requests

from klingai_audit import acting
from tests.unit.kling.world import KEY, POLL, SAID, STARTED, make_world

DONE = ("video_generation_completed", "success")
PATH = "/v1/videos/text2video"


@pytest.fixture
def world(tmp_path):
    """Give a log and a simulator, with someone acting."""
    with make_world(tmp_path) as made, acting("tester"):
        yield made


@dataclass
class Config:
    """What such clients hold their key in."""

    api_key: str
    base_url: str


@dataclass
class Generation:
    """What such clients return."""

    task_id: str
    status: str
    videos: list[str] = field(default_factory=list)
    units: str | None = None


class KlingAPIError(Exception):
    """What such clients raise."""

    def __init__(self, message, code):
        super().__init__(message)
        self.code = code


class HomeGrown:
    """Speaks HTTP with the standard library, which nothing captures; blocks until the film is there."""

    def __init__(self, config):
        self.config = config

    def _call(self, method, path, body=None):
        data = None if body is None else json.dumps(body).encode()
        headers = {"Authorization": f"Bearer {self.config.api_key}", "Content-Type": "application/json"}
        request = urllib.request.Request(self.config.base_url + path, data=data, method=method, headers=headers)
        try:
            with urllib.request.urlopen(request) as reply:
                return json.loads(reply.read())["data"]
        except urllib.error.HTTPError as exc:
            said = json.loads(exc.read())
            raise KlingAPIError(said["message"], said["code"]) from exc

    def generate(self, prompt, *, model="kling-v2-6", duration="5"):
        made = self._call("POST", PATH, {"model_name": model, "prompt": prompt, "duration": duration})
        while (found := self.check(made["task_id"])).status == "processing":
            time.sleep(POLL)
        return found

    def check(self, task_id):
        found = self._call("GET", f"{PATH}/{task_id}")
        videos = [video["url"] for video in found.get("task_result", {}).get("videos", [])]
        status = {"succeed": "completed", "failed": "failed"}.get(found["task_status"], "processing")
        return Generation(found["task_id"], status, videos)

    def save(self, url, path):
        with urllib.request.urlopen(url) as reply:
            path.write_bytes(reply.read())
        return path

    def version(self):
        return "1.0"


OPERATIONS = {"generate": "text_to_video", "check": "query_task", "save": "download", "version": None}


def test_a_client_that_nothing_captures(world):
    """A blocking client over the standard library: order, end and download are in the log, under one correlation."""
    kling = world.audit.wrap(HomeGrown(Config(KEY, world.server.base_url)), OPERATIONS)
    film = kling.generate("a lake")
    again = kling.check(film.task_id)
    saved = kling.save(film.videos[0], world.folder / "x.mp4")
    assert (again.status, saved.exists(), kling.version()) == ("completed", True, "1.0")
    assert world.story() == [SAID, STARTED, DONE, ("video_downloaded", "unknown"), ("video_downloaded", "success")]
    entries = world.entries()
    assert len({entry["correlation_id"] for entry in entries}) == 1
    assert [entry["event_type"] for entry in entries].count("api_key_used") == 1
    assert entries[0]["metadata"]["key_kind"] == "api_key"
    assert {entry["resource_id"] for entry in entries if entry["event_type"].startswith("video_")} == {film.task_id}
    assert KEY not in str(entries)


def test_its_refusals(world):
    """A code in an exception is Kling's refusal, and the exception is the caller's."""
    kling = world.audit.wrap(HomeGrown(Config("wrong-key-of-alice", world.server.base_url)), OPERATIONS)
    with pytest.raises(KlingAPIError):
        kling.generate("a lake")
    assert world.story() == [SAID, ("access_denied", "blocked")]


def test_the_same_key_has_the_same_fingerprint(world):
    """A wrapped object and a captured request with one key name it alike."""
    world.audit.wrap(HomeGrown(Config(KEY, world.server.base_url)), OPERATIONS).generate("a lake")
    with world.audit.instrument():
        requests.post(world.server.base_url + PATH, json={"prompt": "a"}, headers={"authorization": f"Bearer {KEY}"})
    said = [entry["metadata"]["key_fingerprint"] for entry in world.entries() if "prompt" in entry["metadata"]]
    assert len(said) == 2
    assert len(set(said)) == 1


class Modern:
    """Speaks HTTP with requests, which is captured, too."""

    def __init__(self, base_url):
        self.base_url = base_url
        self.session = requests.Session()
        self.session.headers["authorization"] = f"Bearer {KEY}"

    def text_to_video(self, prompt):
        task = self.session.post(self.base_url + PATH, json={"prompt": prompt}).json()["data"]["task_id"]
        while True:
            found = self.session.get(f"{self.base_url}{PATH}/{task}").json()["data"]
            if found["task_status"] == "succeed":
                return found
            time.sleep(POLL)


@pytest.mark.parametrize("how", ["attach", "instrument"])
def test_nested_captures_make_one_story(world, how):
    """Wrapped and captured below: one intent, one start, one end, in order, with what the wire said."""
    client = Modern(world.server.base_url)
    kling = world.audit.wrap(client)
    if how == "attach":
        world.audit.attach(client.session)
        kling.text_to_video("a lake")
    else:
        with world.audit.instrument():
            kling.text_to_video("a lake")
    client.session.close()
    assert [told for told in world.story() if told[0] != "task_status_changed"] == [SAID, STARTED, DONE]
    entries = [entry for entry in world.entries() if entry["event_type"] != "api_key_used"]
    assert len({entry["correlation_id"] for entry in entries}) == 1
    assert entries[1]["metadata"]["http_status"] == 200
    assert entries[1]["resource_id"] == world.sim.tasks[0].task_id
