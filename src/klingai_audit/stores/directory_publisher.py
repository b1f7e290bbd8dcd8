"""The publishing half of the directory store: tree hashes and checkpoints, under the lock of the tree folder."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import TYPE_CHECKING, Final

from klingai_audit.durable import SyncError
from klingai_audit.errors import AuditUnavailable, HeadConflict, LogDamaged

if TYPE_CHECKING:
    from klingai_audit.stores.directory import DirectoryStore

__all__ = ["DirectoryPublication"]

_HASH: Final = 32


class DirectoryPublication:
    """See `klingai_audit.ledger.store.Publication`."""

    def __init__(self, store: DirectoryStore) -> None:
        self._store = store
        self._ops = store.ops
        self._put: set[int] = set()

    def settle(self) -> None:
        self._store.settle()

    def put_hashes(self, level: int, begin: int, hashes: bytes) -> None:
        path = self._store.hashes_path(level)
        self._put.add(level)
        try:
            fd = self._current_hash_file(level, path)
            if fd is None:
                fd = self._ops.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK)
                self._store.hash_files[level] = fd
                self._ops.sync_folder(path.parent)  # whoever made the name may have died before it was durable
            if os.fstat(fd).st_size < begin * _HASH:
                raise LogDamaged(
                    f"tree/{level} is shorter than the {begin} hashes that were written to it.",
                    kind_of_damage="tree_short",
                )
            self._ops.write_all_at(fd, hashes, begin * _HASH)
            end = begin * _HASH + len(hashes)
            if os.fstat(fd).st_size > end:
                self._ops.truncate(fd, end)
        except SyncError as exc:
            raise self._store.note_failed_sync(path, exc) from exc
        except OSError as exc:
            raise AuditUnavailable(f"Tree hashes cannot be written to {path}: {exc.strerror}.") from exc

    def _current_hash_file(self, level: int, path: Path) -> int | None:
        """The open descriptor if the path still names that file."""
        fd = self._store.hash_files.get(level)
        if fd is None:
            return None
        held = os.fstat(fd)
        with contextlib.suppress(FileNotFoundError):
            named = path.stat()
            if (held.st_dev, held.st_ino) == (named.st_dev, named.st_ino):
                return fd
        os.close(self._store.hash_files.pop(level))
        return None

    def sync_hashes(self) -> None:
        for level in sorted(self._put):
            try:
                self._ops.sync(self._store.hash_files[level])
            except OSError as exc:
                raise self._store.note_failed_sync(self._store.hashes_path(level), exc) from exc
        self._put.clear()

    def put_kept(self, size: int, note: bytes) -> None:
        self._replace(self._store.path / "checkpoints" / f"{size:020}", note)

    def put_token(self, size: int, token: bytes) -> None:
        held = self._store.read_token(size)
        if held is not None and held != token:
            raise HeadConflict(f"Another time stamp of the checkpoint of size {size} is there already.")
        self._replace(self._store.path / "checkpoints" / f"{size:020}.tsr", token)

    def put_checkpoint(self, note: bytes) -> None:
        self._replace(self._store.checkpoint, note)

    def _replace(self, path: Path, note: bytes) -> None:
        try:
            self._ops.replace(path, note)
        except SyncError as exc:
            raise self._store.note_failed_sync(path, exc) from exc
        except OSError as exc:
            raise AuditUnavailable(f"The checkpoint {path} cannot be written: {exc.strerror}.") from exc
