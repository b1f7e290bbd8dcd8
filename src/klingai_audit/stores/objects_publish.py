"""What follows a commit: bundles, tiles, kept checkpoints and days of new entries, then the public `checkpoint`.

Any process may do this for any other, and two at once: objects are created, not replaced, and are the same whoever
makes them. So a crash between any two requests is made good by the next publication of anybody.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import threading
import time
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import TYPE_CHECKING, Final

from klingai_audit.errors import AuditUnavailable, HeadConflict, LogDamaged, Malformed
from klingai_audit.ledger.purged import line_hash
from klingai_audit.stores.objects_client import PATIENCE_S, Found, Refused, Unsure
from klingai_audit.stores.objects_format import (
    CHECKPOINT,
    HEAD,
    HeadObject,
    Staged,
    day_path,
    kept_path,
    note_size,
    parse_day_path,
    parse_head,
    staging_path,
    token_path,
)
from klingai_audit.tlog.tile import HASH_BYTES, TILE_HEIGHT, TILE_WIDTH, TileLevel, encode_bundle, new_tiles, tile_path

if TYPE_CHECKING:
    from klingai_audit.stores.objects import ObjectStore

__all__ = ["ORPHAN_S", "Finisher", "ObjectPublication", "put_kept", "put_same", "rewrite", "sweep"]

ORPHAN_S: Final = 600.0
"""A staging object that no head names is removed when the head is younger by so many seconds. Nobody can commit it
any more: who put it saw an older head, and would swap that one."""

_SWEEP_S: Final = 600.0
_LEARN_S: Final = 1.0
_AT_ONCE: Final = 32
_PAUSE_S: Final = 0.05


class Finisher:
    """Brings tiles up to a head. Everything up to `finished` entries is known to lie in tiles."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store
        self._bucket = store.bucket
        self._mutex = threading.RLock()
        self._day: dt.date | None = None
        self._gone: list[Staged] = []
        self._swept = self._learned = float("-inf")
        self.finished = 0

    def after_fork(self) -> None:
        """In a forked child: a lock that another thread held."""
        self._mutex = threading.RLock()

    def dropped(self, gone: Iterable[Staged]) -> None:
        """Batches that no head names any more are removed with the next publication."""
        self._gone += gone

    def note(self, size: int) -> None:
        """A public checkpoint of this size was seen: everything below it lies in tiles."""
        self.finished = max(self.finished, size)

    def learn(self) -> bool:
        """Look what others published, at most once a second; tell whether it was looked for."""
        now = time.monotonic()
        if now - self._learned < _LEARN_S:
            return False
        self._learned = now
        found = self._bucket.get(CHECKPOINT)
        if found is not None:
            self.note(self.size_of(found))
        return True

    def size_of(self, checkpoint: Found) -> int:
        """Return the size of the public checkpoint. Raises: LogDamaged if it is not one."""
        try:
            return note_size(checkpoint.data)
        except Malformed as exc:
            raise LogDamaged(
                f"The object `checkpoint` of {self._store.url} is not one.", kind_of_damage="checkpoint_malformed"
            ) from exc

    def finish(self, head: HeadObject, size: int) -> None:
        """Put everything of the first `size` entries in its place, if it is not. Raises: LogDamaged, Moved."""
        with self._mutex:
            begin = max(head.tiled, self.finished)
            if begin < size:
                self._put_tiles(head, begin, size)
                self._put_small(head, begin, size)
                self.finished = size
                self._drop_partials(begin, size)

    # --- tiles and bundles ------------------------------------------------------------------------

    def _put_tiles(self, head: HeadObject, begin: int, size: int) -> None:
        first = begin // TILE_WIDTH
        lines = self._store.tiles.lines(head, first * TILE_WIDTH, size)
        used: list[bytes] = []
        todo: list[tuple[str, bytes]] = []
        for level, n, width in new_tiles(begin, size):
            if level == "entries":
                bundle = list(islice(lines, width))
                used = used or bundle
                todo.append((tile_path(level, n, width), encode_bundle(bundle)))
            else:
                todo.append((tile_path(level, n, width), self._tile(head, level, n, width)))
            if len(todo) >= _AT_ONCE:
                self._bucket.each(self._put, todo)
                todo.clear()
        self._bucket.each(self._put, todo)
        if begin == head.tiled and begin % TILE_WIDTH:
            self._heal(first, begin % TILE_WIDTH, min(TILE_WIDTH, size - first * TILE_WIDTH), used)

    def _tile(self, head: HeadObject, level: int, n: int, width: int) -> bytes:
        hashes = self._store.tiles.hashes(head, level, n * TILE_WIDTH, n * TILE_WIDTH + width)
        if len(hashes) != width * HASH_BYTES:
            raise LogDamaged(
                f"{tile_path(level, n, width)} cannot be made: {self._store.url} lacks hashes below it.",
                kind_of_damage="tree_short",
            )
        return hashes

    def _put(self, item: tuple[str, bytes]) -> None:
        put_same(self._store, *item)

    def _heal(self, n: int, had: int, width: int, used: list[bytes]) -> None:
        """See whether entries were purged in the partial bundle while a larger one was made of it."""
        found = self._bucket.get(tile_path("entries", n, had))
        if found is None:
            return
        now = self._store.tiles.decode(tile_path("entries", n, had), found.data)
        changes = {n * TILE_WIDTH + i: line for i, line in enumerate(now) if line != used[i]}
        if changes:
            rewrite(self._store, tile_path("entries", n, width), n, changes)

    def _drop_partials(self, begin: int, size: int) -> None:
        """Remove partial tiles that full ones replace; readers of smaller checkpoints take the full ones."""
        levels: list[TileLevel] = [level for level in range(8) if begin >> TILE_HEIGHT * level]
        for level in (*levels, "entries"):
            height = 0 if level == "entries" else TILE_HEIGHT * int(level)
            n, width = divmod(begin >> height, TILE_WIDTH)
            if width and (n + 1) * TILE_WIDTH <= size >> height:
                with contextlib.suppress(AuditUnavailable):
                    self._bucket.delete([one.path for one in self._bucket.listed(tile_path(level, n) + ".p")])

    # --- what is small ----------------------------------------------------------------------------

    def _put_small(self, head: HeadObject, begin: int, size: int) -> None:
        for staged in head.tail:
            if staged.end <= begin or staged.begin >= size:
                continue
            for kept_size, note in self._store.tiles.staging(staged).kept.items():
                if kept_size <= size:
                    put_kept(self._store, kept_size, note)
            if self._day is None:
                days = (parse_day_path(one.path) for one in self._bucket.listed("days"))
                self._day = max((one[0] for one in days if one is not None), default=dt.date.min)
            if staged.day > self._day:
                path = day_path(staged.day, staged.begin)
                put_same(self._store, path, path.rpartition("/")[2].encode() + b"\n")
                self._day = staged.day

    # --- what goes --------------------------------------------------------------------------------

    def clean(self) -> None:
        """Remove staging objects that nobody needs. What cannot be removed, or not now, stays."""
        with self._mutex, contextlib.suppress(AuditUnavailable):
            gone, self._gone = self._gone, []
            self._bucket.delete([staging_path(staged.name) for staged in gone])
            for staged in gone:
                self._store.tiles.forget(staged)
            if time.monotonic() - self._swept > _SWEEP_S:
                self._swept = time.monotonic()
                sweep(self._store)


class ObjectPublication:
    """See `klingai_audit.ledger.store.Publication`; another process may publish at the same time."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store
        self._bucket = store.bucket

    def put_kept(self, size: int, note: bytes) -> None:
        put_kept(self._store, size, note)

    def put_token(self, size: int, token: bytes) -> None:
        path = token_path(size)
        if not self._bucket.put_new(path, token) and self._store.read_token(size) != token:
            raise HeadConflict(f"Another time stamp of the checkpoint of size {size} is there already.")

    def put_checkpoint(self, note: bytes) -> None:
        """Publish, unless a larger one is published already. Raises: AuditUnavailable, LogDamaged."""
        size = note_size(note)
        deadline = time.monotonic() + PATIENCE_S
        while True:
            there = self._bucket.get(CHECKPOINT)
            if there is not None:
                public = self._store.finisher.size_of(there)
                self._store.finisher.note(public)
                if public > size or there.data == note:
                    break
            self._finish(size)
            try:
                self._bucket.swap(CHECKPOINT, note, None if there is None else there.tag)
                break
            except Refused:
                reason, denied = "it changes again and again", False
            except Unsure as exc:
                reason, denied = exc.reason, exc.denied
            if time.monotonic() > deadline:
                raise self._bucket.unavailable("writing checkpoint", reason, denied=denied)
            time.sleep(_PAUSE_S)
        self._store.finisher.clean()

    def _finish(self, size: int) -> None:
        head = self._store.look()
        if head is None or head.size < size:
            raise LogDamaged(
                f"The object `head` of {self._store.url} covers {head.size if head else 0} entries, "
                f"fewer than the {size} that were signed.",
                kind_of_damage="rollback",
            )
        self._store.steadily(head, lambda now: self._store.finisher.finish(now, size))


# --- objects that are written once -----------------------------------------------------------------------------------


def put_same(store: ObjectStore, path: str, data: bytes) -> None:
    """Create an object that is the same whoever makes it. Raises: LogDamaged if another one is there."""
    if store.bucket.put_new(path, data):
        return
    found = store.bucket.get(path)
    if found is None:  # a partial one that was replaced by a full one in this moment
        return
    if found.data != data and not (path.startswith("tile/entries/") and _same_leaves(store, path, found.data, data)):
        raise LogDamaged(
            f"{path} of {store.url} is not what the signed entries make of it.",
            kind_of_damage="entry_changed" if path.startswith("tile/entries/") else "tree_changed",
        )


def _same_leaves(store: ObjectStore, path: str, there: bytes, data: bytes) -> bool:
    """Tell whether two bundles differ only in what was purged."""
    old, new = (store.tiles.decode(path, one) for one in (there, data))
    return list(map(line_hash, old)) == list(map(line_hash, new))


def put_kept(store: ObjectStore, size: int, note: bytes) -> None:
    """Keep a checkpoint; one of the same tree may be there already, and gets the newer lines. Raises: LogDamaged."""
    path, deadline = kept_path(size), time.monotonic() + PATIENCE_S
    while not store.bucket.put_new(path, note):
        found = store.bucket.get(path)
        if found is not None and found.data == note:
            return
        if found is not None and _text(found.data) != _text(note):
            raise LogDamaged(
                f"{path} of {store.url} is another checkpoint than the one to keep.",
                kind_of_damage="checkpoint_root",
            )
        with contextlib.suppress(Refused, Unsure):
            if found is not None:
                store.bucket.swap(path, note, found.tag)
                return
        if time.monotonic() > deadline:
            raise store.bucket.unavailable(f"writing {path}", "it changes again and again")


def _text(note: bytes) -> bytes:
    return note.partition(b"\n\n")[0]


def rewrite(store: ObjectStore, path: str, n: int, changes: dict[int, bytes]) -> bool:
    """Put purged lines, by `seq`, into bundle `n` at `path`; False if it is not there. Raises: AuditUnavailable."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        found = store.bucket.get(path)
        if found is None:
            return False
        lines = store.tiles.decode(path, found.data)
        changed = [changes.get(n * TILE_WIDTH + i, line) for i, line in enumerate(lines)]
        if changed == lines:
            return True
        try:
            store.bucket.swap(path, encode_bundle(changed), found.tag)
        except Refused:
            reason, denied = "it changes again and again", False
        except Unsure as exc:
            reason, denied = exc.reason, exc.denied
        else:
            return True
        if denied or time.monotonic() > deadline:
            raise store.bucket.unavailable(f"writing {path}", reason, denied=denied)
        time.sleep(_PAUSE_S)


def sweep(store: ObjectStore) -> None:
    """Remove staging objects that writers left who were too slow, or who died. Raises: AuditUnavailable."""
    store.bucket.delete(list(_orphans(store)))


def _orphans(store: ObjectStore) -> Iterator[str]:
    listed = list(store.bucket.listed("staging"))
    found = store.bucket.get(HEAD) if listed else None
    if found is None:
        return
    head = parse_head(found.data, store.url)
    named = {staging_path(staged.name) for staged in head.tail}
    yield from (one.path for one in listed if one.path not in named and one.changed + ORPHAN_S < found.changed)
