"""A downloaded file: whole under its name or not there, with its SHA-256."""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from klingai_audit.durable import OPS, FileOps
from klingai_audit.errors import UsageError
from klingai_audit.kling import flows
from klingai_audit.kling.errors import KlingDownloadFailed

if TYPE_CHECKING:
    from klingai_audit.kling.client import AsyncKlingAI, KlingAI

__all__ = ["AsyncDownload", "Download", "Fetched", "PartFile"]


@dataclass(frozen=True, slots=True)
class Fetched:
    """A result on this machine: `sha256` in hex, `size` in bytes, as `video_downloaded` states them.

    `medium` is `video`, `image` or `audio`; `task_id` and `result_id` say whose result it is.
    """

    path: Path
    sha256: str
    size: int
    medium: str = "video"
    task_id: str | None = None
    result_id: str | None = None

    def deletion(self) -> flows.Flow:
        """The flow that deletes the file."""
        facts = {"sha256": self.sha256, "bytes": self.size}
        return flows.delete_file(
            self.path, facts, task_id=self.task_id, result_id=self.result_id, medium=self.medium
        )  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Download(Fetched):
    """A result on this machine: `sha256` in hex, `size` in bytes, as `video_downloaded` states them.

    `medium` is `video`, `image` or `audio`; `task_id` and `result_id` say whose result it is.
    """

    client: KlingAI = field(repr=False, compare=False)

    def delete(self) -> None:
        """Delete the file, recorded as `video_deleted` (or `image_`, `audio_`) before and after; durable on return.

        Raises: StorageError: it is still there, or was not. AuditUnavailable: it could not be recorded.
        """
        self.client.run(self.deletion())


@dataclass(frozen=True, slots=True, kw_only=True)
class AsyncDownload(Fetched):
    """Do as `Download`."""

    client: AsyncKlingAI = field(repr=False, compare=False)

    async def delete(self) -> None:
        """Do as `Download.delete`."""
        await self.client.run(self.deletion())


class PartFile:
    """Collects a download beside its target and puts it in place when it is whole.

    Raises (from every method): KlingDownloadFailed for what the disk does wrong.
    """

    def __init__(
        self,
        path: Path,
        *,
        medium: str = "video",
        task_id: str | None = None,
        result_id: str | None = None,
        ops: FileOps = OPS,
    ) -> None:
        if not path.parent.is_dir():
            raise UsageError(f"There is no folder {path.parent} to download into.", do="Create it first.")
        if path.is_dir():
            raise UsageError(f"{path} is a folder.", do="Name a file in it.")
        self.result_id = result_id
        self._path = path
        self._about: dict[str, Any] = {"medium": medium, "task_id": task_id, "result_id": result_id}
        self._part = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
        self._ops = ops
        self._fd: int | None = None
        self._digest = hashlib.sha256()
        self._size = 0

    def restart(self) -> None:
        """Begin with an empty file."""
        with self._translated():
            if self._fd is None:
                self._fd = self._ops.open(self._part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
            else:
                self._ops.truncate(self._fd, 0)
                os.lseek(self._fd, 0, os.SEEK_SET)
        self._digest, self._size = hashlib.sha256(), 0

    def write(self, chunk: bytes) -> None:
        """Append."""
        with self._translated():
            if self._fd is not None:
                self._ops.write_all(self._fd, chunk)
        self._digest.update(chunk)
        self._size += len(chunk)

    def commit(self) -> Fetched:
        """Put the whole file in place, durable on return."""
        with self._translated():
            if self._fd is not None:
                self._ops.sync(self._fd)
                self._close()
            self._ops.rename(self._part, self._path)
            self._ops.sync_folder(self._path.parent)
        return Fetched(self._path, self._digest.hexdigest(), self._size, **self._about)

    def discard(self) -> None:
        """Leave nothing behind; harmless after `commit`."""
        self._close()
        with contextlib.suppress(OSError):
            self._ops.unlink(self._part)

    def _close(self) -> None:
        fd, self._fd = self._fd, None
        if fd is not None:
            with contextlib.suppress(OSError):
                self._ops.close(fd)

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except OSError as exc:
            raise KlingDownloadFailed(
                f"{self._path} could not be written: {exc.strerror}.", do="Free space, or download elsewhere."
            ) from exc
