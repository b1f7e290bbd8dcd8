"""Copies of logs in the form of a folder: the same bytes, whole or not there, whatever happens meanwhile."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from klingai_audit.errors import AuditUnavailable, StorageError
from klingai_audit.ledger.mirror import copy_log, end_of, look_at, stated_size
from klingai_audit.ledger.purged import line_hash, purged_line
from klingai_audit.ledger.scratch import need_room, scratch_folder
from klingai_audit.trust.verify import verify
from tests.support.batches import BatchMemory
from tests.support.ledgers import HandClock, Ledger, event


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def fill(ledger: Ledger, clock: HandClock) -> None:
    for _ in range(3):
        for _ in range(200):
            ledger.appender.append(event())
        ledger.appender.flush(publish=True)
        clock.advance(24 * 3600)


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    """A log on a server, of three days."""
    clock = HandClock()
    with Ledger(tmp_path / "log", store=BatchMemory(), clock=clock) as made:
        fill(made, clock)
        yield made


def test_a_folder_is_copied_to_the_byte(tmp_path: Path):
    """Of a log in a folder the copy is that folder."""
    clock = HandClock()
    with Ledger(tmp_path / "log", clock=clock) as made:
        fill(made, clock)
    copied = copy_log(made.store, tmp_path / "copy", durable=True)
    assert files_of(tmp_path / "log" / "audit") == files_of(tmp_path / "copy")
    assert sum(map(len, files_of(tmp_path / "copy").values())) == copied.size


def test_progress_ends_where_the_bytes_do(ledger: Ledger, tmp_path: Path):
    """What is told of progress rises to the size of the copy."""
    told: list[tuple[int, int]] = []
    copied = copy_log(ledger.store, tmp_path / "copy", progress=lambda done, total: told.append((done, total)))
    assert copied.size == told[-1][0]
    assert told == sorted(told)
    assert all(done <= total for done, total in told)


def test_only_what_is_covered(ledger: Ledger, tmp_path: Path):
    """Without `beyond` entries that are not published, and what was kept of them, stay where they are."""
    store = ledger.store
    old = min(store.kept)
    store.checkpoint = store.kept[old]
    copy_log(store, tmp_path / "copy", beyond=False)
    files = files_of(tmp_path / "copy")
    assert old == sum(data.count(b"\n") for name, data in files.items() if name.startswith("audit"))
    assert [f"checkpoints/{old:020}"] == [name for name in files if name.startswith("checkpoints")]


def test_purged_meanwhile(ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Entries that are purged during the copy are copied again, with the entry that authorised it."""
    store, turns = ledger.store, []
    whole = BatchMemory.read_entries

    def read_entries(self: BatchMemory, begin: int, end: int | None = None) -> Iterator[bytes]:
        if begin == 0 and end is not None and end > 1:
            turns.append(end)
            if len(turns) == 1:
                by = len(store.entries)
                ledger.appender.append(event())
                ledger.appender.flush(publish=True)
                store.entries[50] = purged_line(line_hash(store.entries[50]), by)
        return whole(self, begin, end)

    monkeypatch.setattr(BatchMemory, "read_entries", read_entries)
    copied = copy_log(store, tmp_path / "copy")
    assert 2 == len(turns)
    assert turns[0] < turns[1] == copied.end


@pytest.mark.parametrize("after", [0, 1])
def test_a_server_that_goes_away(ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: int):
    """The check fails as a whole, with the server's error, and leaves nothing behind."""
    asked = []

    def read_hashes(self: BatchMemory, level: int, begin: int, end: int) -> bytes:
        asked.append(level)
        if len(asked) > after:
            raise AuditUnavailable("The server is gone.")
        return bytes(self.hashes.get(level, b"")[begin * 32 : end * 32])

    monkeypatch.setattr(BatchMemory, "read_hashes", read_hashes)
    with pytest.raises(AuditUnavailable, match="gone"):
        verify(ledger.store, key=ledger.vkey, scratch=tmp_path / "scratch")
    assert not (tmp_path / "scratch").exists()


def test_no_room(ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Where a copy does not fit, none is begun; the message says how much it needs."""
    need_room(tmp_path, 1, "A copy")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10, 9, 1))  # type: ignore[attr-defined]
    with pytest.raises(AuditUnavailable, match=r"needs [0-9,]+ bytes in .*, where 1 are free"):
        copy_log(ledger.store, tmp_path / "copy")
    assert not (tmp_path / "copy").exists()


def test_a_folder_that_cannot_be_written(ledger: Ledger, tmp_path: Path):
    """What the disk says is told with the place."""
    (tmp_path / "copy").write_bytes(b"")
    with pytest.raises(StorageError, match="cannot be copied"):
        copy_log(ledger.store, tmp_path / "copy")


def test_scratch_of_others_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A folder that others may enter is left alone; the temporary one is taken."""
    (tmp_path / "scratch").mkdir(mode=0o755)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    with scratch_folder(tmp_path / "scratch") as folder:
        assert tmp_path / "tmp" == folder.parent.parent
        assert 0o700 == folder.stat().st_mode & 0o777
    assert [] == list((tmp_path / "tmp").iterdir())


@pytest.mark.parametrize("from_", [0, 1, 300, 600])
def test_where_a_log_ends(ledger: Ledger, from_: int):
    """Found by asking for few entries."""
    assert len(ledger.store.entries) == end_of(ledger.store, from_)
    assert len(ledger.store.entries) + 5 == end_of(ledger.store, len(ledger.store.entries) + 5)


def test_what_is_on_its_way_is_waited_for(ledger: Ledger, monkeypatch: pytest.MonkeyPatch):
    """A checkpoint that is published within the patience counts."""
    store = ledger.store
    notes = [store.kept[min(store.kept)]] * 2 + [store.checkpoint] * 9
    monkeypatch.setattr(BatchMemory, "read_checkpoint", lambda self: notes.pop(0))
    extent = look_at(store, 60.0)
    assert (stated_size(store.checkpoint), stated_size(store.checkpoint)) == (extent.size, extent.end)
