"""Making segments: lines of the log into Parquet files. One builder at a time, which holds the folder's lock."""

from __future__ import annotations

import contextlib
import os
from array import array
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import accumulate, count
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from klingai_audit.durable import PRIVATE_MODE, TEMPORARY_SUFFIX, FileOps
from klingai_audit.errors import Malformed
from klingai_audit.index.columns import read_sql
from klingai_audit.index.engine import connect, quote
from klingai_audit.index.lines import Block
from klingai_audit.index.manifest import Part, Segment, digest_file, identity_of
from klingai_audit.index.places import PLACES_SUFFIX, Places, pack_places
from klingai_audit.index.scratch import Scratch
from klingai_audit.ledger.line import PURGED_PREFIX
from klingai_audit.ledger.purged import line_hash

if TYPE_CHECKING:
    import duckdb

__all__ = ["NOT_PURGED", "SEGMENT_ENTRIES", "Builder", "Progress"]

SEGMENT_ENTRIES: Final = 65_536
"""Entries of a full segment; smaller ones hold the log's tail until they are merged."""

_PURGED_TYPE: Final = "(purged)"
NOT_PURGED: Final = f"event_type <> '{_PURGED_TYPE}'"
"""Condition of SQL on the rows of segments: those of entries that are there."""

_COPY: Final = (
    "COPY ({}) TO {} (FORMAT parquet, COMPRESSION zstd, COMPRESSION_LEVEL 1, ROW_GROUP_SIZE 65536,"
    " PARQUET_VERSION v2, DICTIONARY_SIZE_LIMIT 5000, WRITE_BLOOM_FILTER false)"
)

_WHOLE: Final = (
    f" AND event_type IS NOT NULL AND (event_type = '{_PURGED_TYPE}'"
    + "".join(
        f"{before} {name} IS NOT NULL"
        for before, name in ((" OR", "event_id"), *((" AND", name) for name in ("timestamp", "logged_at", "outcome")))
    )
    + ")"
)
_MAX_BYTES: Final = 256 << 20
_IDS_AT_ONCE: Final = 1 << 23

Progress = Callable[[int], None]
"""Called with the number of entries covered so far."""


@dataclass(frozen=True, slots=True)
class _Chunk:
    """Lines written for the engine to read: entries `[begin, end)`, each at its place, the last one's leaf hash."""

    scratch: Scratch | None
    begin: int
    end: int
    places: array[int]
    place_after: int
    leaf: str


class Builder:
    """Makes the segments of one refresh."""

    def __init__(self, folder: Path, ops: FileOps) -> None:
        self._folder = folder
        self._ops = ops
        self._number = count()

    def build(self, blocks: Iterator[Block], begin: int, place: int, progress: Progress | None) -> list[Segment]:
        """Return durable segments for the lines of `blocks`: the entries from `begin` on, the first at `place`.

        Raises: Malformed for a line that is no entry, or not the one that belongs there; OSError.
        """
        made: list[Segment] = []
        workers = 1 + max(2, min(4, os.cpu_count() or 1))  # one waits for the disk
        with ThreadPoolExecutor(workers) as pool:
            under_way: deque[Future[Segment]] = deque()
            for number, chunk in enumerate(self._chunks(blocks, begin, place)):
                under_way.append(pool.submit(self._segment, chunk))
                if len(under_way) > workers:
                    made.append(under_way.popleft().result())
                if progress is not None and number:  # one segment alone is made at once
                    progress(made[-1].end if made else begin)
            several = len(made) + len(under_way) > 1
            for future in under_way:
                made.append(future.result())
                if progress is not None and several:
                    progress(made[-1].end)
        return made

    def merge(self, parts: Sequence[Segment]) -> Segment:
        """Return one durable segment that holds what `parts`, neighbours in order, hold."""
        return self._write(f"SELECT * FROM {self._files(parts)}", self._chunk_of(parts))

    def _chunk_of(self, parts: Sequence[Segment]) -> _Chunk:
        places = array("Q")
        known = Places(self._folder, parts)
        places.extend(known.find(seq) or 0 for part in parts for seq in range(part.begin, part.end))
        first, last = parts[0], parts[-1]
        return _Chunk(None, first.begin, last.end, places, last.places[1], last.leaf)

    def _chunks(self, blocks: Iterator[Block], begin: int, place: int) -> Iterator[_Chunk]:
        rest: deque[Block] = deque()
        while True:
            scratch = Scratch(self._folder, f"lines-{begin}", self._ops)
            places, last = array("Q"), b""
            wanted, first = SEGMENT_ENTRIES - begin % SEGMENT_ENTRIES, place
            try:
                while (
                    wanted
                    and place - first < _MAX_BYTES
                    and (block := rest.popleft() if rest else next(blocks, None)) is not None
                ):
                    if len(block.lengths) > wanted:
                        block, after = _split(block, wanted)
                        rest.append(after)
                    scratch.write(_readable(block, begin + len(places)))
                    steps = accumulate(block.lengths, initial=place)
                    places.extend(steps)
                    place = places.pop()
                    wanted -= len(block.lengths)
                    last = block.data[-block.lengths[-1] : -1]
            except BaseException:
                scratch.discard()
                raise
            if not places:
                scratch.discard()
                return
            yield _Chunk(scratch, begin, begin + len(places), places, place, line_hash(last).hex())
            begin += len(places)

    def _segment(self, chunk: _Chunk) -> Segment:
        import duckdb

        path = chunk.scratch.path if chunk.scratch is not None else Path()
        try:
            return self._write(read_sql(quote(str(path))), chunk)
        except duckdb.Error as exc:
            raise _find_bad_line(path) or exc from exc
        finally:
            if chunk.scratch is not None:
                chunk.scratch.discard()

    def _write(self, sql: str, chunk: _Chunk) -> Segment:
        temporary = self._folder / f"segment-{chunk.begin}-{next(self._number)}{TEMPORARY_SUFFIX}"
        # An engine of its own with one thread: segments are made side by side. It does not keep the order of lines.
        with contextlib.closing(connect(threads=1)) as engine:
            engine.execute(_COPY.format(f"{sql} ORDER BY seq", quote(str(temporary))))
            row = engine.execute(
                f"SELECT count(*), bool_and(seq = {chunk.begin} + file_row_number{_WHOLE})"
                f" FROM read_parquet({quote(str(temporary))}, file_row_number=true)"
            ).fetchone()
        if row != (chunk.end - chunk.begin, True):
            raise Malformed(
                f"Lines {chunk.begin} to {chunk.end - 1} of the log do not hold the entries of these numbers.",
                do="Preserve the files as they are and run: klingai-audit verify",
            )
        part = self._place(temporary, f"{chunk.begin:012}-{chunk.end:012}")
        self._write_places((self._folder / part.name).with_suffix(PLACES_SUFFIX), chunk.places)
        return Segment(
            name=part.name,
            sha256=part.sha256,
            identity=part.identity,
            begin=chunk.begin,
            end=chunk.end,
            places=(chunk.places[0], chunk.place_after),
            leaf=chunk.leaf,
        )

    def _write_places(self, path: Path, places: array[int]) -> None:
        """Write positions; they are hints, and bear the name of the segment that they belong to."""
        fd = self._ops.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, PRIVATE_MODE)
        try:
            self._ops.write_all(fd, pack_places(places))
            self._ops.sync(fd)
        finally:
            self._ops.close(fd)

    def find_repeats(self, made: Sequence[Segment], old: Sequence[Segment], known: Part | None) -> Part | None:
        """Return the durable list of entries whose event id stands in an earlier one, in `old` or among `made`.

        `known` lists those of `old`; it is returned if there are no others.
        """
        if not made:
            return known
        new, passes = self._files(made), 1 + (made[-1].end - made[0].begin) // _IDS_AT_ONCE
        with contextlib.closing(connect()) as cursor:
            cursor.execute("CREATE OR REPLACE TEMP TABLE repeats (seq UBIGINT)")
            for number in range(passes):
                some = f"hash(event_id) % {passes} = {number}"
                again = f"SELECT event_id FROM {new} WHERE {some} GROUP BY event_id HAVING count(*) > 1"
                if old:
                    again += (
                        f" UNION SELECT event_id FROM {new} WHERE {some}"
                        f" AND event_id IN (SELECT event_id FROM {self._files(old)})"
                    )
                cursor.execute(f"CREATE OR REPLACE TEMP TABLE again AS {again}")
                if cursor.execute("SELECT count(*) FROM again").fetchone() == (0,):
                    continue
                cursor.execute(
                    "INSERT INTO repeats SELECT seq FROM (SELECT seq, row_number() OVER (PARTITION BY event_id ORDER BY"
                    f" seq) AS n FROM {self._files([*old, *made])} WHERE event_id IN (SELECT event_id FROM again))"
                    f" WHERE n > 1 AND seq >= {made[0].begin}"
                )
            if cursor.execute("SELECT count(*) FROM repeats").fetchone() == (0,):
                return known
            before = "" if known is None else f" UNION SELECT seq FROM {self._files([known])}"
            return self._write_repeats(cursor, f"SELECT seq FROM repeats{before} ORDER BY seq")

    def cut_repeats(self, known: Part, end: int) -> Part:
        """Return the durable list of what `known` lists below `end`."""
        with contextlib.closing(connect()) as cursor:
            return self._write_repeats(cursor, f"SELECT seq FROM {self._files([known])} WHERE seq < {end} ORDER BY seq")

    def _write_repeats(self, cursor: duckdb.DuckDBPyConnection, sql: str) -> Part:
        temporary = self._folder / f"repeats-{next(self._number)}{TEMPORARY_SUFFIX}"
        cursor.execute(_COPY.format(sql, quote(str(temporary))))
        return self._place(temporary, "repeats")

    def _place(self, temporary: Path, stem: str) -> Part:
        """Make a file durable and name it by what it holds."""
        fd = self._ops.open(temporary, os.O_RDONLY)
        try:
            self._ops.sync(fd)
        finally:
            self._ops.close(fd)
        digest = digest_file(temporary)
        path = self._folder / f"{stem}-{digest[:16]}.parquet"
        self._ops.rename(temporary, path)
        return Part(name=path.name, sha256=digest, identity=identity_of(path))

    def _files(self, parts: Iterable[Part]) -> str:
        return f"read_parquet([{', '.join(quote(str(self._folder / part.name)) for part in parts)}])"


def _readable(block: Block, seq: int) -> bytes:
    """Return a block's lines as the engine takes them: rows that say that they are of purged entries among them."""
    if PURGED_PREFIX not in block.data:
        return block.data
    lines = block.data.split(b"\n")
    for number, line in enumerate(lines):
        if line.startswith(PURGED_PREFIX):
            lines[number] = b'{"seq":%d,"event_type":"%b"}' % (seq + number, _PURGED_TYPE.encode())
    return b"\n".join(lines)


def _split(block: Block, count: int) -> tuple[Block, Block]:
    at = sum(block.lengths[:count])
    return Block(block.data[:at], block.lengths[:count]), Block(block.data[at:], block.lengths[count:])


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
