"""Who ordered a job is who acts in it: the recipes of docs/how-to/audit-existing-clients.md for queues and pools."""

from __future__ import annotations

import warnings
from concurrent.futures import ThreadPoolExecutor

import pytest
import requests

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from celery import Celery, Task
    from celery.contrib.testing.worker import start_worker
    from celery.signals import before_task_publish

from klingai_audit import acting
from klingai_audit.event.context import Actor
from tests.unit.kling.world import KEY, make_world

AUTHORIZED = {"authorization": f"Bearer {KEY}"}
PATH = "/v1/videos/text2video"


@pytest.fixture
def world(tmp_path):
    """Give a log and a simulator."""
    with make_world(tmp_path) as made:
        yield made


def take_along(headers=None, **_):
    """Put who acts into the message."""
    actor = acting.capture()
    if actor is not None:
        headers["klingai_audit"] = dict(actor.fields)


class ActingTask(Task):
    """Does its work in the name of who ordered it."""

    def __call__(self, *args, **kwargs):
        told = self.request.get("klingai_audit")
        with acting.restore(Actor(**told) if told else None):
            return super().__call__(*args, **kwargs)


@pytest.fixture
def worker():
    """Give a Celery application with a running worker; messages stay in memory."""
    app = Celery("films", broker="memory://", backend="cache+memory://", task_cls=ActingTask)
    app.conf.update(broker_connection_retry_on_startup=False, worker_hijack_root_logger=False)
    before_task_publish.connect(take_along)
    yield app
    before_task_publish.disconnect(take_along)
    app.close()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_celery_worker_acts_for_who_ordered(world, worker):
    """Two people order through one queue: the worker's calls are theirs, with team and address; a third is nobody's."""

    @worker.task
    def order(prompt):
        with requests.Session() as session:
            world.audit.attach(session)
            return session.post(world.server.base_url + PATH, json={"prompt": prompt}, headers=AUTHORIZED).status_code

    with start_worker(worker, pool="solo", perform_ping_check=False, shutdown_timeout=120):
        jobs = []
        for person in ("user@example.com", "editor@example.com"):
            with acting(person, ip="192.168.1.9", team="studio-a"):
                jobs.append(order.delay("a lake"))
        jobs.append(order.delay("a lake"))
        assert [job.get(timeout=120) for job in jobs] == [200, 200, 200]
    said = [entry for entry in world.entries() if entry["event_type"] == "prompt_submitted"]
    people = {entry["actor_id"] for entry in said}
    assert len(people) == 3
    assert "unknown" in people
    told = [entry for entry in said if entry["actor_id"] != "unknown"]
    assert {(entry["team"], entry["ip_address"]) for entry in told} == {("studio-a", "192.168.xxx.xxx")}
    found = [world.audit.subjects.reveal(entry["actor_id"]) for entry in told]
    assert sorted(found) == ["editor@example.com", "user@example.com"]


def test_a_pool_acts_for_who_submitted(world):
    """A thread of a pool starts with nobody; what was captured is restored in it, and not left behind."""

    def order(token):
        with acting.restore(token), requests.Session() as session:
            world.audit.attach(session)
            session.post(world.server.base_url + PATH, json={"prompt": "a lake"}, headers=AUTHORIZED)

    with ThreadPoolExecutor(1) as pool:
        for person in ("user@example.com", "editor@example.com"):
            with acting(person):
                pool.submit(order, acting.capture()).result()
        assert pool.submit(acting.capture).result() is None
    said = [entry for entry in world.entries() if entry["event_type"] == "prompt_submitted"]
    assert [world.audit.subjects.reveal(entry["actor_id"]) for entry in said] == [
        "user@example.com", "editor@example.com"
    ]  # fmt: skip
