"""Lines on their way into the engine, which reads files only: in memory where the system has such files."""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Final

from klingai_audit.durable import PRIVATE_MODE, TEMPORARY_SUFFIX, FileOps

__all__ = ["Scratch"]

_MEMORY_FILE: Final[Callable[[str], int] | None] = getattr(os, "memfd_create", None)


class Scratch:
    """A file of lines that is gone after `discard`; on Linux it never touches the disk.

    `path` is where the engine of this process finds it. Raises: OSError.
    """

    def __init__(self, folder: Path, name: str, ops: FileOps) -> None:
        self._ops = ops
        self._named: Path | None = None
        if _MEMORY_FILE is not None and Path("/proc/self/fd").is_dir():
            self._fd = _MEMORY_FILE("klingai-audit-index")
            self.path = Path(f"/proc/self/fd/{self._fd}")
        else:
            self._named = self.path = folder / f"{name}{TEMPORARY_SUFFIX}"
            self._fd = ops.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, PRIVATE_MODE)
        _OPEN.add(self)

    def write(self, data: bytes) -> None:
        """Append. Raises: OSError."""
        self._ops.write_all(self._fd, data)

    def discard(self) -> None:
        """Let it go; a second time is fine."""
        if self._fd >= 0:
            self._ops.close(self._fd)
            self._fd = -1
            if self._named is not None:
                self._ops.unlink(self._named)

    def after_fork(self) -> None:
        """In a forked child: the memory is the parent's, let it not be held here."""
        if self._fd >= 0:
            self._ops.close(self._fd)
            self._fd = -1


_OPEN: weakref.WeakSet[Scratch] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    for scratch in list(_OPEN):
        scratch.after_fork()


os.register_at_fork(after_in_child=_after_fork_in_child)
