"""Sealing days and purging entries, beyond the contract: writers that count, and how a folder does it."""

from __future__ import annotations

import datetime as dt
import errno
import gzip
import hashlib
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from klingai_audit.errors import AuditUnavailable, LogDamaged
from klingai_audit.ledger.purged import line_hash, purged_line
from klingai_audit.ledger.sealed import open_day
from klingai_audit.ledger.store import PreparedDay, Store
from klingai_audit.stores.directory import DirectoryStore
from klingai_audit.stores.memory import MemoryStore
from tests.support.faulty import FaultyOps
from tests.support.ledgers import unsealed_entries

DAYS = [dt.date(2026, 11, day) for day in (18, 19, 20, 21)]
PER_DAY = 5


def fill(store: Store) -> list[bytes]:
    """Append five entries on each of four days."""
    lines: list[bytes] = []
    for day in DAYS:
        fresh = unsealed_entries(len(lines), PER_DAY, day)
        with store.transaction() as txn:
            txn.pull(len(lines))
            txn.append(fresh, len(lines), day)
        lines += fresh
    return lines


@pytest.fixture(params=["directory", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    """An empty store of each kind."""
    made: Store = (
        DirectoryStore(tmp_path / "audit", tmp_path / "mark") if request.param == "directory" else MemoryStore()
    )
    made.create()
    yield made
    made.close()


def purge(*seqs: int) -> Callable[[int, bytes], bytes]:
    """Return a change that purges these entries, by entry 17."""

    def change(seq: int, line: bytes) -> bytes:
        return purged_line(line_hash(line), 17) if seq in seqs else line

    return change


def keep(store: Store, scratch: Path, change: Callable[[int, bytes], bytes]) -> list[PreparedDay]:
    """Seal all days but the newest."""
    with store.keeper(scratch) as keeper:
        prepared = [keeper.prepare(day, change) for day in store.old_days()]
        for one in prepared:
            keeper.put(one)
    return prepared


def changed(lines: list[bytes], *seqs: int) -> list[bytes]:
    """Return what `purge` makes of all lines."""
    return [purge(*seqs)(seq, line) for seq, line in enumerate(lines)]


@pytest.mark.parametrize("seqs", [(), (13, 14), (10, 11, 12, 13, 14)])
@pytest.mark.parametrize("counted", [False, True])
def test_writers_go_on(store: Store, tmp_path: Path, seqs: tuple[int, ...], counted: bool) -> None:
    """A writer that knew the log before, and one that looks at it anew, find its end where it was."""
    lines = fill(store)
    keep(store, tmp_path / "scratch", purge(*seqs))
    for begin in (20, 19, 15, 14, 8):
        with store.transaction() as txn:
            pulled = txn.pull(begin, counted=counted)
            assert changed(lines, *seqs)[begin:] == pulled.entries
            if begin == 20:
                lines += unsealed_entries(20, 1, DAYS[-1])
                txn.append(lines[20:], 20, DAYS[-1])
    assert changed(lines, *seqs) == list(store.read_entries(0))


class TestDirectory:
    @pytest.fixture
    def ops(self) -> FaultyOps:
        return FaultyOps()

    @pytest.fixture
    def folder(self, tmp_path: Path, ops: FaultyOps) -> Iterator[DirectoryStore]:
        store = DirectoryStore(tmp_path / "audit", tmp_path / "mark", ops)
        store.create()
        yield store
        store.close()

    def test_the_file_is_gzip_with_the_told_digest(self, folder: DirectoryStore, tmp_path: Path) -> None:
        """The standard library reads it; its header has no name and no time; the old file is gone."""
        lines = fill(folder)
        for one in keep(folder, tmp_path / "scratch", purge(6)):
            data = (folder.path / one.name).read_bytes()
            assert (hashlib.sha256(data).hexdigest(), len(data)) == (one.sha256, one.size)
            assert bytes.fromhex("1f8b0800000000") == data[:7]
            kept = changed(lines, 6)[one.day.begin : one.day.end]
            assert b"".join(line + b"\n" for line in kept) == gzip.decompress(data)
        names = [*(f"audit-{day}.jsonl.gz" for day in DAYS[:-1]), f"audit-{DAYS[-1]}.jsonl"]
        assert names == sorted(path.name for path in folder.path.glob("audit-*"))
        assert [] == list((tmp_path / "scratch").iterdir())

    def test_the_same_lines_give_the_same_bytes(self, folder: DirectoryStore, tmp_path: Path) -> None:
        """What was prepared before a crash is what is prepared after it."""
        fill(folder)
        with folder.keeper(tmp_path / "scratch") as keeper:
            day = folder.old_days()[0]
            assert keeper.prepare(day, purge(2)) == keeper.prepare(day, purge(2))

    @pytest.mark.parametrize("how", ["lost", "done"])
    def test_every_fault_while_putting(self, folder: DirectoryStore, ops: FaultyOps, tmp_path: Path, how: str) -> None:
        """After any failed operation all entries are read, and putting again completes it."""
        lines = fill(folder)
        expected, at, broke = changed(lines, 6, 7), 0, True
        while broke:
            with folder.keeper(tmp_path / "scratch") as keeper:
                day = folder.old_days()[0 if at % 2 else 1]
                prepared = keeper.prepare(day, purge(6, 7))
                ops.calls.clear()
                ops.fail_at, ops.how, ops.code = at, how, errno.EIO  # type: ignore[assignment]
                try:
                    keeper.put(prepared)
                    broke = False
                except AuditUnavailable:
                    read = list(folder.read_entries(0))
                    assert all(line in (old, new) for line, old, new in zip(read, lines, expected, strict=True))
                    ops.fail_at = None
                    keeper.put(prepared)
                ops.fail_at = None
            assert not (folder.path / prepared.name.removesuffix(".gz")).exists()
            assert changed(lines, 6, 7)[day.begin : day.end] == list(folder.read_entries(day.begin, day.end))
            at += 1
        assert at > 5

    def test_both_files_for_a_moment(self, folder: DirectoryStore, tmp_path: Path) -> None:
        """Between a sealed file and the end of its old one no entry is read twice; the old one counts."""
        lines = fill(folder)
        old = (folder.path / f"audit-{DAYS[1]}.jsonl").read_bytes()
        keep(folder, tmp_path / "scratch", purge(6))
        (folder.path / f"audit-{DAYS[1]}.jsonl").write_bytes(old)
        assert changed(lines) == list(folder.read_entries(0))
        kinds = {file.name: file.kind for file in folder.inspect()}
        assert ("entries", "stray") == (kinds[f"audit-{DAYS[1]}.jsonl"], kinds[f"audit-{DAYS[1]}.jsonl.gz"])

    def test_a_file_that_was_listed_and_sealed_since(self, folder: DirectoryStore, tmp_path: Path) -> None:
        """Whoever listed the folder before finds the lines in the sealed file."""
        lines = fill(folder)
        path = folder.path / f"audit-{DAYS[0]}.jsonl"
        keep(folder, tmp_path / "scratch", purge())
        with open_day(path) as file:
            assert b"".join(line + b"\n" for line in lines[:5]) == file.readall()

    @pytest.mark.parametrize(
        "damage",
        [
            lambda data: data[:-1],
            lambda data: data + b"x",
            lambda data: data + gzip.compress(b"more", mtime=0),
            lambda data: data[:20] + bytes([data[20] ^ 1]) + data[21:],
            lambda _data: b"",
        ],
    )
    def test_what_does_not_unpack(
        self, folder: DirectoryStore, tmp_path: Path, damage: Callable[[bytes], bytes]
    ) -> None:
        """A sealed file that is not one whole gzip member is named, never half read."""
        fill(folder)
        keep(folder, tmp_path / "scratch", purge())
        path = folder.path / f"audit-{DAYS[0]}.jsonl.gz"
        path.write_bytes(damage(path.read_bytes()))
        with pytest.raises(OSError, match="does not unpack"), open_day(path):
            pass

    def test_a_day_that_is_not_what_it_claims(self, folder: DirectoryStore, tmp_path: Path) -> None:
        """A line too many or too few stops the sealing; nothing is put anywhere."""
        fill(folder)
        path = folder.path / f"audit-{DAYS[0]}.jsonl"
        path.write_bytes(path.read_bytes() + b"{}\n")
        with folder.keeper(tmp_path / "scratch") as keeper, pytest.raises(LogDamaged):
            keeper.prepare(folder.old_days()[0], purge())

    def test_one_keeper_at_a_time(self, folder: DirectoryStore, tmp_path: Path) -> None:
        """Another one, in another process or thread, waits."""
        fill(folder)
        other, order = DirectoryStore(folder.path, tmp_path / "mark"), []
        with folder.keeper(tmp_path / "scratch"):
            thread = threading.Thread(target=lambda: [order.append("in") for _ in [other.keeper(tmp_path).__enter__()]])
            thread.start()
            thread.join(0.2)
            order.append("out")
        thread.join(60)
        assert ["out", "in"] == order
        other.close()

    def test_unpacked_copies_are_limited(self, folder: DirectoryStore, tmp_path: Path) -> None:
        """Reading many sealed days leaves no more descriptors than the last few copies."""
        fill(folder)
        keep(folder, tmp_path / "scratch", purge())
        before = len(os.listdir("/proc/self/fd")) if Path("/proc/self/fd").exists() else 0
        for _ in range(20):
            list(folder.read_entries(0))
        after = len(os.listdir("/proc/self/fd")) if Path("/proc/self/fd").exists() else 0
        assert after - before <= 8
