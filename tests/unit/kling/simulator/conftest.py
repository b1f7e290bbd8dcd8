"""A simulator on a clock that stands still, and one way to ask it: without a socket."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from klingai_audit.kling.simulator import Delivery, ManualClock, Request, Response, Simulator

START_MS = 1_781_080_778_802


@dataclass(frozen=True)
class Reply:
    """What came back: `json` is None for a body that is not JSON."""

    status: int
    body: bytes
    headers: dict[str, str]

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def code(self) -> int:
        return self.json["code"]

    @property
    def data(self) -> Any:
        return self.json["data"]


class Asker:
    """Sends requests to the simulator's entry point and reads its replies."""

    def __init__(self, sim: Simulator) -> None:
        self.sim = sim

    def deliver(self, method: str, path: str, body: Any = None, *, auth: str | None = "sim-api-key") -> Delivery:
        target, _, query = path.partition("?")
        headers = {} if auth is None else {"authorization": auth if " " in auth else f"Bearer {auth}"}
        raw = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
        return self.sim.handle(Request(method, target, query, headers, raw, "http://sim.example"))

    def __call__(self, method: str, path: str, body: Any = None, *, auth: str | None = "sim-api-key") -> Reply:
        response = self.deliver(method, path, body, auth=auth).response
        assert isinstance(response, Response)
        return Reply(response.status, response.body, {"content-type": response.content_type, **dict(response.headers)})

    def create(self, prompt: str = "a lighthouse", *, external_id: str = "", model: str = "kling-3.0") -> str:
        """Create a task in the new design; return its id."""
        reply = self(
            "POST", f"/text-to-video/{model}", {"prompt": prompt, "options": {"external_task_id": external_id}}
        )
        assert reply.status == 200, reply.json
        return reply.data["id"]

    def record(self, task_id: str) -> Any:
        """The task's record of the new design."""
        (found,) = self("GET", f"/tasks?task_ids={task_id}").data
        return found

    def media(self, url: str) -> Reply:
        """Fetch a result without any credential."""
        return self("GET", url.removeprefix("http://sim.example"), auth=None)


@pytest.fixture
def clock() -> ManualClock:
    """A clock at a fixed moment."""
    return ManualClock(START_MS)


@pytest.fixture
def sim(clock: ManualClock) -> Simulator:
    """A fresh account with the default credentials."""
    return Simulator(clock)


@pytest.fixture
def ask(sim: Simulator) -> Asker:
    """Ask the simulator without a socket."""
    return Asker(sim)


@pytest.fixture
def asker() -> Callable[[Simulator], Asker]:
    """Ask another simulator."""
    return Asker
