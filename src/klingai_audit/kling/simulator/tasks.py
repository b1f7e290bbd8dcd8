"""Tasks: what was ordered, the life cycle on the simulator's clock, and the book of all of them."""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, Literal

Status = Literal["submitted", "processing", "succeeded", "failed"]
STATUSES: tuple[Status, ...] = ("submitted", "processing", "succeeded", "failed")
Kind = Literal["video", "image", "audio", "voice", "element"]
FRAMES_PER_SECOND = 24
RETENTION_MS = 30 * 24 * 3600 * 1000
"""Sheet section 6: results and ids are cleared after 30 days."""


def format_seconds(seconds: float) -> str:
    """A length as records show it: `5.041`."""
    return f"{seconds:.3f}"


@dataclass(frozen=True, slots=True)
class Output:
    """One thing that a task makes; `kind` is the type word of `outputs[]`."""

    kind: Kind
    output_id: str = ""
    """Given when the task is accepted."""
    index: int = 0
    """Position among the outputs of its kind."""
    group: str = ""
    """Images of one series share this."""
    facts: Mapping[str, Any] = field(default_factory=dict, repr=False)
    """What a record tells of it beyond id and address; see `records`."""


VIDEO = Output("video")


@dataclass(frozen=True, slots=True)
class Parent:
    """The video that a task starts from: an earlier result, or an address."""

    seconds: float
    address: str = field(default="", repr=False)
    task: Task | None = field(default=None, repr=False)
    output: Output | None = None

    @property
    def duration(self) -> str:
        """Its length as records show it."""
        return self.task.duration if self.task is not None else format_seconds(self.seconds)


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
    makes: tuple[Output, ...] = (VIDEO,)
    parent: Parent | None = None
    session_id: str = ""
    refer_video: bool = False
    """Whether a reference video was given."""
    sound: str = ""
    """`original` if the reference video's sound is kept."""
    voice_control: bool = False
    series: bool = False
    """Whether the images belong together."""
    timeless: bool = False
    """Whether result videos are shown without their length."""


@dataclass(frozen=True, slots=True)
class Payment:
    """Who pays, settled when the task is accepted; amounts in units or in money."""

    charge_type: Literal["unit", "cash"]
    amount: Decimal
    account: str
    """Resource pack id, or `balance` / `test_balance`."""
    list_price: Decimal = Decimal(0)
    currency: str = ""


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
    """Name of the API key, or the AccessKey."""
    created_ms: int
    start_ms: int
    end_ms: int
    outputs: tuple[Output, ...]
    failure: str = field(default="", repr=False)
    """Why the task ends as failed; empty: it succeeds."""
    function: str = "Text to Video"
    """`product_function` of the billing detail."""
    generation: Literal["legacy", "new"] = "new"
    api_key_name: str = ""
    """Name of the API key in the billing detail; empty for AccessKey tokens."""
    base_url: str = ""
    """Where the caller reached the simulator; result addresses in callbacks begin so."""
    payment: Payment | None = None

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
    """All tasks of the account, oldest first, until they are cleared. Callers hold the simulator's lock."""

    def __init__(self) -> None:
        self._tasks: dict[int, Task] = {}
        self._quiet: dict[str, Task] = {}
        self._by_id: dict[str, Task] = {}
        self._by_external_id: dict[str, Task] = {}
        self._running: list[Task] = []
        self._next = 0
        self._last_id = 0
        self._clear_ms = 0

    def new_id(self, now_ms: int) -> str:
        """A decimal string of 18 digits, unique here and unlikely to repeat in another simulator."""
        self._last_id = max(self._last_id + 1, now_ms * 100_000 + secrets.randbelow(100_000))
        return str(self._last_id)

    def add(self, task: Task, *, listed: bool = True) -> None:
        """Keep a task; unlisted ones (synchronous calls) are found by no query. Requires: its external id is free."""
        due = task.end_ms + RETENTION_MS
        self._clear_ms = min(self._clear_ms, due) if self._tasks or self._quiet else due
        if not listed:
            self._quiet[task.task_id] = task
            return
        self._tasks[self._next] = task
        self._next += 1
        self._running.append(task)
        self._by_id[task.task_id] = task
        if task.order.external_id:
            self._by_external_id[task.order.external_id] = task

    def clear(self, now_ms: int) -> None:
        """Forget everything that ended 30 days ago or earlier, ids of callers included."""
        if now_ms < self._clear_ms or not (self._tasks or self._quiet):
            return
        for position, task in list(self._tasks.items()):
            if task.end_ms + RETENTION_MS <= now_ms:
                del self._tasks[position], self._by_id[task.task_id]
                self._by_external_id.pop(task.order.external_id, None)
        self._quiet = {name: task for name, task in self._quiet.items() if task.end_ms + RETENTION_MS > now_ms}
        left = [task.end_ms for task in (*self._tasks.values(), *self._quiet.values())]
        self._clear_ms = min(left, default=0) + RETENTION_MS

    def by_id(self, task_id: str) -> Task | None:
        """The listed task with this id."""
        return self._by_id.get(task_id)

    def by_external_id(self, external_id: str) -> Task | None:
        """The task with this id of the caller's."""
        return self._by_external_id.get(external_id)

    def any_by_id(self, task_id: str) -> Task | None:
        """The task with this id, unlisted ones included."""
        return self._by_id.get(task_id) or self._quiet.get(task_id)

    def output(self, kind: Kind, output_id: str, now_ms: int) -> tuple[Task, Output] | None:
        """A finished result by its own id, unlisted ones included."""
        for task in (*self._tasks.values(), *self._quiet.values()):
            for output in task.outputs:
                if output.output_id == output_id and output.kind == kind and task.status(now_ms) == "succeeded":
                    return task, output
        return None

    def unlisted(self, path: str) -> list[Task]:
        """Tasks of synchronous calls to `path`, newest first."""
        return [task for task in reversed(self._quiet.values()) if task.path == path]

    def newest_first(self, before: int | None = None) -> Iterator[tuple[int, Task]]:
        """Tasks with their position in creation order, newest first, positions `[0, before)`."""
        for position in reversed(self._tasks):
            if before is None or position < before:
                yield position, self._tasks[position]

    def slots_in_use(self, pack: str, version: str, now_ms: int) -> int:
        """Concurrency slots held by unfinished tasks of one pack type and model version."""
        self._running = [task for task in self._running if not task.ended(now_ms)]
        return sum(task.order.slots for task in self._running if task.pack == pack and task.order.version == version)

    def __iter__(self) -> Iterator[Task]:
        return iter(list(self._tasks.values()))

    def __len__(self) -> int:
        return len(self._tasks)
