"""Making segments: lines of the log into Parquet files. One builder at a time, which holds the folder's lock."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from klingai_audit.durable import PRIVATE_MODE, TEMPORARY_SUFFIX, FileOps
from klingai_audit.errors import Malformed
from klingai_audit.index.columns import read_sql
from klingai_audit.index.engine import quote
from klingai_audit.index.manifest import Segment, digest_file, identity_of
from klingai_audit.tlog.merkle import leaf_hash

if TYPE_CHECKING:
    import duckdb

__all__ = ["SEGMENT_ENTRIES", "Builder"]

SEGMENT_ENTRIES: Final = 65_536
"""Entries of a full segment; smaller ones hold the log's tail until they are merged."""

_COPY: Final = "COPY ({}) TO {} (FORMAT parquet, COMPRESSION zstd, COMPRESSION_LEVEL 1, ROW_GROUP_SIZE 65536)"
_EVENT_ID: Final = slice(24, 60)

Progress = Callable[[int], None]
"""Called with the number of entries covered so far."""


@dataclass(frozen=True, slots=True)
class _Chunk:
    """Lines written for the engine to read: entries `[begin, end)` at positions `places`."""

    path: Path
    begin: int
    end: int
    places: tuple[int, int]
    leaf: str


class Builder:
    """Makes the segments of one refresh; `engine` is this builder's own."""

    def __init__(self, folder: Path, engine: duckdb.DuckDBPyConnection, ops: FileOps) -> None:
        self._folder = folder
        self._engine = engine
        self._ops = ops
        self._number = 0

    def build(
        self, lines: Iterator[bytes], begin: int, place: int, old: Sequence[Segment], progress: Progress | None
    ) -> list[Segment]:
        """Return durable segments for `lines`, which are the entries from `begin` on, the first at position `place`.

        `old` are the segments before them. Raises: Malformed for a line that is no entry, or not the one that
        belongs there; OSError.
        """
        made: list[Segment] = []
        workers = min(4, os.cpu_count() or 1)
        with ThreadPoolExecutor(workers) as pool:
            under_way: list[Future[Segment]] = []
            for chunk in self._chunks(lines, begin, place):
                under_way.append(pool.submit(self._segment, chunk))
                if len(under_way) > workers:
                    made.append(under_way.pop(0).result())
                    if progress is not None:
                        progress(made[-1].end)
            made += [future.result() for future in under_way]
        made = self._mark_repeats(made, old)
        if made:
            self._ops.sync_folder(self._folder)
        return made

    def merge(self, parts: Sequence[Segment]) -> Segment:
        """Return one durable segment that holds what `parts`, neighbours in order, hold."""
        files = ", ".join(quote(str(self._folder / part.name)) for part in parts)
        first, last = parts[0], parts[-1]
        chunk = _Chunk(Path(), first.begin, last.end, (first.places[0], last.places[1]), last.leaf)
        return self._write(f"SELECT * FROM read_parquet([{files}])", chunk)

    def _chunks(self, lines: Iterator[bytes], begin: int, place: int) -> Iterator[_Chunk]:
        while True:
            wanted = SEGMENT_ENTRIES - begin % SEGMENT_ENTRIES
            path = self._folder / f"lines-{begin}{TEMPORARY_SUFFIX}"
            fd = self._ops.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, PRIVATE_MODE)
            end, here, last = begin, place, b""
            try:
                while batch := list(islice(lines, min(4096, wanted - (end - begin)))):
                    pieces = []
                    for line in batch:
                        if line[:1] != b"{":
                            raise _not_an_entry(line)
                        pieces.append(b'{"place":%d,%b' % (here, line[1:]))
                        here += len(line) + 1
                    pieces.append(b"")
                    self._ops.write_all(fd, b"\n".join(pieces))
                    end, last = end + len(batch), batch[-1]
            finally:
                self._ops.close(fd)
            if end == begin:
                self._ops.unlink(path)
                return
            yield _Chunk(path, begin, end, (place, here), leaf_hash(last).hex())
            begin, place = end, here

    def _segment(self, chunk: _Chunk) -> Segment:
        import duckdb

        try:
            return self._write(read_sql(quote(str(chunk.path))), chunk)
        except duckdb.Error as exc:
            raise _find_bad_line(chunk.path) or exc from exc
        finally:
            self._ops.unlink(chunk.path)

    def _write(self, sql: str, chunk: _Chunk) -> Segment:
        self._number += 1
        temporary = self._folder / f"segment-{chunk.begin}-{self._number}{TEMPORARY_SUFFIX}"
        with self._engine.cursor() as cursor:
            cursor.execute(_COPY.format(sql, quote(str(temporary))))
            row = cursor.execute(
                "SELECT count(*), min(seq), max(seq), count(DISTINCT seq) FROM read_parquet(?)", [str(temporary)]
            ).fetchone()
        count = chunk.end - chunk.begin
        if row != (count, chunk.begin, chunk.end - 1, count):
            raise Malformed(
                f"Lines {chunk.begin} to {chunk.end - 1} of the log do not hold the entries of these numbers.",
                do="Preserve the files as they are and run: klingai-audit verify",
            )
        fd = self._ops.open(temporary, os.O_RDONLY)
        try:
            self._ops.sync(fd)
        finally:
            self._ops.close(fd)
        digest = digest_file(temporary)
        path = self._folder / f"{chunk.begin:012}-{chunk.end:012}-{digest[:16]}.parquet"
        self._ops.rename(temporary, path)
        return Segment(
            name=path.name,
            begin=chunk.begin,
            end=chunk.end,
            places=chunk.places,
            leaf=chunk.leaf,
            sha256=digest,
            identity=identity_of(path),
        )

    def _mark_repeats(self, made: list[Segment], old: Sequence[Segment]) -> list[Segment]:
        """Write again, with `first` false where an event id was seen before, the segments that hold such entries."""
        if not made:
            return made
        new = self._files(made)
        again = f"SELECT event_id FROM {new} GROUP BY event_id HAVING count(*) > 1"
        if old:
            again += f" UNION SELECT event_id FROM {new} WHERE event_id IN (SELECT event_id FROM {self._files(old)})"
        with self._engine.cursor() as cursor:
            ids = cursor.execute(again).fetchall()
            if not ids:
                return made
            cursor.execute(f"CREATE OR REPLACE TEMP TABLE again AS {again}")
            cursor.execute(
                "CREATE OR REPLACE TEMP TABLE repeats AS SELECT seq FROM (SELECT seq, event_id, row_number() OVER"
                f" (PARTITION BY event_id ORDER BY seq) AS n FROM {self._files([*old, *made])}"
                " WHERE event_id IN (SELECT event_id FROM again)) WHERE n > 1"
            )
            repeats = [row[0] for row in cursor.execute("SELECT seq FROM repeats").fetchall()]
        return [self._marked(part, repeats) for part in made]

    def _marked(self, part: Segment, repeats: list[int]) -> Segment:
        inside = [seq for seq in repeats if part.begin <= seq < part.end]
        if not inside:
            return part
        sql = f"SELECT * REPLACE (seq NOT IN ({', '.join(map(str, inside))}) AS first)"
        chunk = _Chunk(Path(), part.begin, part.end, part.places, part.leaf)
        marked = self._write(f"{sql} FROM {self._files([part])}", chunk)
        if marked.name != part.name:
            self._ops.unlink(self._folder / part.name)
        return marked

    def _files(self, parts: Iterable[Segment]) -> str:
        return f"read_parquet([{', '.join(quote(str(self._folder / part.name)) for part in parts)}])"


def _not_an_entry(line: bytes) -> Malformed:
    return Malformed(
        f"A line of the log is not an entry ({len(line)} bytes).",
        do="Preserve the files as they are and run: klingai-audit verify",
    )


def _find_bad_line(path: Path) -> Malformed | None:
    with path.open("rb") as file:
        for line in file:
            try:
                msgspec.json.decode(line)
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
                return _not_an_entry(line)
    return Malformed("An entry cannot be read as columns.", do="Run: klingai-audit verify")
