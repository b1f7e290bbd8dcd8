"""A log of any store in the form of a folder: what a directory log with the same content would hold.

The copy ends with the checkpoint that was read first. What the store holds beyond it and did not publish in time
is copied too where asked for, and what belongs to no log is listed: it is for the verifier to name.
"""

from __future__ import annotations

import functools
import os
import time
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from klingai_audit.durable import OPS, FileOps
from klingai_audit.errors import LogDamaged, Malformed, StorageError
from klingai_audit.ledger.line import PURGED_PREFIX, parse_members
from klingai_audit.ledger.purged import parse_purged
from klingai_audit.ledger.scratch import need_room
from klingai_audit.ledger.store import LogFile, Store, StoredDay

__all__ = ["Extent", "Mirrored", "Progress", "copy_log", "end_of", "look_at", "stated_size"]

Progress = Callable[[int, int], None]
"""Called with (bytes copied, bytes in all as far as known)."""

_HASH: Final = 32
_PIECE: Final = 1 << 20
_HASHES: Final = 1 << 15
_PAUSE_S: Final = 0.1
_TURNS: Final = 5
_PROBES: Final = 4096
_BUNDLE: Final = 256
_SINGLE: Final = 8
_NEW: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL
_KINDS: Final = ("kept", "token")
_FIRST: Final = "audit-0001-01-01.jsonl"


def stated_size(note: bytes | None) -> int:
    """Return the size that a checkpoint states, unproven; 0 if there is none in its form."""
    lines = (note or b"").split(b"\n", 3)
    return int(lines[1]) if len(lines) > 3 and lines[1].isdigit() and len(lines[1]) < 19 else 0


@dataclass(frozen=True, slots=True)
class Extent:
    """What a store held: `before` was listed before the checkpoint `note` of `size` entries was read.

    Entries reached to `end` when `before` was listed; more than `size` if the rest was not published in time.
    """

    before: tuple[LogFile, ...]
    note: bytes | None
    size: int
    end: int


@dataclass(frozen=True, slots=True)
class Mirrored:
    """A copy in `folder`: entries `[begin, end)` and what belongs to them, `size` bytes.

    `strays` are what the store holds that belongs to no log. `faults` say what could not be read.
    """

    folder: Path
    extent: Extent
    begin: int
    end: int
    size: int
    strays: tuple[LogFile, ...]
    faults: tuple[str, ...] = ()


def look_at(store: Store, patience: float = 0.0) -> Extent:
    """See how far a log reaches and what is published, after up to `patience` seconds for what is on its way.

    Raises: AuditUnavailable, OSError.
    """
    before = store.inspect()
    note = store.read_checkpoint()
    end = max(end_of(store, stated_size(note)), max(map(_kept_size, before), default=0))
    while stated_size(note) < end and patience > 0:
        time.sleep(_PAUSE_S)
        patience -= _PAUSE_S
        note = store.read_checkpoint()
    size = stated_size(note)
    return Extent(before, note, size, max(size, end_of(store, size) if size < end else size))


def _kept_size(file: LogFile) -> int:
    digits = file.name.removeprefix("checkpoints/").removesuffix(".tsr")
    return int(digits) if file.kind in _KINDS and digits.isdigit() else 0


def end_of(store: Store, size: int) -> int:
    """Return how many entries a store holds, `size` at least, counted without gaps from there on; few are read."""

    def there(seq: int) -> bool:
        return next(iter(store.read_entries(seq, seq + 1)), None) is not None

    if not there(size):
        return size
    low, step = size, 1
    while there(low + step):
        low, step = low + step, 2 * step
    return 1 + low + bisect_right(range(low + 1, low + step), 0, key=lambda seq: 0 if there(seq) else 1)


def copy_log(
    store: Store,
    folder: Path,
    *,
    begin: int = 0,
    patience: float = 0.0,
    beyond: bool = True,
    durable: bool = False,
    ops: FileOps = OPS,
    progress: Progress | None = None,
) -> Mirrored:
    """Copy a log into the new folder `folder`, entries from `begin` on; a piece at a time is held in memory.

    Without `beyond` nothing is copied that the checkpoint does not cover. With `begin` tree hashes, kept checkpoints
    and tokens are left where they are, and entry 0, which tells of keys, lies in a file before all others. With
    `durable` everything is synced. Raises: AuditUnavailable, StorageError.
    """
    try:
        for _ in range(_TURNS):
            extent = look_at(store, patience)
            end = extent.end if beyond else extent.size
            copier = _Copier(store, folder, begin, extent, end, durable=durable, ops=ops, progress=progress)
            copier.copy()
            if copier.newest_purge < extent.size or copier.newest_purge >= stated_size(store.read_checkpoint()):
                return copier.finish(beyond=beyond)
            copier.undo()  # entries were purged meanwhile, on the authority of one that the copy does not have
    except OSError as exc:
        raise StorageError(f"The log at {store.url} cannot be copied to {folder}: {exc.strerror}.") from exc
    raise StorageError(
        "Entries were purged again and again while the log was copied.", do="Try again when retention apply is done."
    )


@dataclass
class _Copier:
    """One attempt to copy."""

    store: Store
    folder: Path
    begin: int
    extent: Extent
    end: int
    durable: bool
    ops: FileOps
    progress: Progress | None
    newest_purge: int = -1
    written: int = 0
    total: int = 0
    faults: list[str] = field(default_factory=list)
    made: list[Path] = field(default_factory=list)

    def copy(self) -> None:
        extent, end = self.extent, self.end
        self.total = sum(file.size for file in extent.before if file.kind in ("entries", "tree"))
        if not self.begin:
            need_room(_existing(self.folder), self.total, f"A copy of {self.store.url}")
        for inner in ("", "tree", "checkpoints"):
            self.ops.make_folder(self.folder / inner, 0o755)
        self._entries()
        if self.begin:
            return
        levels = {int(file.name.removeprefix("tree/")): file.size for file in extent.before if file.kind == "tree"}
        for level in range(max([*levels, end.bit_length() // 8]) + 1):
            most = levels.get(level, 0) // _HASH  # more than the entries account for belongs to nobody: it is copied
            covered = end if self._public is self.store else extent.size
            if count := most if most > extent.end >> 8 * level else covered >> 8 * level:
                self._hashes(level, count)

    def finish(self, *, beyond: bool) -> Mirrored:
        """Copy the small files, `checkpoint` last, and see what was a stray all the time."""
        extent, after = self.extent, self.store.inspect()
        listed = {file.name for file in extent.before}
        for file in after if not self.begin else ():
            size = _kept_size(file)
            if file.kind in _KINDS and (size <= extent.size or (beyond and file.name in listed)):
                data = self.store.read_kept(size) if file.kind == "kept" else self.store.read_token(size)
                if data is not None:
                    self._write(file.name, [data])
        if extent.note is not None:
            self._write("checkpoint", [extent.note])
        if self.durable:
            for inner in ("tree", "checkpoints", ""):
                self.ops.sync_folder(self.folder / inner)
        known = {(file.name, file.identity) for file in extent.before if file.kind in ("stray", "cosigned")}
        strays = tuple(file for file in after if (file.name, file.identity) in known)
        return Mirrored(self.folder, extent, self.begin, self.end, self.written, strays, tuple(self.faults))

    @functools.cached_property
    def _public(self) -> Store:
        """What everybody reads, where writers read something else: a bucket's newest batches lie in two places."""
        public: Callable[[], Store] | None = getattr(self.store, "public", None)
        return self.store if public is None else public()

    def undo(self) -> None:
        for path in self.made:
            self.ops.unlink(path)

    # --- entries ----------------------------------------------------------------------------------

    def _entries(self) -> None:
        days = _Days(self.store.old_days(), [file.name for file in self.extent.before if file.kind == "entries"])
        if self.begin:
            self._append(_FIRST, list(self._public.read_entries(0, 1)))
        name, lines, held = "", list[bytes](), 0
        for seq, line in self._lines(self.end):
            now = days.name_of(seq, line)
            if now != name or held > _PIECE:
                self._append(name, lines)
                name, lines, held = now, [], 0
            if line.startswith(PURGED_PREFIX) and (purged := parse_purged(line)) is not None:
                self.newest_purge = max(self.newest_purge, purged.by)
            lines.append(line)
            held += len(line)
        self._append(name, lines)

    def _lines(self, end: int) -> Iterator[tuple[int, bytes]]:
        """Yield entries with their numbers; where some are missing, go on behind the gap."""
        seq, missed = self.begin, 0
        while seq < end and missed < _PROBES:
            public = min(self.extent.size, end)
            store, stop = (self._public, public) if seq < public else (self.store, end)
            step = 1 if missed < _BUNDLE else _BUNDLE - seq % _BUNDLE
            try:
                for line in store.read_entries(seq, stop):
                    yield seq, line
                    seq, missed, step = seq + 1, 0, 1
            except (LogDamaged, Malformed) as exc:
                self.faults.append(f"Entries from {seq} on cannot be read: {exc.message}")
                step = _BUNDLE - seq % _BUNDLE
            if seq < stop:
                seq, missed = seq + step, missed + 1

    def _append(self, name: str, lines: Sequence[bytes]) -> None:
        if lines:
            path = self.folder / name
            flags = os.O_WRONLY | os.O_APPEND if path in self.made else _NEW
            self._write(name, [b"\n".join((*lines, b""))], flags)

    # --- the rest ---------------------------------------------------------------------------------

    def _hashes(self, level: int, count: int) -> None:
        def pieces() -> Iterator[bytes]:
            at = gap = missed = 0
            while at < count and missed < _PROBES:
                want = min(_HASHES, count - at)
                hashes = self._public.read_hashes(level, at, at + want)
                if hashes:
                    yield bytes(gap * _HASH) + hashes  # missing ones are zeros, unless they are the last
                    at, gap, missed = at + len(hashes) // _HASH, 0, 0
                if len(hashes) < want * _HASH:
                    step = 1 if missed < _SINGLE else _BUNDLE - at % _BUNDLE
                    at, gap, missed = at + step, gap + step, missed + 1

        self._write(f"tree/{level}", pieces())

    def _write(self, name: str, pieces: Sequence[bytes] | Iterator[bytes], flags: int = _NEW) -> None:
        path = self.folder / name
        fd = self.ops.open(path, flags, 0o644)
        if flags == _NEW:
            self.made.append(path)
        try:
            for piece in pieces:
                self.ops.write_all(fd, piece)
                self.written += len(piece)
                if self.progress is not None:
                    self.progress(self.written, max(self.total, self.written))
            if self.durable:
                self.ops.sync(fd)
        finally:
            self.ops.close(fd)


class _Days:
    """Which day file each entry belongs in: as the store has it where its days make sense, else as entries say."""

    def __init__(self, old: Sequence[StoredDay], names: Sequence[str]) -> None:
        newest = max(names, default="")
        begins = [0, *(day.end for day in old)]
        files = [*(day.name for day in old), newest]
        orderly = all(day.begin == begin for day, begin in zip(old, begins, strict=False))
        self._begins = begins if newest and orderly and files == sorted(set(files)) else []
        self._names = files
        self._last = newest or "audit-1970-01-01.jsonl"
        self._said = ""

    def name_of(self, seq: int, line: bytes) -> str:
        """Return the name of the file of entry `seq`; asked in ascending order."""
        if self._begins:
            return self._names[bisect_right(self._begins, seq) - 1]
        members = parse_members(line)
        if members is not None:
            self._said = max(self._said, f"audit-{members.logged_at[:10]}.jsonl")
        return self._said or self._last


def _existing(folder: Path) -> Path:
    return next((place for place in (folder, *folder.parents) if place.is_dir()), Path("/"))
