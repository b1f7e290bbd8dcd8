"""Tasks as the caller holds them: one set of facts, two ways to wait."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, Self

from klingai_audit.errors import UsageError
from klingai_audit.kling import flows
from klingai_audit.kling.download import AsyncDownload, Download, Fetched, PartFile
from klingai_audit.kling.progress import Progress, reporting
from klingai_audit.kling.reply import Result, TaskRecord
from klingai_audit.kling.results import (
    Audio,
    Charged,
    Element,
    Image,
    Video,
    Voice,
    audios_of,
    charged,
    elements_of,
    images_of,
    videos_of,
    voices_of,
)
from klingai_audit.kling.rows import MEDIA

if TYPE_CHECKING:
    from klingai_audit.kling.client import AsyncKlingAI, KlingAI

__all__ = [
    "POLL_INTERVAL",
    "WAIT_TIMEOUT",
    "AsyncDownload",
    "AsyncTask",
    "Audio",
    "Charged",
    "Download",
    "Element",
    "Image",
    "Task",
    "TaskFacts",
    "Video",
    "Voice",
]

POLL_INTERVAL = 5.0
"""Seconds between polls, by default."""

WAIT_TIMEOUT = 900.0
"""Seconds that `wait` waits, by default."""


class _Caller(Protocol):
    """What a task needs of the client that made it."""

    retries: flows.Retries


class TaskFacts:
    """What is known of a task, as of the last time it was read."""

    def __init__(self, record: TaskRecord, *, route: str | None) -> None:
        self._record = record
        self._route = route

    @property
    def id(self) -> str:
        """Kling's id of the task; empty for a synchronous call that Kling made no task of."""
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
        return videos_of(self._record.results)

    @property
    def images(self) -> tuple[Image, ...]:
        """The images that it made; empty until the task has succeeded."""
        return images_of(self._record.results)

    @property
    def audios(self) -> tuple[Audio, ...]:
        """The sounds that it made; empty until the task has succeeded."""
        return audios_of(self._record.results)

    @property
    def voices(self) -> tuple[Voice, ...]:
        """The voices that it made; empty until the task has succeeded."""
        return voices_of(self._record)

    @property
    def elements(self) -> tuple[Element, ...]:
        """The elements that it made; empty until the task has succeeded."""
        return elements_of(self._record)

    @property
    def raw(self) -> Mapping[str, Any]:
        """The record as Kling sent it."""
        return self._record.raw

    @property
    def charge(self) -> tuple[Charged, ...]:
        """What was deducted; empty until the task has ended, and for failed tasks."""
        return tuple(charged(charge) for charge in self._record.charges)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.id} {self.status}>"

    def _file(self, index: int, *, watermark: bool, wav: bool) -> tuple[str, Result]:
        """The link of one file and the result that it belongs to."""
        files = [result for result in self._record.results if result.kind in MEDIA and result.url is not None]
        if not 0 <= index < len(files):
            raise UsageError(
                f"Task {self.id} is {self.status} and has {len(files)} files, none with number {index}.",
                do="" if self.done else "Call wait() first.",
            )
        result = files[index]
        url = result.watermark_url if watermark else result.wav_url if wav else result.url
        if url is None:
            raise UsageError(
                f"Task {self.id} has no {'marked' if watermark else 'WAV'} file for result {index}.",
                do="Order it with watermark=True." if watermark else "Leave wav out.",
            )
        return url, result

    def _fetch_flow(self, caller: _Caller) -> flows.Flow:
        return flows.fetch_task(self.id, route=self._route, retries=caller.retries)

    @contextmanager
    def _waiting(
        self, caller: _Caller, progress: Progress, timeout: float, poll_interval: float
    ) -> Iterator[flows.Flow]:
        with reporting(progress) as show:

            def report(record: TaskRecord) -> None:
                self._record = record
                show(record)

            yield flows.wait_for_task(
                self._record, route=self._route, retries=caller.retries, timeout=timeout,
                poll_interval=poll_interval, report=report,
            )  # fmt: skip

    @contextmanager
    def _downloading(
        self, caller: _Caller, path: str | os.PathLike[str], index: int, *, watermark: bool, wav: bool
    ) -> Iterator[tuple[PartFile, flows.Flow]]:
        url, result = self._file(index, watermark=watermark, wav=wav)
        target = PartFile(Path(path), medium=result.kind, task_id=self.id or None, result_id=result.id or str(index))
        try:
            yield (
                target,
                flows.download(
                    url, target, caller.retries, task_id=self.id, result_id=target.result_id, medium=result.kind
                ),
            )
        finally:
            target.discard()


class Task(TaskFacts):
    """A task of `KlingAI`. Made by the client's methods."""

    def __init__(self, client: KlingAI, record: TaskRecord, *, route: str | None) -> None:
        super().__init__(record, route=route)
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

    def download(
        self, path: str | os.PathLike[str], *, index: int = 0, watermark: bool = False, wav: bool = False
    ) -> Download:
        """Fetch file number `index` of the results to `path`; it is there whole or not at all.

        `watermark` fetches its marked version, `wav` a sound's second file. The link is asked without any credential.
        Raises: KlingDownloadFailed, AuditUnavailable, UsageError.
        """
        with self._downloading(self._client, path, index, watermark=watermark, wav=wav) as (target, flow):
            self._client.run(flow)
            return Download(**_facts(target.commit()), client=self._client)


class AsyncTask(TaskFacts):
    """A task of `AsyncKlingAI`. Made by the client's methods."""

    def __init__(self, client: AsyncKlingAI, record: TaskRecord, *, route: str | None) -> None:
        super().__init__(record, route=route)
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

    async def download(
        self, path: str | os.PathLike[str], *, index: int = 0, watermark: bool = False, wav: bool = False
    ) -> AsyncDownload:
        """Do as `Task.download`."""
        with self._downloading(self._client, path, index, watermark=watermark, wav=wav) as (target, flow):
            await self._client.run(flow)
            return AsyncDownload(**_facts(await self._client.in_thread(target.commit)), client=self._client)


def _facts(fetched: Fetched) -> dict[str, Any]:
    return {item.name: getattr(fetched, item.name) for item in fields(fetched)}
