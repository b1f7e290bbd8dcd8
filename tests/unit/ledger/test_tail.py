"""Looks at the end of a log: every line once, in order, over days, cuts and files that go away."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from types import SimpleNamespace

import pytest

from klingai_audit.ledger import tail
from klingai_audit.ledger.tail import Tail
from klingai_audit.stores.directory import DirectoryStore
from klingai_audit.stores.memory import MemoryStore
from tests.support.ledgers import unsealed_entries

TODAY = dt.date(2026, 11, 21)
LATER = TODAY + dt.timedelta(days=1)


@pytest.fixture(autouse=True)
def _noon(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is noon of that day, however late it gets between the beginning of all tests and these."""
    now = dt.datetime.combine(TODAY, dt.time(12), dt.UTC)
    clock = SimpleNamespace(now=now.astimezone)
    monkeypatch.setattr(tail, "dt", SimpleNamespace(datetime=clock, UTC=dt.UTC))


@pytest.fixture(params=["directory", "memory"])
def store(request, tmp_path: Path):
    """Give an empty store of either kind."""
    if request.param == "memory":
        return MemoryStore()
    made = DirectoryStore(tmp_path / "audit", tmp_path / "mark")
    made.create()
    return made


def append(store, begin: int, count: int, day: dt.date = TODAY) -> list[bytes]:
    """Append entries and return their lines."""
    lines = unsealed_entries(begin, count, day)
    with store.transaction() as txn:
        txn.pull(begin)
        txn.append(lines, begin, day)
    return lines


@pytest.mark.parametrize("day", [TODAY - dt.timedelta(days=3), TODAY])
def test_every_line_once(store, day: dt.date) -> None:
    """What is there when it begins is left out; then each look gives what is new, over the change of days too."""
    append(store, 0, 2, day)
    end = Tail(store)
    assert [] == end.look()
    assert append(store, 2, 1, day) == end.look()
    assert [] == end.look()
    new = append(store, 3, 2, day) + append(store, 5, 2, LATER)
    # On its day a file is the last that is looked for; a log in memory has none.
    assert end.look() == (new if day != TODAY or store.url == "memory:" else new[:2])


def test_an_empty_log(store) -> None:
    """The first file is found when it comes."""
    end = Tail(store)
    assert [] == end.look()
    assert append(store, 0, 2) == end.look()


def test_a_torn_line_is_left_for_the_next_look(tmp_path: Path) -> None:
    """A line without its end is no line yet; what was there when it began is left out."""
    path = tmp_path / "audit" / f"audit-{TODAY}.jsonl"
    path.parent.mkdir()
    path.write_bytes(b"one\ntw")
    end = Tail(DirectoryStore(path.parent, tmp_path / "mark"))
    assert [] == end.look()
    path.write_bytes(b"one\ntwo\nthr")
    assert [b"two"] == end.look()
    path.write_bytes(b"one\ntwo\nthree\n")
    assert [b"three"] == end.look()


def test_a_file_that_was_cut(tmp_path: Path) -> None:
    """Lines that nobody acknowledged are cut off after a crash; it goes on from there."""
    path = tmp_path / "audit" / f"audit-{TODAY}.jsonl"
    path.parent.mkdir()
    path.write_bytes(b"one\ntwo\n")
    end = Tail(DirectoryStore(path.parent, tmp_path / "mark"))
    path.write_bytes(b"one\n")
    assert [] == end.look()
    path.write_bytes(b"one\nthree\n")
    assert [b"three"] == end.look()
    path.unlink()
    with pytest.raises(FileNotFoundError):
        end.look()


def test_much_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the newest is read; the first line may be a part of one."""
    monkeypatch.setattr(tail, "MAX_LOOK", 8)
    path = tmp_path / "audit" / f"audit-{TODAY}.jsonl"
    path.parent.mkdir()
    path.write_bytes(b"")
    end = Tail(DirectoryStore(path.parent, tmp_path / "mark"))
    path.write_bytes(b"one\ntwo\nthree\n")
    assert [b"o", b"three"] == end.look()
    assert [] == end.look()
