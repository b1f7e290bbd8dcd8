"""An entry is found by what lines claim, and believed only if the tree bears it out."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from klingai_audit.stores import directory
from klingai_audit.stores.days import list_days
from klingai_audit.stores.directory import DirectoryStore
from klingai_audit.stores.jump import jump
from tests.support.logsmith import Smith


@pytest.fixture(scope="module")
def smith() -> Smith:
    """A log of three days, entries of many lengths, some as long as can be."""
    made, dice = Smith().create(), random.Random(5)
    for _ in range(3):
        for _ in range(60):
            made.work(dice.randrange(1, 12))
            made.batch(made.event("x_long", {"x": "y" * dice.choice([0, 10, 3_000, 16_000, 64_000])}))
        made.next_day()
    return made


@pytest.fixture
def store(smith: Smith, tmp_path: Path) -> DirectoryStore:
    return DirectoryStore(smith.write(tmp_path / "audit"), tmp_path / "mark")


def test_an_entry_is_found_where_it_stands(smith: Smith, store: DirectoryStore) -> None:
    """Its day, its first byte, and the line itself."""
    days = list_days(store.path)
    assert 3 == len(days)
    for seq, entry in [*enumerate(smith.entries)][::5]:
        found = jump(days, seq)
        assert found is not None
        index, offset, line = found
        assert (entry, f"audit-{smith.days[seq]}.jsonl") == (line, days[index].name)
        assert days[index].read_bytes()[offset:].startswith(entry + b"\n")
    assert [None, None] == [jump(days, len(smith.entries)), jump([], 0)]


def test_any_range_is_read(smith: Smith, store: DirectoryStore) -> None:
    """Across days too, and none beyond the end."""
    dice, count = random.Random(6), len(smith.entries)
    for _ in range(100):
        begin, end = dice.randrange(count + 5), dice.randrange(count + 5)
        assert smith.entries[begin:end] == list(store.read_entries(begin, end))
    assert smith.entries[count - 40 :] == list(store.read_entries(count - 40))


def test_one_entry_of_a_large_file_costs_little(
    smith: Smith, store: DirectoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No line before it is counted, and less than a tenth of the file is read."""
    monkeypatch.setattr(directory, "find_line", None)
    read: list[int] = []
    real = os.pread
    monkeypatch.setattr(os, "pread", lambda fd, size, at: (read.append(size), real(fd, size, at))[1])
    path = max(list_days(store.path), key=lambda day: day.stat().st_size)
    seq = smith.days.index(path.name[6:16]) + 100
    assert [smith.entries[seq]] == list(store.read_entries(seq, seq + 1))
    assert sum(read) < 16 * (1 << 16) + 3 * (1 << 17)


@pytest.mark.parametrize("kind", ["foreign lines", "a wrong claim", "no hashes"])
def test_a_claim_alone_is_not_believed(smith: Smith, store: DirectoryStore, kind: str) -> None:
    """Lines are counted then: what comes back is what stands there, for verification to judge."""
    day = list_days(store.path)[1]
    first = smith.days.index(day.name[6:16])
    seq = first + 50
    lines = day.read_bytes().split(b"\n")[:-1]
    if kind == "foreign lines":
        lines[10:10] = [b"{}"] * 3
    elif kind == "a wrong claim":
        lines[50] = lines[50].replace(f',"seq":{seq},'.encode(), f',"seq":{seq + 1},'.encode())
        lines[51] = lines[51].replace(f',"seq":{seq + 1},'.encode(), f',"seq":{seq},'.encode())
    else:
        (store.path / "tree" / "0").write_bytes(b"")
    day.write_bytes(b"".join(line + b"\n" for line in lines))
    expected = smith.entries[seq] if kind == "foreign lines" else lines[50]
    assert [expected] == list(store.read_entries(seq, seq + 1))


def test_an_unfinished_line_is_none(smith: Smith, store: DirectoryStore) -> None:
    """A line without its line feed is not yet an entry, whatever it claims."""
    day = list_days(store.path)[-1]
    day.write_bytes(day.read_bytes()[:-1])
    last = len(smith.entries) - 1
    assert [] == list(store.read_entries(last, last + 1))
    assert smith.entries[last - 3 : last] == list(store.read_entries(last - 3))
