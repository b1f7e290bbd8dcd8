"""Archiving a log in a bucket under lock: tiles, bundles and checkpoints that nobody can delete before their date.

The layout is that of a log in a bucket (C2SP tlog-tiles), without what writers need; every object is put once, but
`checkpoint`, of which a newer version follows an older one and never the reverse. Whenever a run stops, the next one
goes on: `checkpoint` comes last. What goes there is compared with the signed tree first.
"""

from __future__ import annotations

import datetime as dt
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from itertools import chain
from typing import Final

from klingai_audit.errors import HeadConflict, InconsistentCheckpoints, InvalidProof, LogDamaged, Malformed, UsageError
from klingai_audit.ledger.purged import line_hash
from klingai_audit.ledger.reader import LogReader
from klingai_audit.publish.locker import Kept, Locker
from klingai_audit.publish.tiles import CHECKPOINT, Progress
from klingai_audit.tlog.checkpoint import Checkpoint, open_checkpoint
from klingai_audit.tlog.hashing import fold_tile
from klingai_audit.tlog.keys import VerifierKey
from klingai_audit.tlog.merkle import root_at, verify_consistency
from klingai_audit.tlog.tile import (
    HASH_BYTES,
    TILE_WIDTH,
    TileLevel,
    decode_bundle,
    encode_bundle,
    new_tiles,
    node_reader,
    tile_path,
)

__all__ = ["LONGEST_DAYS", "Archived", "archive"]

LONGEST_DAYS: Final = 36_500
"""The furthest that a date may lie ahead, in days: it cannot be taken back."""

_THREADS: Final = 8
_AHEAD: Final = 4 * _THREADS
_DAYS: Final = "days/"
_KEPT: Final = "checkpoints/"
_HEAD: Final = "head"


@dataclass(frozen=True, slots=True)
class Archived:
    """What one run did: the tree size before and after, objects and bytes that were new, and the date of their lock."""

    to: str
    old_size: int
    size: int
    objects: int
    bytes: int
    until: dt.datetime


@dataclass(frozen=True, slots=True)
class _Thing:
    """One object to put: its path, and how to make its bytes (None: nothing is there to put)."""

    path: str
    make: Callable[[], bytes | None]


def archive(
    reader: LogReader,
    locker: Locker,
    until: dt.datetime,
    key: VerifierKey,
    *,
    begin: Callable[[int], None] | None = None,
    progress: Progress | None = None,
) -> Archived:
    """Copy what the archive lacks, up to the log's published checkpoint; new objects are kept until `until`.

    `key` is the log's: both checkpoints must be signed by it. `begin` is called with the size that is to be archived
    when everything was checked and nothing has left yet. `progress` gets objects done and objects in all.
    Raises: InvalidSignature; InconsistentCheckpoints (the archive holds a state that this log does not extend);
    LogDamaged (what is stored does not lead to the signed root); HeadConflict (another run archives);
    UsageError; AuditUnavailable; StorageError.
    """
    now = dt.datetime.now(dt.UTC)
    until = until.replace(microsecond=0) + dt.timedelta(seconds=until.microsecond > 0)  # servers keep whole seconds
    if not now < until <= now + dt.timedelta(days=LONGEST_DAYS):
        raise UsageError(f"The date {until:%Y-%m-%d} does not lie ahead, or further than {LONGEST_DAYS:,} days.")
    note = reader.checkpoint_note()
    head, _, _ = open_checkpoint(note, key.name, [key])
    if locker.get(_HEAD) is not None:
        raise UsageError(f"A log lies at {locker.url}, with writers of its own.", do="Name another prefix with --to.")
    before = locker.get(CHECKPOINT)
    old = 0 if before is None else _check_extends(reader, before.data, note, head, key)
    if root_at(head.size, node_reader(reader.store.read_hashes)) != head.root:
        raise LogDamaged("The stored hashes do not lead to the signed root.", kind_of_damage="tree_changed")
    run, small = _Run(locker, until, progress), list(_small(reader, locker, old, head.size))
    total = len(small) + sum(1 for _ in new_tiles(old, head.size))
    if begin is not None and (total or before is None or old < head.size):
        begin(head.size)
    run.put_all(chain(_tiles(reader, old, head.size), small), total)
    if before is None or old < head.size:
        _publish(locker, note, before, until)
    elif before.until is None or before.until < until:
        locker.extend(CHECKPOINT, until)
    return Archived(locker.url, old, head.size, run.objects, run.bytes, until)


def _check_extends(reader: LogReader, older: bytes, newer: bytes, head: Checkpoint, key: VerifierKey) -> int:
    """Return the archived size. Raises: InvalidSignature, InconsistentCheckpoints."""
    before, _, _ = open_checkpoint(older, key.name, [key])
    try:
        if before.size > head.size:
            raise InvalidProof(f"It holds {before.size} entries, the log {head.size}.")
        proof = reader.consistency(before.size, head.size) if 0 < before.size < head.size else ()
        verify_consistency(before.size, head.size, before.root, head.root, proof)
    except (InvalidProof, Malformed) as exc:
        raise InconsistentCheckpoints(
            f"The archive holds a state of this log that the log does not extend. {exc.message}",
            older=older,
            newer=newer,
            do="Preserve both, then run: klingai-audit verify",
        ) from exc
    return before.size


def _publish(locker: Locker, note: bytes, before: Kept | None, until: dt.datetime) -> None:
    try:
        locker.replace(CHECKPOINT, note, None if before is None else before.tag, until)
    except HeadConflict as exc:
        found = locker.get(CHECKPOINT)
        if found is None or found.data != note:  # a put that landed may come back as refused
            raise HeadConflict(
                f"Another run archives to {locker.url} at this moment.", do="Run it again when that one is done."
            ) from exc


# --- what there is to put --------------------------------------------------------------------------------------------


def _tiles(reader: LogReader, old: int, size: int) -> Iterator[_Thing]:
    """Yield the tiles by level, then bundles, that an archive of `old` entries lacks; there may be millions."""
    for level, n, width in new_tiles(old, size):
        yield _Thing(tile_path(level, n, width), _maker(reader, level, n, width))


def _small(reader: LogReader, locker: Locker, old: int, end: int) -> Iterator[_Thing]:
    """Yield what else it lacks: days, kept checkpoints and time stamps."""
    known = {*locker.names(_DAYS), *locker.names(_KEPT)}  # beyond the archived size they are of a run that was stopped
    for day, begin in _days(reader):
        path = f"{_DAYS}{day}/{begin:020}"
        if begin < end and (path not in known or begin >= old):
            yield _Thing(path, lambda: b"")
    for file in reader.store.inspect():
        if file.kind not in ("kept", "token"):
            continue
        size = int(file.name.removeprefix(_KEPT).removesuffix(".tsr"))
        if size <= end and (file.name not in known or size > old):
            read = reader.store.read_kept if file.kind == "kept" else reader.store.read_token
            yield _Thing(file.name, lambda read=read, size=size: read(size))  # type: ignore[misc]


def _days(reader: LogReader) -> Iterator[tuple[str, int]]:
    """Yield (UTC day, its first entry) of each day, as the store has it; of one that just begins perhaps nothing."""
    # The newest day is asked for first: with one that begins in between, its name would get another's first entry.
    newest = max((file.name[6:16] for file in reader.store.inspect() if file.kind == "entries"), default=None)
    day, end = None, 0
    for old in reader.store.old_days():
        day, end = old.day.isoformat(), old.end
        yield day, old.begin
    if newest is not None and (day is None or newest > day):
        yield newest, end


def _maker(reader: LogReader, level: TileLevel, n: int, width: int) -> Callable[[], bytes]:
    def make() -> bytes:
        begin, path = n * TILE_WIDTH, tile_path(level, n, width)
        below = 0 if level == "entries" else level
        hashes = reader.store.read_hashes(below, begin, begin + width)
        if len(hashes) != width * HASH_BYTES:
            raise LogDamaged(f"The log does not hold all of {path}.", kind_of_damage="tree_short")
        if level == "entries":
            lines = list(reader.lines(begin, begin + width))
            if b"".join(map(line_hash, lines)) != hashes:
                raise LogDamaged(f"Entries {begin} to {begin + width - 1} are not those that were signed.",
                                 kind_of_damage="entry_changed")  # fmt: skip
            return encode_bundle(lines)
        if width == TILE_WIDTH and reader.store.read_hashes(level + 1, n, n + 1) != fold_tile(hashes):
            raise LogDamaged(f"{path} is not what was signed.", kind_of_damage="tree_changed")
        return hashes

    return make


# --- putting it ------------------------------------------------------------------------------------------------------


class _Run:
    """Puts objects, several at a time."""

    def __init__(self, locker: Locker, until: dt.datetime, progress: Progress | None) -> None:
        self.objects = self.bytes = 0
        self._locker = locker
        self._until = until
        self._progress = progress
        self._mutex = threading.Lock()

    def put_all(self, things: Iterable[_Thing], total: int) -> None:
        """Put what is not there; the first error ends it. `total` is how many there are, for those who watch."""
        done = 0
        with ThreadPoolExecutor(_THREADS, thread_name_prefix="klingai-audit-archive") as pool:
            under_way: set[Future[None]] = set()
            try:
                for thing in things:
                    under_way.add(pool.submit(self._put, thing))
                    if len(under_way) >= _AHEAD:
                        finished, under_way = wait(under_way, return_when=FIRST_COMPLETED)
                        done += self._settle(finished)
                        self._tell(done, total)
                self._settle(under_way)
                self._tell(total, total)
            finally:
                for future in under_way:
                    future.cancel()

    def _tell(self, done: int, total: int) -> None:
        if self._progress is not None:
            self._progress(done, total)

    @staticmethod
    def _settle(finished: Iterable[Future[None]]) -> int:
        count = 0
        for future in finished:
            future.result()
            count += 1
        return count

    def _put(self, thing: _Thing) -> None:
        data = thing.make()
        if data is None:
            return
        if self._locker.put_new(thing.path, data, self._until):
            with self._mutex:
                self.objects += 1
                self.bytes += len(data)
            return
        found = self._locker.get(thing.path)
        if found is None or not _is_same(thing.path, found.data, data):
            raise LogDamaged(
                f"{self._locker.url} holds another {thing.path} than the log.",
                kind_of_damage="history_rewritten",
                do="Preserve both, and find out who wrote there: klingai-audit verify",
            )
        if found.until is None or found.until < self._until:
            self._locker.extend(thing.path, self._until)


def _is_same(path: str, archived: bytes, here: bytes) -> bool:
    """Tell whether an object says the same; entries that were purged here since count as the same."""
    if archived == here or not path.startswith("tile/entries/"):
        return archived == here
    try:
        return [line_hash(line) for line in decode_bundle(archived)] == [
            line_hash(line) for line in decode_bundle(here)
        ]
    except Malformed:
        return False
