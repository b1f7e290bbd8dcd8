"""The directory store: one JSON line an entry in day files, flat files of tree hashes, signed checkpoints.

Writers exclude each other by `flock` on the log folder itself. The commit point is one write and one sync
of the day file. Everything else is derived from it and written before the checkpoint that covers it.
"""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import os
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from klingai_audit.durable import OPS, PRIVATE_MODE, TEMPORARY_SUFFIX, FileOps, read_optional
from klingai_audit.errors import AuditUnavailable
from klingai_audit.ledger.store import FileKind, LogFile, SyncFailed
from klingai_audit.stores.days import DAY_FILE, find_line, list_days, read_lines
from klingai_audit.stores.directory_publisher import DirectoryPublication
from klingai_audit.stores.directory_writer import DirectoryTransaction, Tail
from klingai_audit.stores.filesystem import check_file_system

__all__ = ["DirectoryStore"]

_FOLDER_MODE: Final = 0o750
_RECOVER: Final = "Every writer of this log is stopped. Run: klingai-audit recover"


@dataclass(frozen=True, slots=True)
class _Unchanged:
    """What the folder looked like when its day files were last listed."""

    mtime_ns: int
    settled: bool


class DirectoryStore:
    """A log in a folder. `mark` is where a failed sync is noted (in the state folder)."""

    def __init__(self, path: Path, mark: Path, ops: FileOps = OPS) -> None:
        self.path = path
        self.url = str(path)
        self.ops = ops
        self.mark = mark
        self.tail: Tail | None = None
        self.hash_files: dict[int, int] = {}
        self._mutex = threading.RLock()
        self._publish_mutex = threading.RLock()
        self._folder_fd: int | None = None
        self._tree_fd: int | None = None
        self._listed: _Unchanged | None = None

    # --- life -------------------------------------------------------------------------------------

    def exists(self) -> bool:
        try:
            return any(path.name == "checkpoint" or DAY_FILE.fullmatch(path.name) for path in self.path.iterdir())
        except (FileNotFoundError, NotADirectoryError):
            return False

    def create(self) -> None:
        check_file_system(self.path)
        try:
            for folder in (self.path, self.path / "tree", self.path / "checkpoints"):
                self.ops.make_folder(folder, _FOLDER_MODE)
        except OSError as exc:
            raise AuditUnavailable(
                f"The log folder {self.path} cannot be created: {exc.strerror}.",
                do="Give a folder on a writable local file system with --log or KLINGAI_AUDIT_LOG.",
            ) from exc

    def after_fork(self) -> None:
        self._mutex = threading.RLock()
        self._publish_mutex = threading.RLock()
        self._drop_entry_descriptors()
        self._drop_tree_descriptors()

    def close(self) -> None:
        with self._mutex:
            self._drop_entry_descriptors()
        with self._publish_mutex:
            self._drop_tree_descriptors()

    def _drop_entry_descriptors(self) -> None:
        if self.tail is not None:
            _close(self.tail.fd)
        _close(self._folder_fd)
        self.tail = None
        self._folder_fd = None
        self._listed = None

    def _drop_tree_descriptors(self) -> None:
        for fd in self.hash_files.values():
            _close(fd)
        _close(self._tree_fd)
        self.hash_files.clear()
        self._tree_fd = None

    # --- writing ----------------------------------------------------------------------------------

    @contextlib.contextmanager
    def transaction(self, *, recovering: bool = False) -> Iterator[DirectoryTransaction]:
        with self._mutex:
            self._folder_fd = fd = self._lock(self.path, self._folder_fd, self._drop_entry_descriptors)
            try:
                if not recovering:
                    self.refuse_after_failed_sync()
                yield DirectoryTransaction(self)
            finally:
                with contextlib.suppress(OSError):
                    fcntl.flock(fd, fcntl.LOCK_UN)

    @contextlib.contextmanager
    def publication(self) -> Iterator[DirectoryPublication]:
        with self._publish_mutex:
            self._tree_fd = fd = self._lock(self.path / "tree", self._tree_fd, self._drop_tree_descriptors)
            try:
                yield DirectoryPublication(self)
            finally:
                with contextlib.suppress(OSError):
                    fcntl.flock(fd, fcntl.LOCK_UN)

    def _lock(self, folder: Path, fd: int | None, drop: Callable[[], None]) -> int:
        """Lock the folder that stands at this path now; `drop` closes what belongs to an earlier one."""
        for _ in range(2):
            try:
                held = self.ops.open(folder, os.O_RDONLY | os.O_DIRECTORY) if fd is None else fd
                fcntl.flock(held, fcntl.LOCK_EX)
                by_name, by_lock = folder.stat(), os.fstat(held)
            except OSError as exc:
                drop()
                raise AuditUnavailable(
                    f"The log folder {folder} is not there as a folder: {exc.strerror}.",
                    do="Nothing was recorded. Put the folder back (or restore it) and open the log again.",
                ) from exc
            if (by_name.st_dev, by_name.st_ino) == (by_lock.st_dev, by_lock.st_ino):
                return held
            drop()
            if fd is None:
                _close(held)
            fd = None
        raise AuditUnavailable(f"The log folder {folder} keeps being replaced.", do="Find out what replaces it.")

    def refuse_after_failed_sync(self) -> None:
        """Raises: SyncFailed if a failed sync was noted and not yet recovered from."""
        if self.mark.exists():
            raise SyncFailed(f"A sync of this log failed earlier (noted in {self.mark}).", do=_RECOVER)

    def note_failed_sync(self, what: Path, exc: OSError) -> SyncFailed:
        """Leave the mark that stops every writer and return the error to raise."""
        with contextlib.suppress(OSError):
            self.ops.replace(self.mark, f"{what.name}: {exc.strerror}\n".encode(), mode=PRIVATE_MODE)
        return SyncFailed(f"Syncing {what} failed: {exc.strerror}. What is durable is unknown.", do=_RECOVER)

    def folder_unchanged(self) -> bool:
        """Tell whether no name in the folder changed since `folder_listed`; only under the lock."""
        listed = self._listed
        return listed is not None and listed.settled and self.path.stat().st_mtime_ns == listed.mtime_ns

    def folder_listed(self) -> None:
        """Note the folder's time; only under the lock.

        A later change can bear the same time only while the clock has not ticked on, so such a look is not settled.
        """
        mtime = self.path.stat().st_mtime_ns
        coarse = getattr(time, "CLOCK_REALTIME_COARSE", None)
        settled = coarse is not None and mtime < time.clock_gettime_ns(coarse)
        self._listed = _Unchanged(mtime, settled)

    def recover_sync(self, keep: Callable[[str, bytes], None]) -> None:
        """Rewrite the last day file from what can still be read and clear the mark; under `recovering` lock.

        Pages of a failed sync may be dropped at any moment, so a copy is synced and takes the name.
        """
        days = list_days(self.path)
        try:
            if days:
                last = days[-1].path
                data = last.read_bytes()
                keep(last.name, data)
                self.ops.replace(last, data, mode=0o640)
            for level in sorted((self.path / "tree").iterdir()):
                if level.suffix != TEMPORARY_SUFFIX:
                    self.ops.replace(level, level.read_bytes())
            if self.mark.exists():
                self.ops.unlink(self.mark)
                self.ops.sync_folder(self.mark.parent)
        except OSError as exc:
            raise AuditUnavailable(
                f"Recovery of {self.path} could not write: {exc.strerror}.",
                do="Repair or replace the disk first; the log was left as it is.",
            ) from exc
        self._drop_entry_descriptors()

    # --- reading ----------------------------------------------------------------------------------

    def read_checkpoint(self) -> bytes | None:
        return self._read("checkpoint")

    def read_kept(self, size: int) -> bytes | None:
        return self._read(f"checkpoints/{size:020}")

    def _read(self, name: str) -> bytes | None:
        try:
            return read_optional(self.path / name)
        except OSError as exc:
            raise AuditUnavailable(f"{self.path / name} cannot be read: {exc.strerror}.") from exc

    def read_hashes(self, level: int, begin: int, end: int) -> bytes:
        try:
            with (self.path / "tree" / str(level)).open("rb") as file:
                file.seek(begin * 32)
                return file.read((end - begin) * 32)
        except FileNotFoundError:
            return b""

    def read_entries(self, begin: int, end: int | None = None) -> Iterator[bytes]:
        days = list_days(self.path)
        place = find_line(days, begin)
        if place is None:
            return
        index, skip = place
        left = None if end is None else end - begin
        for day in days[index:]:
            for line, complete in read_lines(day.path, skip):
                if left is not None:
                    if left <= 0:
                        return
                    left -= 1
                if not complete:
                    return
                yield line
            skip = 0

    def locate(self, seq: int) -> tuple[str, int] | None:
        days = list_days(self.path)
        place = find_line(days, seq)
        if place is None:
            return None
        index, skip = place
        for _line, complete in read_lines(days[index].path, skip):
            return (days[index].path.name, skip + 1) if complete else None
        return None

    def inspect(self) -> tuple[LogFile, ...]:
        found = [self._describe(path) for path in sorted(_walk(self.path))]
        return tuple(sorted(found, key=lambda file: (file.kind != "entries", file.name)))

    def _describe(self, path: Path) -> LogFile:
        name = path.relative_to(self.path).as_posix()
        info = path.lstat()
        return LogFile(name, _kind(name, path), info.st_size, path, (info.st_dev, info.st_ino))

    @contextlib.contextmanager
    def view(self, name: str) -> Iterator[memoryview]:
        with (self.path / name).open("rb") as file:
            if os.fstat(file.fileno()).st_size == 0:
                yield memoryview(b"")
                return
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped, memoryview(mapped) as whole:
                yield whole


def _close(fd: int | None) -> None:
    if fd is not None:
        with contextlib.suppress(OSError):
            os.close(fd)


def _walk(folder: Path) -> Iterator[Path]:
    """Yield everything below `folder` that is not one of the two folders a log has."""
    try:
        entries = list(os.scandir(folder))
    except FileNotFoundError:
        return
    for entry in entries:
        path = Path(entry.path)
        if entry.is_dir(follow_symlinks=False) and entry.name in ("tree", "checkpoints"):
            yield from (Path(inner.path) for inner in os.scandir(path))
        else:
            yield path


def _kind(name: str, path: Path) -> FileKind:
    if path.is_symlink() or not path.is_file():
        return "stray"
    if DAY_FILE.fullmatch(name):
        return "entries"
    folder, _, base = name.rpartition("/")
    canonical = base.isascii() and base.isdigit()
    if folder == "tree" and canonical and str(int(base)) == base:
        return "tree"
    if folder == "checkpoints" and canonical and len(base) == 20:
        return "kept"
    return {"checkpoint": "checkpoint", "checkpoint.cosigned": "cosigned"}.get(name, "stray")  # type: ignore[return-value]
