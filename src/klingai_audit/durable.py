"""The one place that writes files: every durable change of log, keys and state goes through here.

`FileOps` is the seam: tests replace it to lose, tear or misreport single operations. Rules kept here
and nowhere else: a file is replaced by temporary file, write, sync, rename, folder sync; a created
name is durable only after its folder is synced; a failed sync is never retried.

Expected system calls of `replace`: open, write, fdatasync (F_FULLFSYNC on macOS), rename, fdatasync of
the folder. Known hole: a disk that acknowledges a flush without doing it.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import functools
import io
import os
import stat
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO, Final

__all__ = [
    "NO_FORK",
    "OPS",
    "PRIVATE_MODE",
    "TEMPORARY_SUFFIX",
    "FileOps",
    "SyncError",
    "is_private",
    "open_regular",
    "read_optional",
]

TEMPORARY_SUFFIX: Final = ".tmp"
"""Suffix of the temporary file beside a file that is being replaced."""

MAX_SMALL_FILE: Final = 16 << 20
"""Largest file, in bytes, that is read whole without being asked for: keys, notes, heads, settings."""

PRIVATE_MODE: Final = 0o600
"""File mode of private keys and of everything in the state folder."""

NO_FORK: Final = threading.Lock()
"""Held for moments in which a forked child would inherit something that nobody there could close; forks wait."""

_NEW_FILE: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL

_FULLFSYNC: Final[int | None] = getattr(fcntl, "F_FULLFSYNC", None) if sys.platform == "darwin" else None


class SyncError(OSError):
    """A sync failed: what is durable is unknown, and trying again would prove nothing."""


class FileOps:
    """Primitive operations on files and folders; each maps to one system call or a fixed sequence.

    Everything raises `OSError` as the system gave it (failed syncs as `SyncError`); translation into our
    errors happens in the callers.
    """

    # --- primitives: what a test double overrides -------------------------------------------------

    def open(self, path: Path, flags: int, mode: int = 0o644) -> int:
        return os.open(path, flags | os.O_CLOEXEC, mode)

    def close(self, fd: int) -> None:
        os.close(fd)

    def write(self, fd: int, data: bytes) -> int:
        """Write once at the descriptor's position; the count may fall short."""
        return os.write(fd, data)

    def write_at(self, fd: int, data: bytes, offset: int) -> int:
        """Write once at byte `offset`; the count may fall short."""
        return os.pwrite(fd, data, offset)

    def sync(self, fd: int) -> None:
        """Make a file's data and length (or a folder's names) durable. Raises: SyncError."""
        try:
            if _FULLFSYNC is not None:
                fcntl.fcntl(fd, _FULLFSYNC)
            elif sys.platform == "linux":
                os.fdatasync(fd)
            else:
                os.fsync(fd)
        except OSError as exc:
            raise SyncError(exc.errno, exc.strerror) from exc

    def truncate(self, fd: int, length: int) -> None:
        os.ftruncate(fd, length)

    def rename(self, source: Path, target: Path) -> None:
        os.replace(source, target)

    def unlink(self, path: Path) -> None:
        os.unlink(path)

    def mkdir(self, path: Path, mode: int = 0o755) -> None:
        os.mkdir(path, mode)

    def rmdir(self, path: Path) -> None:
        os.rmdir(path)

    # --- sequences built from the primitives ------------------------------------------------------

    def write_all(self, fd: int, data: bytes) -> None:
        """Write all of `data`; raises `OSError` on the first failure, part may be written."""
        view = memoryview(data)
        while view:
            view = view[_progress(self.write(fd, bytes(view))) :]

    def write_all_at(self, fd: int, data: bytes, offset: int) -> None:
        """Write all of `data` at byte `offset`; raises `OSError` on the first failure, part may be written."""
        view = memoryview(data)
        while view:
            count = _progress(self.write_at(fd, bytes(view), offset))
            offset, view = offset + count, view[count:]

    def sync_folder(self, folder: Path) -> None:
        """Make names created, renamed or removed in `folder` durable."""
        fd = self.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            self.sync(fd)
        finally:
            self.close(fd)

    def make_folder(self, folder: Path, mode: int = 0o755) -> None:
        """Create `folder` if missing, parents too; its name is durable on return.

        A folder that is there already may have been made by a process that died before it synced the name.
        """
        if folder.is_dir():
            with contextlib.suppress(PermissionError):  # a parent that we may pass but not list is not of our making
                self.sync_folder(folder.parent)
            return
        self.make_folder(folder.parent)
        with contextlib.suppress(FileExistsError):
            self.mkdir(folder, mode)
        if not folder.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, "a file stands where a folder belongs", str(folder))
        self.sync_folder(folder.parent)

    def replace(self, path: Path, data: bytes, *, mode: int = 0o644) -> None:
        """Put `data` in place of the file at `path`: whole old or whole new after a crash; durable on return.

        The temporary file is `<name>.tmp` in the same folder; one left by a crash is removed first.
        """
        temporary, folder = _beside(path)
        try:
            fd = self._open_new(temporary, mode)
            try:
                self.write_all(fd, data)
                self.sync(fd)
            finally:
                self.close(fd)
            self.rename(temporary, path)
        except OSError:
            with contextlib.suppress(OSError):
                self.unlink(temporary)
            raise
        self.sync_folder(folder)

    def install(self, path: Path, source: Path, *, mode: int = 0o644) -> None:
        """Put a copy of the file `source` in place of the one at `path`, as `replace` does with bytes."""
        temporary, folder = _beside(path)
        try:
            with source.open("rb") as file:
                fd = self._open_new(temporary, mode)
                try:
                    self._copy(file, fd, None)
                    self.sync(fd)
                finally:
                    self.close(fd)
            self.rename(temporary, path)
        except OSError:
            with contextlib.suppress(OSError):
                self.unlink(temporary)
            raise
        self.sync_folder(folder)

    def _open_new(self, path: Path, mode: int) -> int:
        """Open a file that nobody else has, nor a link to it: what stood there is unlinked, never written into."""
        try:
            return self.open(path, _NEW_FILE, mode)
        except FileExistsError:
            self.unlink(path)
            return self.open(path, _NEW_FILE, mode)

    def renew(self, path: Path, *, without: Sequence[tuple[int, int]] = ()) -> None:
        """Copy a file's bytes to a new file, sync that, and let it take the name; durable on return.

        For a file whose sync failed: its pages may vanish at any moment, those of the copy are on the disk. And for
        one from which bytes are to go: `without` are ranges `[begin, end)` to leave out, in order.
        """
        mode = stat.S_IMODE(path.stat().st_mode)
        temporary = path.with_name(path.name + TEMPORARY_SUFFIX)
        with path.open("rb") as source:
            fd = self._open_new(temporary, mode)
            try:
                for end, after in [*without, (None, None)]:
                    self._copy(source, fd, end)
                    source.seek(source.tell() if after is None else after)
                self.sync(fd)
            finally:
                self.close(fd)
        self.rename(temporary, path)
        self.sync_folder(path.parent)

    def _copy(self, source: BinaryIO, fd: int, end: int | None) -> None:
        """Write what follows in `source`, up to byte `end` of it or to its end."""
        left = None if end is None else end - source.tell()
        while chunk := source.read(_COPY_BYTES if left is None else min(_COPY_BYTES, left)):
            self.write_all(fd, chunk)
            left = None if left is None else left - len(chunk)

    def leave_mark(self, path: Path, data: bytes, *, mode: int = PRIVATE_MODE) -> None:
        """Put a file there for others to see, even if the disk takes no more writes; as durable as can be had.

        Others look for the name, not for the content. Never raises `OSError`.
        """
        with contextlib.suppress(OSError):
            self.mkdir(path.parent, 0o750)
        with contextlib.suppress(OSError):
            fd = self.open(path, os.O_WRONLY | os.O_CREAT, mode)
            try:
                with contextlib.suppress(OSError):
                    self.write_all(fd, data)
                    self.sync(fd)
            finally:
                self.close(fd)
            self.sync_folder(path.parent)

    def destroy(self, path: Path) -> None:
        """Overwrite a private file with zeros, sync, unlink, sync the folder; absent is fine.

        Best effort: SSDs, snapshots and backups may keep old blocks (docs/threat-model.md).
        """
        try:
            size = path.stat().st_size
            fd = self.open(path, os.O_WRONLY)
        except FileNotFoundError:
            return
        try:
            self.write_all(fd, b"\0" * size)
            self.sync(fd)
        finally:
            self.close(fd)
        self.unlink(path)
        self.sync_folder(path.parent)


OPS: Final = FileOps()
"""The real operations."""

_COPY_BYTES: Final = 1 << 20


@functools.lru_cache(maxsize=64)
def _beside(path: Path) -> tuple[Path, Path]:
    """The temporary file beside `path`, and the folder of both: checkpoints are replaced many times a second."""
    return path.with_name(path.name + TEMPORARY_SUFFIX), path.parent


def _progress(count: int) -> int:
    if count <= 0:
        raise OSError(errno.ENOSPC, "the write made no progress")
    return count


os.register_at_fork(
    before=NO_FORK.acquire,
    after_in_parent=NO_FORK.release,
    after_in_child=NO_FORK.release,
)


def open_regular(path: Path, *, follow: bool = True) -> io.FileIO:
    """Open a regular file for reading, unbuffered; never waits for a writer of a pipe.

    Without `follow` a symbolic link is refused too. Raises: OSError, with errno EINVAL for anything else.
    """
    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | (0 if follow else os.O_NOFOLLOW)
    fd = os.open(path, flags)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise OSError(errno.EINVAL, "it is not a regular file", str(path))
    return io.FileIO(fd)


def read_optional(path: Path, *, limit: int = MAX_SMALL_FILE, follow: bool = True) -> bytes | None:
    """Return the file's bytes, or None if there is no such file; other `OSError` pass.

    Refuses (`OSError`) what is not a regular file or has more than `limit` bytes.
    """
    try:
        with open_regular(path, follow=follow) as file:
            if os.fstat(file.fileno()).st_size > limit:
                raise OSError(errno.EFBIG, f"it has more than {limit:,} bytes", str(path))
            return file.readall()
    except FileNotFoundError:
        return None


def is_private(path: Path) -> bool:
    """Tell whether a file is closed to all but its owner and (for reading) its group."""
    return not stat.S_IMODE(path.stat().st_mode) & 0o027
