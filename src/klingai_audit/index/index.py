"""The index of one log: opened beside any store, kept up to date, asked in SQL."""

from __future__ import annotations

import contextlib
import ctypes
import os
import threading
import weakref
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self

from klingai_audit.durable import OPS, FileOps
from klingai_audit.errors import LogNotFound, Malformed, StorageError
from klingai_audit.index.build import NOT_PURGED, SEGMENT_ENTRIES, Builder, Progress
from klingai_audit.index.columns import SCHEMA, empty_sql, events_sql
from klingai_audit.index.engine import connect, cursor_of, fetch, quote
from klingai_audit.index.folder import IndexFolder
from klingai_audit.index.lines import Lines
from klingai_audit.index.manifest import Manifest, Part, Segment
from klingai_audit.index.places import Places
from klingai_audit.index.sandbox import MEMORY, ROW_LIMIT, SECONDS, Gone, Table, run_sql
from klingai_audit.ledger.purged import line_hash
from klingai_audit.ledger.reader import LogReader
from klingai_audit.tlog.checkpoint import Checkpoint, parse_checkpoint
from klingai_audit.tlog.merkle import root_at
from klingai_audit.tlog.note import parse_note
from klingai_audit.tlog.tile import node_reader

if TYPE_CHECKING:
    import duckdb

__all__ = ["Index"]

_MAX_SMALL: Final = 8
_FETCHED: Final = 2048
_WINDOWS: Final = (1 << 13, 1 << 17)
_VERSION_AT: Final = 14
_END_VERSION: Final = "8"  # UUIDv8: ids of ends, which several writers make alike by design


class Index:
    """A log's entries as columns; made by `Index.open`. Threads and forked children may share it.

    It covers every whole line that stood in the log at the last `refresh`, signed or not yet.
    """

    def __init__(self, reader: LogReader, folder: IndexFolder, progress: Progress | None) -> None:
        self._reader = reader
        self._folder = folder
        self._progress = progress
        self._mutex = threading.RLock()
        self._manifest: Manifest | None = None
        self._engine: duckdb.DuckDBPyConnection | None = None
        self._repeated: tuple[Part | None, frozenset[int]] | None = None
        self._places = Places(folder.path, ())
        self._lines = Lines(reader, self._place_of)
        _OPEN.add(self)

    @classmethod
    def open(
        cls,
        reader: LogReader,
        folder: Path,
        *,
        ops: FileOps = OPS,
        progress: Progress | None = None,
        temporary: bool = True,
    ) -> Index:
        """Open the index of the log behind `reader` and bring it up to date; it is built if there is none.

        `folder` is where it lies (`index` in the state folder); one that cannot be written is replaced by a
        temporary one, or refused unless `temporary`. `progress` is called with the number of entries covered so far,
        in a build.
        Raises: Malformed for a log that holds a line that is no entry, StorageError.
        """
        index = cls(reader, IndexFolder(folder, ops, temporary=temporary), progress)
        index.refresh()
        return index

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Release the engine, and the folder if it is a temporary one."""
        with self._mutex:
            if self._engine is not None:
                self._engine.close()
            self._engine = self._manifest = None
            self._folder.close()

    # --- what it covers ---------------------------------------------------------------------------

    @property
    def size(self) -> int:
        """Entries covered, `[0, size)`."""
        return 0 if self._manifest is None else self._manifest.size

    @property
    def checkpoint(self) -> bytes | None:
        """The published checkpoint under which the covered entries stand, but for those beyond its size; or None."""
        return None if self._manifest is None else self._manifest.checkpoint.encode() or None

    def refresh(self) -> int:
        """Take in what was appended since; returns the number of entries covered.

        A log that is not the continuation of what was indexed, and an index that was changed, are taken anew.
        Raises: Malformed for a line that is no entry, StorageError.
        """
        with self._mutex:
            note = self._note()
            manifest = self._folder.load()
            if manifest is None or not self._is_current(manifest, note):
                with self._folder.lock():
                    manifest = self._catch_up(self._folder.load(), note)
            self._use(manifest)
            return manifest.size

    def _note(self) -> str:
        """Return the published checkpoint, empty if there is none."""
        with contextlib.suppress(LogNotFound):
            return self._reader.checkpoint_note().decode("utf-8", "replace")
        return ""

    def _is_current(self, manifest: Manifest, note: str) -> bool:
        if not note or manifest.checkpoint != note:
            return False
        self._use(manifest)
        last = manifest.segments[-1] if manifest.segments else None
        return (
            last is not None
            and not self._lines.grown(last.places[1], last.end)
            and manifest.sealed == self._lines.sealed()
        )

    def _catch_up(self, manifest: Manifest | None, note: str) -> Manifest:
        """Return the manifest of the whole log; under the lock."""
        head = _parse(note)
        origin = "" if head is None else head.origin
        kept = () if manifest is None else self._consistent(manifest, head)
        self._folder.sweep(manifest)
        before = Manifest(schema=SCHEMA, origin=origin, checkpoint="", segments=kept)
        self._use(before)
        sealed = self._lines.sealed()
        begin, place = (kept[-1].end, kept[-1].places[1]) if kept else (0, 0)
        builder = Builder(self._folder.path, self._folder.ops)
        repeats = None if manifest is None else manifest.repeats
        try:
            if repeats is not None and manifest is not None and begin < manifest.size:
                repeats = builder.cut_repeats(repeats, begin)
            made = builder.build(self._lines.blocks(begin, place), begin, place, self._progress)
            repeats = builder.find_repeats(made, kept, repeats)
            segments = _merged([*kept, *made], builder)
        except OSError as exc:
            raise StorageError(
                f"The index in {self._folder.path} cannot be written: {exc.strerror}.",
                do="Free space, or give another state folder with --state.",
            ) from exc
        after = Manifest(
            schema=SCHEMA, origin=origin, checkpoint=note, segments=tuple(segments), repeats=repeats, sealed=sealed
        )
        if after != manifest:
            self._folder.store(after)
        return after

    def _consistent(self, manifest: Manifest, head: Checkpoint | None) -> tuple[Segment, ...]:
        """Return the segments that the log as it is now still bears out."""
        old = _parse(manifest.checkpoint)
        if manifest.origin != ("" if head is None else head.origin):
            return ()
        if old is not None and (head is None or head.size < old.size or self._root(old.size) not in (None, old.root)):
            return ()
        kept = list(manifest.segments)
        fresh = [name for name, known in self._lines.sealed().items() if manifest.sealed.get(name) != known]
        purged = self._lines.first_purged(fresh) if fresh else None
        while kept and purged is not None and kept[-1].end > purged:
            kept.pop()
        while kept:
            line = next(iter(self._reader.lines(kept[-1].end - 1, kept[-1].end)), b"")
            if line_hash(line).hex() == kept[-1].leaf:
                break
            kept.pop()
        return tuple(kept)

    def _root(self, size: int) -> bytes | None:
        """Return the root of the log's first `size` entries by its stored hashes; None if those are not there."""
        try:
            return root_at(size, node_reader(self._reader.store.read_hashes))
        except (Malformed, StorageError):
            return None

    # --- asking -----------------------------------------------------------------------------------

    def rows(self, sql: str, params: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """Run a SELECT of ours over the view `events` and return its rows; times are aware, in UTC.

        Not for SQL that came from outside: see `sql`.
        """
        import duckdb

        with self._cursor() as cursor:
            try:
                return fetch(cursor, sql, params)
            except duckdb.IOException:  # another process merged segments away
                pass
        self.refresh()
        with self._cursor() as cursor:
            try:
                return fetch(cursor, sql, params)
            except duckdb.IOException as exc:
                raise self._lost() from exc

    def sql(self, text: str, *, limit: int = ROW_LIMIT, seconds: float = SECONDS, memory: int = MEMORY) -> Table:
        """Run one SELECT of a user over the view `events` (docs/sql.md).

        It runs in a process of its own that reads the index and nothing else. At most `limit` rows come back (`more`
        tells whether there were more), within `seconds` and about `memory` bytes.
        Raises: UsageError: not one SELECT, not understood, not allowed, or over a limit.
        """
        for _ in range(3):
            manifest = self._current()
            paths = self._paths(manifest)
            try:
                return run_sql(
                    text,
                    events_sql(f"({self._stored(manifest)})", self._repeats(manifest)),
                    paths,
                    limit=limit,
                    seconds=seconds,
                    memory=memory,
                )
            except Gone:
                self.refresh()
        raise self._lost()

    def _lost(self) -> StorageError:
        return StorageError(
            f"Files of the index in {self._folder.path} cannot be read.",
            do="Find out what removes or changes them; the index is derived and may be deleted.",
        )

    def _current(self) -> Manifest:
        with self._mutex:
            if self._manifest is None:
                self.refresh()
            return self._manifest or Manifest(schema=SCHEMA, origin="", checkpoint="")

    def _paths(self, manifest: Manifest) -> list[str]:
        parts = (*manifest.segments, *([manifest.repeats] if manifest.repeats else []))
        return [str(self._folder.path / part.name) for part in parts]

    def lines(
        self, where: str = "", params: Sequence[Any] = (), *, newest: bool = False, fold: bool = False
    ) -> Iterator[bytes]:
        """Yield the stored bytes, read from the log, of the entries that a condition of ours finds.

        `where` is an SQL condition on stored columns of `events`, empty for none. They come in log order or newest
        first, without LF; with `fold` without those that tell again of an end that was told before.
        Raises, while iterating: `klingai_audit.index.lines.Stale` for the first that the log does not have as the
        index has it; StorageError.
        """
        import duckdb

        told_again = self.repeats if fold else frozenset[int]()
        size = self.size
        steps = (size, *(max(0, size - step) for step in _WINDOWS), 0) if newest else (size, 0)
        with self._cursor() as cursor:
            for end, begin in pairwise(steps):
                if begin == end:
                    continue
                conditions = [f"({where})"] if where else []
                conditions += [f"seq >= {begin}"] if begin else []
                conditions += [f"seq < {end}"] if end != size else []
                sql = f"SELECT seq, event_id FROM stored{' WHERE ' if conditions else ''}{' AND '.join(conditions)}"
                try:
                    cursor.execute(f"{sql} ORDER BY seq {'DESC' if newest else 'ASC'}", list(params))
                except duckdb.IOException as exc:
                    raise self._lost() from exc
                yield from self._lines.read(_in_batches(cursor, told_again))

    @property
    def repeats(self) -> frozenset[int]:
        """The entries, by `seq`, whose event id stands in an earlier one."""
        with self._mutex:
            manifest = self._current()
            if self._repeated is None or self._repeated[0] != manifest.repeats:
                rows = [] if manifest.repeats is None else self.rows(f"SELECT seq FROM {self._repeats(manifest)}")
                self._repeated = (manifest.repeats, frozenset(row[0] for row in rows))
            return self._repeated[1]

    def discard(self) -> None:
        """Let the index be made anew at the next refresh."""
        with self._mutex, self._folder.lock():
            self._folder.discard()
            self._manifest = None

    @contextlib.contextmanager
    def _cursor(self) -> Iterator[duckdb.DuckDBPyConnection]:
        with self._mutex:
            if self._engine is None:
                self.refresh()
            cursor = cursor_of(self._opened())
        with contextlib.closing(cursor):
            yield cursor

    def _opened(self) -> duckdb.DuckDBPyConnection:
        if self._engine is None:
            self._engine = connect()
        return self._engine

    def _use(self, manifest: Manifest) -> None:
        """Let the views show the segments of a manifest."""
        old = self._manifest
        if old is None or self._engine is None or (old.segments, old.repeats) != (manifest.segments, manifest.repeats):
            engine = self._opened()
            engine.execute(f"CREATE OR REPLACE VIEW stored AS {self._stored(manifest)}")
            engine.execute(f"CREATE OR REPLACE VIEW events AS {events_sql('stored', self._repeats(manifest))}")
            self._manifest = manifest
            self._places = Places(self._folder.path, manifest.segments)
            self._lines.refresh()
        self._manifest = manifest

    def _stored(self, manifest: Manifest) -> str:
        if not manifest.segments:
            return empty_sql()
        files = ", ".join(quote(str(self._folder.path / part.name)) for part in manifest.segments)
        return f"SELECT * FROM read_parquet([{files}])" + (f" WHERE {NOT_PURGED}" if manifest.sealed else "")

    def _repeats(self, manifest: Manifest) -> str:
        part = manifest.repeats
        if part is None:
            return "(SELECT 0 AS seq WHERE FALSE)"
        return f"read_parquet({quote(str(self._folder.path / part.name))})"

    def _place_of(self, seq: int) -> int | None:
        return 0 if seq == 0 else self._places.find(seq)

    def after_fork(self) -> None:
        """In a forked child: take an engine of its own. The parent's is never freed here: its threads stayed behind."""
        self._mutex = threading.RLock()
        if self._engine is not None:
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(self._engine))
        self._engine = self._manifest = None


_OPEN: weakref.WeakSet[Index] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    for made in list(_OPEN):
        made.after_fork()


os.register_at_fork(after_in_child=_after_fork_in_child)


def _in_batches(cursor: duckdb.DuckDBPyConnection, told_again: frozenset[int]) -> Iterator[tuple[int, str]]:
    import duckdb

    while True:
        try:
            batch = cursor.fetchmany(_FETCHED)
        except duckdb.Error as exc:
            raise StorageError("The index was closed while it was read.", do="Ask again.") from exc
        if not batch:
            return
        for seq, event_id in batch:
            if seq not in told_again or event_id[_VERSION_AT] != _END_VERSION:
                yield seq, event_id


def _parse(note: str) -> Checkpoint | None:
    try:
        return parse_checkpoint(parse_note(note.encode()).text) if note else None
    except Malformed:
        return None


def _merged(segments: Sequence[Segment], builder: Builder) -> list[Segment]:
    """Merge the small segments of each full stretch, and those of the tail when there are many."""
    merged: list[Segment] = []
    group: list[Segment] = []
    for number, segment in enumerate(segments):
        group.append(segment)
        last = number == len(segments) - 1
        full = segment.end % SEGMENT_ENTRIES == 0
        if full or last:
            many = len(group) > (1 if full else _MAX_SMALL)
            merged += [builder.merge(group)] if many else group
            group = []
    return merged
