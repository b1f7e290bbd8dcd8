"""Clients that send an order again: what was ordered twice is in the log twice, and no charge is counted twice."""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import requests
from requests.adapters import HTTPAdapter
from urllib3.util import Retry

from klingai_audit import acting
from klingai_audit.kling.simulator import ManualClock
from tests.unit.kling.world import KEY, PAIR, POLL, SAID, STARTED, World, make_world

PATH = "/v1/videos/text2video"
DOUBT = ("video_generation_started", "unknown")
COMPLETED = ("video_generation_completed", "success")


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    """Give a log and a simulator on a clock to be set; somebody acts."""
    with make_world(tmp_path) as made, acting("alice@example.com"):
        made.sim.clock = ManualClock()
        yield made


@pytest.fixture
def session(world: World) -> Iterator[requests.Session]:
    """Give a session that sends again whatever it was, with capture attached."""
    with requests.Session() as made:
        made.headers["Authorization"] = f"Bearer {KEY}"
        made.mount("http://", HTTPAdapter(max_retries=Retry(total=2, allowed_methods=None, backoff_factor=0)))
        world.audit.attach(made)
        yield made


def paid(world: World) -> tuple[list[Decimal], list[Decimal]]:
    """What the provider deducted, and what the log says was charged."""
    world.sim.account.settle(world.sim.now_ms())
    charges = [charge for entry in world.entries() for charge in entry["metadata"].get("charge", ())]
    return (
        sorted(line.payment.amount for line in world.sim.account.deductions),
        sorted(Decimal(charge["amount"]) for charge in charges),
    )


def ends(world: World) -> list[dict[str, Any]]:
    """The ends in the log."""
    return [entry for entry in world.entries() if entry["event_type"] == "video_generation_completed"]


def test_a_client_that_orders_again(world: World, session: requests.Session) -> None:
    """The first reply is lost, the second order is taken as well: two intents, two tasks, two ends, two charges."""
    url = world.server.base_url + PATH
    world.sim.fail_next("POST", PATH, drop=True, after_accept=True)
    ordered = session.post(url, json={"prompt": "a serene lake"}).json()["data"]["task_id"]
    first, second = (task.task_id for task in world.sim.tasks)
    assert ordered == second
    assert [SAID, DOUBT, SAID, STARTED] == world.story()
    intents = [entry for entry in world.entries() if entry["event_type"] == "prompt_submitted"]
    assert intents[1]["metadata"]["resend_of"] == intents[0]["event_id"]
    world.sim.clock.advance(60)
    for _ in range(2):
        session.get(f"{url}/{ordered}")
        session.get(f"{url}?pageNum=1&pageSize=30")
    assert {first, second} == {end["resource_id"] for end in ends(world)}
    assert 2 == len(ends(world))
    deducted, charged = paid(world)
    assert deducted == charged
    assert 2 == len(charged)
    assert world.audit.verify().integrity_ok


def test_a_client_with_an_id_of_its_own(world: World, session: requests.Session) -> None:
    """Kling knows the id again and refuses: the order is still in doubt, not failed, until its task is found."""
    url = world.server.base_url + PATH
    world.sim.fail_next("POST", PATH, drop=True, after_accept=True)
    refused = session.post(url, json={"prompt": "a serene lake", "external_task_id": "order-1"})
    assert 1201 == refused.json()["code"]
    assert [SAID, DOUBT, SAID, DOUBT] == world.story()
    assert {"order-1"} == {
        entry["metadata"]["external_task_id"]
        for entry in world.entries()
        if entry["event_type"] == "video_generation_started"
    }
    (made,) = world.sim.tasks
    world.sim.clock.advance(60)
    for _ in range(2):
        session.get(f"{url}/order-1")
        session.get(f"{url}/{made.task_id}")
    (end,) = ends(world)
    assert (made.task_id, "order-1") == (end["resource_id"], end["metadata"]["external_task_id"])
    deducted, charged = paid(world)
    assert [made.charge] == deducted == charged


@pytest.mark.parametrize("generation", ["new", "legacy"])
def test_our_client_never_orders_twice(world: World, generation: str) -> None:
    """It looks for the order by the id of its intent first: one task, one charge, however often replies are lost."""
    credentials = PAIR if generation == "legacy" else {}
    world.sim.fail_next("POST", "*text*", drop=True, after_accept=True, times=3)
    with world.client(**credentials) as kling:
        task = kling.text_to_video("a serene lake", model="kling-v2-6" if generation == "legacy" else "kling-3.0-turbo")
        world.sim.clock.advance(60)
        task.wait(poll_interval=POLL)
    assert [SAID, DOUBT, STARTED, COMPLETED] == world.story()
    assert [task.id] == [made.task_id for made in world.sim.tasks]
    deducted, charged = paid(world)
    assert [world.sim.task(task.id).charge] == deducted == charged
