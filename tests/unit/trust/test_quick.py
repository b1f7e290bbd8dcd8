"""`--quick`: entries verified before are not read again, and the verdict says so."""

from __future__ import annotations

import dataclasses

import msgspec
import pytest

from klingai_audit.durable import FileOps
from klingai_audit.errors import LogNotFound
from klingai_audit.stores.directory import DirectoryStore
from klingai_audit.trust.remember import Memory, recall, remember
from klingai_audit.trust.verdict import Verdict
from klingai_audit.trust.verify import verify
from tests.support.logsmith import Smith
from tests.unit.trust.attacks import broken, join, split

FIRST, SECOND = "audit-2026-11-20.jsonl", "audit-2026-11-21.jsonl"


class Grown:
    """A log verified at 1,002 entries that then grew over a rotation to a second day."""

    def __init__(self, folder):
        self.folder = folder
        self.smith = Smith().create().work(1000)
        self.smith.write(folder)
        self.memory = self.verify().memory
        self.smith.next_day().rotate().work(300).closed()
        self.files = self.smith.files()
        self.smith.write(folder)

    def verify(self, memory: Memory | None = None, **options: object) -> Verdict:
        options = {"key": self.smith.log_key.vkey} | options
        store = DirectoryStore(self.folder, self.folder.parent / "mark")
        return verify(store, now=self.smith.now, patience=0, quick_from=memory, **options)  # type: ignore[arg-type]


@pytest.fixture
def grown(tmp_path) -> Grown:
    return Grown(tmp_path / "audit")


def test_quick_begins_where_the_last_verification_ended(grown):
    """Counts are those of the whole log; what was not read again is not claimed."""
    quick, full = grown.verify(grown.memory), grown.verify()
    assert (quick.quick_from, quick.size, quick.total, quick.valid) == (1002, 1304, 1304, 1304)
    assert (full.quick_from, full.threat("edit").state) == (None, "ruled_out")
    assert {quick.threat(name).state for name in ("edit", "insert", "delete", "reorder")} == {"not_checked"}
    assert "1002" in quick.threat("edit").by


def test_memory_after_quick_is_that_of_a_full_run(grown):
    """Epochs, handovers and named checkpoints carry over, so quick runs may follow each other."""
    after_quick = grown.verify(grown.memory).memory
    assert after_quick == grown.verify().memory
    assert grown.verify(after_quick).quick_from == 1304


def test_edit_of_a_new_entry_is_found(grown):
    """What came since is read; anything off leads to a full verification."""
    (grown.folder / SECOND).write_bytes(grown.files[SECOND].replace(b"studio-", b"studiO-", 1))
    verdict = grown.verify(grown.memory)
    assert (verdict.quick_from, [finding[0] for finding in broken(verdict)]) == (None, ["entry_changed"])


def test_edit_of_an_old_entry_is_what_quick_does_not_see(grown):
    """The price of quick: the old entry's bytes are not looked at, and the verdict does not rule the edit out."""
    (grown.folder / FIRST).write_bytes(grown.files[FIRST].replace(b"studio-", b"studiO-", 1))
    assert (grown.verify(grown.memory).exit_code, grown.verify().exit_code) == (0, 4)


def test_old_lines_cut_or_added_are_found(grown):
    """The line count before the start is checked against the index of the next entry."""
    lines = split(grown.files[FIRST])
    (grown.folder / FIRST).write_bytes(join(lines[:500] + lines[501:]))
    assert grown.verify(grown.memory).exit_code == 4


def test_changed_old_tree_hash_is_found(grown):
    """The stored hashes must still have the remembered root."""
    tree = bytearray(grown.files["tree/1"])
    tree[40] ^= 1
    (grown.folder / "tree" / "1").write_bytes(tree)
    verdict = grown.verify(grown.memory)
    assert (verdict.quick_from, [finding[0] for finding in broken(verdict)]) == (None, ["tree_changed"])


def test_rolled_back_log_is_verified_in_full(grown):
    """A log shorter than the memory gives no start."""
    old = Smith().create().work(500)
    for name in (SECOND, FIRST):
        (grown.folder / name).unlink()
    for kept in (grown.folder / "checkpoints").iterdir():
        kept.unlink()
    old.write(grown.folder)
    assert grown.verify(grown.memory).quick_from is None


def wrong(memory: Memory, **changes: object) -> Memory:
    return msgspec.structs.replace(memory, **changes)


@pytest.mark.parametrize(
    "changes",
    [
        {"log_key": "x"},
        {"checkpoint": "rubbish"},
        {"size": 1001},
        {"epoch_keys": ()},
        {"epoch_ends": (5,)},
    ],
)
def test_memory_that_does_not_hold_is_not_used(grown, changes):
    """A changed memory costs a full verification, nothing else."""
    verdict = grown.verify(wrong(grown.memory, **changes))
    assert (verdict.quick_from, verdict.exit_code) == (None, 0)


def test_memory_is_not_used_without_a_trusted_key(grown):
    """Quick needs the key that was trusted when the memory was made."""
    assert grown.verify(grown.memory, key=None).quick_from is None


def test_broken_log_is_not_remembered(grown):
    """Only a log without broken findings gives a memory."""
    (grown.folder / "checkpoint").unlink()
    assert grown.verify().memory is None


def test_memory_survives_its_file(grown, tmp_path):
    """What was remembered is recalled."""
    assert remember(tmp_path / "state", grown.memory) is True
    assert recall(tmp_path / "state") == grown.memory


def test_nothing_to_remember_and_nowhere_to_put_it(grown, tmp_path):
    """No memory writes nothing; a place that cannot be written is no error."""

    class Full(FileOps):
        def write(self, fd, data):
            raise OSError(28, "No space left on device")

    assert remember(tmp_path / "state", None) is False
    assert remember(tmp_path / "state", grown.memory, Full()) is False
    assert recall(tmp_path / "nowhere") is None


@pytest.mark.parametrize("data", [b"", b"{}", b"\xff", b'{"log_key":1}'])
def test_unreadable_memory_is_none(tmp_path, data):
    """A memory of another form counts as none."""
    (tmp_path / "verified.json").write_bytes(data)
    assert recall(tmp_path) is None


def test_empty_place_is_no_log(tmp_path):
    """Nothing there and nothing remembered: there is no log to judge."""
    with pytest.raises(LogNotFound):
        verify(DirectoryStore(tmp_path, tmp_path / "mark"), key=Smith().log_key.vkey)


def test_findings_are_equal_but_for_the_memory(grown):
    """Verdicts compare by what they say."""
    verdict = grown.verify()
    assert dataclasses.replace(verdict, memory=None) == verdict
