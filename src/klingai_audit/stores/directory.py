"""The directory store: one JSON line an entry in day files, flat files of tree hashes, signed checkpoints.

Writers exclude each other by `flock` on the log folder itself. The commit point is one write and one sync
of the day file. Everything else is derived from it and written before the checkpoint that covers it.
"""

from __future__ import annotations

import contextlib
import hashlib
import mmap
import os
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from klingai_audit.durable import OPS, TEMPORARY_SUFFIX, FileOps, SyncError, open_regular, read_optional
from klingai_audit.errors import AuditUnavailable
from klingai_audit.ledger.sealed import SEALED_SUFFIX, is_sealed, open_day
from klingai_audit.ledger.store import FileKind, LogFile, StoredDay, SyncFailed
from klingai_audit.stores.days import DAY_FILE, count_to, find_line, lines_from, list_days, read_from, read_lines
from klingai_audit.stores.directory_keeper import DirectoryKeeper, old_days
from klingai_audit.stores.directory_publisher import DirectoryPublication
from klingai_audit.stores.directory_writer import DirectoryTransaction, Tail
from klingai_audit.stores.filesystem import check_file_system, is_regular
from klingai_audit.stores.jump import jump
from klingai_audit.stores.lock import FolderLock

__all__ = ["DirectoryStore"]

STAMP_SUFFIX: Final = ".tsr"
"""What the name of a kept checkpoint's time stamp ends with."""

MAX_NOTE_BYTES: Final = 1 << 20
"""Largest checkpoint that is read, in bytes."""

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
        self.unsettled: set[Path] = set()
        self._mutex = threading.RLock()
        self._publish_mutex = threading.RLock()
        self._lock = FolderLock(path, ops)
        self._publish_lock = FolderLock(path / "tree", ops)
        self._keep_lock = FolderLock(path / "checkpoints", ops)
        self._listed: _Unchanged | None = None
        self.checkpoint = path / "checkpoint"
        self._levels: dict[int, Path] = {}

    # --- life -------------------------------------------------------------------------------------

    def exists(self) -> bool:
        try:
            return any(path.name == "checkpoint" or DAY_FILE.fullmatch(path.name) for path in self.path.iterdir())
        except (FileNotFoundError, NotADirectoryError):
            return False
        except OSError as exc:
            raise self._unreadable(self.path, exc) from exc

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
        self._lock.drop()
        self._keep_lock.drop()
        self._forget_entries()

    def _forget_entries(self) -> None:
        if self.tail is not None:
            _close(self.tail.fd)
        self.tail = None
        self.unsettled.clear()
        self._listed = None

    def _drop_tree_descriptors(self) -> None:
        self._publish_lock.drop()
        self._forget_tree()

    def _forget_tree(self) -> None:
        for fd in self.hash_files.values():
            _close(fd)
        self.hash_files.clear()

    # --- writing ----------------------------------------------------------------------------------

    @contextlib.contextmanager
    def transaction(self, *, recovering: bool = False) -> Iterator[DirectoryTransaction]:
        with self._mutex:
            try:
                if not self._lock.acquire():
                    self._forget_entries()
                    check_file_system(self.path)
                if not recovering:
                    self.refuse_after_failed_sync()
                yield DirectoryTransaction(self)
            finally:
                self._lock.release()

    @contextlib.contextmanager
    def publication(self) -> Iterator[DirectoryPublication]:
        with self._publish_mutex:
            try:
                known = self._publish_lock.acquire()
                self.refuse_after_failed_sync()
                if not known:
                    self._forget_tree()
                    self._sweep()
                yield DirectoryPublication(self)
            finally:
                self._publish_lock.release()

    def old_days(self) -> list[StoredDay]:
        try:
            return list(old_days(self.path))
        except OSError as exc:
            raise self._unreadable(self.path, exc) from exc

    @contextlib.contextmanager
    def keeper(self, scratch: Path) -> Iterator[DirectoryKeeper]:
        try:
            self._keep_lock.acquire()
            yield DirectoryKeeper(self, scratch)
        finally:
            self._keep_lock.drop()

    def _sweep(self) -> None:
        """Remove temporary files of dead writers; those of living ones exist under this lock only."""
        with contextlib.suppress(OSError):
            for path in _walk(self.path):
                if path.suffix == TEMPORARY_SUFFIX and not path.is_dir():
                    whole = path.with_suffix("")
                    if _kind_of_name(whole.relative_to(self.path).as_posix()) != "stray":
                        self.ops.unlink(path)

    def refuse_after_failed_sync(self) -> None:
        """Raises: SyncFailed if a failed sync was noted and not yet recovered from."""
        try:
            marked = self.mark.exists()
        except OSError as exc:
            raise self._unreadable(self.mark, exc) from exc
        if marked:
            raise SyncFailed(f"A sync of this log failed earlier (noted in {self.mark}).", do=_RECOVER)

    def note_failed_sync(self, what: Path, exc: OSError) -> SyncFailed:
        """Leave the mark that stops every writer and return the error to raise."""
        self.ops.leave_mark(self.mark, f"{what.name}: {exc.strerror}\n".encode())
        return SyncFailed(f"Syncing {what} failed: {exc.strerror}. What is durable is unknown.", do=_RECOVER)

    def settle(self) -> None:
        """Sync the day files with lines of others, who may have died before they did. Raises: SyncFailed."""
        for path in sorted(self.unsettled):
            try:
                fd = self.ops.open(path, os.O_RDONLY)
                try:
                    self.ops.sync(fd)
                finally:
                    self.ops.close(fd)
            except SyncError as exc:
                raise self.note_failed_sync(path, exc) from exc
            except OSError as exc:
                if not path.with_name(path.name + SEALED_SUFFIX).is_file():  # sealed since: durable before it was
                    raise self._unreadable(path, exc) from exc
            self.unsettled.discard(path)

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

    def recover_sync(self, keep: Callable[[str, bytes], None], *, covered: int = 0) -> None:
        """Rewrite the last day file from what can still be read and clear the mark; under `recovering` lock.

        Pages of a failed sync may be dropped at any moment, so a copy is synced and takes the name.
        """
        try:
            days = list_days(self.path)
            for last in days[-1:]:
                index, offset = count_to(days, covered) or (len(days) - 1, 0)
                keep(last.name, read_from(last, offset if days[index] == last else 0)[0])
                self.ops.renew(last)
            for level in sorted((self.path / "tree").iterdir()):
                if level.suffix != TEMPORARY_SUFFIX:
                    self.ops.renew(level)
            if self.mark.exists():
                self.ops.unlink(self.mark)
                self.ops.sync_folder(self.mark.parent)
        except OSError as exc:
            raise AuditUnavailable(
                f"Recovery of {self.path} could not write: {exc.strerror}.",
                do="Repair or replace the disk first; the log was left as it is.",
            ) from exc
        self._forget_entries()

    # --- reading ----------------------------------------------------------------------------------

    def read_checkpoint(self) -> bytes | None:
        return self._read(self.checkpoint)

    def read_kept(self, size: int) -> bytes | None:
        return self._read(self.path / "checkpoints" / f"{size:020}")

    def read_token(self, size: int) -> bytes | None:
        return self._read(self.path / "checkpoints" / f"{size:020}{STAMP_SUFFIX}")

    def _read(self, path: Path) -> bytes | None:
        try:
            return read_optional(path, limit=MAX_NOTE_BYTES, follow=False)
        except OSError as exc:
            raise self._unreadable(path, exc) from exc

    @staticmethod
    def _unreadable(path: Path, exc: OSError) -> AuditUnavailable:
        return AuditUnavailable(f"{path} cannot be read: {exc.strerror}.", do="Check that it is there and readable.")

    def hashes_path(self, level: int) -> Path:
        """Return where the hashes of tile level `level` lie."""
        path = self._levels.get(level)
        if path is None:
            path = self._levels[level] = self.path / "tree" / str(level)
        return path

    def read_hashes(self, level: int, begin: int, end: int) -> bytes:
        path = self.hashes_path(level)
        try:
            with open_regular(path, follow=False) as file:
                file.seek(begin * 32)
                return file.read((end - begin) * 32)
        except FileNotFoundError:
            return b""
        except OSError as exc:
            raise self._unreadable(path, exc) from exc

    def read_entries(self, begin: int, end: int | None = None) -> Iterator[bytes]:
        try:
            yield from self._read_entries(begin, end)
        except OSError as exc:
            raise self._unreadable(self.path, exc) from exc

    def _read_entries(self, begin: int, end: int | None) -> Iterator[bytes]:
        if end is not None and end <= begin:
            return
        days = list_days(self.path)
        index, skip, lines = 0, 0, None
        if (found := self._jump(days, begin)) is not None:
            index, offset, first = found
            if end == begin + 1:
                yield first
                return
            lines = lines_from(days[index], offset)
        elif (place := find_line(days, begin)) is not None:
            index, skip = place
        else:
            return
        left = None if end is None else end - begin
        for day in days[index:]:
            for line, complete in lines or read_lines(day, skip):
                if left is not None:
                    if left <= 0:
                        return
                    left -= 1
                if not complete:
                    return
                yield line
            skip, lines = 0, None

    def _jump(self, days: list[Path], seq: int) -> tuple[int, int, bytes] | None:
        """Find an entry by what lines claim (index of the day, byte offset, line), if the stored tree bears it out."""
        found = jump(days, seq) if seq else None
        if found is None or hashlib.sha256(b"\0" + found[2]).digest() != self.read_hashes(0, seq, seq + 1):
            return None
        return found

    def locate(self, seq: int) -> tuple[str, int] | None:
        try:
            return self._locate(seq)
        except OSError as exc:
            raise self._unreadable(self.path, exc) from exc

    def _locate(self, seq: int) -> tuple[str, int] | None:
        days = list_days(self.path)
        place = find_line(days, seq)
        if place is None:
            return None
        index, skip = place
        for _line, complete in read_lines(days[index], skip):
            return (days[index].name, skip + 1) if complete else None
        return None

    def inspect(self) -> tuple[LogFile, ...]:
        found = [file for path in sorted(_walk(self.path)) if (file := self._describe(path)) is not None]
        return tuple(sorted(found, key=lambda file: (file.kind != "entries", file.name)))

    def _describe(self, path: Path) -> LogFile | None:
        name = path.relative_to(self.path).as_posix()
        try:
            info = path.lstat()
        except FileNotFoundError:  # a temporary file of a living writer
            return None
        return LogFile(name, _kind(name, path), info.st_size, path, (info.st_dev, info.st_ino))

    @contextlib.contextmanager
    def view(self, name: str) -> Iterator[memoryview]:
        with open_day(self.path / name) as file:
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
        entries = sorted(folder.iterdir())
    except FileNotFoundError:
        return
    for path in entries:
        if path.name in ("tree", "checkpoints") and path.is_dir() and not path.is_symlink():
            yield from path.iterdir()
        else:
            yield path


def _kind(name: str, path: Path) -> FileKind:
    if not is_regular(path) or (is_sealed(name) and is_regular(path.with_suffix(""))):
        return "stray"
    return _kind_of_name(name)


def _kind_of_name(name: str) -> FileKind:
    if DAY_FILE.fullmatch(name):
        return "entries"
    folder, _, base = name.rpartition("/")
    canonical = base.isascii() and base.isdigit()
    if folder == "tree" and canonical and str(int(base)) == base:
        return "tree"
    if folder == "checkpoints" and canonical and len(base) == 20:
        return "kept"
    stamped = base.removesuffix(STAMP_SUFFIX)
    if folder == "checkpoints" and stamped != base and stamped.isascii() and stamped.isdigit() and len(stamped) == 20:
        return "token"
    return {"checkpoint": "checkpoint", "checkpoint.cosigned": "cosigned"}.get(name, "stray")  # type: ignore[return-value]
