"""Scratch folders: each of one user alone, gone afterwards, also when several come and go at the same time."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from klingai_audit.durable import FileOps
from klingai_audit.ledger.scratch import scratch_folder


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return tmp_path / "scratch"


def test_what_the_dead_left_goes(base: Path) -> None:
    """What a killed run left goes with the next one; what a living one uses stays."""
    left = base / "0123456789abcdef"
    left.mkdir(parents=True)
    base.chmod(0o700)
    (left / "audit-2026-11-21.jsonl").write_bytes(b"x")
    with scratch_folder(base) as mine, scratch_folder(base) as other:
        assert sorted([mine, other]) == sorted(base.iterdir())
    assert not base.exists()


def test_descriptors(base: Path) -> None:
    """None stays open, that of a look at a living one's neither."""
    held: set[int] = set()

    class Counting(FileOps):
        def open(self, path: Path, flags: int, mode: int = 0o644) -> int:
            held.add(fd := super().open(path, flags, mode))
            return fd

        def close(self, fd: int) -> None:
            super().close(fd)
            held.remove(fd)

    with scratch_folder(base), scratch_folder(base, Counting()):
        assert 1 == len(held)
    assert set() == held


@pytest.mark.parametrize("comes_back", [True, False])
def test_a_place_that_another_process_removes_just_then(base: Path, comes_back: bool) -> None:
    """The lock of a folder that has gone excludes nobody: it is not used."""
    opened: list[Path] = []

    class Raced(FileOps):
        def open(self, path: Path, flags: int, mode: int = 0o644) -> int:
            fd = super().open(path, flags, mode)
            opened.append(path)
            if path == base and opened.count(base) == 1:
                base.rmdir()
                if comes_back:
                    base.mkdir(0o700)
            return fd

    with scratch_folder(base, Raced()) as mine:
        assert base == mine.parent
        assert 2 == opened.count(base)


def test_several_come_and_go(base: Path) -> None:
    """Nobody's folder is taken for one that was left, and nobody is sent elsewhere."""
    found: list[tuple[Path, bool]] = []

    def work() -> None:
        for _ in range(20):
            with scratch_folder(base) as mine:
                found.append((mine.parent, mine.is_dir()))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [(base, True)] * 80 == found
    assert not base.exists()
