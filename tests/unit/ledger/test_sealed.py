"""Sealed days are unpacked once, and again when they are not the same file any more."""

from __future__ import annotations

import gzip
import os
from pathlib import Path

import pytest

from klingai_audit.ledger import sealed
from klingai_audit.ledger.sealed import open_day


def unpacked(path: Path) -> bytes:
    with open_day(path) as file:
        return file.read()


def test_a_day_is_unpacked_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However often it is read."""
    path = tmp_path / "audit-2026-01-05.jsonl.gz"
    path.write_bytes(gzip.compress(b"one\n", mtime=0))
    assert b"one\n" == unpacked(path)
    monkeypatch.setattr(sealed, "_unpack", None)
    assert b"one\n" == unpacked(path)


def test_a_day_that_was_changed_and_set_back_in_time_is_unpacked_again(tmp_path: Path) -> None:
    """Other bytes of the same length in the same file, with the time of the old ones: not hidden by what was read."""
    path = tmp_path / "audit-2026-01-05.jsonl.gz"
    one, two = (gzip.compress(text, mtime=0) for text in (b"one\n", b"two\n"))
    assert len(one) == len(two)
    path.write_bytes(one)
    before = path.stat()
    assert b"one\n" == unpacked(path)
    path.write_bytes(two)
    while True:  # the clock of the disk may be some milliseconds coarse
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
        after = path.stat()
        if before.st_ctime_ns != after.st_ctime_ns:
            break
    assert (before.st_ino, before.st_size, before.st_mtime_ns) == (after.st_ino, after.st_size, after.st_mtime_ns)
    assert b"two\n" == unpacked(path)
