"""The keeping half of the directory store: days are sealed and purged, whole files at a time."""

from __future__ import annotations

import datetime as dt
import os
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Final

from klingai_audit.durable import PRIVATE_MODE
from klingai_audit.errors import AuditUnavailable, LogDamaged
from klingai_audit.ledger.sealed import SEALED_SUFFIX, is_sealed, pack
from klingai_audit.ledger.store import PreparedDay, StoredDay
from klingai_audit.stores.days import DAY_FILE, count_lines, first_seq, list_days, read_lines

if TYPE_CHECKING:
    from klingai_audit.stores.directory import DirectoryStore

__all__ = ["DirectoryKeeper", "old_days"]

_MODE: Final = 0o640
_NEW: Final = os.O_WRONLY | os.O_CREAT | os.O_TRUNC


def old_days(folder: Path) -> Iterator[StoredDay]:
    """Yield all days of a log but the newest. Raises: OSError."""
    paths = list_days(folder)
    begin = 0
    for path, following in pairwise(paths):
        first = first_seq(following)
        end = begin + count_lines(path) if first is None else first
        found = DAY_FILE.fullmatch(path.name)
        if found is not None and begin < end:
            yield StoredDay(dt.date.fromisoformat(found[1]), begin, end, path.name, is_sealed(path))
        begin = end


class DirectoryKeeper:
    """See `klingai_audit.ledger.store.Keeper`."""

    def __init__(self, store: DirectoryStore, scratch: Path) -> None:
        self._store = store
        self._ops = store.ops
        self._scratch = scratch

    def prepare(self, day: StoredDay, change: Callable[[int, bytes], bytes]) -> PreparedDay:
        name = day.name if day.sealed else day.name + SEALED_SUFFIX
        target = self._scratch / name
        try:
            self._ops.make_folder(self._scratch, 0o700)
            fd = self._ops.open(target, _NEW, PRIVATE_MODE)
            try:
                digest = pack(self._changed(day, change), lambda data: self._ops.write_all(fd, data))
                self._ops.sync(fd)
            finally:
                self._ops.close(fd)
            return PreparedDay(day, name, digest, target.stat().st_size)
        except OSError as exc:
            raise AuditUnavailable(
                f"{day.name} cannot be sealed in {self._scratch}: {exc.strerror}.",
                do="Nothing was changed. Make room on the disk (or repair it) and try again.",
            ) from exc

    def _changed(self, day: StoredDay, change: Callable[[int, bytes], bytes]) -> Iterator[bytes]:
        seq = day.begin
        for line, complete in read_lines(self._store.path / day.name):
            if not complete or seq == day.end:
                break
            yield change(seq, line)
            seq += 1
        else:
            if seq == day.end:
                return
        raise LogDamaged(
            f"{day.name} does not hold the entries {day.begin} to {day.end - 1} that it claims to hold.",
            kind_of_damage="entry_missing",
        )

    def put(self, prepared: PreparedDay) -> None:
        store, path = self._store, self._store.path / prepared.name
        scratch = self._scratch / prepared.name
        try:
            with store.transaction(), store.publication():
                if scratch.exists():
                    self._ops.install(path, scratch, mode=_MODE)
                if not prepared.day.sealed and path.exists():
                    self._remove_unsealed(path.with_suffix(""))
            if scratch.exists():
                self._ops.unlink(scratch)
        except OSError as exc:
            raise AuditUnavailable(
                f"{prepared.name} cannot be put into {store.path}: {exc.strerror}.",
                do="The old file is still there. Make room on the disk (or repair it) and try again.",
            ) from exc

    def _remove_unsealed(self, path: Path) -> None:
        if path.exists():
            self._ops.unlink(path)
            self._ops.sync_folder(path.parent)
        self._store.unsettled.discard(path)
