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
from klingai_audit.errors import AuditUnavailable, HeadConflict, LogDamaged
from klingai_audit.ledger.store import Pulled
from klingai_audit.stores.days import (
    DAY_FILE,
    count_to,
    day_name,
    find_line,
    lies_on_its_day,
    line_before,
    list_days,
    offset_of,
    read_from,
)
from klingai_audit.stores.foreign import find_cuts, take_out

if TYPE_CHECKING:
    from klingai_audit.stores.directory import DirectoryStore

__all__ = ["DirectoryTransaction", "Tail"]

_ENTRY_MODE: Final = 0o640
_LOOK_BACK: Final = 4_096
_APPEND: Final = os.O_WRONLY | os.O_APPEND | os.O_NOFOLLOW


@dataclass(slots=True)
class Tail:
    """Where the log ends: `size` entries end at byte `offset` of the newest day file.

    `fd` appends to it (None until needed); `named` tells whether this process made the file's name durable.
    """

    path: Path
    identity: tuple[int, int]
    size: int
    offset: int
    fd: int | None = None
    named: bool = False


_NOTHING: Final = Pulled([], b"")


class DirectoryTransaction:
    """See `klingai_audit.ledger.store.Transaction`."""

    def __init__(self, store: DirectoryStore) -> None:
        self._store = store
        self._ops = store.ops
        self._looked: tuple[int, list[Path], int] | None = None
        self._lengths: dict[Path, int] = {}

    # --- taking over ------------------------------------------------------------------------------

    def pull(self, begin: int, *, counted: bool = False) -> Pulled:
        try:
            return self._pull(begin, counted=counted)
        except OSError as exc:
            raise AuditUnavailable(
                f"The entries in {self._store.path} cannot be read: {exc.strerror}.",
                do="Nothing was recorded. Put the folder back or repair its permissions, and try again.",
            ) from exc

    def _pull(self, begin: int, *, counted: bool) -> Pulled:
        tail = self._store.tail
        if tail is not None and tail.size == begin and not counted:
            info = _stat(tail.path)
            if info is not None and (info.st_dev, info.st_ino) == tail.identity and self._is_newest(tail.path):
                if info.st_size == tail.offset:
                    return _NOTHING
                if info.st_size < tail.offset:
                    raise _missing(self._store.path, begin)
                return self._read(begin, [tail.path], tail.offset)
        self._store.folder_listed()
        days = list_days(self._store.path)
        index, offset = self._place(days, begin, counted=counted)
        pulled = self._read(begin, days[index:], offset, days[:index])
        if pulled.before is not None and not lies_on_its_day(days[index if offset else index - 1], pulled.before):
            raise LogDamaged(
                f"Entry {begin - 1} of {self._store.path} lies in another day's file.", kind_of_damage="file_renamed"
            )
        return pulled

    def _is_newest(self, path: Path) -> bool:
        if self._store.folder_unchanged():
            return True
        self._store.folder_listed()
        with os.scandir(self._store.path) as found:
            return max((entry.name for entry in found if DAY_FILE.fullmatch(entry.name)), default="") == path.name

    def _place(self, days: list[Path], begin: int, *, counted: bool) -> tuple[int, int]:
        """Where entry `begin` starts: index of the day file, byte offset in it."""
        if begin == 0:
            return 0, 0
        place = count_to(days, begin) if counted else self._claimed_place(days, begin)
        if place is None:
            raise _missing(self._store.path, begin)
        return place

    @staticmethod
    def _claimed_place(days: list[Path], begin: int) -> tuple[int, int] | None:
        """The place by what lines claim to be; anything but None may be wrong."""
        place = find_line(days, begin - 1)
        if place is not None:
            index, skip = place
            offset = offset_of(days[index], skip + 1)
            # A copy of the line that is looked for can only stand behind it, or in another day's file.
            if offset is not None and lies_on_its_day(days[index], line_before(days[index], offset)):
                return index, offset
        return count_to(days, begin)

    def _read(self, begin: int, paths: list[Path], offset: int, earlier: Sequence[Path] = ()) -> Pulled:
        """Read all lines from byte `offset` of the first path on, and note where the log ends."""
        self._looked = (begin, paths, offset)
        self._lengths.clear()
        entries: list[bytes] = []
        before, torn, tail = None, b"", None
        for number, path in enumerate(paths):
            look_back = min(offset, _LOOK_BACK) if number == 0 else 0
            at = offset if number == 0 else 0
            data, identity = read_from(path, at - look_back)
            if number == 0:
                before = self._before(data[:look_back], path, offset, earlier)
                data = data[look_back:]
            self._lengths[path] = at + len(data)
            lines = data.split(b"\n")
            torn = lines.pop()
            entries += lines
            if lines:
                self._store.unsettled.add(path)
            tail = Tail(path, identity, 0, at + len(data) - len(torn))
            if torn and number < len(paths) - 1:
                entries.append(torn)
                torn = b""
        self._know(tail, begin + len(entries))
        return Pulled(entries, torn, before)

    @staticmethod
    def _before(data: bytes, path: Path, offset: int, earlier: Sequence[Path]) -> bytes | None:
        start = data.rfind(b"\n", 0, -1) + 1
        if start:
            return data[start:-1]
        if offset == 0 and earlier:
            path = earlier[-1]
            offset = path.stat().st_size
        return line_before(path, offset)

    def _know(self, tail: Tail | None, size: int) -> None:
        """Take `tail` as the log's end; an open descriptor of the same file stays open."""
        old = self._store.tail
        if tail is not None:
            tail.size = size
            if old is not None and old.path == tail.path and old.identity == tail.identity:
                tail.fd, tail.named = old.fd, old.named
                old.fd = None
        self._drop_tail()
        self._store.tail = tail

    def _drop_tail(self) -> None:
        tail = self._store.tail
        if tail is not None and tail.fd is not None:
            with contextlib.suppress(OSError):
                os.close(tail.fd)
        self._store.tail = None

    # --- cutting off ------------------------------------------------------------------------------

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
        begin, paths, offset = self._looked or (0, list_days(self._store.path), 0)
        place = _count_from(paths, offset, size - begin)
        if place is None:
            raise _missing(self._store.path, size)
        for path, length in self._lengths.items():
            if path.stat().st_size != length:
                raise HeadConflict(f"{path} grew while this writer held the lock.")
        self._drop_tail()
        index, offset = place
        keep = index + 1 if offset else index
        for path in reversed(paths[keep:]):
            self._ops.unlink(path)
            self._store.unsettled.discard(path)
        if offset:
            fd = self._ops.open(paths[index], _APPEND)
            try:
                self._ops.truncate(fd, offset)
                self._ops.sync(fd)
            finally:
                self._ops.close(fd)
            self._store.unsettled.discard(paths[index])
        self._ops.sync_folder(self._store.path)
        self._looked = None
        for newest in list_days(self._store.path)[-1:]:
            info = newest.stat()
            end = offset if offset and newest == paths[index] else info.st_size
            self._store.tail = Tail(newest, (info.st_dev, info.st_ino), size, end, named=True)

    def remove(self, foreign: Sequence[tuple[int, int | None]]) -> None:
        _, paths, offset = self._looked or (0, list_days(self._store.path), 0)
        try:
            for path, cuts in find_cuts(paths, offset, foreign).items():
                if path.stat().st_size != self._lengths.get(path):
                    raise HeadConflict(f"{path} grew while this writer held the lock.")
                self._drop_tail()
                take_out(self._ops, path, cuts)
                self._store.unsettled.discard(path)
        except SyncError as exc:
            raise self._store.note_failed_sync(self._store.path, exc) from exc
        except OSError as exc:
            raise AuditUnavailable(
                f"Foreign bytes cannot be taken out of {self._store.path}: {exc.strerror}.",
                do="Make room on the disk (or repair it) and try again.",
            ) from exc
        self._looked = None

    # --- appending --------------------------------------------------------------------------------

    def append(self, entries: Sequence[bytes], begin: int, day: dt.date) -> None:
        tail, fd = self._tail_for(begin, day)
        if self._store.unsettled and self._store.unsettled - {tail.path}:
            self._store.settle()
        if os.fstat(fd).st_size != tail.offset:
            self._drop_tail()
            raise HeadConflict(f"{tail.path} grew while this writer held the lock.")
        data = b"\n".join(entries) + b"\n"
        try:
            written = self._ops.write(fd, data)
            short = written != len(data)
            reason = f"only {written} of {len(data)} bytes fit" if short else ""
        except OSError as exc:
            short, reason = True, exc.strerror or "the write failed"
        if short:
            self._cut_back(tail, fd)
            raise AuditUnavailable(
                f"The batch could not be written to {tail.path}: {reason}. Nothing of it remains in the log.",
                do="Make room on the disk (or repair it) and try again.",
            )
        if os.fstat(fd).st_size != tail.offset + len(data):
            self._withdraw_if_behind(tail, fd, data)
        try:
            self._ops.sync(fd)
        except OSError as exc:
            raise self._store.note_failed_sync(tail.path, exc) from exc
        self._store.unsettled.discard(tail.path)
        tail.size += len(entries)
        tail.offset += len(data)

    def _withdraw_if_behind(self, tail: Tail, fd: int, data: bytes) -> None:
        """Something that is no writer wrote too: take a batch back that came to stand behind it.

        What stands behind the batch is dealt with by the next look. Raises: HeadConflict, SyncFailed.
        """
        written, _ = read_from(tail.path, tail.offset)
        place = written.find(data)
        if place == 0:
            return
        try:
            self._ops.truncate(fd, tail.offset + max(place, 0))
            self._ops.sync(fd)
        except OSError as exc:
            raise self._store.note_failed_sync(tail.path, exc) from exc
        raise HeadConflict(f"Something else wrote into {tail.path} while this writer held the lock.")

    def settle(self) -> None:
        self._store.settle()

    def _tail_for(self, begin: int, day: dt.date) -> tuple[Tail, int]:
        """The log's end in the day's file, open for appending, its name durable."""
        store = self._store
        name = day_name(day)
        tail = store.tail
        if begin != (0 if tail is None else tail.size):
            raise HeadConflict(f"The log in {store.path} does not end after {begin} entries.")
        try:
            if tail is None or tail.path.name != name:
                return self._start_day(store.path / name, tail, begin)
            if tail.fd is None:
                tail.fd = self._open(tail)
            if not tail.named:
                self._ops.sync_folder(store.path)
                tail.named = True
            return tail, tail.fd
        except SyncError as exc:
            raise store.note_failed_sync(store.path, exc) from exc
        except OSError as exc:
            raise AuditUnavailable(
                f"The day file {store.path / name} cannot be opened: {exc.strerror}.",
                do="Check permissions and free space.",
            ) from exc

    def _start_day(self, path: Path, last: Tail | None, begin: int) -> tuple[Tail, int]:
        if last is not None and last.offset == 0:  # made for another day, and its first batch never came
            self._drop_tail()
            self._ops.unlink(last.path)
            raise HeadConflict(f"{last.path} was empty.")
        if last is not None and last.path.name > path.name:
            raise LogDamaged(
                f"{last.path} bears a later day than its entries, which were logged before {path.name}.",
                kind_of_damage="file_renamed",
            )
        try:
            fd = self._ops.open(path, _APPEND | os.O_CREAT | os.O_EXCL, _ENTRY_MODE)
        except FileExistsError as exc:
            raise HeadConflict(f"{path} came into being while this writer held the lock.") from exc
        info = os.fstat(fd)
        tail = Tail(path, (info.st_dev, info.st_ino), begin, 0, fd)
        self._know(tail, begin)
        self._ops.sync_folder(self._store.path)
        tail.named = True
        return tail, fd

    def _open(self, tail: Tail) -> int:
        fd = self._ops.open(tail.path, _APPEND)
        info = os.fstat(fd)
        if (info.st_dev, info.st_ino) == tail.identity:
            return fd
        os.close(fd)
        self._drop_tail()
        raise HeadConflict(f"{tail.path} was replaced while this writer held the lock.")

    def _cut_back(self, tail: Tail, fd: int) -> None:
        try:
            self._ops.truncate(fd, tail.offset)
            self._ops.sync(fd)
        except OSError as exc:
            raise self._store.note_failed_sync(tail.path, exc) from exc
        if tail.offset == 0:
            self._drop_tail()
            with contextlib.suppress(OSError):  # an empty day file is in nobody's way, only untidy
                self._ops.unlink(tail.path)


def _count_from(paths: Sequence[Path], offset: int, lines: int) -> tuple[int, int] | None:
    """Return (index into `paths`, byte offset) after `lines` lines from byte `offset` of the first path on."""
    if lines == 0:
        return 0, offset
    for index, path in enumerate(paths):
        data, _ = read_from(path, offset)
        found = data.count(b"\n")
        if lines <= found:
            at = -1
            for _ in range(lines):
                at = data.index(b"\n", at + 1)
            return index, offset + at + 1
        if not data.endswith(b"\n") and lines == found + 1 and index < len(paths) - 1:
            return index, offset + len(data)
        lines -= found if data.endswith(b"\n") or not data else found + 1
        offset = 0
    return None


def _missing(folder: Path, begin: int) -> LogDamaged:
    return LogDamaged(
        f"The log in {folder} has fewer than the {begin} entries that this writer knows.", kind_of_damage="tail_cut"
    )


def _stat(path: Path) -> os.stat_result | None:
    try:
        return path.lstat()
    except OSError:
        return None
