"""Tasks as the caller holds them: one set of facts, two ways to wait."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, Self

from klingai_audit.errors import UsageError
from klingai_audit.kling import flows
from klingai_audit.kling.download import Download, PartFile
from klingai_audit.kling.progress import Progress, reporting
from klingai_audit.kling.reply import Charge, Result, TaskRecord

if TYPE_CHECKING:
    from klingai_audit.kling.client import AsyncKlingAI, KlingAI

__all__ = ["POLL_INTERVAL", "WAIT_TIMEOUT", "AsyncTask", "Charged", "Download", "Task", "TaskFacts", "Video"]

POLL_INTERVAL = 5.0
"""Seconds between polls, by default."""

WAIT_TIMEOUT = 900.0
"""Seconds that `wait` waits, by default."""


@dataclass(frozen=True, slots=True)
class Video:
    """One result: `duration` in seconds as Kling states it, links good for at most 30 days."""

    id: str | None
    url: str | None = field(repr=False)
    watermark_url: str | None = field(default=None, repr=False)
    duration: Decimal | None = None


@dataclass(frozen=True, slots=True)
class Charged:
    """One deduction; units of different packages (`package_type`) are worth different money."""

    charge_type: str
    amount: Decimal
    package_type: str | None = None
    currency: str | None = None
    list_price: Decimal | None = None


class _Caller(Protocol):
    """What a task needs of the client that made it."""

    retries: flows.Retries


class TaskFacts:
    """What is known of a task, as of the last time it was read."""

    def __init__(self, record: TaskRecord, *, legacy: bool) -> None:
        self._record = record
        self._legacy = legacy

    @property
    def id(self) -> str:
        """Kling's id of the task."""
        return self._record.id

    @property
    def status(self) -> str:
        """`submitted`, `processing`, `succeeded` or `failed`."""
        return self._record.status

    @property
    def done(self) -> bool:
        """Whether the task has ended, well or not."""
        return self._record.final

    @property
    def external_task_id(self) -> str | None:
        """Our id of the task: the event id of the intent in the log."""
        return self._record.external_id

    @property
    def provider_message(self) -> str | None:
        """Why the task failed, in Kling's words, which may echo the prompt."""
        return self._record.message or None

    @property
    def videos(self) -> tuple[Video, ...]:
        """The results; empty until the task has succeeded."""
        return tuple(_video(result) for result in self._record.results if result.kind == "video")

    @property
    def charge(self) -> tuple[Charged, ...]:
        """What was deducted; empty until the task has ended, and for failed tasks."""
        return tuple(_charged(charge) for charge in self._record.charges)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.id} {self.status}>"

    def _link(self, index: int, *, watermark: bool) -> tuple[str, str | None]:
        videos = self.videos
        if not 0 <= index < len(videos):
            raise UsageError(
                f"Task {self.id} is {self.status} and has {len(videos)} results, none with number {index}.",
                do="" if self.done else "Call wait() first.",
            )
        url = videos[index].watermark_url if watermark else videos[index].url
        if url is None:
            raise UsageError(
                f"Task {self.id} has no {'marked ' if watermark else ''}file for result {index}.",
                do="Order it with watermark=True." if watermark else "",
            )
        return url, videos[index].id

    def _fetch_flow(self, caller: _Caller) -> flows.Flow:
        return flows.fetch_task(self.id, legacy=self._legacy, retries=caller.retries)

    @contextmanager
    def _waiting(
        self, caller: _Caller, progress: Progress, timeout: float, poll_interval: float
    ) -> Iterator[flows.Flow]:
        with reporting(progress) as show:

            def report(record: TaskRecord) -> None:
                self._record = record
                show(record)

            yield flows.wait_for_task(
                self._record, legacy=self._legacy, retries=caller.retries, timeout=timeout,
                poll_interval=poll_interval, report=report,
            )  # fmt: skip

    @contextmanager
    def _downloading(
        self, caller: _Caller, path: str | os.PathLike[str], index: int, *, watermark: bool
    ) -> Iterator[tuple[PartFile, flows.Flow]]:
        url, result_id = self._link(index, watermark=watermark)
        target = PartFile(Path(path))
        try:
            yield target, flows.download(url, target, caller.retries, task_id=self.id, result_id=result_id)
        finally:
            target.discard()


class Task(TaskFacts):
    """A task of `KlingAI`. Made by the client's methods."""

    def __init__(self, client: KlingAI, record: TaskRecord, *, legacy: bool) -> None:
        super().__init__(record, legacy=legacy)
        self._client = client

    def refresh(self) -> Self:
        """Read the task again; returns self. Raises: KlingError."""
        self._record = self._client.run(self._fetch_flow(self._client))
        return self

    def wait(
        self, *, progress: Progress = False, timeout: float = WAIT_TIMEOUT, poll_interval: float = POLL_INTERVAL
    ) -> Self:
        """Wait until the task has succeeded; returns self. `timeout` and `poll_interval` are in seconds.

        `progress`: True shows a line on a terminal; a function is called with each record that is read.
        Raises: KlingTaskFailed, KlingWaitTimeout (the task goes on), KlingError.
        """
        with self._waiting(self._client, progress, timeout, poll_interval) as flow:
            self._record = self._client.run(flow)
        flows.ended_well(self._record)
        return self

    def download(self, path: str | os.PathLike[str], *, index: int = 0, watermark: bool = False) -> Download:
        """Fetch result number `index` to `path`; the file is there whole or not at all.

        The link is asked without any credential. Raises: KlingDownloadFailed, AuditUnavailable, UsageError.
        """
        with self._downloading(self._client, path, index, watermark=watermark) as (target, flow):
            self._client.run(flow)
            return target.commit()


class AsyncTask(TaskFacts):
    """A task of `AsyncKlingAI`. Made by the client's methods."""

    def __init__(self, client: AsyncKlingAI, record: TaskRecord, *, legacy: bool) -> None:
        super().__init__(record, legacy=legacy)
        self._client = client

    async def refresh(self) -> Self:
        """Do as `Task.refresh`."""
        self._record = await self._client.run(self._fetch_flow(self._client))
        return self

    async def wait(
        self, *, progress: Progress = False, timeout: float = WAIT_TIMEOUT, poll_interval: float = POLL_INTERVAL
    ) -> Self:
        """Do as `Task.wait`."""
        with self._waiting(self._client, progress, timeout, poll_interval) as flow:
            self._record = await self._client.run(flow)
        flows.ended_well(self._record)
        return self

    async def download(self, path: str | os.PathLike[str], *, index: int = 0, watermark: bool = False) -> Download:
        """Do as `Task.download`."""
        with self._downloading(self._client, path, index, watermark=watermark) as (target, flow):
            await self._client.run(flow)
            done: Download = await self._client.in_thread(target.commit)
            return done


def _video(result: Result) -> Video:
    return Video(result.id, result.url, result.watermark_url, Decimal(result.duration) if result.duration else None)


def _charged(charge: Charge) -> Charged:
    price = Decimal(charge.list_price) if charge.list_price else None
    return Charged(charge.charge_type, Decimal(charge.amount), charge.package_type, charge.currency, price)
