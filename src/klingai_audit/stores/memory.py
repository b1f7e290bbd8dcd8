"""The memory store: the same contract without durability, for tests and examples."""

from __future__ import annotations

import contextlib
import datetime as dt
import threading
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path

from klingai_audit.errors import HeadConflict, LogDamaged
from klingai_audit.ledger.store import FileKind, LogFile, PreparedDay, Pulled, StoredDay

__all__ = ["MemoryKeeper", "MemoryPublication", "MemoryStore", "MemoryTransaction"]

_HASH = 32


class MemoryStore:
    """A log in this process's memory; gone when the object is."""

    url = "memory:"

    def __init__(self) -> None:
        self.entries: list[bytes] = []
        self.days: list[dt.date] = []
        self.hashes: dict[int, bytearray] = {}
        self.kept: dict[int, bytes] = {}
        self.tokens: dict[int, bytes] = {}
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

    def old_days(self) -> list[StoredDay]:
        with self.mutex:
            days = sorted(set(self.days))
            spans = [(day, bisect_left(self.days, day), bisect_right(self.days, day)) for day in days[:-1]]
        return [StoredDay(day, begin, end, _day_name(day), sealed=True) for day, begin, end in spans]

    @contextlib.contextmanager
    def keeper(self, scratch: Path) -> Iterator[MemoryKeeper]:
        with self.mutex:
            yield MemoryKeeper(self)

    def read_checkpoint(self) -> bytes | None:
        return self.checkpoint

    def read_kept(self, size: int) -> bytes | None:
        return self.kept.get(size)

    def read_token(self, size: int) -> bytes | None:
        return self.tokens.get(size)

    def read_hashes(self, level: int, begin: int, end: int) -> bytes:
        return bytes(self.hashes.get(level, b"")[begin * _HASH : end * _HASH])

    def read_entries(self, begin: int, end: int | None = None) -> Iterator[bytes]:
        return islice(self.entries, begin, end)

    def locate(self, seq: int) -> tuple[str, int] | None:
        if not 0 <= seq < len(self.entries):
            return None
        return _day_name(self.days[seq]), seq - bisect_left(self.days, self.days[seq]) + 1

    def inspect(self) -> tuple[LogFile, ...]:
        with self.mutex:
            sizes = {name: sum(map(len, found)) + len(found) for name, found in self._day_files()}
            sizes |= {name: len(data) for name, data in self._other_files()}
        return tuple(
            LogFile(name, _kind(name), sizes[name], None, (0,))
            for name in sorted(sizes, key=lambda name: (_kind(name) != "entries", name))
        )

    @contextlib.contextmanager
    def view(self, name: str) -> Iterator[memoryview]:
        with self.mutex:
            found = next((entries for day, entries in self._day_files() if day == name), None)
            data = b"\n".join([*found, b""]) if found else bytes(dict(self._other_files())[name])
        yield memoryview(data)

    def _day_files(self) -> Iterator[tuple[str, list[bytes]]]:
        """What a directory log with the same content would hold: names of day files and their entries."""
        begin = 0
        while begin < len(self.days):
            end = bisect_right(self.days, self.days[begin])
            yield _day_name(self.days[begin]), self.entries[begin:end]
            begin = end

    def _other_files(self) -> Iterator[tuple[str, bytes | bytearray]]:
        """The same for everything but entries."""
        yield from ((f"tree/{level}", hashes) for level, hashes in self.hashes.items())
        yield from ((f"checkpoints/{size:020}", note) for size, note in self.kept.items())
        yield from ((f"checkpoints/{size:020}.tsr", token) for size, token in self.tokens.items())
        if self.checkpoint is not None:
            yield "checkpoint", self.checkpoint

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
        self._pulled = 0

    def pull(self, begin: int, *, counted: bool = False) -> Pulled:
        self._pulled = begin
        if begin > len(self._store.entries):
            raise LogDamaged(
                f"The log holds {len(self._store.entries)} entries, fewer than the {begin} that this writer knows.",
                kind_of_damage="tail_cut",
            )
        return Pulled(self._store.entries[begin:], b"", self._store.entries[begin - 1] if begin else None)

    def cut(self, size: int) -> None:
        del self._store.entries[size:]
        del self._store.days[size:]

    def remove(self, foreign: Sequence[tuple[int, int | None]]) -> None:
        for index, length in reversed(foreign):
            at = self._pulled + index
            if length is None:
                del self._store.entries[at], self._store.days[at]
            else:
                self._store.entries[at] = self._store.entries[at][length:]

    def append(self, entries: Sequence[bytes], begin: int, day: dt.date) -> None:
        if begin != len(self._store.entries):
            raise HeadConflict(f"The log does not end after {begin} entries.")
        self._store.entries += entries
        self._store.days += [day] * len(entries)

    def settle(self) -> None:
        """Memory has nothing to wait for."""


class MemoryKeeper:
    """See `klingai_audit.ledger.store.Keeper`; there are no files, so nothing is packed."""

    def __init__(self, store: MemoryStore) -> None:
        self._store = store
        self._lines: dict[dt.date, list[bytes]] = {}

    def prepare(self, day: StoredDay, change: Callable[[int, bytes], bytes]) -> PreparedDay:
        lines = [change(seq, self._store.entries[seq]) for seq in range(day.begin, day.end)]
        self._lines[day.day] = lines
        return PreparedDay(day, day.name, None, sum(map(len, lines)) + len(lines))

    def put(self, prepared: PreparedDay) -> None:
        self._store.entries[prepared.day.begin : prepared.day.end] = self._lines.pop(prepared.day.day)


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

    def put_token(self, size: int, token: bytes) -> None:
        if self._store.tokens.setdefault(size, token) != token:
            raise HeadConflict(f"Another time stamp of the checkpoint of size {size} is there already.")

    def put_checkpoint(self, note: bytes) -> None:
        self._store.checkpoint = note


def _day_name(day: dt.date) -> str:
    return f"audit-{day.isoformat()}.jsonl"


def _kind(name: str) -> FileKind:
    if name.startswith("audit-"):
        return "entries"
    if name.startswith("tree/"):
        return "tree"
    if name.endswith(".tsr"):
        return "token"
    return "kept" if name.startswith("checkpoints/") else "checkpoint"
