"""Whatever is done to a log's files, verification sees it; and the sequence of a damaged log is accounted for."""

from __future__ import annotations

import tempfile
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from klingai_audit.stores.directory import DirectoryStore
from klingai_audit.trust.chunk import Task
from klingai_audit.trust.lines import examine
from klingai_audit.trust.runs import Foreign, Run, order_runs
from klingai_audit.trust.scan import scan
from klingai_audit.trust.verify import verify
from tests.support.logsmith import Smith, leaf_hash, write_files

SMITH = Smith().create().work(30)
SMITH.next_day().rotate().work(12).closed()
GOOD = SMITH.files()
NAMES = sorted(GOOD)
DAYS = [name for name in NAMES if name.startswith("audit-")]

places = st.integers(0, 10**6)
byte_edit = st.tuples(st.just("byte"), st.sampled_from(NAMES), places, st.integers(1, 255))
cut = st.tuples(st.just("cut"), st.sampled_from(NAMES), places, places)
grow = st.tuples(st.just("grow"), st.sampled_from(NAMES), places, st.binary(min_size=1, max_size=8))
line_edit = st.tuples(st.sampled_from(["delete", "double", "swap"]), st.sampled_from(DAYS), places, places)
file_edit = st.tuples(st.sampled_from(["drop", "copy"]), st.sampled_from(NAMES), places, places)


def apply(files: dict[str, bytes], edit: tuple) -> None:
    kind, name, at, more = edit
    data = files.get(name, b"")
    lines = data.splitlines(keepends=True)
    if kind == "byte" and data:
        at %= len(data)
        files[name] = data[:at] + bytes([data[at] ^ more]) + data[at + 1 :]
    elif kind == "cut" and data:
        begin, end = sorted((at % len(data), more % len(data) + 1))
        files[name] = data[:begin] + data[end:]
    elif kind == "grow":
        at %= len(data) + 1
        files[name] = data[:at] + more + data[at:]
    elif kind == "delete" and lines:
        del lines[at % len(lines)]
        files[name] = b"".join(lines)
    elif kind == "double" and lines:
        lines.insert(more % (len(lines) + 1), lines[at % len(lines)])
        files[name] = b"".join(lines)
    elif kind == "swap" and lines:
        a, b = at % len(lines), more % len(lines)
        lines[a], lines[b] = lines[b], lines[a]
        files[name] = b"".join(lines)
    elif kind == "drop":
        files.pop(name, None)
    elif kind == "copy":
        files[name + str(at % 3)] = data


@settings(max_examples=150, deadline=None)
@given(
    edits=st.lists(st.one_of(byte_edit, cut, grow, line_edit, file_edit), min_size=1, max_size=4),
    proofs_only=st.booleans(),
)
def test_any_change_of_the_files_is_broken(edits, proofs_only):
    """Exit 4 exactly if a file differs from the good log; verification itself never fails."""
    files = dict(GOOD)
    for edit in edits:
        apply(files, edit)
    with tempfile.TemporaryDirectory() as folder:
        store = DirectoryStore(write_files(Path(folder) / "audit", files), Path(folder) / "mark")
        key = SMITH.log_key.vkey
        verdict = verify(store, key=key, now=SMITH.now, patience=0, proofs_only=proofs_only)
    assert verdict.exit_code == (0 if files == GOOD else 4)
    assert "unexplained" not in {finding.kind for finding in verdict.findings}


pieces = st.lists(
    st.one_of(
        st.tuples(st.integers(0, 40), st.integers(1, 8)).map(lambda pair: Run(pair[0], pair[1], "a", 1)),
        st.integers(0, 60).map(lambda claimed: Foreign("a", 1, claimed, b"")),
    ),
    max_size=12,
)


@given(items=pieces)
def test_every_entry_and_every_line_is_accounted_for(items):
    """Each entry is kept, moved or missing, exactly once; each line in one gap; kept ones ascend."""
    size = 50
    order = order_runs(items, 0, size)
    placed = [seq for run in (*order.kept, *order.moved) for seq in range(run.seq, run.end)]
    missing = [seq for gap in order.gaps for seq in range(gap.begin, gap.end)]
    assert sorted(placed + missing) == list(range(size))
    ascending = [seq for run in order.kept for seq in range(run.seq, run.end)]
    assert ascending == sorted(set(ascending))
    lines = [id(line) for gap in order.gaps for line in gap.lines]
    assert sorted(lines) == sorted(id(item) for item in items if isinstance(item, Foreign))
    copies = sum(run.count for run in order.copies)
    assert len(placed) + copies == sum(item.count for item in items if isinstance(item, Run))


@settings(deadline=None)
@given(at=places, bits=st.integers(1, 255), decode=st.booleans())
def test_fast_path_believes_nothing_that_the_slow_one_does_not(at, bits, decode):
    """A range with one changed byte is unsound, or its hashes differ from the stored ones."""
    data = GOOD[DAYS[0]]
    at %= len(data)
    data = data[:at] + bytes([data[at] ^ bits]) + data[at + 1 :]
    if not data.endswith(b"\n"):
        return
    hashes = GOOD["tree/0"]
    task = Task(0, None, DAYS[0][6:16], 0, len(data), len(data), None, decode)
    report = scan(task, lambda a, b: data[a:b], lambda a, b: hashes[a:b])
    assert not (report.sound and report.stored)
    if report.sound and decode:
        assert [examine(line)[1] for line in data.splitlines()] == [[] for _ in data.splitlines()]


def test_the_good_log_is_good():
    """The log that the properties start from verifies, and its leaves are those of the tree file."""
    assert GOOD["tree/0"] == b"".join(leaf_hash(entry) for entry in SMITH.entries)
