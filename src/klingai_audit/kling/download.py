"""A downloaded file: whole under its name or not there, with its SHA-256."""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from klingai_audit.durable import OPS, FileOps
from klingai_audit.errors import UsageError
from klingai_audit.kling.errors import KlingDownloadFailed

__all__ = ["Download", "PartFile"]


@dataclass(frozen=True, slots=True)
class Download:
    """A result on this machine: `sha256` in hex, `size` in bytes, as `video_downloaded` states them."""

    path: Path
    sha256: str
    size: int


class PartFile:
    """Collects a download beside its target and puts it in place when it is whole.

    Raises (from every method): KlingDownloadFailed for what the disk does wrong.
    """

    def __init__(self, path: Path, *, ops: FileOps = OPS) -> None:
        if not path.parent.is_dir():
            raise UsageError(f"There is no folder {path.parent} to download into.", do="Create it first.")
        if path.is_dir():
            raise UsageError(f"{path} is a folder.", do="Name a file in it.")
        self._path = path
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

    def commit(self) -> Download:
        """Put the whole file in place, durable on return."""
        with self._translated():
            if self._fd is not None:
                self._ops.sync(self._fd)
                self._close()
            self._ops.rename(self._part, self._path)
            self._ops.sync_folder(self._path.parent)
        return Download(self._path, self._digest.hexdigest(), self._size)

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
