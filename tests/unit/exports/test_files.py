"""Files: whole or not there, or growing line by line; and Parquet."""

from __future__ import annotations

import hashlib
import io
import json
import os
from pathlib import Path

import pytest

from klingai_audit.durable import FileOps
from klingai_audit.errors import StorageError
from klingai_audit.exports.columns import COLUMNS
from klingai_audit.exports.parquet import ParquetSink
from klingai_audit.exports.record import Position, Record
from klingai_audit.exports.sink import AppendSink, FileSink, StreamSink
from tests.support.exported import HEAD, HOSTILE, filled, record
from tests.support.faulty import FaultyOps, QuickOps

START = Position(0, None)


def encode(exported: Record) -> bytes:
    return str(exported.seq).encode()


def records(begin: int, end: int) -> tuple[list[Record], Position]:
    return [record(seq=seq) for seq in range(begin, end)], Position(end, bytes(32))


def test_new_file_takes_its_name_when_it_is_complete(tmp_path: Path) -> None:
    """Until then an older file stays; then the checkpoint stands beside it."""
    path = tmp_path / "out"
    path.write_bytes(b"older")
    sink = FileSink(path, encode, head=b"head\r\n", end=b"\r\n", ops=QuickOps())
    assert sink.open(START)
    sink.send(*records(0, 2))
    sink.check(HEAD)
    assert b"older" == path.read_bytes()
    sink.send(*records(2, 3))
    sink.finish(HEAD)
    sink.abandon()
    assert b"head\r\n0\r\n1\r\n2\r\n" == path.read_bytes()
    assert HEAD.note == (tmp_path / "out.checkpoint").read_bytes()
    assert ["out", "out.checkpoint"] == sorted(os.listdir(tmp_path))


def test_unfinished_file_leaves_nothing(tmp_path: Path) -> None:
    """An export that is ended leaves what was there before."""
    (tmp_path / "out.tmp").write_bytes(b"left by a crash")
    sink = FileSink(tmp_path / "out", encode, ops=QuickOps())
    sink.open(START)
    sink.send(*records(0, 2))
    sink.abandon()
    assert [] == os.listdir(tmp_path)


@pytest.mark.parametrize("failing", ["open", "write", "sync", "rename"])
def test_new_file_on_a_failing_disk(tmp_path: Path, failing: str) -> None:
    """Whatever fails, it is an error that names the file, and the older file stays."""
    path = tmp_path / "out"
    path.write_bytes(b"older")
    ops = FaultyOps()
    ops.fails = lambda call: call.name == failing
    sink = FileSink(path, encode, head=b"head\n", ops=ops)
    with pytest.raises(StorageError) as caught:
        sink.open(START)
        sink.send(*records(0, 2))
        sink.finish(HEAD)
    sink.abandon()
    assert str(path) in caught.value.message
    assert b"older" == path.read_bytes()
    assert ["out"] == os.listdir(tmp_path)


def test_growing_file_goes_on_where_it_ended(tmp_path: Path) -> None:
    """The head is written once; a line that a crash left unfinished is cut off, whole lines stay."""
    path = tmp_path / "out"
    for begin in (0, 2):
        sink = AppendSink(path, encode, head=b"head\n", ops=QuickOps())
        sink.open(START)
        sink.send(*records(begin, begin + 2))
        assert Position(begin + 2, bytes(32)) == sink.settled
        sink.finish(HEAD)
        sink.abandon()
        assert HEAD.note == (tmp_path / "out.checkpoint").read_bytes()
        with path.open("ab") as file:
            file.write(b"unfini")
    sink = AppendSink(path, encode, head=b"head\n", ops=QuickOps())
    sink.open(START)
    sink.abandon()
    assert b"head\n0\n1\n2\n3\n" == path.read_bytes()


def test_growing_file_without_a_whole_line_begins_anew(tmp_path: Path) -> None:
    """A crash in the very first line leaves nothing to keep, however long it was."""
    path = tmp_path / "out"
    path.write_bytes(b"x" * 200_000)
    sink = AppendSink(path, encode, head=b"head\n", ops=QuickOps())
    sink.open(START)
    sink.send(*records(0, 1))
    sink.abandon()
    assert b"head\n0\n" == path.read_bytes()


def test_growing_file_survives_rotation(tmp_path: Path) -> None:
    """When the file is renamed, a new one of the name is begun, with its head; nothing is lost."""
    path = tmp_path / "out"
    sink = AppendSink(path, encode, head=b"head\n", ops=QuickOps())
    sink.open(START)
    sink.send(*records(0, 1))
    path.rename(tmp_path / "out.1")
    sink.send(*records(1, 2))
    sink.check(HEAD)
    sink.abandon()
    assert [b"head\n0\n", b"head\n1\n"] == [(tmp_path / "out.1").read_bytes(), path.read_bytes()]
    assert HEAD.note == (tmp_path / "out.checkpoint").read_bytes()


@pytest.mark.parametrize("failing", ["write", "sync"])
def test_growing_file_on_a_failing_disk(tmp_path: Path, failing: str) -> None:
    """What was not synced is cut off again and not settled."""
    path, ops = tmp_path / "out", FaultyOps()
    sink = AppendSink(path, encode, ops=ops)
    sink.open(START)
    sink.send(*records(0, 2))
    ops.fails = lambda call: call.name == failing
    with pytest.raises(StorageError):
        sink.send(*records(2, 4))
    ops.fails = None
    assert Position(2, bytes(32)) == sink.settled
    assert b"0\n1\n" == path.read_bytes()
    sink.abandon()


def test_growing_file_in_no_folder(tmp_path: Path) -> None:
    """A place that is not there is told."""
    for sink in (
        AppendSink(tmp_path / "no" / "out", encode),
        FileSink(tmp_path / "no" / "out", encode),
        ParquetSink(tmp_path / "no" / "out"),
    ):
        with pytest.raises(StorageError):
            sink.open(START)


def test_stream_gets_lines() -> None:
    """A stream is written and flushed, never closed."""
    stream = io.BytesIO()
    sink = StreamSink(stream, encode, head=b"head\n")
    assert sink.open(START)
    sink.send(*records(0, 2))
    sink.check(HEAD)
    sink.finish(HEAD)
    sink.abandon()
    assert b"head\n0\n1\n" == stream.getvalue()
    assert 2 == sink.settled.seq


# --- Parquet -------------------------------------------------------------------------------------------


def write_parquet(path: Path, exported: list[Record], ops: FileOps | None = None) -> None:
    sink = ParquetSink(path, ops=ops or QuickOps())
    try:
        sink.open(START)
        for one in exported:
            sink.send([one], Position(one.seq + 1, bytes(32)))
        sink.send([], Position(9, bytes(32)))
        sink.check(HEAD)
        sink.finish(HEAD)
    finally:
        sink.abandon()


def test_parquet_holds_every_column(tmp_path: Path) -> None:
    """Types, times, and the stored text, from which the leaf hash can be computed again; hostile texts as they are."""
    import duckdb

    path = tmp_path / "it's.parquet"
    exported = [filled(value) for value in HOSTILE] + [record("video_deleted", seq=2**60)]
    write_parquet(path, exported)
    with duckdb.connect(":memory:") as database:
        database.execute("SET TimeZone='UTC'")
        shown = database.execute("DESCRIBE SELECT * FROM read_parquet(?)", [str(path)]).fetchall()
        assert [(name, column.type) for name, column in COLUMNS.items()] == [(row[0], row[1]) for row in shown]
        rows = database.execute(
            "SELECT seq, timestamp, team, leaf_hash, entry, metadata FROM read_parquet(?)", [str(path)]
        ).fetchall()
        metadata = {
            key.decode() if isinstance(key, bytes) else key: value
            for _, key, value in database.execute("SELECT * FROM parquet_kv_metadata(?)", [str(path)]).fetchall()
        }
    for one, (seq, timestamp, team, leaf, entry, details) in zip(exported, rows, strict=True):
        assert (one.seq, one.entry.timestamp.replace(tzinfo=None), one.entry.team) == (seq, timestamp, team)
        assert hashlib.sha256(b"\0" + entry.encode()).hexdigest() == leaf == one.leaf_hash
        assert one.entry.metadata == json.loads(details or "{}")
    assert HEAD.note == bytes(metadata["checkpoint"])
    assert ["it's.parquet", "it's.parquet.checkpoint"] == sorted(os.listdir(tmp_path))


@pytest.mark.parametrize("failing", ["sync", "rename"])
def test_parquet_on_a_failing_disk(tmp_path: Path, failing: str) -> None:
    """The name is taken by a whole file or not at all."""
    ops = FaultyOps()
    ops.fails = lambda call: call.name == failing
    with pytest.raises(StorageError):
        write_parquet(tmp_path / "out", [record()], ops)
    assert [] == os.listdir(tmp_path)


def test_parquet_that_is_abandoned_leaves_nothing(tmp_path: Path) -> None:
    """No table, no spill, no file; and what is closed says so."""
    sink = ParquetSink(tmp_path / "out", ops=QuickOps())
    sink.open(START)
    sink.send([record()], Position(8, bytes(32)))
    sink.abandon()
    sink.abandon()
    assert [] == os.listdir(tmp_path)
    with pytest.raises(StorageError):
        sink.finish(HEAD)
