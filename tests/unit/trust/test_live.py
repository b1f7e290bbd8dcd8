"""Beside a running writer: what is unfinished is looked at again, what stays unfinished is a finding."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from klingai_audit.ledger.mirror import stated_size
from klingai_audit.stores.directory import DirectoryStore
from klingai_audit.trust import look
from klingai_audit.trust.verdict import Verdict
from klingai_audit.trust.verify import verify
from tests.support.logsmith import Smith, write_files
from tests.unit.trust.attacks import broken, detected

DAY = "audit-2026-11-20.jsonl"
Step = Callable[[], None]


class Growing(DirectoryStore):
    """A store beside which something happens: `steps[n]` runs before the n-th reading of the checkpoint."""

    def __init__(self, folder, steps: dict[int, Step]) -> None:
        super().__init__(folder, folder.parent / "mark")
        self.steps, self.looks = steps, 0

    def read_checkpoint(self) -> bytes | None:
        if self.looks in self.steps:
            self.steps[self.looks]()
        self.looks += 1
        return super().read_checkpoint()


@pytest.fixture(autouse=True)
def _no_sleep(monkeypatch):
    monkeypatch.setattr("klingai_audit.trust.verify.time.sleep", lambda seconds: None)


def verify_growing(folder, before: dict[str, bytes], steps: dict[int, Step], patience: float = 2.0) -> Verdict:
    write_files(folder, before)
    smith = Smith()
    return verify(Growing(folder, steps), key=smith.log_key.vkey, now=smith.now, patience=patience)


def states(*sizes: int) -> list[dict[str, bytes]]:
    """The files of one growing log at several sizes, entries and all."""
    smith, found = Smith().create(), []
    for size in sizes:
        smith.work(size - len(smith.entries))
        found.append(smith.files())
    return found


def test_entries_that_a_newer_checkpoint_covers_are_taken_in(tmp_path):
    """Lines were written, the checkpoint follows: nothing is broken and the newest size is verified."""
    old, new = states(300, 600)
    between = new | {"checkpoint": old["checkpoint"]}
    verdict = verify_growing(tmp_path / "a", between, {3: lambda: write_files(tmp_path / "a", new) and None})
    assert (broken(verdict), verdict.size, verdict.total) == ([], 600, 600)


def test_log_that_grows_all_the_time_is_verified_to_a_checkpoint(tmp_path):
    """New lines keep coming: exactly those under the checkpoint that was read count."""
    stages = states(300, 500, 700, 5000)
    folder = tmp_path / "a"
    mixed = stages[1] | {"checkpoint": stages[0]["checkpoint"]}
    third = stages[3] | {"checkpoint": stages[2]["checkpoint"]}
    verdict = verify_growing(folder, mixed, {2: lambda: write_files(folder, third) and None})
    assert (broken(verdict), verdict.size, verdict.total) == ([], 700, 700)


def test_new_day_file_is_taken_in(tmp_path):
    """The newer checkpoint reaches into a file that was not there at the first look."""
    smith = Smith().create().work(100)
    old = smith.files()
    smith.batch(*smith.generation(7))
    middle = smith.files() | {"checkpoint": old["checkpoint"]}
    smith.next_day().work(50)
    new, folder = smith.files(), tmp_path / "a"
    verdict = verify_growing(folder, middle, {2: lambda: write_files(folder, new) and None})
    assert (broken(verdict), verdict.size, verdict.total) == ([], 156, 156)


def test_lines_that_stay_uncovered_are_an_unsigned_tail(tmp_path):
    """After the patience, what no checkpoint covers is broken, with its count and place."""
    old, new = states(300, 303)
    verdict = verify_growing(tmp_path / "a", new | {"checkpoint": old["checkpoint"]}, {}, patience=0.3)
    assert broken(verdict) == [("unsigned_tail", 300, 303, DAY, 301)]
    assert (verdict.unsigned.entries, detected(verdict)) == (3, {"insert"})


def test_line_that_is_being_written_is_no_finding(tmp_path):
    """A torn last line that a moment later is whole and covered."""
    old, new = states(300, 301)
    torn = old | {DAY: new[DAY][:-20]}
    folder = tmp_path / "a"
    verdict = verify_growing(folder, torn, {2: lambda: write_files(folder, new) and None})
    assert (broken(verdict), verdict.size) == ([], 301)


def test_torn_line_that_a_writer_cut_off_is_no_finding(tmp_path):
    """A failed write is cut back: nothing of it remains."""
    (old,) = states(300)
    folder = tmp_path / "a"
    torn = old | {DAY: old[DAY] + b'{"schema"'}
    assert broken(verify_growing(folder, torn, {2: lambda: write_files(folder, old) and None})) == []


def test_temporary_file_of_a_writer_at_work_is_no_finding(tmp_path):
    """`checkpoint.tmp` that is gone, or another file, at the next look."""
    (files,) = states(10)
    folder = tmp_path / "a"
    busy = files | {"checkpoint.tmp": b"half"}
    verdict = verify_growing(folder, busy, {2: (folder / "checkpoint.tmp").unlink})
    assert broken(verdict) == []


def test_temporary_file_that_stays_is_a_stray(tmp_path):
    """Nobody is replacing that file: it was left behind."""
    (files,) = states(10)
    name = "checkpoints/00000000000000000010.tmp"
    verdict = verify_growing(tmp_path / "a", files | {name: b"half"}, {}, patience=0.3)
    assert broken(verdict) == [("file_unexpected", None, None, name, None)]


def test_kept_checkpoint_just_ahead_of_the_newest_is_no_finding(tmp_path):
    """The kept one is written first; the newest follows."""
    smith = Smith().create().work(50)
    old = smith.files()
    smith.closed()
    new, folder = smith.files(), tmp_path / "a"
    verdict = verify_growing(
        folder, new | {"checkpoint": old["checkpoint"]}, {2: lambda: write_files(folder, new) and None}
    )
    assert (broken(verdict), verdict.size) == ([], 53)


def test_log_that_is_just_being_created_is_waited_for(tmp_path):
    """Entries without a checkpoint yet: it comes within the patience."""
    (files,) = states(2)
    folder = tmp_path / "a"
    bare = {name: data for name, data in files.items() if name != "checkpoint"}
    verdict = verify_growing(folder, bare, {2: lambda: write_files(folder, files) and None})
    assert broken(verdict) == []


def test_policy_may_tolerate_an_orderly_tail(tmp_path):
    """`require_checkpoint = false`: linked and sealed lines beyond the checkpoint are a note."""
    from klingai_audit.privacy.policy import Policy

    text = Policy.DEFAULT_TEXT.replace("require_checkpoint = true", "require_checkpoint = false")
    policy = Policy.parse(text.encode())
    old, new = states(300, 303)
    write_files(tmp_path / "a", new | {"checkpoint": old["checkpoint"]})
    store = DirectoryStore(tmp_path / "a", tmp_path / "mark")
    verdict = verify(store, key=Smith().log_key.vkey, policy=policy, patience=0)
    assert (verdict.exit_code, verdict.unsigned.entries) == (0, 3)
    assert "unpublished" in [note.kind for note in verdict.notes]
    write_files(tmp_path / "a", {DAY: new[DAY].replace(b'"seq":301', b'"seq":3011')})
    assert verify(store, key=Smith().log_key.vkey, policy=policy, patience=0).exit_code == 4


@pytest.mark.parametrize(
    "note, size",
    [(None, 0), (b"", 0), (b"o\n12\nr\n", 12), (b"o\n+12\nr\n", 0), (b"o\n" + b"9" * 30 + b"\nr\n", 0), (b"o\n12", 0)],
)
def test_stated_size_is_read_without_trust(note, size):
    """Only to decide whether to wait."""
    assert stated_size(note) == size


def test_settled_length_ends_after_the_last_line_feed():
    """Whole lines, and what is torn, however long it is."""
    for data in (b"", b"a\n", b"a\nbc", b"abc", b"a\n" + b"b" * 200_000, b"\n"):
        length, torn = look.settle_length(lambda begin, end, data=data: data[begin:end], len(data))
        assert (length, torn) == (data.rfind(b"\n") + 1, len(data) - data.rfind(b"\n") - 1)
