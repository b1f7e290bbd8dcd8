"""A log, a simulator and clients together, for integration tests of capture and client."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from klingai_audit import AuditLog
from klingai_audit.kling import KlingAI
from klingai_audit.kling.client import AsyncKlingAI
from klingai_audit.kling.flows import Retries
from klingai_audit.kling.simulator import RealClock, Simulator, SimulatorServer, serve

KEY = "sim-api-key"
PAIR = {"access_key": "sim-access-key", "secret_key": "sim-secret-key-0123456789abcdef0123"}
FAST = Retries(attempts=4, first=0.01, cap=0.02)
POLL = 0.02
AUTHORIZED = {"authorization": f"Bearer {KEY}"}
SEEN = 60
"""Speed of a simulator whose tasks are seen on their way, also by a busy machine: half a second of rendering."""
SAID = ("prompt_submitted", "success")
STARTED = ("video_generation_started", "success")
LIFE = [
    SAID,
    STARTED,
    ("task_status_changed", "success"),
    ("video_generation_completed", "success"),
    ("video_downloaded", "unknown"),
    ("video_downloaded", "success"),
]
"""What the log tells of a video that was ordered, awaited and fetched."""
LIVES = (LIFE, [step for step in LIFE if step[0] != "task_status_changed"])
"""The same, also where the machine slept through the whole rendering, so that nobody saw the task on its way."""


@dataclass
class World:
    """One account, one log."""

    audit: AuditLog
    sim: Simulator
    server: SimulatorServer
    folder: Path

    def client(self, **more: Any) -> KlingAI:
        """Return a client with an API key, unless `more` says otherwise."""
        return KlingAI(**self._options(more))

    def async_client(self, **more: Any) -> AsyncKlingAI:
        """Return the same for coroutines."""
        return AsyncKlingAI(**self._options(more))

    def _options(self, more: dict[str, Any]) -> dict[str, Any]:
        key = {} if "access_key" in more else {"api_key": KEY}
        return {"audit": self.audit, "base_url": self.server.base_url, "retries": FAST, **key, **more}

    def entries(self) -> list[dict[str, Any]]:
        """Return what is in the log, without its own entries."""
        self.audit.flush()
        found = [json.loads(line) for line in self.audit.entries()]
        return [entry for entry in found if not entry["event_type"].startswith(("log_", "gap_"))]

    def story(self) -> list[tuple[str, str]]:
        """Return event types and outcomes, without the uses of keys."""
        return [
            (entry["event_type"], entry["outcome"]) for entry in self.entries() if entry["event_type"] != "api_key_used"
        ]


@contextmanager
def make_world(folder: Path, *, speed: float = 300, prefix: str = "") -> Iterator[World]:
    """Open a log in `folder` and a simulator whose tasks end after about 30 s / `speed`."""
    sim = Simulator(RealClock(speed=speed), prefix=prefix)
    with serve(sim) as server, AuditLog.open(folder / "audit") as audit:
        yield World(audit, sim, server, folder)
