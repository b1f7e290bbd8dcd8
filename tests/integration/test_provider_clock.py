"""A provider whose clock differs from ours by minutes: our times stay ours, its times are told as its own."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path

import pytest

from klingai_audit import acting
from klingai_audit.kling.errors import KlingAuthenticationError
from tests.support.receiver import receiving
from tests.unit.kling.world import PAIR, POLL, SAID, World, make_world

SECRET = "whsec_dGVzdHNlY3JldHRlc3RzZWNyZXR0ZXN0c2VjcmV0MTI="
COMPLETED = ("video_generation_completed", "success")
DOWNLOADED = [("video_downloaded", "unknown"), ("video_downloaded", "success")]


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    """Give a log and a quick simulator; somebody acts."""
    with make_world(tmp_path) as made, acting("alice@example.com"):
        yield made


@pytest.mark.parametrize(
    "credentials,offset", [({}, 600), ({}, -600), ({}, 7200), (PAIR, 600)], ids=["+10", "-10", "+120", "pair+10"]
)
def test_a_generation(world: World, credentials: dict[str, str], offset: int) -> None:
    """The story is whole and in order by our clock; what the provider says of times stands as it says it."""
    world.sim.clock_offset_seconds = offset
    before = dt.datetime.now(dt.UTC)
    with world.client(**credentials) as kling:
        task = kling.text_to_video("a serene lake", model="kling-v2-6").wait(poll_interval=POLL)
        task.download(world.folder / "lake.mp4")
    after = dt.datetime.now(dt.UTC)
    story = [step for step in world.story() if step[0] != "task_status_changed"]
    assert [SAID, ("video_generation_started", "success"), COMPLETED, *DOWNLOADED] == story
    entries = world.entries()
    times = [dt.datetime.fromisoformat(entry[name]) for entry in entries for name in ("timestamp", "logged_at")]
    assert before - dt.timedelta(seconds=1) <= min(times) <= max(times) <= after + dt.timedelta(seconds=1)
    assert all(0 <= entry["metadata"].get("elapsed_ms", 0) <= 60_000 for entry in entries)
    (end,) = [entry for entry in entries if entry["event_type"] == "video_generation_completed"]
    ordered = dt.datetime.fromisoformat(entries[0]["timestamp"])
    stated = dt.datetime.fromisoformat(end["metadata"]["provider_created_at"])
    assert abs((stated - ordered).total_seconds() - offset) < 60
    assert [world.sim.task(task.id).charge] == [Decimal(charge["amount"]) for charge in end["metadata"]["charge"]]
    assert [] == [finding.kind for finding in world.audit.verify().findings]


@pytest.mark.parametrize("offset,code", [(-600, 1003), (2400, 1004)])
def test_tokens_that_are_out_of_time_there(world: World, offset: int, code: int) -> None:
    """A token of ours is from the future or long over for the provider: refused, recorded, nothing ordered."""
    world.sim.clock_offset_seconds = offset
    with world.client(**PAIR) as kling, pytest.raises(KlingAuthenticationError):
        kling.text_to_video("a serene lake", model="kling-v2-6")
    assert [SAID, ("access_denied", "blocked")] == world.story()
    assert code == world.entries()[-1]["metadata"]["code"]
    assert [] == world.sim.tasks


@pytest.mark.parametrize("offset", [600, -600])
def test_callbacks_that_are_out_of_time_here(world: World, offset: int) -> None:
    """Right signatures of another time are claims, and an alarm at the third; a poll brings the end, once."""
    world.sim.clock_offset_seconds = offset
    world.sim.callbacks.use_secret(SECRET)
    world.sim.callbacks.retry_after = ()
    with receiving(world.audit, SECRET) as gate, world.client() as kling:
        task = kling.text_to_video("a serene lake", callback_url=gate.url)
        assert ["rejected"] * 3 == gate.wait(3)
        assert ["expired"] * 3 == [told.signature for told in gate.told]
        assert 1 == world.story().count(("suspicious_activity", "blocked"))
        assert COMPLETED not in world.story()
        task.wait(poll_interval=POLL)
    assert 1 == world.story().count(COMPLETED)
    claims = [entry["metadata"]["status"] for entry in world.entries() if entry["metadata"].get("claim")]
    assert ["submitted", "processing", "succeeded"] == claims


@pytest.mark.parametrize("offset", [200, -200])
def test_callbacks_within_the_window(world: World, offset: int) -> None:
    """Three minutes are within the five that the standard allows."""
    world.sim.clock_offset_seconds = offset
    world.sim.callbacks.use_secret(SECRET)
    with receiving(world.audit, SECRET) as gate, world.client() as kling:
        kling.text_to_video("a serene lake", callback_url=gate.url)
        assert ["verified"] * 3 == gate.wait(3)
    assert COMPLETED == world.story()[-1]
