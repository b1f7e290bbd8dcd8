"""The writing half of the directory store: one transaction under the folder's lock."""

from __future__ import annotations

import contextlib
import datetime as dt
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from klingai_audit.durable import SyncError
from klingai_audit.errors import AuditUnavailable, LogDamaged
from klingai_audit.ledger.store import Pulled
from klingai_audit.stores.days import DayFile, day_name, find_line, line_before, list_days, offset_after, offset_of

if TYPE_CHECKING:
    from klingai_audit.stores.directory import DirectoryStore

__all__ = ["DirectoryTransaction", "Tail"]

_ENTRY_MODE: Final = 0o640


@dataclass(slots=True)
class Tail:
    """The open day file that receives the next batch: `size` entries lie before byte `offset` of it."""

    path: Path
    fd: int
    identity: tuple[int, int]
    size: int
    offset: int


class DirectoryTransaction:
    """See `klingai_audit.ledger.store.Transaction`."""

    def __init__(self, store: DirectoryStore) -> None:
        self._store = store
        self._ops = store.ops

    # --- entries ----------------------------------------------------------------------------------

    def pull(self, begin: int, *, counted: bool = False) -> Pulled:
        try:
            return self._pull(begin, counted=counted)
        except OSError as exc:
            raise AuditUnavailable(f"The entries in {self._store.path} cannot be read: {exc.strerror}.") from exc

    def _pull(self, begin: int, *, counted: bool) -> Pulled:
        store = self._store
        tail = store.tail
        if tail is not None and tail.size == begin and not counted and self._still_last(tail):
            length = os.fstat(tail.fd).st_size
            if length == tail.offset:
                return Pulled([], b"")
            if length < tail.offset:
                raise _missing(store.path, begin)
        entries: list[bytes] = []
        torn = b""
        days = list_days(store.path)
        index, offset = self._position(days, begin, counted=counted)
        before = self._line_before(days, index, offset)
        for number in range(index, len(days)):
            lines = _read_from(days[number].path, offset).split(b"\n")
            torn = lines.pop()
            entries += lines
            if torn and number < len(days) - 1:
                entries.append(torn)
                torn = b""
            offset = 0
        if days and not torn:
            self._open_tail(days[-1].path, begin + len(entries))
        else:
            self._drop_tail()
        store.folder_listed()
        return Pulled(entries, torn, before)

    def _position(self, days: list[DayFile], begin: int, *, counted: bool) -> tuple[int, int]:
        """Where entry `begin` starts: index of the day file, byte offset in it."""
        tail = self._store.tail
        if tail is not None and tail.size == begin and not counted and self._same_file(tail):
            for index, day in enumerate(days):
                if day.path == tail.path:
                    return index, tail.offset
        if begin == 0:
            return 0, 0
        place = find_line(days, begin - 1)
        if place is None:
            raise _missing(self._store.path, begin)
        index, skip = place
        offset = None if counted else offset_after(days[index].path, begin - 1)
        if offset is None:
            offset = offset_of(days[index].path, skip + 1)
        if offset is None:
            raise _missing(self._store.path, begin)
        return index, offset

    @staticmethod
    def _line_before(days: list[DayFile], index: int, offset: int) -> bytes | None:
        return line_before(days[index].path, offset) if index < len(days) else None

    def _still_last(self, tail: Tail) -> bool:
        if not self._same_file(tail):
            return False
        if self._store.folder_unchanged():
            return True
        names = (path.name for path in self._store.path.iterdir())
        newest = max((name for name in names if name.startswith("audit-")), default="")
        self._store.folder_listed()
        return newest == tail.path.name

    @staticmethod
    def _same_file(tail: Tail) -> bool:
        try:
            info = tail.path.stat()
        except OSError:
            return False
        return (info.st_dev, info.st_ino) == tail.identity

    def _open_tail(self, path: Path, size: int) -> Tail:
        tail = self._store.tail
        if tail is None or tail.path != path or not self._same_file(tail):
            self._drop_tail()
            fd = self._ops.open(path, os.O_WRONLY | os.O_APPEND)
            info = os.fstat(fd)
            tail = self._store.tail = Tail(path, fd, (info.st_dev, info.st_ino), size, info.st_size)
        tail.size, tail.offset = size, os.fstat(tail.fd).st_size
        return tail

    def _drop_tail(self) -> None:
        if self._store.tail is not None:
            with contextlib.suppress(OSError):
                os.close(self._store.tail.fd)
            self._store.tail = None

    def cut(self, size: int) -> None:
        try:
            self._cut(size)
        except SyncError as exc:
            raise self._store.note_failed_sync(self._store.path, exc) from exc
        except OSError as exc:
            raise AuditUnavailable(
                f"Unacknowledged bytes at the end of {self._store.path} cannot be cut off: {exc.strerror}."
            ) from exc

    def _cut(self, size: int) -> None:
        self._drop_tail()
        days = list_days(self._store.path)
        place = find_line(days, size - 1) if size else None
        last = place[0] if place is not None else -1
        for day in days[last + 1 :]:
            self._ops.unlink(day.path)
            self._ops.sync_folder(self._store.path)
        if place is None:
            return
        path = days[last].path
        offset = offset_of(path, place[1] + 1)
        if offset is None:
            raise _missing(self._store.path, size)
        fd = self._ops.open(path, os.O_WRONLY | os.O_APPEND)
        try:
            self._ops.truncate(fd, offset)
            self._ops.sync(fd)
        finally:
            self._ops.close(fd)

    def append(self, entries: Sequence[bytes], begin: int, day: dt.date) -> None:
        tail = self._tail_for(begin, day)
        data = b"\n".join(entries) + b"\n"
        try:
            written = self._ops.write(tail.fd, data)
            short = written != len(data)
            reason = f"only {written} of {len(data)} bytes fit" if short else ""
        except OSError as exc:
            short, reason = True, exc.strerror or "the write failed"
        if short:
            self._cut_back(tail)
            raise AuditUnavailable(
                f"The batch could not be written to {tail.path}: {reason}. Nothing of it remains in the log.",
                do="Make room on the disk (or repair it) and try again.",
            )
        try:
            self._ops.sync(tail.fd)
        except OSError as exc:
            raise self._store.note_failed_sync(tail.path, exc) from exc
        tail.size += len(entries)
        tail.offset += len(data)

    def _tail_for(self, begin: int, day: dt.date) -> Tail:
        store = self._store
        path = store.path / day_name(day)
        tail = store.tail
        if tail is not None and tail.path == path and tail.size == begin:
            return tail
        try:
            if tail is not None and tail.path != path and tail.offset == 0:
                self._drop_tail()
                self._ops.unlink(tail.path)
            with contextlib.suppress(FileExistsError):
                self._ops.close(self._ops.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, _ENTRY_MODE))
            self._ops.sync_folder(store.path)
            return self._open_tail(path, begin)
        except SyncError as exc:
            raise store.note_failed_sync(store.path, exc) from exc
        except OSError as exc:
            raise AuditUnavailable(
                f"The day file {path} cannot be opened: {exc.strerror}.", do="Check permissions and free space."
            ) from exc

    def _cut_back(self, tail: Tail) -> None:
        try:
            self._ops.truncate(tail.fd, tail.offset)
            self._ops.sync(tail.fd)
        except OSError as exc:
            raise self._store.note_failed_sync(tail.path, exc) from exc


def _missing(folder: Path, begin: int) -> LogDamaged:
    return LogDamaged(
        f"The log in {folder} has fewer than the {begin} entries that this writer knows.", kind_of_damage="tail_cut"
    )


def _read_from(path: Path, offset: int) -> bytes:
    with path.open("rb") as file:
        file.seek(offset)
        return file.read()
