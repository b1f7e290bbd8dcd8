"""Hostile surroundings: full disks, lost permissions, and files and folders that vanish or change underneath."""

from __future__ import annotations

import contextlib
import os
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from klingai_audit.errors import AuditUnavailable, EventTooLarge, KlingAuditError, LogDamaged, UnsupportedStorage
from klingai_audit.event.record import MAX_EVENT_BYTES
from klingai_audit.ledger import publisher
from klingai_audit.ledger.receipt import Receipt
from klingai_audit.stores import filesystem
from tests.support.children import Child, Tell
from tests.support.faulty import QuickOps
from tests.support.judge import judge
from tests.support.ledgers import HandClock, Ledger, event
from tests.support.settle import settle

DAY = "audit-2026-11-21.jsonl"
NOBODY = 65_534


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own with room for some hundred entries."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = sys.platform == "linux" and os.getuid() == 0
    if mounted:
        command = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(folder)]
        mounted = subprocess.run(command, check=False, capture_output=True).returncode == 0
    if not mounted:
        pytest.skip(reason="only on Linux as root: a small file system is mounted")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(ledger: Ledger, acknowledged: dict[str, int], limit: int = 2_000) -> str:
    """Append until it fails; returns the message."""
    for _ in range(limit):
        try:
            receipt = ledger.appender.append(event(metadata={"text": "x" * 1_000})).wait(timeout=20)
        except AuditUnavailable as error:
            return error.message
        acknowledged[receipt.event_id] = receipt.seq or 0
    return ""


def until_published(receipt: Receipt) -> None:
    """Wait as a patient caller does: an attempt that began before the trouble was over may fail yet."""
    for _ in range(100):
        with contextlib.suppress(AuditUnavailable):
            receipt.wait("published", timeout=20)
            return
    receipt.wait("published", timeout=20)


def test_a_full_disk(small_disk: Path) -> None:
    """On a full disk events are refused, nothing acknowledged is lost, and with room the log goes on."""
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(100_000))
    acknowledged: dict[str, int] = {}
    ledger = Ledger(small_disk, clock=HandClock()).open()
    for _ in range(3):
        assert fill(ledger, acknowledged) != ""
    assert len(acknowledged) > 30
    ballast.unlink()
    count = len(acknowledged)
    for _ in range(10):
        receipt = ledger.appender.append(event()).wait(timeout=20)
        acknowledged[receipt.event_id] = receipt.seq or 0
    assert len(acknowledged) == count + 10
    until_published(receipt)
    assert fill(ledger, acknowledged) != ""
    with contextlib.suppress(AuditUnavailable):
        ledger.close()
    day = ledger.log / DAY
    assert day.read_bytes().endswith(b"}\n")
    shutil.copytree(small_disk, small_disk.parent / "roomy")
    settle(small_disk.parent / "roomy", acknowledged, clock=HandClock())


def test_a_disk_that_is_full_at_the_start(small_disk: Path) -> None:
    """A log that cannot be created for lack of room is refused, and created when there is room."""
    for size in range(255_000, 200_000, -4_096):
        ballast = small_disk / "ballast"
        ballast.write_bytes(bytes(size))
        with contextlib.suppress(AuditUnavailable):
            Ledger(small_disk, clock=HandClock()).open().close()
        ballast.unlink()
        with Ledger(small_disk, clock=HandClock()) as ledger:
            assert ledger.appender.append(event()).wait(timeout=20).seq is not None
        settle(small_disk, {}, clock=HandClock())
        for part in ("audit", "audit.keys", "audit.state"):
            shutil.rmtree(small_disk / part)


def test_a_limit_on_file_size(tmp_path: Path) -> None:
    """A process that may not write larger files is refused, cuts its batch back, and goes on with a new limit."""

    def act(tell: Tell) -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        ledger = Ledger(tmp_path, ops=QuickOps(), clock=HandClock()).open()
        acknowledged: dict[str, int] = {}
        _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
        assert "Nothing of it remains" in fill(ledger, acknowledged)
        length = (ledger.log / DAY).stat().st_size
        assert length <= 20_000
        assert "Nothing of it remains" in fill(ledger, acknowledged)
        assert length == (ledger.log / DAY).stat().st_size
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
        assert fill(ledger, acknowledged, limit=5) == ""
        ledger.close()
        for event_id, seq in acknowledged.items():
            tell(f"{event_id} {seq}")

    child = Child(act)
    assert child.wait() == 0
    ledger = Ledger(tmp_path, ops=QuickOps())
    judged = judge(ledger.log, ledger.vkey)
    assert len(child.lines) > 15
    judged.check_acknowledged({line[:36]: int(line[37:]) for line in child.lines})


def as_nobody(base: Path, act: Callable[[Ledger], None]) -> None:
    """Run with a log in a process without privileges, which file modes bind."""
    base.chmod(0o755)
    for parent in base.parents:
        if parent.stat().st_uid == os.getuid() and not parent.stat().st_mode & 0o001:
            parent.chmod(parent.stat().st_mode | 0o011)

    def run(tell: Tell) -> None:
        if os.getuid() == 0:
            os.chown(base, NOBODY, NOBODY)
            os.setgroups([])
            os.setgid(NOBODY)
            os.setuid(NOBODY)
        act(Ledger(base, ops=QuickOps(), clock=HandClock()).open())

    assert Child(run).wait() == 0


def test_a_log_folder_that_becomes_read_only(ram: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the right to make files entries of today are durable, not published; tomorrow's are refused."""
    monkeypatch.setattr(publisher, "_RETRY_S", 0.01)
    place = ram / "place"
    place.mkdir()

    def act(ledger: Ledger) -> None:
        ledger.log.chmod(0o500)
        receipt = ledger.appender.append(event())
        assert receipt.wait().seq == 2
        with pytest.raises(AuditUnavailable, match="Durable, but not published"):
            receipt.wait("published")
        ledger.clock.advance(86_400)  # type: ignore[attr-defined]
        with pytest.raises(AuditUnavailable) as caught:
            ledger.appender.append(event()).wait()
        assert "cannot be" in caught.value.message
        ledger.log.chmod(0o700)
        assert ledger.appender.append(event()).wait(timeout=20).seq is not None
        until_published(receipt)
        ledger.close()

    as_nobody(place, act)
    ledger = Ledger(place, ops=QuickOps())
    assert judge(ledger.log, ledger.vkey).types().count("x_test") == 2


@pytest.mark.parametrize("part", ["audit.keys", "audit.state"])
def test_keys_or_state_that_become_read_only(ram: Path, part: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Read-only keys do no harm until they are rotated; a read-only memory keeps entries from being published."""
    monkeypatch.setattr(publisher, "_RETRY_S", 0.01)
    place = ram / "place"
    place.mkdir()

    def act(ledger: Ledger) -> None:
        folder = place / part
        for path in (folder, *folder.rglob("*")):
            if path.is_dir():
                path.chmod(0o500)
        receipt = ledger.appender.append(event()).wait()
        if part == "audit.keys":
            receipt.wait("published", timeout=20)
            with pytest.raises(AuditUnavailable, match="next epoch's keys"):
                ledger.appender.rotate()
            assert ledger.appender.append(event()).wait("published", timeout=20).seq == 3
        else:
            with pytest.raises(AuditUnavailable, match="remember the signed head"):
                receipt.wait("published", timeout=20)
        for path in (folder, *folder.rglob("*")):
            if path.is_dir():
                path.chmod(0o700)
        ledger.appender.append(event()).wait()
        until_published(receipt)
        ledger.close()

    as_nobody(place, act)
    ledger = Ledger(place, ops=QuickOps())
    judge(ledger.log, ledger.vkey)


def test_unreadable_places(ram: Path) -> None:
    """What cannot be read is an error that says what and where, for log, keys and state."""
    place = ram / "place"
    place.mkdir()

    def act(ledger: Ledger) -> None:
        ledger.close()
        for path in (place / "audit", place / "audit.keys", place / "audit.state", place / "audit" / DAY):
            mode = path.stat().st_mode
            path.chmod(0)
            with pytest.raises(KlingAuditError):
                Ledger(place, ops=QuickOps(), clock=HandClock()).open()
            path.chmod(mode)
        Ledger(place, ops=QuickOps(), clock=HandClock()).open().close()

    as_nobody(place, act)
    ledger = Ledger(place, ops=QuickOps())
    judge(ledger.log, ledger.vkey)


# --- what changes underneath --------------------------------------------------------------------------


@pytest.fixture
def ledger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Ledger]:
    """An open log with three published entries of two days' files, and publishing that tries again at once."""
    monkeypatch.setattr(publisher, "_RETRY_S", 0.01)
    opened = Ledger(tmp_path / "place", ops=QuickOps(), clock=HandClock()).open()
    for _ in range(3):
        opened.appender.append(event()).wait("published")
    yield opened
    with contextlib.suppress(AuditUnavailable):
        opened.close()


def refused(ledger: Ledger) -> AuditUnavailable:
    with pytest.raises(AuditUnavailable) as caught:
        ledger.appender.append(event()).wait(timeout=20)
    return caught.value


def damage(ledger: Ledger) -> str:
    cause = refused(ledger).__cause__
    assert isinstance(cause, LogDamaged)
    return cause.kind_of_damage


def test_the_log_folder_vanishes_and_comes_back(ledger: Ledger) -> None:
    """While the folder is away, or something else has its name, events are refused; afterwards the log goes on."""
    away = ledger.base / "away"
    ledger.log.rename(away)
    assert "not there as a folder" in refused(ledger).message
    ledger.log.write_text("a file")
    assert "not there as a folder" in refused(ledger).message
    ledger.log.unlink()
    ledger.log.symlink_to(ledger.base / "nowhere")
    refused(ledger)
    ledger.log.unlink()
    away.rename(ledger.log)
    assert ledger.appender.append(event()).wait("published", timeout=20).seq == 5
    ledger.close()
    assert judge(ledger.log, ledger.vkey).types().count("x_test") == 4


def test_the_log_folder_is_restored_from_a_copy(ledger: Ledger) -> None:
    """A folder with the same content under the same name is the same log."""
    shutil.copytree(ledger.log, ledger.base / "copy")
    shutil.rmtree(ledger.log)
    refused(ledger)
    (ledger.base / "copy").rename(ledger.log)
    assert ledger.appender.append(event()).wait("published", timeout=20).seq == 5
    ledger.close()
    judge(ledger.log, ledger.vkey)


def test_an_empty_folder_takes_the_logs_place(ledger: Ledger) -> None:
    """A folder without the entries that this writer knows is damage, and nothing is written into it."""
    ledger.log.rename(ledger.base / "away")
    for name in ("tree", "checkpoints"):
        (ledger.log / name).mkdir(parents=True)
    assert damage(ledger) == "tail_cut"
    assert [] == [path for path in ledger.log.rglob("*") if path.is_file()]


def test_an_older_copy_takes_the_logs_place(ledger: Ledger) -> None:
    """An older copy lacks entries that this writer knows: damage, whatever the copy says of itself."""
    shutil.copytree(ledger.log, ledger.base / "copy")
    ledger.appender.append(event()).wait("published")
    shutil.rmtree(ledger.log)
    (ledger.base / "copy").rename(ledger.log)
    assert damage(ledger) == "tail_cut"


@pytest.mark.parametrize("how", ["deleted", "emptied", "shortened", "renamed", "other-content", "symlink"])
def test_the_day_file_changes_underneath(ledger: Ledger, how: str) -> None:
    """A day file that is no longer what this writer knows stops it before it writes anything."""
    day = ledger.log / DAY
    data = day.read_bytes()
    match how:
        case "deleted":
            day.unlink()
        case "emptied":
            day.write_bytes(b"")
        case "shortened":
            day.write_bytes(data[:-1])
        case "renamed":
            day.rename(ledger.log / "audit-2026-11-20.jsonl")
        case "other-content":
            day.unlink()
            day.write_bytes(data.replace(b"success", b"failure"))
        case "symlink":
            day.rename(ledger.base / "elsewhere")
            day.symlink_to(ledger.base / "elsewhere")
    before = {path.name: path.read_bytes() for path in ledger.log.glob("audit-*")}
    if how == "renamed":
        assert damage(ledger) == "file_renamed"
    elif how == "symlink":
        refused(ledger)
        assert data == (ledger.base / "elsewhere").read_bytes()
    else:
        assert damage(ledger) in ("tail_cut", "entry_changed")
    assert before == {path.name: path.read_bytes() for path in ledger.log.glob("audit-*")}


def test_the_day_file_is_replaced_by_a_copy(ledger: Ledger) -> None:
    """An editor that saves the same bytes under the same name does no harm."""
    day = ledger.log / DAY
    data = day.read_bytes()
    day.unlink()
    day.write_bytes(data)
    assert ledger.appender.append(event()).wait("published", timeout=20).seq == 5
    ledger.close()
    judge(ledger.log, ledger.vkey)


@pytest.mark.parametrize("how", ["shortened", "emptied", "deleted"])
def test_a_tree_file_changes_underneath(ledger: Ledger, how: str) -> None:
    """A tree file that lost hashes stops the writer: they are not made up."""
    path = ledger.log / "tree" / "0"
    match how:
        case "shortened":
            path.write_bytes(path.read_bytes()[:-32])
        case "emptied":
            path.write_bytes(b"")
        case "deleted":
            path.unlink()
    receipt = ledger.appender.append(event())
    with pytest.raises(AuditUnavailable, match="shorter than"):
        receipt.wait("published", timeout=20)
    assert isinstance(refused(ledger).__cause__, LogDamaged)


def test_the_tree_folder_vanishes_and_comes_back(ledger: Ledger) -> None:
    """Without its tree a log takes entries and cannot publish them; when the folder is back it does."""
    (ledger.log / "tree").rename(ledger.base / "away")
    receipt = ledger.appender.append(event()).wait()
    with pytest.raises(AuditUnavailable, match="Durable, but not published"):
        receipt.wait("published", timeout=20)
    (ledger.base / "away").rename(ledger.log / "tree")
    ledger.appender.append(event()).wait()
    ledger.close()
    judge(ledger.log, ledger.vkey)


def test_the_checkpoint_vanishes_underneath(ledger: Ledger) -> None:
    """A living writer knows what it signed, and publishes anew."""
    (ledger.log / "checkpoint").unlink()
    ledger.appender.append(event()).wait("published")
    ledger.close()
    judge(ledger.log, ledger.vkey)


def test_a_pipe_for_a_temporary_file(ledger: Ledger) -> None:
    """Something that waits under the name of a temporary file neither blocks the writer nor is written through."""
    victim = ledger.base / "victim"
    victim.write_text("mine")
    (ledger.log / "checkpoint.tmp").symlink_to(victim)
    ledger.appender.append(event()).wait("published", timeout=20)
    os.mkfifo(ledger.log / "checkpoint.tmp")
    ledger.appender.append(event()).wait("published", timeout=20)
    assert victim.read_text() == "mine"
    ledger.close()
    judge(ledger.log, ledger.vkey)


# --- sizes and file systems ---------------------------------------------------------------------------


def test_the_largest_event(ledger: Ledger) -> None:
    """An event of exactly the allowed size makes an entry that fits; one byte more is refused before anything."""
    rest = MAX_EVENT_BYTES - len(event(metadata={"text": ""}).body)
    receipt = ledger.appender.append(event(metadata={"text": "x" * rest})).wait("published")
    assert receipt.seq == 5
    with pytest.raises(EventTooLarge):
        event(metadata={"text": "x" * (rest + 1)})
    ledger.close()
    judged = judge(ledger.log, ledger.vkey)
    assert max(len(line) for line in judged.lines) <= 65_535


@pytest.mark.parametrize(
    ("kind", "refused"),
    [
        ("nfs4", True),
        ("nfs", True),
        ("cifs", True),
        ("smb3", True),
        ("fuse.sshfs", True),
        ("fuseblk", True),
        ("ext4", False),
        ("xfs", False),
        ("btrfs", False),
        ("tmpfs", False),
        ("overlay", False),
    ],
)
@pytest.mark.parametrize("new", [True, False])
def test_file_systems(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, refused: bool, new: bool) -> None:
    """Network and user-space file systems are refused for new logs and for logs that were moved there."""
    if not new:
        Ledger(tmp_path, ops=QuickOps()).open().close()
    device = tmp_path.stat().st_dev
    number = f"{os.major(device)}:{os.minor(device)}"
    mounts = tmp_path / "mountinfo"
    mounts.write_text(
        f"21 1 254:9 / /other rw - ext4 /dev/x rw\n36 35 {number} / /mnt/a\\040b rw,noatime master:1 - {kind} srv rw\n"
    )
    monkeypatch.setattr(filesystem, "_MOUNTS", mounts)
    before = sorted(tmp_path.rglob("*"))
    if refused:
        with pytest.raises(UnsupportedStorage) as caught:
            Ledger(tmp_path, ops=QuickOps()).open()
        assert kind in caught.value.message
        assert {path.relative_to(tmp_path).parts[0] for path in {*tmp_path.rglob("*")} - {*before}} <= {
            "audit.keys",
            "audit.state",
        }
    else:
        Ledger(tmp_path, ops=QuickOps()).open().close()
