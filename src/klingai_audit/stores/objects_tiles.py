"""Reading a log in a bucket: tiles and bundles below, staging objects of the newest batches above.

What is written once never changes but for purged entries, so tiles are kept in memory, bundles are not. An object of
the tail that is gone was put into tiles since: whoever misses it reads the head anew (`Moved`).
"""

from __future__ import annotations

import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from functools import partial
from typing import Final, Generic, NamedTuple, TypeVar

from klingai_audit.errors import LogDamaged, Malformed
from klingai_audit.stores.objects_client import Bucket, Found
from klingai_audit.stores.objects_format import HeadObject, Staged, Staging, parse_staging, staging_path
from klingai_audit.tlog.tile import HASH_BYTES, TILE_HEIGHT, TILE_WIDTH, decode_bundle, parse_tile_path, tile_path

__all__ = ["Moved", "Tiles"]

_TILES: Final = 1 << 23
_STAGED: Final = 1 << 26
_AHEAD: Final = 8
_T = TypeVar("_T")


class Moved(Exception):
    """An object that the head named is gone: the head is another by now, or the log is damaged. `args` is its path."""


class _Kept(Generic[_T]):
    """What was read last, up to so many bytes."""

    def __init__(self, room: int) -> None:
        self._room = self._left = room
        self._things: OrderedDict[str, tuple[_T, int]] = OrderedDict()
        self._mutex = threading.Lock()

    def get(self, name: str) -> _T | None:
        with self._mutex:
            found = self._things.get(name)
            if found is None:
                return None
            self._things.move_to_end(name)
            return found[0]

    def put(self, name: str, thing: _T, size: int) -> None:
        with self._mutex:
            if name in self._things:
                self._left += self._things.pop(name)[1]
            self._things[name] = (thing, size)
            self._left -= size
            while self._left < 0 and len(self._things) > 1:
                self._left += self._things.popitem(last=False)[1][1]

    def drop(self, name: str) -> None:
        with self._mutex:
            if name in self._things:
                self._left += self._things.pop(name)[1]

    def after_fork(self) -> None:
        self._mutex = threading.Lock()


class Tiles:
    """What lies in the bucket below a head, with a memory for what does not change."""

    def __init__(self, bucket: Bucket) -> None:
        self._bucket = bucket
        self._tiles = _Kept[bytes](_TILES)
        self._staged = _Kept[Staging](_STAGED)

    def after_fork(self) -> None:
        """In a forked child: locks that another thread held."""
        self._tiles.after_fork()
        self._staged.after_fork()

    # --- staging objects --------------------------------------------------------------------------

    def remember(self, staged: Staged, staging: Staging, size: int) -> None:
        """Keep a batch of `size` bytes that this process committed."""
        self._staged.put(staged.name, staging, size)

    def forget(self, staged: Staged) -> None:
        """A batch lies in bundles now."""
        self._staged.drop(staged.name)

    def staging(self, staged: Staged) -> Staging:
        """Return a batch of the tail. Raises: Moved, LogDamaged, AuditUnavailable."""
        known = self._staged.get(staged.name)
        if known is None:
            path = staging_path(staged.name)
            try:
                read = self._bucket.read(path, lambda found: (parse_staging(found.data, staged), len(found.data)))
            except Malformed as exc:
                raise LogDamaged(f"{path} of {self._bucket.url}: {exc}", kind_of_damage="entry_changed") from exc
            if read is None:
                raise Moved(path)
            known = read[0]
            self._staged.put(staged.name, *read)
        return known

    # --- hashes -----------------------------------------------------------------------------------

    def hashes(self, head: HeadObject, level: int, begin: int, end: int) -> bytes:
        """Return hashes `[begin, end)` of a level, fewer where the head or the tiles have no more. Raises: Moved."""
        below = head.tiled >> TILE_HEIGHT * level
        end = min(end, head.size >> TILE_HEIGHT * level)
        found = b""
        if begin < min(end, below):
            stop = min(end, below)
            numbers = range(begin // TILE_WIDTH, -(-stop // TILE_WIDTH))

            def read(n: int) -> bytes:
                return self.tile(level, n, min(TILE_WIDTH, below - n * TILE_WIDTH))

            tiles = self._bucket.each(read, numbers)
            for first, tile in zip(range(numbers.start * TILE_WIDTH, stop, TILE_WIDTH), tiles, strict=True):
                found += tile[max(0, begin - first) * HASH_BYTES : (stop - first) * HASH_BYTES]
                if not tile:
                    return found
        at = max(begin, below)
        if at < end:
            covering = [
                one for one in head.tail if one.end >> TILE_HEIGHT * level > at and one.begin < end << 8 * level
            ]
            parts = self._bucket.each(self.staging, covering)
            found += b"".join(part.read_hashes(level, at, end) for part in parts)
        return found

    def tile(self, level: int, n: int, width: int) -> bytes:
        """Return the first `width` hashes of a tile; nothing if it is not there, or not one."""
        path, whole = tile_path(level, n, width), tile_path(level, n)
        known = self._tiles.get(path) or self._tiles.get(whole)
        if known is None:
            known = b""
            for name in dict.fromkeys((path, whole)):  # the partial one goes when the full one is there
                found = self._bucket.get(name)
                if found is not None and len(found.data) >= width * HASH_BYTES:
                    known = found.data
                    self._tiles.put(name, known, len(known))
                    break
        return known[: width * HASH_BYTES]

    # --- entries ----------------------------------------------------------------------------------

    def lines(self, head: HeadObject, begin: int, end: int) -> Iterator[bytes]:
        """Yield lines `[begin, end)`, which the head covers; some objects are on their way at a time. Raises: Moved."""
        asked: deque[tuple[_Step, Future[Sequence[bytes]] | None]] = deque()
        for step in self._steps(head, begin, end):
            alone = not asked and step.last == end
            asked.append((step, None if alone else self._bucket.threads().submit(step.fetch)))
            if len(asked) > _AHEAD:
                yield from _part(*asked.popleft())
        while asked:
            yield from _part(*asked.popleft())

    def _steps(self, head: HeadObject, begin: int, end: int) -> Iterator[_Step]:
        at, stop = begin, min(end, head.tiled)
        while at < stop:
            n = at // TILE_WIDTH
            width = min(TILE_WIDTH, head.tiled - n * TILE_WIDTH)
            last = min(stop, n * TILE_WIDTH + width)
            yield _Step(n * TILE_WIDTH, at, last, partial(self.bundle, n, width))
            at = last
        for staged in head.tail:
            if at < min(end, staged.end):
                last = min(end, staged.end)
                yield _Step(staged.begin, at, last, partial(self._staged_lines, staged))
                at = last

    def _staged_lines(self, staged: Staged) -> Sequence[bytes]:
        return self.staging(staged).entries

    def bundle(self, n: int, width: int) -> list[bytes]:
        """Return the first `width` lines of a bundle. Raises: Moved, LogDamaged, AuditUnavailable."""
        paths = dict.fromkeys((tile_path("entries", n, width), tile_path("entries", n)))
        for path in paths:  # the partial one goes when the full one is there
            lines = self._bucket.read(path, partial(self._decoded, path))
            if lines is not None:
                return lines[:width]
        raise Moved(next(iter(paths)))

    def _decoded(self, path: str, found: Found) -> list[bytes]:
        return self.decode(path, found.data)

    def decode(self, path: str, data: bytes) -> list[bytes]:
        """Return the lines of the bundle at `path`, as many as its name says. Raises: LogDamaged."""
        try:
            return decode_bundle(data, parse_tile_path(path)[2])
        except Malformed as exc:
            raise LogDamaged(f"{path} of {self._bucket.url}: {exc}", kind_of_damage="entry_missing") from exc


class _Step(NamedTuple):
    """Lines `[first, last)`, out of what `fetch` returns: lines from `base` on."""

    base: int
    first: int
    last: int
    fetch: Callable[[], Sequence[bytes]]


def _part(step: _Step, asked: Future[Sequence[bytes]] | None) -> Sequence[bytes]:
    lines = step.fetch() if asked is None else asked.result()
    return lines[step.first - step.base : step.last - step.base]
