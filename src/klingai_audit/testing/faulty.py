"""File operations that fail on command: one call once, or every call from some moment on. For tests of stores."""

from __future__ import annotations

import contextlib
import errno
import os
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar

from klingai_audit.durable import FileOps, SyncError

__all__ = ["PRIMITIVES", "Call", "FaultyOps", "How", "QuickOps"]

How = Literal["lost", "done", "short"]
"""`lost`: not done, and an error; `done`: done, and an error all the same; `short`: half of a write, no error."""

T = TypeVar("T")

PRIMITIVES = ("open", "close", "write", "write_at", "sync", "truncate", "rename", "unlink", "mkdir", "rmdir")


@dataclass(frozen=True)
class Call:
    """One primitive operation: its name, the last part of the path it was about, and by which way it was reached."""

    name: str
    about: str
    way: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.name} {self.about}"


class QuickOps(FileOps):
    """Real operations, but nobody waits for the disk: for tests that do not lose power."""

    def sync(self, fd: int) -> None:
        """Tell whether the descriptor is open, no more."""
        os.fstat(fd)


class FaultyOps(QuickOps):
    """Counts primitive operations and makes one of them fail.

    `fail_at` is the index of the call that fails once; `fails` may choose calls by another rule, again and again.
    With `trace` each call knows its way, the functions of the package that led to it.
    """

    def __init__(
        self, fail_at: int | None = None, how: How = "lost", code: int = errno.EIO, *, trace: bool = False
    ) -> None:
        self._trace = trace
        self.calls: list[Call] = []
        self.failed: list[Call] = []
        self.fails: Callable[[Call], bool] | None = None
        self.fail_at = fail_at
        self.how = how
        self.code = code
        self._names: dict[int, str] = {}
        self._mutex = threading.RLock()

    def _do(self, name: str, about: str, act: Callable[[], T], undo: Callable[[T], None] | None = None) -> T:
        with self._mutex:
            call = Call(name, about, _way() if self._trace else ())
            self.calls.append(call)
            fails = len(self.calls) - 1 == self.fail_at or (self.fails is not None and self.fails(call))
            if not fails or self.how == "short":
                return act()
            self.failed.append(call)
            if self.how == "done":
                result = act()
                if undo is not None:
                    undo(result)
            kind = SyncError if name == "sync" else OSError
            raise kind(self.code, os.strerror(self.code))

    def _write(self, name: str, fd: int, data: bytes, act: Callable[[bytes], int]) -> int:
        with self._mutex:
            call = Call(name, self._names.get(fd, "?"))
            index = len(self.calls)
            chosen = index == self.fail_at or (self.fails is not None and self.fails(call))
            if chosen and self.how == "short":
                self.calls.append(call)
                self.failed.append(call)
                return act(data[: len(data) // 2])
            return self._do(name, call.about, lambda: act(data))

    def open(self, path: Path, flags: int, mode: int = 0o644) -> int:
        """As `FileOps.open`, unless it is to fail."""
        fd = self._do("open", path.name, lambda: FileOps.open(self, path, flags, mode), os.close)
        self._names[fd] = path.name
        return fd

    def close(self, fd: int) -> None:
        """As `FileOps.close`, unless it is to fail."""
        try:
            self._do("close", self._names.get(fd, "?"), lambda: FileOps.close(self, fd))
        except OSError:
            with contextlib.suppress(OSError):
                os.close(fd)
            raise

    def write(self, fd: int, data: bytes) -> int:
        """As `FileOps.write`, unless it is to fail."""
        return self._write("write", fd, data, lambda part: FileOps.write(self, fd, part))

    def write_at(self, fd: int, data: bytes, offset: int) -> int:
        """As `FileOps.write_at`, unless it is to fail."""
        return self._write("write_at", fd, data, lambda part: FileOps.write_at(self, fd, part, offset))

    def sync(self, fd: int) -> None:
        """As `FileOps.sync`, unless it is to fail."""
        self._do("sync", self._names.get(fd, "?"), lambda: QuickOps.sync(self, fd))

    def truncate(self, fd: int, length: int) -> None:
        """As `FileOps.truncate`, unless it is to fail."""
        self._do("truncate", self._names.get(fd, "?"), lambda: FileOps.truncate(self, fd, length))

    def rename(self, source: Path, target: Path) -> None:
        """As `FileOps.rename`, unless it is to fail."""
        self._do("rename", target.name, lambda: FileOps.rename(self, source, target))

    def unlink(self, path: Path) -> None:
        """As `FileOps.unlink`, unless it is to fail."""
        self._do("unlink", path.name, lambda: FileOps.unlink(self, path))

    def mkdir(self, path: Path, mode: int = 0o755) -> None:
        """As `FileOps.mkdir`, unless it is to fail."""
        self._do("mkdir", path.name, lambda: FileOps.mkdir(self, path, mode))

    def rmdir(self, path: Path) -> None:
        """As `FileOps.rmdir`, unless it is to fail."""
        self._do("rmdir", path.name, lambda: FileOps.rmdir(self, path))


def _way() -> tuple[str, ...]:
    frame = sys._getframe(2)  # noqa: SLF001  who called, for tests that choose calls by that
    way: list[str] = []
    while frame is not None:
        if frame.f_globals.get("__name__", "").startswith("klingai_audit."):
            way.append(frame.f_code.co_name)
        if frame.f_back is None:
            break
        frame = frame.f_back
    return tuple(way)
