"""The memory store: what it shows as files is what a folder would hold, in time that grows with what is shown."""

from __future__ import annotations

import datetime as dt
import time

import pytest

from klingai_audit.stores.memory import MemoryStore

DAYS = (dt.date(2026, 11, 20), dt.date(2026, 11, 22), dt.date(2026, 11, 23))


def filled(lines: int, size: int = 8) -> MemoryStore:
    """Return a store with so many entries of so many bytes on each of the days."""
    store = MemoryStore()
    for day in DAYS:
        with store.transaction() as txn:
            begin = len(store.entries)
            txn.append([b"%0*d" % (size, begin + index) for index in range(lines)], begin, day)
    with store.publication() as publication:
        publication.put_hashes(0, 0, bytes(64))
        publication.put_kept(2, b"kept")
        publication.put_checkpoint(b"note")
    return store


def test_files_are_those_of_a_folder():
    """Names, sizes and bytes: a file for each day with entries, then the rest by name."""
    store = filled(2, 3)
    shown = {file.name: file.size for file in store.inspect()}
    expected = {
        "audit-2026-11-20.jsonl": b"000\n001\n",
        "audit-2026-11-22.jsonl": b"002\n003\n",
        "audit-2026-11-23.jsonl": b"004\n005\n",
        "checkpoint": b"note",
        "checkpoints/00000000000000000002": b"kept",
        "tree/0": bytes(64),
    }
    assert list(shown) == list(expected)
    assert shown == {name: len(data) for name, data in expected.items()}
    for name, data in expected.items():
        with store.view(name) as view:
            assert bytes(view) == data
            assert view.readonly


def test_places_of_entries():
    """File and line of an entry, counted from 1 within its day; None beyond the end."""
    store = filled(2)
    assert store.locate(0) == ("audit-2026-11-20.jsonl", 1)
    assert store.locate(3) == ("audit-2026-11-22.jsonl", 2)
    assert [store.locate(seq) for seq in (-1, 6)] == [None, None]


def test_what_is_not_there():
    """A file that a folder would not hold, and a store without anything."""
    with pytest.raises(KeyError), MemoryStore().view("checkpoint"):
        raise AssertionError
    assert MemoryStore().inspect() == ()


def test_many_entries_take_no_time():
    """60,000 entries are listed, shown and found at once; joining day files line by line took minutes."""
    store = filled(20_000, 600)
    begin = time.process_time()
    files = store.inspect()
    for file in files:
        with store.view(file.name) as view:
            assert len(view) == file.size
    assert store.locate(59_999) == ("audit-2026-11-23.jsonl", 20_000)
    assert time.process_time() - begin < 5
