"""Tasks: what was ordered, the life cycle on the simulator's clock, and the book of all of them."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Literal

Status = Literal["submitted", "processing", "succeeded", "failed"]
STATUSES: tuple[Status, ...] = ("submitted", "processing", "succeeded", "failed")
FRAMES_PER_SECOND = 24


@dataclass(frozen=True, slots=True)
class Order:
    """A valid create request, in the words of the price list."""

    model: str
    version: str
    prompt: str = field(repr=False)
    seconds: int
    resolution: str
    audio: bool
    aspect_ratio: str
    units: Decimal
    external_id: str = ""
    callback_url: str = ""
    watermark: bool = False
    slots: int = 1
    """Places of the concurrency limit that the task holds until it ends."""


@dataclass(frozen=True, slots=True)
class Output:
    """One thing that a task makes; `kind` is the type word of `outputs[]`."""

    kind: Literal["video"]
    output_id: str


@dataclass(slots=True)
class Task:
    """One asynchronous task; all times in ms since the epoch, `[start_ms, end_ms)` is processing."""

    task_id: str
    path: str
    """Path of the create call; legacy queries find only tasks of their own path."""
    pack: str
    product_type: str
    order: Order
    caller: str
    created_ms: int
    start_ms: int
    end_ms: int
    outputs: tuple[Output, ...]
    failure: str = field(default="", repr=False)
    """Why the task ends as failed; empty: it succeeds."""

    def status(self, now_ms: int) -> Status:
        """The state at `now_ms`."""
        if now_ms < self.start_ms:
            return "submitted"
        if now_ms < self.end_ms:
            return "processing"
        return "failed" if self.failure else "succeeded"

    def updated_ms(self, now_ms: int) -> int:
        """When the state at `now_ms` was entered."""
        if now_ms < self.start_ms:
            return self.created_ms
        return self.start_ms if now_ms < self.end_ms else self.end_ms

    def ended(self, now_ms: int) -> bool:
        """Whether the task holds no concurrency slot any more."""
        return now_ms >= self.end_ms

    @property
    def charge(self) -> Decimal:
        """Units charged at the end; failed tasks are free."""
        return Decimal(0) if self.failure else self.order.units

    @property
    def frames(self) -> int:
        """Frames of the result: one more than ordered, which makes 3 s come back as 3.041."""
        return self.order.seconds * FRAMES_PER_SECOND + 1

    @property
    def duration(self) -> str:
        """Length of the result in seconds, truncated to the millisecond."""
        millis = self.frames * 1000 // FRAMES_PER_SECOND
        return f"{millis // 1000}.{millis % 1000:03d}"


class TaskBook:
    """All tasks of the account, oldest first. Callers hold the simulator's lock."""

    def __init__(self) -> None:
        self._tasks: list[Task] = []
        self._by_id: dict[str, Task] = {}
        self._by_external_id: dict[str, Task] = {}
        self._running: list[Task] = []
        self._last_id = 0

    def new_id(self, now_ms: int) -> str:
        """A decimal string of 18 digits, unique here and unlikely to repeat in another simulator."""
        self._last_id = max(self._last_id + 1, now_ms * 100_000 + secrets.randbelow(100_000))
        return str(self._last_id)

    def add(self, task: Task) -> None:
        """Keep a task. Requires: its external id, if any, is free."""
        self._tasks.append(task)
        self._running.append(task)
        self._by_id[task.task_id] = task
        if task.order.external_id:
            self._by_external_id[task.order.external_id] = task

    def by_id(self, task_id: str) -> Task | None:
        """The task with this id."""
        return self._by_id.get(task_id)

    def by_external_id(self, external_id: str) -> Task | None:
        """The task with this id of the caller's."""
        return self._by_external_id.get(external_id)

    def newest_first(self, before: int | None = None) -> Iterator[tuple[int, Task]]:
        """Tasks with their position in creation order, newest first, positions `[0, before)`."""
        end = len(self._tasks) if before is None else min(before, len(self._tasks))
        for position in range(end - 1, -1, -1):
            yield position, self._tasks[position]

    def slots_in_use(self, pack: str, version: str, now_ms: int) -> int:
        """Concurrency slots held by unfinished tasks of one pack type and model version."""
        self._running = [task for task in self._running if not task.ended(now_ms)]
        return sum(task.order.slots for task in self._running if task.pack == pack and task.order.version == version)

    def __iter__(self) -> Iterator[Task]:
        return iter(list(self._tasks))

    def __len__(self) -> int:
        return len(self._tasks)
