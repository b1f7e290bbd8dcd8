"""Callbacks over real connections at their worst: too early, forged, altered, late, twice. One end, one charge, no gap.

The provider is the simulator, which posts to a receiver on a port of its own; what the receiver believes is the log's
decision alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from klingai_audit import acting
from klingai_audit.kling.simulator import ManualClock
from tests.support.receiver import Gate, receiving
from tests.unit.kling.world import PAIR, POLL, SAID, STARTED, World, make_world

SECRET = "whsec_dGVzdHNlY3JldHRlc3RzZWNyZXR0ZXN0c2VjcmV0MTI="
COMPLETED = ("video_generation_completed", "success")
FAILED = ("video_generation_failed", "failure")
CHANGED = ("task_status_changed", "success")
CLAIMED = ("task_status_changed", "unknown")
ENDS = ("video_generation_completed", "video_generation_failed", "task_completed")
MODELS = {"new": ("kling-3.0-turbo", {}), "legacy": ("kling-v2-6", PAIR)}


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    """Give a log and a simulator that signs and tries once, on a clock to be set; somebody acts."""
    with make_world(tmp_path) as made, acting("alice@example.com", team="studio-a"):
        made.sim.clock = ManualClock()
        made.sim.callbacks.use_secret(SECRET)
        made.sim.callbacks.retry_after = ()
        made.sim.callbacks.timeout = 60.0
        yield made


@pytest.fixture
def gate(world: World) -> Iterator[Gate]:
    """Give a receiver of callbacks."""
    with receiving(world.audit, SECRET) as server:
        yield server


def whole(world: World, task_id: str) -> list[dict[str, Any]]:
    """Check what holds however callbacks behave, and return the ends: one correlation and person, paid once."""
    entries = [entry for entry in world.entries() if entry["event_type"] != "api_key_used"]
    told = [entry for entry in entries if not entry["metadata"].get("claim")]
    assert len({entry["correlation_id"] for entry in told}) == 1
    assert len({entry["actor_id"] for entry in told}) == 1
    charges = [charge for entry in entries for charge in entry["metadata"].get("charge", ())]
    world.sim.account.settle(world.sim.now_ms())
    deducted = [line.payment.amount for line in world.sim.account.deductions if line.payment.amount]
    assert deducted == [amount for amount in [world.sim.task(task_id).charge] if amount]
    assert deducted == [amount for charge in charges if (amount := Decimal(charge["amount"]))]
    assert [] == [finding.kind for finding in world.audit.verify().findings]
    return [entry for entry in entries if entry["event_type"] in ENDS]


@pytest.mark.parametrize("generation", MODELS)
def test_a_callback_before_the_create_reply(world: World, gate: Gate, generation: str) -> None:
    """It is of the order that nobody has an answer to yet: same correlation, same person; the rest follows."""
    model, credentials = MODELS[generation]
    world.sim.callbacks.script("early", state="submitted")
    with world.client(**credentials) as kling:
        task = kling.text_to_video("a serene lake", model=model, callback_url=gate.url)
        assert ["submitted"] == [told.status for told in gate.told]
        world.sim.clock.advance(60)
        assert gate.wait(3) == ["verified"] * 3
    assert [SAID, CHANGED, STARTED, CHANGED, COMPLETED] == world.story()
    assert ["callback"] == [end["metadata"]["via"] for end in whole(world, task.id)]


@pytest.mark.parametrize("prompt,end", [("a serene lake", COMPLETED), ("a doomed lake", FAILED)])
@pytest.mark.parametrize("generation", MODELS)
def test_an_end_before_the_create_reply(world: World, gate: Gate, generation: str, prompt: str, end: Any) -> None:
    """Even the end may come first; the create's reply and the polls after it add no second one."""
    model, credentials = MODELS[generation]
    world.sim.queue_seconds = world.sim.render_seconds = 0
    world.sim.callbacks.script("early")
    with world.client(**credentials) as kling:
        task = kling.text_to_video(prompt, model=model, callback_url=gate.url)
        assert ["verified"] == [told.verdict for told in gate.told]
        assert gate.told[0].status in ("succeeded", "failed")
        task.refresh()
    assert [SAID, end, STARTED] == world.story()
    assert [model] == [entry["metadata"]["model"] for entry in whole(world, task.id)]


FAULTS = {
    "unsigned": ("claim", 200, "missing"),
    "forged": ("rejected", 401, "invalid"),
    "tampered": ("rejected", 401, "invalid"),
    "stale": ("rejected", 401, "expired"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_callback_that_proves_nothing(world: World, gate: Gate, fault: Any) -> None:
    """The end that it states is a claim in the log; the end of the task is what Kling says when asked, once."""
    verdict, status, signature = FAULTS[fault]
    world.sim.callbacks.script(fault, state="succeeded")
    with world.client() as kling:
        task = kling.text_to_video("a serene lake", callback_url=gate.url)
        world.sim.clock.advance(60)
        assert gate.wait(3) == ["verified", "verified", verdict]
        assert world.sim.callbacks.wait(3, 60)[-1].status == status
        assert [] == [entry for entry in world.entries() if entry["event_type"] in ENDS]
        assert {"status": "succeeded", "claim": True, "via": "callback", "signature": signature} == (
            world.entries()[-1]["metadata"]
        )
        task.wait(poll_interval=POLL)
    assert CLAIMED in world.story()
    assert COMPLETED == world.story()[-1]
    assert ["query_tasks"] == [end["action"] for end in whole(world, task.id)]


@pytest.mark.parametrize("stated", ["failed", "succeeded"])
def test_a_forged_end_of_a_running_task(world: World, gate: Gate, stated: str) -> None:
    """Neither a forged failure nor a forged success ends anything, also where a client may confirm; Kling's does."""
    with world.client() as kling:
        gate.client = kling
        task = kling.text_to_video("a serene lake", callback_url=gate.url)
        forged = world.sim.callbacks.forge(gate.url, {"id": task.id, "status": stated, "billing": [{"amount": "99"}]})
        assert forged.status == 200
        world.sim.clock.advance(60)
        assert gate.wait(4).count("claim") == 1
    ends = whole(world, task.id)
    assert [("video_generation_completed", "verified")] == [
        (end["event_type"], end["metadata"]["signature"]) for end in ends
    ]


def test_a_forger_who_does_not_give_up(world: World, gate: Gate) -> None:
    """Wrong signatures are claims, then an alarm; the task's own story goes on beside them."""
    wrong = "whsec_c29tZWJvZHkgZWxzZSdzIHNlY3JldCBhbHRvZ2V0aGVy"
    with world.client() as kling:
        task = kling.text_to_video("a serene lake", callback_url=gate.url)
        for _ in range(12):
            world.sim.callbacks.forge(gate.url, {"id": task.id, "status": "failed"}, secret=wrong)
        world.sim.clock.advance(60)
        assert gate.wait(15).count("rejected") == 12
    alarms = [entry for entry in world.entries() if entry["event_type"] == "suspicious_activity"]
    assert [3] == [entry["metadata"]["count"] for entry in alarms]
    entries = [entry for entry in world.entries() if entry["event_type"] != "suspicious_activity"]
    assert 1 == len([entry for entry in entries if entry["event_type"] in ENDS])
    assert 1 == len([entry for entry in entries if entry["metadata"].get("claim")])


def test_deliveries_twice_and_out_of_order(world: World, gate: Gate) -> None:
    """A repeated delivery is known again, and a state that arrives after the end changes nothing."""
    world.sim.callbacks.script("reorder", state="processing")
    world.sim.callbacks.script("duplicate", state="succeeded")
    with world.client() as kling:
        task = kling.text_to_video("a serene lake", callback_url=gate.url)
        world.sim.clock.advance(60)
        assert ["repeated", "verified", "verified", "verified"] == sorted(gate.wait(4))
    assert "processing" == gate.told[-1].status
    assert 1 == len(whole(world, task.id))
    assert COMPLETED == world.story()[-1]


def test_a_callback_that_never_comes(world: World, gate: Gate) -> None:
    """Nothing waits for it: a poll ends the task."""
    world.sim.callbacks.script("drop", times=3)
    with world.client() as kling:
        task = kling.text_to_video("a serene lake", callback_url=gate.url)
        world.sim.clock.advance(60)
        task.wait(poll_interval=POLL)
    assert [] == gate.told
    assert 1 == len(whole(world, task.id))
