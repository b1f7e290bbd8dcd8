"""Looking at a log that may be growing: what is listed when, and looking again at what is unfinished.

A writer appends entries, then writes tree hashes, then kept checkpoints, then `checkpoint`. So a listing taken
before the checkpoint is read bounds the derived files from above, one taken after it from below.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from klingai_audit.durable import TEMPORARY_SUFFIX
from klingai_audit.errors import AuditUnavailable
from klingai_audit.ledger.mirror import stated_size
from klingai_audit.ledger.sealed import is_sealed, unpacked_size
from klingai_audit.ledger.store import LogFile, Store
from klingai_audit.tlog.tile import MAX_ENTRY_BYTES
from klingai_audit.trust.anchors import kept_size
from klingai_audit.trust.chunk import Read
from klingai_audit.trust.place import DayFile
from klingai_audit.trust.words import day_of
from klingai_audit.trust.worker import file_reader

__all__ = ["Look", "Watch", "reader_of", "settle_length"]

_PAUSE: Final = 0.05


def reader_of(store: Store, file: LogFile) -> Read:
    """Return a reader of one file of the store; what has no path is held from the first reading on."""
    if file.path is not None:
        return file_reader(str(file.path))
    ranged: Callable[[str, int, int], bytes] | None = getattr(store, "read_range", None)
    if ranged is not None:
        return lambda begin, end: ranged(file.name, begin, end)
    held: list[bytes] = []

    def read(begin: int, end: int) -> bytes:
        if not held:
            with store.view(file.name) as view:
                held.append(bytes(view))
        return held[0][begin:end]

    return read


def settle_length(read: Read, size: int) -> tuple[int, int]:
    """Return (bytes in whole lines, bytes after the last LF) of a file of `size` bytes. Raises: OSError."""
    end = size
    while end:
        begin = max(0, end - MAX_ENTRY_BYTES)
        at = read(begin, end).rfind(b"\n")
        if at >= 0:
            return begin + at + 1, size - (begin + at + 1)
        end = begin
    return 0, size


@dataclass(frozen=True, slots=True)
class Look:
    """One look: `before` was listed before the checkpoint `head` was read, `after` after it.

    `fault` says why the checkpoint that is there could not be read.
    """

    before: tuple[LogFile, ...]
    head: bytes | None
    after: tuple[LogFile, ...]
    fault: str = ""

    def kind(self, *kinds: str) -> list[LogFile]:
        """Return the files of these kinds, as listed after the checkpoint was read."""
        return [file for file in self.after if file.kind in kinds]

    def size_of(self, name: str) -> int:
        """Return a file's size as listed after the checkpoint was read, 0 if it is not there."""
        return next((file.size for file in self.after if file.name == name), 0)

    def day_files(self, store: Store) -> Iterator[tuple[LogFile, DayFile | None, str]]:
        """Yield the files of entries by day, with their whole lines, or why one cannot be read."""
        for file in self.kind("entries"):
            read = reader_of(store, file)
            path = None if file.path is None else str(file.path)
            try:
                size = file.size if file.path is None or not is_sealed(file.name) else unpacked_size(file.path)
                length, torn = settle_length(read, size)
            except OSError as exc:
                yield file, None, exc.strerror or "unknown error"
            else:
                yield file, DayFile(file.name, day_of(file.name), read, length, torn, path), ""

    def temporary(self) -> set[tuple[str, tuple[int, ...]]]:
        """Return names and identities of temporary files."""
        return {(f.name, f.identity) for f in self.before if f.kind == "stray" and f.name.endswith(TEMPORARY_SUFFIX)}

    def largest_kept(self) -> int:
        """Return the largest size among the kept checkpoints listed before the checkpoint was read."""
        return max((kept_size(file.name) or 0 for file in self.before if file.kind == "kept"), default=0)


def _read_head(store: Store, listed: Sequence[LogFile]) -> tuple[bytes | None, str]:
    """Return the bytes of `checkpoint`, and why it cannot be read if it cannot; what is no file counts as none."""
    try:
        return store.read_checkpoint(), ""
    except AuditUnavailable as exc:
        stray = any(file.name == "checkpoint" and file.kind == "stray" for file in listed)
        return None, "" if stray else getattr(exc.__cause__, "strerror", None) or "the store refuses"


class Watch:
    """Looks at a store, again and again for up to `patience` seconds while something is unfinished."""

    def __init__(self, store: Store, patience: float, sleep: Callable[[float], None] = time.sleep) -> None:
        self.store = store
        self.patience = patience
        self._sleep = sleep

    def look(self) -> Look:
        """Look once."""
        before = self._list()
        head, fault = _read_head(self.store, before)
        return Look(before, head, self._list(), fault)

    def _list(self) -> tuple[LogFile, ...]:
        """List the store's files; a day file of a day that does not exist is stray."""
        return tuple(
            dataclasses.replace(file, kind="stray") if file.kind == "entries" and not day_of(file.name) else file
            for file in self.store.inspect()
        )

    def until_settled(self, first: Look, lines: int, *, torn: bool) -> Look:
        """Look again until all of `lines` lines are covered, none is torn and nothing temporary lies around."""
        look, left = first, self.patience
        while left > 0 and not _settled(first, look, lines, torn=torn):
            self._sleep(_PAUSE)
            left -= _PAUSE
            look = self.look()
        return look


def _settled(first: Look, look: Look, lines: int, *, torn: bool) -> bool:
    size = stated_size(look.head)
    if look.head is None or 0 < size < max(lines, first.largest_kept()):
        return False
    if first.temporary() & look.temporary():
        return False
    grown = sum(file.size for file in look.kind("entries")) > sum(file.size for file in first.kind("entries"))
    return not torn or (grown and size > lines)
