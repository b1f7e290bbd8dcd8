"""The index follows a log, keeps to it, and is made anew when it or the log is not what it was."""

from __future__ import annotations

import contextlib
import datetime as dt
import json
import os
import subprocess
import sys
import threading
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from klingai_audit.durable import FileOps
from klingai_audit.errors import Malformed, StorageError
from klingai_audit.index import Index, build, columns, index, lines
from klingai_audit.index.columns import COLUMNS
from klingai_audit.index.lines import Stale
from klingai_audit.ledger.reader import LogReader
from klingai_audit.stores.directory import DirectoryStore
from klingai_audit.stores.memory import MemoryStore
from klingai_audit.views.charge import ChargeSum
from klingai_audit.views.entry import EntryView
from tests.support.logsmith import Smith
from tests.unit.views.lines import NOW, event_id, line, pseudonym

SLOW = pytest.mark.slow


def reader_of(folder: Path) -> LogReader:
    return LogReader(DirectoryStore(folder, folder.parent / "failed-sync"))


def stored(lines: list[bytes]) -> LogReader:
    store = MemoryStore()
    store.entries = list(lines)
    return LogReader(store)


def ids(made: Index) -> list[str]:
    return [row[0] for row in made.rows("SELECT event_id FROM events ORDER BY seq")]


def ids_in(smith: Smith) -> list[str]:
    return [json.loads(entry)["event_id"] for entry in smith.entries]


def segments(folder: Path) -> list[Path]:
    return sorted(folder.rglob("0*.parquet"))


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> int:
    """Full segments have 16 entries."""
    monkeypatch.setattr(build, "SEGMENT_ENTRIES", 16)
    monkeypatch.setattr(index, "SEGMENT_ENTRIES", 16)
    return 16


# --- what it holds ------------------------------------------------------------------------------------


@pytest.mark.parametrize("count,told", [(16, []), (40, [16, 32, 40])])
def test_a_build_tells_how_far_it_is(tmp_path, small, count, told):
    """Whoever asks hears of each segment that is ready; one segment alone is made at once."""
    heard = []
    with Index.open(stored([line(n) for n in range(count)]), tmp_path, progress=heard.append):
        assert told == [done for done in dict.fromkeys(heard) if done]


def test_columns_hold_what_the_entry_holds(tmp_path):
    """Each member stands in its column, times in UTC, what is absent is NULL, derived columns are what they say."""
    metadata = {
        "status": "succeeded",
        "model": "kling-3.0-turbo",
        "external_task_id": "mine",
        "key_fingerprint": "00ff00ff00ff00ff",
        "elapsed_ms": 1500,
        "results": [{"kind": "video", "duration": "5.041"}, {"kind": "video", "duration": "5"}, {"kind": "video"}],
        "charge": [
            {"charge_type": "unit", "amount": "4.5", "package_type": "video"},
            {"charge_type": "unit", "amount": "0.25", "package_type": "video"},
            {"charge_type": "cash", "amount": "1.10", "currency": "USD", "cash_type": "balance"},
            {"charge_type": "unit", "amount": 3, "package_type": "video"},
        ],
    }
    entry = line(
        0,
        event_type="video_generation_completed",
        resource_type="video",
        resource_id="831",
        action="query_task",
        team="Zoë's",
        metadata=metadata,
    )
    with Index.open(stored([entry]), tmp_path) as made:
        names = [column.name for column in COLUMNS]
        row = dict(zip(names, made.rows("SELECT * FROM events")[0], strict=True))
    assert metadata == json.loads(row.pop("metadata"))
    assert row == {
        "seq": 0,
        "event_id": event_id(0),
        "timestamp": NOW,
        "logged_at": NOW,
        "event_type": "video_generation_completed",
        "category": "operations",
        "actor_id": pseudonym(1),
        "actor_type": "user",
        "on_behalf_of": None,
        "team": "Zoë's",
        "project": None,
        "resource_type": "video",
        "resource_id": "831",
        "action": "query_task",
        "outcome": "success",
        "ip_address": None,
        "ip_ref": None,
        "user_agent": None,
        "correlation_id": None,
        "request_id": None,
        "task_id": "831",
        "external_task_id": "mine",
        "model": "kling-3.0-turbo",
        "operation": "query_task",
        "api_key": "00ff00ff00ff00ff",
        "api_key_name": None,
        "phase": None,
        "code": None,
        "sha256": None,
        "bytes": None,
        "elapsed_s": 1.5,
        "duration_s": 10.041,
        "charges": [
            {"unit": "video units", "amount": Decimal("4.5")},
            {"unit": "video units", "amount": Decimal("0.25")},
            {"unit": "USD balance", "amount": Decimal("1.10")},
        ],
        "units": Decimal("4.75"),
        "pack_type": "video",
        "cash": Decimal("1.10"),
        "currency": "USD",
        "first": True,
    }


def test_units_of_several_packs_are_never_added(tmp_path):
    """An end that was charged from two packs states no single sum; the list has both."""
    charge = [
        {"charge_type": "unit", "amount": "1", "package_type": "video"},
        {"charge_type": "unit", "amount": "2", "package_type": "image"},
    ]
    entry = line(0, event_type="task_completed", metadata={"charge": charge})
    with Index.open(stored([entry]), tmp_path) as made:
        units, pack, charges = made.rows("SELECT units, pack_type, len(charges) FROM events")[0]
    assert (None, "several", 2) == (units, pack, charges)


@pytest.mark.parametrize(
    ("metadata", "kind"),
    [
        ({"charge": "free"}, "task_completed"),
        ({"charge": {"amount": "1"}}, "task_completed"),
        ({"charge": [1, None, "x", {"amount": "much"}, {"amount": None}]}, "task_completed"),
        ({"charge": [{"charge_type": "unit", "amount": "1"}]}, "video_generation_started"),
        ({"bytes": "many", "elapsed_ms": {"a": 1}, "results": 3}, "task_completed"),
        (None, "x_own"),
    ],
)
def test_what_is_no_charge_counts_nothing(tmp_path, metadata, kind):
    """Metadata of any shape makes columns of nothing, never an error."""
    with Index.open(stored([line(0, event_type=kind, metadata=metadata)]), tmp_path) as made:
        row = made.rows("SELECT units, cash, charges, bytes, elapsed_s, duration_s FROM events")[0]
    assert (None,) * 6 == row


def test_odd_texts_come_through(tmp_path):
    """NUL, quotation marks, other scripts and 16 levels of nesting are stored as they are."""
    nested: Any = "deep"
    for _ in range(14):
        nested = [nested]
    texts = ["a\0b", "it's", 'q"u', "\u202e", "😀", "{x}", "%s", ";"]
    lines = [line(seq, team=text, metadata={"x": nested}) for seq, text in enumerate(texts)]
    with Index.open(stored(lines), tmp_path) as made:
        assert texts == [row[0] for row in made.rows("SELECT team FROM events ORDER BY seq")]


def test_units_of_an_unknown_pack_are_told_as_that(tmp_path):
    """Units without a pack, and cash without a currency, are of their own kind, as in the other views."""
    units = line(0, event_type="task_completed", metadata={"charge": [{"charge_type": "unit", "amount": "1"}]})
    cash = line(1, event_type="task_completed", metadata={"charge": [{"charge_type": "cash", "amount": "2"}]})
    with Index.open(stored([units, cash]), tmp_path) as made:
        found = made.rows("SELECT charges[1].unit, units, pack_type, cash, currency FROM events ORDER BY seq")
    sums = [ChargeSum(), ChargeSum()]
    for total, entry in zip(sums, (units, cash), strict=True):
        total.add(EntryView(entry))
    assert [("unknown pack units", 1, "unknown pack", None, None), ("cash", None, None, 2, "unnamed")] == found
    assert [{"unknown pack units": "1"}, {"cash": "2"}] == [total.to_json() for total in sums]


def test_an_empty_log_has_an_empty_view(tmp_path):
    """No entry: no row, and all the columns."""
    with Index.open(stored([]), tmp_path) as made:
        assert (0, None, [(0,)]) == (made.size, made.checkpoint, made.rows("SELECT count(*) FROM events"))
        names = [row[0] for row in made.rows("SELECT column_name FROM (DESCRIBE events)")]
        types = [row[0] for row in made.rows("SELECT column_type FROM (DESCRIBE events)")]
    assert [(column.name, column.type) for column in COLUMNS] == list(zip(names, types, strict=True))


def test_a_filled_view_has_the_stated_types(tmp_path):
    """What is documented as a column's type is what the engine says of a real one."""
    with Index.open(stored([line(0)]), tmp_path) as made:
        described = made.rows("SELECT column_name, column_type FROM (DESCRIBE events)")
    assert [(column.name, column.type) for column in COLUMNS] == described


# --- following ----------------------------------------------------------------------------------------


@pytest.mark.slow
def test_it_follows_a_log_and_merges_small_segments(tmp_path, small):
    """After any number of steps it holds every entry once, in few segments, full ones on their borders."""
    smith = Smith().create()
    smith.write(tmp_path / "audit")
    with Index.open(reader_of(tmp_path / "audit"), tmp_path / "index") as made:
        for step in (1, 2, 1, 5, 9, 1, 1, 1, 1, 1, 1, 1, 1, 1, 30, 0, 3):
            smith.work(step)
            smith.write(tmp_path / "audit")
            assert len(smith.entries) == made.refresh()
            assert smith.checkpoint() == made.checkpoint
        assert ids_in(smith) == ids(made)
        spans = [(part.begin, part.end) for part in made._manifest.segments]
    assert spans[0] == (0, small)
    assert all(begin // small == (end - 1) // small for begin, end in spans)
    assert sum(begin >= len(smith.entries) // small * small for begin, _ in spans) <= 9


def test_large_entries_are_taken_in_smaller_steps(tmp_path, small, monkeypatch):
    """Lines go through memory in pieces of a limited size; full segments are whole all the same."""
    monkeypatch.setattr(build, "_MAX_BYTES", 4000)
    monkeypatch.setattr(lines, "_BLOCK", 1 << 13)
    smith = Smith().create().work(60)
    smith.write(tmp_path / "audit")
    with Index.open(reader_of(tmp_path / "audit"), tmp_path / "index") as made:
        assert (ids_in(smith), smith.entries) == (ids(made), list(made.lines()))
        assert [(at, at + small) for at in range(0, 48, small)] == [
            (p.begin, p.end) for p in made._manifest.segments[:3]
        ]


def test_over_midnight_it_follows_into_the_next_file(tmp_path):
    """Day files are read one after the other, and lines are found in each."""
    smith = Smith().create().work(5).next_day().work(4)
    smith.write(tmp_path / "audit")
    with Index.open(reader_of(tmp_path / "audit"), tmp_path / "index") as made:
        smith.work(3).next_day().work(6)
        smith.write(tmp_path / "audit")
        made.refresh()
        assert smith.entries == list(made.lines())
        assert smith.entries[::-1] == list(made.lines(newest=True))


def test_lines_beyond_the_checkpoint_are_in_it(tmp_path):
    """Durable entries that no checkpoint covers yet are found too; the stamp says how far the tree goes."""
    smith = Smith().create().work(4)
    note = smith.checkpoint()
    smith.work(3)
    files = smith.files(note)
    (tmp_path / "audit" / "tree").mkdir(parents=True)
    for name, data in files.items():
        if not name.startswith("checkpoints/"):
            (tmp_path / "audit" / name).write_bytes(data)
    with Index.open(reader_of(tmp_path / "audit"), tmp_path / "index") as made:
        assert (len(smith.entries), note) == (made.size, made.checkpoint)


def test_a_torn_line_is_no_entry_yet(tmp_path):
    """What follows the last LF is left out, and taken in when it is whole."""
    smith = Smith().create().work(3)
    smith.write(tmp_path / "audit")
    day = next((tmp_path / "audit").glob("*.jsonl"))
    whole = day.read_bytes()
    day.write_bytes(whole[:-20])
    with Index.open(reader_of(tmp_path / "audit"), tmp_path / "index") as made:
        assert len(smith.entries) - 1 == made.size
        day.write_bytes(whole)
        assert len(smith.entries) == made.refresh()
        assert ids_in(smith) == ids(made)


def test_a_second_opening_builds_nothing(tmp_path):
    """What is up to date is only looked at: no file changes."""
    Smith().create().work(9).write(tmp_path / "audit")
    Index.open(reader_of(tmp_path / "audit"), tmp_path / "index").close()
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "index").rglob("*")}
    with Index.open(reader_of(tmp_path / "audit"), tmp_path / "index") as made:
        assert len(Smith().create().work(9).entries) == made.size
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "index").rglob("*")}


def test_first_is_the_first_in_the_whole_log(tmp_path, small):
    """An id that comes again, in the same segment, a later one, or a later refresh, is first once."""
    versions = {0: 8, 1: 7}
    numbers = [0, 1, 0, *range(2, 30), 1, 5, 0]
    lines = [line(seq, event_id=event_id(n, version=versions.get(n, 7))) for seq, n in enumerate(numbers)]
    expected = [n not in numbers[:seq] for seq, n in enumerate(numbers)]
    store = MemoryStore()
    with Index.open(LogReader(store), tmp_path) as made:
        for end in (2, 3, 20, len(lines)):
            store.entries[:] = lines[:end]
            made.refresh()
            assert expected[:end] == [row[0] for row in made.rows("SELECT first FROM events ORDER BY seq")]
        assert {seq for seq, first in enumerate(expected) if not first} == made.repeats
        again = [seq for seq in range(len(lines)) if expected[seq] or versions.get(numbers[seq], 7) == 7]
        assert [lines[seq] for seq in again] == list(made.lines(fold=True))


# --- not what it was ----------------------------------------------------------------------------------


def change(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))


@pytest.mark.parametrize("name", ["0*.parquet", "*.places", "manifest", "repeats*.parquet"])
@pytest.mark.parametrize("act", ["change", *(pytest.param(act, marks=SLOW) for act in ("cut", "remove", "link"))])
def test_a_changed_index_is_noticed(tmp_path, name, act):
    """A changed, cut, missing or linked file of the index never changes an answer; it is made anew."""
    smith = Smith().create().work(40)
    smith.batch(smith.entries[3].partition(b',"seq"')[0] + b"}")
    smith.write(tmp_path / "audit")
    with Index.open(reader_of(tmp_path / "audit"), tmp_path / "index") as made:
        expected = (ids(made), list(made.lines()), made.repeats)
        target = next((tmp_path / "index").rglob(name))
        match act:
            case "change":
                change(target)
            case "cut":
                os.truncate(target, target.stat().st_size // 2)
            case "remove":
                target.unlink()
            case "link":
                target.rename(tmp_path / "elsewhere")
                change(tmp_path / "elsewhere")
                target.symlink_to(tmp_path / "elsewhere")
        made.refresh()
        assert expected == (ids(made), list(made.lines()), made.repeats)
    with Index.open(reader_of(tmp_path / "audit"), tmp_path / "index") as fresh:
        assert expected == (ids(fresh), list(fresh.lines()), fresh.repeats)


def test_a_touched_index_is_still_good(tmp_path):
    """A copy with other times and inodes is checked by its digest and used."""
    Smith().create().work(9).write(tmp_path / "audit")
    Index.open(reader_of(tmp_path / "audit"), tmp_path / "index").close()
    path = segments(tmp_path / "index")[0]
    data = path.read_bytes()
    path.unlink()
    path.write_bytes(data)
    with Index.open(reader_of(tmp_path / "audit"), tmp_path / "index") as made:
        assert [path] == segments(tmp_path / "index")
        assert len(ids(made)) == made.size


def test_a_forged_index_shows_nothing_that_is_not_in_the_log(tmp_path):
    """With segment, manifest and key in the forger's hand, lines still come from the log, and the fraud is told."""
    ours = Smith(seed="ours").create().work(12)
    ours.write(tmp_path / "audit")
    theirs = Smith(seed="theirs").create().work(12)
    theirs.write(tmp_path / "other")
    made = Index.open(reader_of(tmp_path / "audit"), tmp_path / "index")
    forged = Index.open(reader_of(tmp_path / "other"), tmp_path / "forged")
    made._use(forged._manifest.__class__(schema=columns.SCHEMA, origin="", checkpoint="", segments=()))
    made._folder, made._manifest = forged._folder, None
    made._use(forged._manifest)
    with pytest.raises(Stale):
        list(made.lines())
    forged.close()


@pytest.mark.parametrize("how", ["cut", "other", "edited", "origin"])
def test_another_log_in_its_place_is_noticed(tmp_path, how):
    """A log that was rolled back, replaced or rewritten is indexed anew, from the first entry that differs."""
    smith = Smith().create().work(30)
    smith.write(tmp_path / "audit")
    with Index.open(reader_of(tmp_path / "audit"), tmp_path / "index") as made:
        for path in (tmp_path / "audit").rglob("*"):
            if path.is_file():
                path.unlink()
        other = {
            "cut": lambda: Smith().create().work(12),
            "other": lambda: Smith(seed="other").create().work(31),
            "edited": lambda: Smith().create().work(12, size=2).work(40),
            "origin": lambda: Smith("log.example.com/else").create().work(30),
        }[how]()
        other.write(tmp_path / "audit")
        assert len(other.entries) == made.refresh()
        assert (ids_in(other), other.entries) == (ids(made), list(made.lines()))
        assert other.checkpoint() == made.checkpoint


def test_an_unsigned_tail_that_was_cut_back_is_taken_out(tmp_path):
    """Lines that recovery moves aside leave the index too, and others may take their numbers."""
    smith = Smith().create().work(6)
    store = MemoryStore()
    store.entries, store.checkpoint = list(smith.entries), smith.checkpoint()
    with Index.open(LogReader(store), tmp_path) as made:
        seq = len(smith.entries)
        store.entries.append(line(seq, event_id=event_id(1)))
        made.refresh()
        store.entries[seq] = line(seq, event_id=event_id(2))
        made.refresh()
        assert [event_id(2)] == ids(made)[seq:]
        del store.entries[seq]
        assert seq == made.refresh()


def test_a_line_that_is_no_entry_is_told_not_skipped(tmp_path):
    """Garbage and wrong numbers refuse the index, as they end a scan; nothing half-made is left behind."""
    good = [line(seq) for seq in range(4)]
    for bad in (b"not json", b'{"seq":2}', line(7), b"", b"[]", good[2].replace(b"2026-11-21", b"2026-99-21")):
        with pytest.raises(Malformed):
            Index.open(stored([*good[:2], bad, good[3]]), tmp_path / "index")
        assert [] == list((tmp_path / "index").rglob("manifest"))
    with Index.open(stored(good), tmp_path / "index") as made:
        assert 4 == made.size
        assert [] == list((tmp_path / "index").rglob("*.tmp"))


def test_another_schema_is_built_anew(tmp_path, monkeypatch):
    """An index of a version with other columns is not read."""
    reader = stored([line(seq) for seq in range(3)])
    Index.open(reader, tmp_path).close()
    from klingai_audit.index import folder

    monkeypatch.setattr(folder, "SCHEMA", "other")
    monkeypatch.setattr(index, "SCHEMA", "other")
    with Index.open(reader, tmp_path) as made:
        assert ("other", 3) == (made._manifest.schema, made.size)


# --- places, processes, threads, failures ---------------------------------------------------------------


def test_without_a_writable_place_it_is_temporary(tmp_path, monkeypatch):
    """A reader who may write neither state nor home gets an index all the same, and nothing stays behind."""
    from klingai_audit.index import folder

    monkeypatch.setattr(folder, "user_key", lambda ops: None)
    with Index.open(stored([line(0)]), tmp_path / "index") as made:
        place = made._folder.path
        assert (True, 1, [(1,)]) == (made._folder.temporary, made.size, made.rows("SELECT count(*) FROM events"))
        assert not (tmp_path / "index").exists()
    assert not place.exists()
    with pytest.raises(StorageError):
        Index.open(stored([line(0)]), tmp_path / "index", temporary=False)


def test_a_home_that_cannot_be_written_is_no_obstacle(tmp_path, monkeypatch):
    """The key's folder cannot be made: the index is temporary."""
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file"))
    with Index.open(stored([line(0)]), tmp_path / "index") as made:
        assert made._folder.temporary


def test_two_users_do_not_undo_each_others_index(tmp_path, monkeypatch):
    """Each key has a folder of its own; an index under a foreign key is not believed."""
    reader = stored([line(0)])
    for home in ("a", "b", "a"):
        monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / home))
        Index.open(reader, tmp_path / "index").close()
    folders = sorted((tmp_path / "index").iterdir())
    assert 2 == len(folders)
    (folders[0] / "manifest").write_bytes((folders[1] / "manifest").read_bytes())
    for home in ("a", "b"):
        monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / home))
        with Index.open(reader, tmp_path / "index") as made:
            assert [(1,)] == made.rows("SELECT count(*) FROM events")


class _Failing(FileOps):
    """Fails the n-th operation of one name, before or after it was done."""

    def __init__(self, name: str, number: int, *, after: bool) -> None:
        self.name, self.left, self.after = name, number, after

    def _do(self, name: str, *arguments: Any) -> Any:
        if name == self.name:
            self.left -= 1
            if self.left == 0 and not self.after:
                raise OSError(5, "planted")
        result = getattr(FileOps, name)(self, *arguments)
        if name == self.name and self.left == 0:
            raise OSError(5, "planted")
        return result

    def write(self, fd: int, data: bytes) -> int:
        return self._do("write", fd, data)

    def sync(self, fd: int) -> None:
        self._do("sync", fd)

    def rename(self, source: Path, target: Path) -> None:
        self._do("rename", source, target)


@pytest.mark.slow
@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize(("name", "number"), [(name, n) for name in ("write", "sync", "rename") for n in (1, 2, 3)])
def test_a_failure_at_any_step_leaves_a_good_index(tmp_path, name, number, after):
    """Whichever write, sync or rename fails: the old index or the new one, never a mixture; the next try succeeds."""
    smith = Smith().create().work(5)
    smith.write(tmp_path / "audit")
    Index.open(reader_of(tmp_path / "audit"), tmp_path / "index").close()
    smith.work(4)
    smith.write(tmp_path / "audit")
    with contextlib.suppress(StorageError):
        Index.open(reader_of(tmp_path / "audit"), tmp_path / "index", ops=_Failing(name, number, after=after)).close()
    with Index.open(reader_of(tmp_path / "audit"), tmp_path / "index") as made:
        assert ids_in(smith) == ids(made)
        assert smith.entries == list(made.lines())


_DYING = """
import os, sys
from pathlib import Path
from klingai_audit.durable import FileOps
from klingai_audit.index import Index
from klingai_audit.ledger.reader import LogReader
from klingai_audit.stores.directory import DirectoryStore
folder, name, left = Path(sys.argv[1]), sys.argv[2], [int(sys.argv[3])]
def dying(self, *arguments):
    left[0] -= 1
    if not left[0]:
        os._exit(9)
    return getattr(FileOps, name)(self, *arguments)
ops = type("Dying", (FileOps,), {name: dying})()
Index.open(LogReader(DirectoryStore(folder / "audit", folder / "mark")), folder / "index", ops=ops)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "number"), [(name, n) for name in ("write", "sync", "rename", "close", "unlink") for n in (1, 2, 4)]
)
def test_a_builder_that_dies_at_any_step_leaves_a_good_index(tmp_path, small, name, number):
    """Whatever was half done when a process died, the next one has the whole log."""
    smith = Smith().create().work(25)
    smith.write(tmp_path / "audit")
    with Index.open(reader_of(tmp_path / "audit"), tmp_path / "index"):
        smith.work(40)
        smith.write(tmp_path / "audit")
    died = subprocess.run([sys.executable, "-c", _DYING, str(tmp_path), name, str(number)], check=False)
    assert died.returncode in (0, 9)
    with Index.open(reader_of(tmp_path / "audit"), tmp_path / "index") as made:
        assert (ids_in(smith), smith.entries) == (ids(made), list(made.lines()))


_CHILD = """
import sys
from pathlib import Path
from klingai_audit.index import Index
from klingai_audit.ledger.reader import LogReader
from klingai_audit.stores.directory import DirectoryStore
folder = Path(sys.argv[1])
with Index.open(LogReader(DirectoryStore(folder / "audit", folder / "mark")), folder / "index") as made:
    print(made.size, made.rows("SELECT count(DISTINCT event_id) FROM events")[0][0])
"""


def test_the_engine_draws_nothing(tmp_path):
    """Nor where the engine takes this process for a prompt: what is on standard output is the caller's."""
    Smith().create().work(3).write(tmp_path / "audit")
    asked = "SELECT current_setting('enable_progress_bar'), count(*) FROM events"
    script = _CHILD.replace("SELECT count(DISTINCT event_id) FROM events", asked)
    assert asked in script
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, check=False, timeout=120
    )
    assert (0, "5 False\n") == (done.returncode, done.stdout)


@pytest.mark.slow
def test_several_processes_build_one_index(tmp_path):
    """Processes that start together agree, and one of them does the work."""
    smith = Smith().create().work(200)
    smith.write(tmp_path / "audit")
    command = [sys.executable, "-c", _CHILD, str(tmp_path)]
    children = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    told = [child.communicate(timeout=120)[0] for child in children]
    size = len(smith.entries)
    assert [f"{size} {size}\n"] * 3 == told
    assert 1 == len(segments(tmp_path / "index"))


def test_a_builder_that_was_killed_leaves_nothing_in_the_way(tmp_path):
    """Temporary files of a dead builder are removed, unnamed segments are not read."""
    smith = Smith().create().work(5)
    smith.write(tmp_path / "audit")
    with Index.open(reader_of(tmp_path / "audit"), tmp_path / "index") as made:
        folder = made._folder.path
        (folder / "lines-99.tmp").write_bytes(b"half")
        (folder / "000000000007-000000000009-0000000000000000.parquet").write_bytes(b"half")
        smith.work(2)
        smith.write(tmp_path / "audit")
        made.refresh()
        assert ids_in(smith) == ids(made)
        assert [] == list(folder.glob("*.tmp"))


@pytest.mark.slow
def test_a_reader_keeps_up_with_another_builder(tmp_path, small):
    """Segments that another process merges away while one reads are found again in the new ones."""
    smith = Smith().create().work(10)
    smith.write(tmp_path / "audit")
    reading = Index.open(reader_of(tmp_path / "audit"), tmp_path / "index")
    building = Index.open(reader_of(tmp_path / "audit"), tmp_path / "index")
    for _ in range(12):
        smith.work(1)
        smith.write(tmp_path / "audit")
        building.refresh()
    for path in (tmp_path / "index").rglob("*.parquet"):
        if path.name not in {part.name for part in building._manifest.segments}:
            path.unlink()
    assert ids_in(smith) == ids(reading)
    assert [(len(smith.entries),)] == reading.sql("SELECT count(*) FROM events").rows
    reading.close()
    building.close()


def test_threads_share_one_index(tmp_path):
    """Answers in eight threads while entries come in are each of one moment."""
    smith = Smith().create()
    store = MemoryStore()
    store.entries = list(smith.entries)
    wrong: list[tuple[int, int]] = []
    with Index.open(LogReader(store), tmp_path) as made:

        def ask() -> None:
            for _ in range(5):
                count, largest = made.rows("SELECT count(*), max(seq) FROM events")[0]
                if count != largest + 1:
                    wrong.append((count, largest))

        threads = [threading.Thread(target=ask) for _ in range(8)]
        for thread in threads:
            thread.start()
        for _ in range(5):
            smith.work(2)
            store.entries[:] = smith.entries
            made.refresh()
        for thread in threads:
            thread.join()
        assert ([], len(smith.entries)) == (wrong, made.size)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_forked_child_asks_with_an_engine_of_its_own(tmp_path):
    """After a fork the parent's engine is not touched."""
    Smith().create().work(5).write(tmp_path / "audit")
    with Index.open(reader_of(tmp_path / "audit"), tmp_path / "index") as made:
        made.rows("SELECT 1")
        child = os.fork()
        if child == 0:
            code = 1
            try:
                code = 0 if made.rows("SELECT count(*) FROM events") == [(made.size,)] else 2
            finally:
                os._exit(code)
        assert 0 == os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        assert [(made.size,)] == made.rows("SELECT count(*) FROM events")


def test_times_are_aware(tmp_path):
    """Whatever the zone of this machine, a time comes back in UTC and says so."""
    with Index.open(stored([line(0)]), tmp_path) as made:
        assert [(NOW, dt.date(2026, 11, 21))] == made.rows("SELECT timestamp, timestamp::DATE FROM events")
        assert NOW.tzinfo == made.rows("SELECT timestamp FROM events")[0][0].tzinfo
