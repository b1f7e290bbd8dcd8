"""Backups while writers run, and the log that follows a restored one."""

from __future__ import annotations

import json
import shutil
import stat
import threading
from pathlib import Path

import pytest

from klingai_audit.cli.run import run
from klingai_audit.config import Places
from klingai_audit.errors import LogDamaged, UsageError
from klingai_audit.log import AuditLog
from klingai_audit.trust.verify import verify
from klingai_audit.upkeep.backup import back_up, succeed
from klingai_audit.upkeep.unseal import make_unseal_key, unseal
from klingai_audit.views.query import Filter, query


def places(folder: Path, name: str = "audit") -> Places:
    return Places.resolve(folder / name, environ={})


def note(audit: AuditLog, number: int, actor: str = "user@example.com") -> None:
    audit.log("x_note", actor, metadata={"number": number})


def lines(folder: Path) -> list[bytes]:
    return [line for day in sorted(folder.glob("audit-*.jsonl")) for line in day.read_bytes().splitlines()]


def test_a_copy_verifies_and_holds_what_was_signed(tmp_path: Path) -> None:
    """The entries under the checkpoint, byte for byte; no key is in it unless asked for."""
    with AuditLog.open(tmp_path / "audit") as audit:
        for number in range(300):
            note(audit, number)
        audit.flush("published")
        done = back_up(places(tmp_path), tmp_path / "copy")
        assert lines(tmp_path / "audit")[: done.size] == lines(tmp_path / "copy" / "audit")
        told = verify(open_store(tmp_path / "copy"), key=audit.vkey, patience=0)
    assert (True, 302) == (told.integrity_ok, done.size)
    assert {"audit"} == {path.name for path in (tmp_path / "copy").iterdir()}
    assert not (tmp_path / "copy.part").exists()


def test_what_is_sealed_is_copied_when_asked_for(tmp_path: Path) -> None:
    """And opens in the copy, with the keys; without `vault` there is none of it."""
    AuditLog.open(tmp_path / "audit").close()
    make_unseal_key(tmp_path / "audit.keys")
    (tmp_path / "audit.keys" / "policy.toml").write_text("[vault]\nseal = ['prompt']\n")
    with AuditLog.open(tmp_path / "audit") as audit:
        seq = audit.log("prompt_submitted", "user@example.com", metadata={"prompt": "a lake"}).wait("published").seq
        back_up(places(tmp_path), tmp_path / "without", keys=True)
        back_up(places(tmp_path), tmp_path / "with", keys=True, vault=True)
    assert (False, 0o700) == (
        (tmp_path / "without" / "audit.vault").exists(),
        (tmp_path / "with" / "audit.vault").stat().st_mode & 0o777,
    )
    with AuditLog.open(tmp_path / "with" / "audit") as copy:
        assert unseal(copy, seq or 0, "prompt", reason="a look", actor="officer@example.com").text == "a lake"


def open_store(folder: Path):
    from klingai_audit import config

    return config.open_store(places(folder))


def test_copies_beside_busy_writers_verify(tmp_path: Path) -> None:
    """Made again and again while two threads append and keys rotate; every copy is whole."""
    stop = threading.Event()
    with AuditLog.open(tmp_path / "audit") as audit:

        def write() -> None:
            number = 0
            while not stop.is_set():
                note(audit, number)
                number += 1
                stop.wait(0.002)

        threads = [threading.Thread(target=write) for _ in range(2)]
        for thread in threads:
            thread.start()
        try:
            sizes = []
            for number in range(4):
                sizes.append(back_up(places(tmp_path), tmp_path / f"copy-{number}", keys=number % 2 == 1).size)
                if number == 2:
                    audit.rotate_keys()
        finally:
            stop.set()
            for thread in threads:
                thread.join()
    assert sorted(sizes) == sizes


def test_keys_are_copied_closed_to_others(tmp_path: Path) -> None:
    """With people and the remembered head: what is needed to go on, and nobody else may read."""
    with AuditLog.open(tmp_path / "audit") as audit:
        note(audit, 1)
        audit.flush("published")
        back_up(places(tmp_path), tmp_path / "copy", keys=True)
        (entry,) = query(audit.reader.entries(), Filter(event_type="x_note"))
    copy = tmp_path / "copy"
    assert 0o700 == stat.S_IMODE((copy / "audit.keys").stat().st_mode)
    private = [path for path in (copy / "audit.keys").iterdir() if path.suffix in (".key", ".sqlite")]
    assert {0o600} == {stat.S_IMODE(path.stat().st_mode) for path in private}
    with AuditLog.open(copy / "audit") as again:
        (found,) = again.query(actor="user@example.com", event_type="x_note")
        assert entry.event_id == found.event_id


def test_a_backup_is_never_written_over(tmp_path: Path) -> None:
    """What is left of one that was cut off is begun anew."""
    AuditLog.open(tmp_path / "audit").close()
    (tmp_path / "copy.part" / "audit").mkdir(parents=True)
    (tmp_path / "copy.part" / "audit" / "junk").write_text("x")
    back_up(places(tmp_path), tmp_path / "copy")
    assert not (tmp_path / "copy" / "audit" / "junk").exists()
    with pytest.raises(UsageError, match="already"):
        back_up(places(tmp_path), tmp_path / "copy")


def test_a_damaged_log_gives_no_backup(tmp_path: Path) -> None:
    """A copy that does not verify is not kept."""
    with AuditLog.open(tmp_path / "audit") as audit:
        note(audit, 1)
    (day,) = (tmp_path / "audit").glob("audit-*.jsonl")
    day.write_bytes(day.read_bytes().replace(b'"number":1', b'"number":2'))
    with pytest.raises(LogDamaged, match="does not verify"):
        back_up(places(tmp_path), tmp_path / "copy")
    assert [] == list(tmp_path.glob("copy*"))


# --- after a restore -----------------------------------------------------------------------------------


@pytest.fixture
def lost(tmp_path: Path) -> tuple[Path, bytes]:
    """A day-old backup put back after the disk was lost, and a later checkpoint that somebody kept."""
    with AuditLog.open(tmp_path / "audit") as audit:
        for number in range(10):
            note(audit, number)
        audit.flush("published")
        back_up(places(tmp_path), tmp_path / "backup", keys=True)
        for number in range(10, 20):
            note(audit, number)
        audit.flush("published")
        kept = audit.reader.checkpoint_note()
    for name in ("audit", "audit.keys", "audit.state"):
        shutil.rmtree(tmp_path / name)
        shutil.copytree(tmp_path / "backup" / name, tmp_path / name)
    return tmp_path, kept


def test_a_successor_names_its_past(lost: tuple[Path, bytes]) -> None:
    """Which log, up to where, what is known to be lost; people keep their pseudonyms; the old log is untouched."""
    folder, kept = lost
    before = {path: path.read_bytes() for path in (folder / "audit").rglob("*") if path.is_file()}
    done = succeed(places(folder), places(folder, "new"), [kept], "disk lost")
    assert before == {path: path.read_bytes() for path in (folder / "audit").rglob("*") if path.is_file()}
    assert (12, 22, False) == (done.restored, done.known, done.origin == done.former)
    with AuditLog.open(folder / "new") as audit:
        (entry,) = audit.query(event_type="log_recovered")
        told = entry.metadata
        assert ({"begin": 12, "end": 22}, [kept.decode()]) == (told["lost"], told["known"])
        assert (done.former, (folder / "audit" / "checkpoint").read_text()) == (
            told["restored"]["origin"], told["restored"]["checkpoint"],
        )  # fmt: skip
        note(audit, 1)
        (new,) = audit.query(actor="user@example.com")
        assert audit.verify().integrity_ok
    (old, *_) = query(open_store(folder).read_entries(0, None), Filter(event_type="x_note"))
    assert old.actor_id == new.actor_id


def test_a_checkpoint_of_another_log_is_no_knowledge(
    lost: tuple[Path, bytes], capfd: pytest.CaptureFixture[str]
) -> None:
    """Nothing is begun."""
    folder, _ = lost
    AuditLog.open(folder / "other").close()
    argv = ["recover", "--restored", "--into", str(folder / "new"), "--known", str(folder / "other" / "checkpoint")]
    assert 4 == run([*argv, "--log", str(folder / "audit")])
    assert not (folder / "new").exists()


def test_the_commands(lost: tuple[Path, bytes], capfd: pytest.CaptureFixture[str]) -> None:
    """`backup`, then `recover --restored --into`; wrong combinations are exit 2."""
    folder, kept = lost
    (folder / "kept").write_bytes(kept)
    log = ["--log", str(folder / "audit"), "--json"]
    assert 0 == run(["backup", str(folder / "again"), *log])
    told = json.loads(capfd.readouterr().out)
    assert (12, True, False) == (told["tree_size"], told["verified"], told["keys"])
    assert 2 == run(["backup", str(folder / "again"), *log])
    assert 2 == run(["recover", "--restored", *log])
    assert 2 == run(["recover", "--into", str(folder / "new"), *log])
    capfd.readouterr()
    argv = ["recover", "--restored", "--into", str(folder / "new"), "--known", str(folder / "kept"), *log]
    assert 0 == run(argv)
    told = json.loads(capfd.readouterr().out)
    assert (12, 22) == (told["restored"], told["known"])
    assert 2 == run(argv)
