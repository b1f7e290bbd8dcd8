"""The memory store: the same contract without durability, for tests and examples."""

from __future__ import annotations

import contextlib
import datetime as dt
import threading
from collections.abc import Callable, Iterator, Sequence
from itertools import islice

from klingai_audit.errors import HeadConflict, LogDamaged
from klingai_audit.ledger.store import FileKind, LogFile, Pulled

__all__ = ["MemoryPublication", "MemoryStore", "MemoryTransaction"]

_HASH = 32


class MemoryStore:
    """A log in this process's memory; gone when the object is."""

    url = "memory:"

    def __init__(self) -> None:
        self.entries: list[bytes] = []
        self.days: list[dt.date] = []
        self.hashes: dict[int, bytearray] = {}
        self.kept: dict[int, bytes] = {}
        self.checkpoint: bytes | None = None
        self.mutex = threading.RLock()

    def exists(self) -> bool:
        return bool(self.entries) or self.checkpoint is not None

    def create(self) -> None:
        """Nothing to prepare."""

    @contextlib.contextmanager
    def transaction(self, *, recovering: bool = False) -> Iterator[MemoryTransaction]:
        with self.mutex:
            yield MemoryTransaction(self)

    @contextlib.contextmanager
    def publication(self) -> Iterator[MemoryPublication]:
        with self.mutex:
            yield MemoryPublication(self)

    def read_checkpoint(self) -> bytes | None:
        return self.checkpoint

    def read_kept(self, size: int) -> bytes | None:
        return self.kept.get(size)

    def read_hashes(self, level: int, begin: int, end: int) -> bytes:
        return bytes(self.hashes.get(level, b"")[begin * _HASH : end * _HASH])

    def read_entries(self, begin: int, end: int | None = None) -> Iterator[bytes]:
        return islice(self.entries, begin, end)

    def locate(self, seq: int) -> tuple[str, int] | None:
        if not 0 <= seq < len(self.entries):
            return None
        first = self.days.index(self.days[seq])
        return f"audit-{self.days[seq].isoformat()}.jsonl", seq - first + 1

    def inspect(self) -> tuple[LogFile, ...]:
        files = self._files()
        return tuple(
            LogFile(name, _kind(name), len(files[name]), None, (0,))
            for name in sorted(files, key=lambda name: (_kind(name) != "entries", name))
        )

    @contextlib.contextmanager
    def view(self, name: str) -> Iterator[memoryview]:
        yield memoryview(self._files()[name])

    def _files(self) -> dict[str, bytes]:
        """What a directory log with the same content would hold, by name."""
        with self.mutex:
            files: dict[str, bytes] = {}
            for day, entry in zip(self.days, self.entries, strict=True):
                name = f"audit-{day.isoformat()}.jsonl"
                files[name] = files.get(name, b"") + entry + b"\n"
            files |= {f"tree/{level}": bytes(hashes) for level, hashes in self.hashes.items()}
            files |= {f"checkpoints/{size:020}": note for size, note in self.kept.items()}
            if self.checkpoint is not None:
                files["checkpoint"] = self.checkpoint
            return files

    def recover_sync(self, keep: Callable[[str, bytes], None], *, covered: int = 0) -> None:
        """Nothing to recover: memory has no sync."""

    def after_fork(self) -> None:
        self.mutex = threading.RLock()

    def close(self) -> None:
        """Nothing to release."""


class MemoryTransaction:
    """See `klingai_audit.ledger.store.Transaction`."""

    def __init__(self, store: MemoryStore) -> None:
        self._store = store

    def pull(self, begin: int, *, counted: bool = False) -> Pulled:
        if begin > len(self._store.entries):
            raise LogDamaged(
                f"The log holds {len(self._store.entries)} entries, fewer than the {begin} that this writer knows.",
                kind_of_damage="tail_cut",
            )
        return Pulled(self._store.entries[begin:], b"", self._store.entries[begin - 1] if begin else None)

    def cut(self, size: int) -> None:
        del self._store.entries[size:]
        del self._store.days[size:]

    def append(self, entries: Sequence[bytes], begin: int, day: dt.date) -> None:
        if begin != len(self._store.entries):
            raise HeadConflict(f"The log does not end after {begin} entries.")
        self._store.entries += entries
        self._store.days += [day] * len(entries)

    def settle(self) -> None:
        """Memory has nothing to wait for."""


class MemoryPublication:
    """See `klingai_audit.ledger.store.Publication`."""

    def __init__(self, store: MemoryStore) -> None:
        self._store = store

    def settle(self) -> None:
        """Memory has nothing to wait for."""

    def put_hashes(self, level: int, begin: int, hashes: bytes) -> None:
        self._store.hashes.setdefault(level, bytearray())[begin * _HASH :] = hashes

    def sync_hashes(self) -> None:
        """Memory needs no sync."""

    def put_kept(self, size: int, note: bytes) -> None:
        self._store.kept[size] = note

    def put_checkpoint(self, note: bytes) -> None:
        self._store.checkpoint = note


def _kind(name: str) -> FileKind:
    if name.startswith("audit-"):
        return "entries"
    if name.startswith("tree/"):
        return "tree"
    return "kept" if name.startswith("checkpoints/") else "checkpoint"
