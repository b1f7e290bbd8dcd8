"""A log in a bucket as the files that a folder with the same content would hold; and what does not belong there."""

from __future__ import annotations

import contextlib
import datetime as dt
import hashlib
import mmap
import re
import tempfile
import threading
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from klingai_audit.ledger.store import FileKind, LogFile, StoredDay
from klingai_audit.stores.objects_client import Listed
from klingai_audit.stores.objects_format import (
    HeadObject,
    NameKind,
    kept_path,
    kind_of,
    parse_day_path,
)
from klingai_audit.stores.objects_tiles import Moved
from klingai_audit.tlog.tile import HASH_BYTES, TILE_HEIGHT, TILE_WIDTH, parse_tile_path

if TYPE_CHECKING:
    from klingai_audit.stores.objects import ObjectStore

__all__ = ["Files"]

_IN_MEMORY: Final = 8 << 20
_HASHES: Final = 1 << 16
_ENTRY_FILE: Final = re.compile(r"audit-([0-9]{4}-[0-9]{2}-[0-9]{2})\.jsonl", re.ASCII)
_LOGGED_ON: Final = re.compile(rb',"logged_at":"([0-9]{4}-[0-9]{2}-[0-9]{2})T[^"]{16}","prev_hash":"[^"]{64}"\}\Z')
_SMALL: Final[dict[NameKind, FileKind]] = {
    "checkpoint": "checkpoint",
    "cosigned": "cosigned",
    "kept": "kept",
    "token": "token",
    "stray": "stray",
}


@dataclass(frozen=True, slots=True)
class _Day:
    day: dt.date
    begin: int
    end: int

    @property
    def name(self) -> str:
        return f"audit-{self.day.isoformat()}.jsonl"


class Files:
    """See `klingai_audit.ledger.store.Store`: `locate`, `old_days`, `inspect`, `view`."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store
        self._bucket = store.bucket
        self._mutex = threading.Lock()
        self._days: tuple[HeadObject, list[_Day]] | None = None

    def after_fork(self) -> None:
        """In a forked child: a lock that another thread held."""
        self._mutex = threading.Lock()

    # --- days -------------------------------------------------------------------------------------

    def days(self, head: HeadObject) -> list[_Day]:
        """Return the days of a head, oldest first, without a gap. Raises: AuditUnavailable, LogDamaged."""
        with self._mutex:
            known = self._days
        if known is None or known[0] != head:
            listed = [found for one in self._bucket.listed("days") if (found := parse_day_path(one.path)) is not None]
            known = (head, self._days_of(head, listed))
            with self._mutex:
                self._days = known
        return known[1]

    def _days_of(self, head: HeadObject, listed: Iterable[tuple[dt.date, int]]) -> list[_Day]:
        begins = _ascending([*listed, *((one.day, one.begin) for one in head.tail)], head.size)
        if head.size and (not begins or begins[0][1]):  # the object of the first day is gone: what the entry says
            first = _LOGGED_ON.search(next(self._store.read_entries(0, 1), b""))
            day = dt.date.fromisoformat(first[1].decode()) if first else dt.date.min
            begins = [(day, 0), *(one for one in begins if one[0] > day)]
        ends = [*(begin for _day, begin in begins[1:]), head.size]
        return [_Day(day, begin, end) for (day, begin), end in zip(begins, ends, strict=True)] if begins else []

    def locate(self, seq: int) -> tuple[str, int] | None:
        head = self._store.covering(seq + 1)
        if head is None or not 0 <= seq < head.size:
            return None
        days = self.days(head)
        day = days[bisect_right(days, seq, key=lambda one: one.begin) - 1]
        return day.name, seq - day.begin + 1

    def old_days(self) -> list[StoredDay]:
        head = self._store.look()
        days = [] if head is None else self.days(head)
        return [StoredDay(one.day, one.begin, one.end, one.name, sealed=True) for one in days[:-1]]

    # --- as files ---------------------------------------------------------------------------------

    def inspect(self) -> tuple[LogFile, ...]:
        listed = list(self._bucket.listed())
        head = self._store.look()  # after the list: nothing in it is of a newer head
        files = list(self._small(listed, head))
        if head is not None and head.size:
            files += self._store.steadily(head, lambda now: self._large(listed, now))
        return tuple(sorted(files, key=lambda file: (file.kind != "entries", file.name)))

    def _small(self, listed: Sequence[Listed], head: HeadObject | None) -> Iterator[LogFile]:
        begins = [found for one in listed if (found := parse_day_path(one.path)) is not None]
        days = set(_ascending(begins, 0 if head is None else head.size))
        names = {one.path for one in listed}
        for one in listed:
            kind = kind_of(one.path)
            if kind == "tile":
                belongs = head is not None and _is_tile_of(head, one.path)
                kind = "head" if belongs else "stray"
            elif kind == "day":
                kind = "head" if parse_day_path(one.path) in days else "stray"
            if (shown := _SMALL.get(kind)) is not None:
                yield LogFile(one.path, shown, one.size, None, _identity([one.tag]))
        for staged in () if head is None else head.tail:
            with contextlib.suppress(Moved):  # then it was listed, or is the next time
                for size, note in self._store.tiles.staging(staged).kept.items():
                    if kept_path(size) not in names:
                        yield LogFile(kept_path(size), "kept", len(note), None, _identity([staged.name]))

    def _large(self, listed: Sequence[Listed], head: HeadObject) -> list[LogFile]:
        bundles = _bundles_of(listed, head)
        files = [self._day_file(one, head, bundles) for one in self.days(head)]
        level = 0
        while count := head.size >> TILE_HEIGHT * level:
            files.append(LogFile(f"tree/{level}", "tree", count * HASH_BYTES, None, (level,)))
            level += 1
        return files

    def _day_file(self, day: _Day, head: HeadObject, bundles: dict[int, Listed]) -> LogFile:
        """Add up a day file: bundles that lie in it whole as they were listed, others by their lines."""
        size, tags, at = 0, list[str](), day.begin
        while at < day.end:
            n = at // TILE_WIDTH
            first, last = n * TILE_WIDTH, min((n + 1) * TILE_WIDTH, head.tiled)
            known = bundles.get(n)
            if known is not None and at == first and last <= day.end:
                size += known.size - (last - first)  # two bytes of length each in the bundle, one LF in the file
                tags.append(known.tag)
                at = last
            else:
                stop = min(day.end, last) if last > at else day.end
                lines = list(self._store.tiles.lines(head, at, stop))
                size += sum(map(len, lines)) + len(lines)
                at = stop
        return LogFile(day.name, "entries", size, None, _identity([str(day.begin), *tags]))

    @contextlib.contextmanager
    def view(self, name: str) -> Iterator[memoryview]:
        with tempfile.SpooledTemporaryFile(_IN_MEMORY) as spool:
            for piece in self._pieces(name):
                spool.write(piece)
            size = spool.tell()
            if not size:
                yield memoryview(b"")
                return
            if size <= _IN_MEMORY:
                spool.seek(0)
                yield memoryview(spool.read())
                return
            spool.flush()
            with mmap.mmap(spool.fileno(), 0, access=mmap.ACCESS_READ) as mapped, memoryview(mapped) as whole:
                yield whole

    def _pieces(self, name: str) -> Iterator[bytes]:
        head = self._store.look()
        if _ENTRY_FILE.fullmatch(name) and head is not None:
            for day in self.days(head):
                if day.name == name:
                    yield from (line + b"\n" for line in self._store.read_entries(day.begin, day.end))
                    return
        folder, _, base = name.partition("/")
        if folder == "tree" and base.isascii() and base.isdigit() and head is not None:
            count = head.size >> TILE_HEIGHT * int(base)
            for at in range(0, count, _HASHES):
                yield self._store.read_hashes(int(base), at, min(count, at + _HASHES))
            if count:
                return
        found = self._bucket.get(name) if name else None
        data = found.data if found is not None else None
        if data is None and kind_of(name) == "kept":
            data = self._store.read_kept(int(base))
        if data is None:
            raise FileNotFoundError(2, "no such object", name)
        yield data


def _ascending(begins: Iterable[tuple[dt.date, int]], size: int) -> list[tuple[dt.date, int]]:
    """Return (day, first entry) in order; what contradicts an earlier one, or lies beyond the log, is left out."""
    found: list[tuple[dt.date, int]] = []
    for day, begin in sorted(set(begins), key=lambda one: (one[1], one[0])):
        if begin < size and (not found or (day > found[-1][0] and begin > found[-1][1])):
            found.append((day, begin))
    return found


def _is_tile_of(head: HeadObject, path: str) -> bool:
    """Tell whether a tree of the head's size, or of a smaller one, has this tile or bundle."""
    level, n, width = parse_tile_path(path)
    below = head.size if level == "entries" else head.size >> min(TILE_HEIGHT * level, 64)
    return n * TILE_WIDTH + width <= below


def _bundles_of(listed: Sequence[Listed], head: HeadObject) -> dict[int, Listed]:
    """Return by number those of the listed bundles that readers of the head take."""
    found: dict[int, Listed] = {}
    for one in listed:
        if one.path.startswith("tile/entries/") and kind_of(one.path) == "tile":
            _level, n, width = parse_tile_path(one.path)
            if width == min(TILE_WIDTH, head.tiled - n * TILE_WIDTH):
                found[n] = one
    return found


def _identity(tags: Iterable[str]) -> tuple[int, ...]:
    return (int.from_bytes(hashlib.sha256("\n".join(tags).encode()).digest()[:8], "big"),)
