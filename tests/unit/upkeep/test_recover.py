"""`recover`: takes a log up again, repairs what can be derived, and never what contradicts a signature."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import pytest

from klingai_audit.config import Places
from klingai_audit.errors import AuditUnavailable, LogDamaged, LogNotFound
from klingai_audit.log import AuditLog
from klingai_audit.upkeep.recover import RecoverResult, recover
from tests.support.children import Child, Tell
from tests.support.faulty import FaultyOps, QuickOps
from tests.support.judge import Judged, judge

NOTHING = RecoverResult(failed_sync=False, tree=(), set_aside=(), entries=0)


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Places:
    """Where a log of some entries lies, on a machine of its own."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "machine"))
    found = Places.resolve(tmp_path / "audit")
    with opened(found) as audit:
        for _ in range(5):
            audit.log("x_test", "user@example.com").wait("published")
    return found


def opened(places: Places, ops: QuickOps | None = None) -> AuditLog:
    return AuditLog.open(places.log, ops=ops or QuickOps())


def look(places: Places) -> Judged:
    return judge(Path(places.log), (places.keys / "log.pub").read_text().strip())


def day_of(places: Places) -> Path:
    return max(Path(places.log).glob("audit-*.jsonl"))


def content(places: Places) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in Path(places.log).rglob("*") if path.is_file()}


def break_sync(places: Places, about: str = "audit-") -> int:
    """Let a sync fail under a writer that acknowledged entries; returns how many entries the log had before."""
    ops = FaultyOps()
    audit = opened(places, ops)
    size = (audit.log("x_test", "user@example.com").wait("published").seq or 0) + 1
    ops.fails = lambda call: call.name == "sync" and call.about.startswith(about)
    with pytest.raises(AuditUnavailable):
        for _ in range(100):
            audit.log("x_test", "user@example.com").wait("published", timeout=20)
    with pytest.raises(AuditUnavailable):
        audit.close()
    return size


def test_a_healthy_log_is_only_opened(places: Places) -> None:
    """With nothing to do recover says so, and may be repeated."""
    for number in (1, 2):
        assert recover(places) == RecoverResult(failed_sync=False, tree=(), set_aside=(), entries=8 + 2 * number)
    assert "log_recovered" not in look(places).types()


@pytest.mark.parametrize("about", ["audit-", "0", "head.tmp", "heads", "checkpoint.tmp"])
def test_a_failed_sync_is_dealt_with(places: Places, about: str) -> None:
    """After a failed sync the log is refused until recover; then it goes on, and everything acknowledged is there."""
    size = break_sync(places, about)
    with pytest.raises(AuditUnavailable) as caught:
        opened(places)
    assert "klingai-audit recover" in caught.value.do
    day = day_of(places)
    before, inode = day.read_bytes(), day.stat().st_ino
    result = recover(places)
    assert result.failed_sync
    assert day.read_bytes().startswith(before)
    assert inode != day.stat().st_ino
    judged = look(places)
    assert result.entries == len(judged.lines) > size
    assert not (places.state / "failed-sync").exists()
    assert recover(places) == RecoverResult(False, (), (), result.entries + 2)
    with opened(places) as audit:
        audit.log("x_test", "user@example.com").wait("published")


def test_the_doubtful_end_is_kept_aside(places: Places) -> None:
    """What lay behind the last signature when the sync failed is kept as a copy, and named in the log."""
    break_sync(places)
    head = int((places.state / "heads" / "head").read_bytes().split(b"\n")[1])
    tail = b"".join(line + b"\n" for line in day_of(places).read_bytes().split(b"\n")[head:-1])
    result = recover(places)
    digest = hashlib.sha256(tail).hexdigest()
    assert (digest,) == result.set_aside
    assert tail == (places.state / "aside" / digest).read_bytes()
    metadata = [entry["metadata"] for entry in look(places).entries if entry["event_type"] == "log_recovered"]
    assert [{"sha256": digest, "bytes": len(tail)}] == [one["set_aside"] for one in metadata]


def test_a_living_writer_is_stopped_until_it_opens_again(places: Places) -> None:
    """A writer that was open when another one's sync failed is refused, before and after recover."""
    other = opened(places)
    other.log("x_test", "user@example.com").wait("published")
    break_sync(places)
    with pytest.raises(AuditUnavailable):
        other.log("x_test", "user@example.com").wait()
    recover(places)
    with pytest.raises(AuditUnavailable):
        other.log("x_test", "user@example.com").wait()
    with pytest.raises(AuditUnavailable):
        other.close()
    with opened(places) as audit:
        audit.log("x_test", "user@example.com").wait("published")
    look(places)


def test_a_crash_is_recovered_from(places: Places) -> None:
    """Unfinished lines go aside; running it again finds nothing more."""
    with day_of(places).open("ab") as file:
        file.write(b'{"schema":1,"event')
    result = recover(places)
    assert (hashlib.sha256(b'{"schema":1,"event').hexdigest(),) == result.set_aside
    assert recover(places).set_aside == ()
    assert look(places).types().count("log_recovered") == 1


@pytest.mark.parametrize("how", ["shortened", "emptied", "changed", "garbage", "deleted", "folder-deleted"])
def test_tree_files_are_written_anew(places: Places, how: str) -> None:
    """Tree hashes that do not fit entries under a signed root are derived again; wrong ones are kept aside."""
    tree = Path(places.log) / "tree"
    path = tree / "0"
    good = path.read_bytes()
    match how:
        case "shortened":
            path.write_bytes(good[:-40])
        case "emptied":
            path.write_bytes(b"")
        case "changed":
            path.write_bytes(good[:70] + bytes([good[70] ^ 1]) + good[71:])
        case "garbage":
            path.write_bytes(b"garbage" * 40)
        case "deleted":
            path.unlink()
        case "folder-deleted":
            shutil.rmtree(tree)
    if how != "changed":
        with pytest.raises(LogDamaged):
            opened(places)
    result = recover(places)
    assert ("tree/0",) == result.tree
    assert path.read_bytes().startswith(good)
    assert (how in ("changed", "garbage")) == bool(result.set_aside)
    look(places)
    assert recover(places).tree == ()


@pytest.mark.parametrize("how", ["entry", "line-lost", "rolled-back", "day-file-lost"])
def test_damage_is_not_repaired_over(places: Places, tmp_path: Path, how: str) -> None:
    """Entries that contradict the signed root, or are fewer, stay as they are, and so does everything else."""
    if how == "rolled-back":
        shutil.copytree(places.log, tmp_path / "older")
        opened(places).close()
        shutil.rmtree(places.log)
        shutil.copytree(tmp_path / "older", places.log)
    day = day_of(places)
    data = day.read_bytes()
    (Path(places.log) / "tree" / "0").write_bytes(b"garbage" * 40)
    match how:
        case "entry":
            day.write_bytes(data.replace(b"success", b"failure", 1))
        case "line-lost":
            day.write_bytes(data.split(b"\n", 1)[1])
        case "day-file-lost":
            day.unlink()
    before = content(places)
    if how == "rolled-back":
        with pytest.raises(LogDamaged):
            recover(places)
        assert {**before, f"{places.log}/tree/0": b""} == {**content(places), f"{places.log}/tree/0": b""}
        return
    with pytest.raises(LogDamaged):
        recover(places)
    assert before == content(places)


def lose(places: Places, how: str) -> bytes:
    """Delete or garble `checkpoint`; returns what stands there then."""
    path = Path(places.log) / "checkpoint"
    data = path.read_bytes()
    changed = {
        "deleted": None,
        "empty": b"",
        "garbage": b"\0" * 300,
        "smaller": data.replace(b"\n8\n", b"\n7\n"),
        "torn": data[: len(data) // 2],
        "unsigned": data[: data.index(b"\n\n") + 2],
    }[how]
    assert changed != data
    if changed is None:
        path.unlink()
        return b""
    path.write_bytes(changed)
    return changed


@pytest.mark.parametrize("how", ["deleted", "empty", "garbage", "smaller", "torn", "unsigned"])
@pytest.mark.parametrize("tree", ["whole", "lost"])
def test_a_lost_checkpoint_is_put_back(places: Places, how: str, tree: str) -> None:
    """From the remembered head; what stood there is kept aside and named by an entry; nothing else changes."""
    day = day_of(places)
    before = day.read_bytes()
    stood = lose(places, how)
    if tree == "lost":
        (Path(places.log) / "tree" / "0").unlink()
    with pytest.raises(LogDamaged):
        opened(places)
    result = recover(places)
    assert (result.checkpoint, result.tree) == (True, () if tree == "whole" else ("tree/0",))
    assert day.read_bytes().startswith(before)
    assert result.set_aside == ((hashlib.sha256(stood).hexdigest(),) if stood else ())
    assert look(places).types().count("log_recovered") == len(result.set_aside)
    with opened(places) as audit:
        assert audit.verify().exit_code == 0
    assert not recover(places).checkpoint


@pytest.mark.parametrize("how", ["deleted", "garbage"])
@pytest.mark.parametrize("damage", ["changed", "cut", "memory-gone", "memory-garbled"])
def test_a_lost_checkpoint_is_not_put_over_damage(places: Places, how: str, damage: str) -> None:
    """Entries that do not lead to the remembered root, or no remembered head: everything stays as it is."""
    lose(places, how)
    day = day_of(places)
    lines = day.read_bytes().splitlines(keepends=True)
    memory = places.state / "heads" / "head"
    if damage == "changed":
        day.write_bytes(b"".join(lines).replace(b"success", b"failure", 1))
    elif damage == "cut":
        day.write_bytes(b"".join(lines[:-1]))
    elif damage == "memory-gone":
        memory.unlink()
    else:
        memory.write_bytes(memory.read_bytes().replace(b"\n8\n", b"\n7\n"))
    before = content(places)
    with pytest.raises(LogDamaged):
        recover(places)
    assert before == content(places)


def test_a_kept_checkpoint_may_be_the_newer_one(places: Places) -> None:
    """A state folder from a backup remembers less than the log itself keeps: the larger signed head is put back."""
    old = (places.state / "heads" / "head").read_bytes()
    with opened(places) as audit:
        audit.log("x_test", "user@example.com").wait("published")
    newest = (Path(places.log) / "checkpoint").read_bytes()
    (places.state / "heads" / "head").write_bytes(old)
    lose(places, "deleted")
    assert recover(places).checkpoint
    assert newest in {path.read_bytes() for path in (Path(places.log) / "checkpoints").iterdir()}
    look(places)


def test_kept_checkpoints_that_were_not_written_yet(places: Places) -> None:
    """A writer that died after it remembered a head has not kept the checkpoints before it: they are made up for."""
    with opened(places) as audit:
        audit.log("x_test", "user@example.com").wait("published")
    kept = sorted((Path(places.log) / "checkpoints").iterdir())
    names = [path.name for path in kept]
    assert len(names) == 2
    for path in kept:
        path.unlink()
    lose(places, "deleted")
    recover(places)
    assert names == [path.name for path in sorted((Path(places.log) / "checkpoints").iterdir())][: len(names)]
    look(places)


@pytest.mark.slow
def test_putting_a_checkpoint_back_can_be_repeated(
    places: Places, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A recover that is killed at some moment of it is completed by the next one."""
    lose(places, "garbage")
    assert {5} == set(recovered_after_deaths(tmp_path, monkeypatch))


def recovered_after_deaths(folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Kill a recover of the log in `folder` at many moments, each time recover again; return what is there then."""
    for part in ("audit", "audit.keys", "audit.state"):
        shutil.copytree(folder / part, folder / "broken" / part)
    died, counts = 0, []
    for moment in range(0, 60, 3):
        base = folder / str(moment)
        shutil.copytree(folder / "broken", base)
        there = Places.resolve(base / "audit")
        died += die_at(there, moment, monkeypatch)
        recover(there)
        counts.append(look(there).types().count("x_test"))
    assert died > 5
    return counts


def die_at(places: Places, moment: int, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Recover in a process that ends with its `moment`-th opening of a file; returns whether it came to that."""

    def act(tell: Tell) -> None:
        import os

        real, left = os.open, moment

        def counted(*arguments: object, **options: object) -> int:
            nonlocal left
            left -= 1
            if left < 0:
                os._exit(9)
            return real(*arguments, **options)  # type: ignore[arg-type]

        monkeypatch.setattr(os, "open", counted)
        recover(places)

    return Child(act).wait() == 9


def test_there_is_nothing_to_recover_without_a_log(tmp_path: Path) -> None:
    """A place without a log is an error, and none is made there."""
    places = Places.resolve(tmp_path / "audit")
    with pytest.raises(LogNotFound):
        recover(places)
    assert [] == list(tmp_path.glob("audit*"))


@pytest.mark.slow
def test_recover_that_dies_can_be_repeated(places: Places, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A recover that is killed at some moment is completed by the next one."""
    break_sync(places)
    assert all(count >= 6 for count in recovered_after_deaths(tmp_path, monkeypatch))
