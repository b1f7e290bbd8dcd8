"""The directory store where it is more than the contract: files, locks, marks, and what others do to them."""

from __future__ import annotations

import contextlib
import datetime as dt
import errno
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from klingai_audit.errors import AuditUnavailable, HeadConflict, LogDamaged
from klingai_audit.ledger.store import Store, SyncFailed
from klingai_audit.stores import lock as lock_module
from klingai_audit.stores.directory import DirectoryStore
from tests.support.children import Child, open_below
from tests.support.faulty import FaultyOps
from tests.support.ledgers import unsealed_entries

DAY = dt.date(2026, 11, 21)
NEXT = dt.date(2026, 11, 22)


@pytest.fixture
def ops() -> FaultyOps:
    """Operations that fail on command."""
    return FaultyOps()


@pytest.fixture
def store(tmp_path: Path, ops: FaultyOps) -> Iterator[DirectoryStore]:
    """An empty store in a folder."""
    made = DirectoryStore(tmp_path / "audit", tmp_path / "state" / "failed-sync", ops)
    made.create()
    yield made
    made.close()


def another(store: DirectoryStore) -> DirectoryStore:
    """The same log as another process sees it."""
    return DirectoryStore(store.path, store.mark, FaultyOps())


def fill(store: Store, count: int, *, begin: int = 0, day: dt.date = DAY) -> list[bytes]:
    lines = unsealed_entries(begin, count, day)
    with store.transaction() as txn:
        txn.pull(begin)
        txn.append(lines, begin, day)
    return lines


def files(store: DirectoryStore) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in store.path.glob("audit-*")}


# --- batches ------------------------------------------------------------------------------------------


def test_a_day_file_is_lines(store: DirectoryStore) -> None:
    """One entry a line, one file a day; nothing else."""
    first, second = fill(store, 3), fill(store, 2, begin=3, day=NEXT)
    assert {
        "audit-2026-11-21.jsonl": b"\n".join(first) + b"\n",
        "audit-2026-11-22.jsonl": b"\n".join(second) + b"\n",
    } == files(store)


@pytest.mark.parametrize("how", ["lost", "done", "short"])
@pytest.mark.parametrize("begin", [0, 3])
def test_a_failed_write_leaves_nothing(store: DirectoryStore, ops: FaultyOps, how: str, begin: int) -> None:
    """Whatever a failing write did, the file is as before, and a file that held nothing is gone."""
    if begin:
        fill(store, begin)
    before = files(store)
    ops.how = how  # type: ignore[assignment]
    ops.code = errno.ENOSPC
    ops.fails = lambda call: call.name == "write"
    with pytest.raises(AuditUnavailable, match="Nothing of it remains"):
        fill(store, 2, begin=begin)
    assert before == files(store)
    ops.fails = None
    lines = fill(store, 2, begin=begin)
    assert lines == list(store.read_entries(begin))


@pytest.mark.parametrize("what", ["truncate", "sync"])
def test_a_batch_that_cannot_be_cut_back_stops_everybody(store: DirectoryStore, ops: FaultyOps, what: str) -> None:
    """If half a batch cannot be removed again, what is durable is unknown: no writer goes on."""
    fill(store, 1)
    ops.how = "lost"
    ops.fails = lambda call: call.name in ("write", what)
    with pytest.raises(SyncFailed):
        fill(store, 2, begin=1)
    ops.fails = None
    for one in (store, another(store)):
        with pytest.raises(SyncFailed, match="failed earlier"), one.transaction():
            pass
        with pytest.raises(SyncFailed), one.publication():
            pass


def test_the_mark_is_left_even_if_nothing_can_be_synced(store: DirectoryStore, ops: FaultyOps) -> None:
    """On a disk whose every sync fails others still see the mark."""
    fill(store, 1)
    ops.fails = lambda call: call.name == "sync"
    with pytest.raises(SyncFailed):
        fill(store, 1, begin=1)
    assert store.mark.exists()


def test_a_writer_may_not_recover_by_itself(store: DirectoryStore, ops: FaultyOps) -> None:
    """The mark gives way to `recovering` only, and `recover_sync` copies, keeps and clears."""
    lines = fill(store, 2)
    ops.fails = lambda call: call.name == "sync"
    with contextlib.suppress(SyncFailed):
        fill(store, 2, begin=2)
    ops.fails = None
    kept: list[tuple[str, bytes]] = []
    day = store.path / "audit-2026-11-21.jsonl"
    written, inode = day.read_bytes(), day.stat().st_ino
    with store.transaction(recovering=True):
        store.recover_sync(lambda name, data: kept.append((name, data)), covered=2)
    assert [(day.name, written[len(b"\n".join(lines)) + 1 :])] == kept
    assert (written, True) == (day.read_bytes(), inode != day.stat().st_ino)
    with store.transaction() as txn:
        assert len(txn.pull(0).entries) == 4


# --- what others write --------------------------------------------------------------------------------


def test_another_writer_is_seen(store: DirectoryStore) -> None:
    """Lines that another process appended, over midnight too, are pulled in order."""
    other = another(store)
    lines = fill(store, 2)
    lines += fill(other, 3, begin=2)
    lines += fill(other, 2, begin=5, day=NEXT)
    with store.transaction() as txn:
        pulled = txn.pull(2)
    assert (lines[2:], b"", lines[1]) == (pulled.entries, pulled.torn, pulled.before)
    assert fill(store, 1, begin=7, day=NEXT) == list(store.read_entries(7))
    other.close()


def test_an_unfinished_line_is_torn(store: DirectoryStore) -> None:
    """What follows the last line feed is told apart, and nothing is appended behind it."""
    fill(store, 2)
    with (store.path / "audit-2026-11-21.jsonl").open("ab") as file:
        file.write(b'{"schema":1')
    with store.transaction() as txn:
        assert txn.pull(2).torn == b'{"schema":1'
        with pytest.raises(HeadConflict):
            txn.append(unsealed_entries(2, 1, DAY), 2, DAY)
        assert txn.pull(2).torn == b'{"schema":1'
        txn.cut(2)
        txn.append(unsealed_entries(2, 1, DAY), 2, DAY)
    assert len(list(store.read_entries(0))) == 3


def test_bytes_that_came_after_the_look_are_not_cut(store: DirectoryStore) -> None:
    """`cut` removes what the caller has seen, and nothing else."""
    fill(store, 2)
    day = store.path / "audit-2026-11-21.jsonl"
    with day.open("ab") as file:
        file.write(b"seen")
    with store.transaction() as txn:
        assert txn.pull(2).torn == b"seen"
        with day.open("ab") as file:
            file.write(b" and not seen")
        with pytest.raises(HeadConflict):
            txn.cut(2)
        assert txn.pull(2).torn == b"seen and not seen"
        txn.cut(2)
    assert day.read_bytes().endswith(b"}\n")


def test_cut_removes_whole_files(store: DirectoryStore) -> None:
    """Day files that hold only unacknowledged lines are removed, newest first."""
    lines = fill(store, 2)
    for name in ("audit-2026-11-22.jsonl", "audit-2026-11-23.jsonl"):
        (store.path / name).write_bytes(b"garbage\n")
    with store.transaction() as txn:
        assert txn.pull(2).entries == [b"garbage", b"garbage"]
        txn.cut(2)
    assert {"audit-2026-11-21.jsonl": b"\n".join(lines) + b"\n"} == files(store)


def test_an_earlier_file_of_another_day_is_damage(store: DirectoryStore) -> None:
    """A last file with a later name than its entries have is not continued under an earlier name."""
    fill(store, 2)
    (store.path / "audit-2026-11-21.jsonl").rename(store.path / "audit-2026-12-31.jsonl")
    with store.transaction() as txn, pytest.raises(LogDamaged) as caught:
        txn.pull(2)
    assert caught.value.kind_of_damage == "file_renamed"


def test_links_and_pipes_are_no_day_files(store: DirectoryStore, tmp_path: Path) -> None:
    """A symbolic link or a pipe under a day file's name is neither read nor written."""
    victim = tmp_path / "victim"
    victim.write_text("mine\n")
    (store.path / "audit-2026-11-21.jsonl").symlink_to(victim)
    os.mkfifo(store.path / "audit-2026-11-20.jsonl")
    with store.transaction() as txn:
        assert txn.pull(0).entries == []
        with pytest.raises((HeadConflict, AuditUnavailable)):
            txn.append(unsealed_entries(0, 1, DAY), 0, DAY)
    assert victim.read_text() == "mine\n"


def test_changes_in_one_tick_of_the_clock_are_seen(store: DirectoryStore) -> None:
    """A new day file is noticed even if it appears in the same tick as the last look at the folder."""
    other = another(store)
    size = 0
    for day in range(1, 29):
        size += len(fill(store, 1, begin=size, day=dt.date(2027, 1, day)))
        size += len(fill(other, 1, begin=size, day=dt.date(2027, 1, day)))
    assert len(list(store.read_entries(0))) == 56
    other.close()


# --- locks --------------------------------------------------------------------------------------------


def test_processes_exclude_each_other(store: DirectoryStore, tmp_path: Path) -> None:
    """While one process holds the lock another one waits; when the holder dies the lock is free."""
    inside, out = threading.Event(), tmp_path / "out"

    def hold(tell: object) -> None:
        with another(store).transaction():
            out.touch()
            threading.Event().wait(60)

    child = Child(hold)
    while not out.exists():
        threading.Event().wait(0.01)
    thread = threading.Thread(target=lambda: (store.transaction().__enter__(), inside.set()))
    thread.start()
    assert not inside.wait(0.1)
    child.kill()
    assert inside.wait(10)
    thread.join()


def test_a_lock_that_is_never_free_is_an_error(store: DirectoryStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever may read the folder may hold its lock: a writer does not wait for ever."""
    monkeypatch.setattr(lock_module, "PATIENCE_S", 0.05)
    with another(store).transaction(), pytest.raises(AuditUnavailable, match="has held the lock"), store.transaction():
        pass
    fill(store, 1)


def test_descriptors_are_released(store: DirectoryStore, tmp_path: Path) -> None:
    """`close` gives back every descriptor; the store can be used again."""
    before = open_below(tmp_path)
    for begin in range(3):
        fill(store, 1, begin=begin)
        with store.publication() as publication:
            publication.put_hashes(0, begin, bytes(32))
            publication.sync_hashes()
        assert before != open_below(tmp_path)
        store.close()
        assert before == open_below(tmp_path)


def test_left_temporary_files_are_swept(store: DirectoryStore) -> None:
    """Temporary files of dead writers go with the next publication; files of others stay."""
    ours = ["checkpoint.tmp", "checkpoints/00000000000000000007.tmp", "tree/0.tmp", "audit-2026-11-21.jsonl.tmp"]
    others = ["notes.tmp", "checkpoints/mine.tmp", "tree/x.tmp", "audit.tmp"]
    for name in (*ours, *others):
        (store.path / name).write_text("x")
    with store.publication():
        pass
    assert [] == [name for name in ours if (store.path / name).exists()]
    assert [] == [name for name in others if not (store.path / name).exists()]


# --- reading ------------------------------------------------------------------------------------------


def test_reading_over_days(store: DirectoryStore) -> None:
    """Ranges are read and entries located across day files; nothing beyond the end."""
    lines: list[bytes] = []
    for number in range(5):
        lines += fill(store, 10, begin=10 * number, day=DAY + dt.timedelta(days=number))
    for begin, end in ((0, 50), (7, 23), (10, 20), (49, 50), (49, 99), (50, 60), (0, 0), (30, None)):
        assert lines[begin:end] == list(store.read_entries(begin, end))
    assert ("audit-2026-11-23.jsonl", 4) == store.locate(23)
    assert store.locate(50) is None


def test_reading_what_is_not_there(store: DirectoryStore) -> None:
    """A folder that is gone is an error of ours; hashes and notes that are not there are none."""
    assert (b"", None, None) == (store.read_hashes(3, 0, 5), store.read_checkpoint(), store.read_kept(4096))
    store.path.rename(store.path.with_name("away"))
    with pytest.raises(AuditUnavailable):
        list(store.read_entries(0))
    with pytest.raises(AuditUnavailable):
        store.locate(0)
    assert (False, ()) == (store.exists(), store.inspect())


def test_what_is_found_is_named(store: DirectoryStore, tmp_path: Path) -> None:
    """`inspect` tells the log's files from strays: other names, folders, links."""
    fill(store, 1)
    for name in ("notes.txt", "tree/01", "tree/x", "checkpoints/7", "audit-2026-11-21.jsonl.gz", "sub"):
        path = store.path / name
        path.mkdir() if name == "sub" else path.write_bytes(b"x")
    (store.path / "checkpoint").symlink_to(tmp_path / "elsewhere")
    with store.publication() as publication:
        publication.put_hashes(0, 0, bytes(32))
        publication.put_kept(4096, b"note")
    kinds = {file.name: file.kind for file in store.inspect()}
    assert kinds == {
        "audit-2026-11-21.jsonl": "entries",
        "audit-2026-11-21.jsonl.gz": "stray",
        "checkpoint": "stray",
        "checkpoints/00000000000000004096": "kept",
        "checkpoints/7": "stray",
        "notes.txt": "stray",
        "sub": "stray",
        "tree/0": "tree",
        "tree/01": "stray",
        "tree/x": "stray",
    }
