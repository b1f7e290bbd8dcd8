"""Somebody without keys who can write to the log's folder, or only read it: nothing acknowledged goes unnoticed."""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
from pathlib import Path

import pytest

from klingai_audit import AuditLog, AuditUnavailable
from klingai_audit.errors import LogDamaged
from klingai_audit.stores import lock
from tests.support.children import Child, Tell


def day_file(log: Path) -> Path:
    return max(log.glob("audit-*.jsonl"))


def cut_last_line(path: Path) -> None:
    data = path.read_bytes()
    os.truncate(path, len(data) - len(data.split(b"\n")[-2]) - 1)


def crashed_before_signing(tmp_path: Path) -> Path:
    """A log whose last acknowledged entry no checkpoint covers yet, its writer killed."""
    log = tmp_path / "audit"
    AuditLog.open(log).close()

    def act(tell: Tell) -> None:
        audit = AuditLog.open(log)
        audit._appender._publisher.stop(AuditUnavailable("killed"))
        audit.log("x_paid", "user@example.com").wait()
        os.kill(os.getpid(), signal.SIGKILL)

    assert -signal.SIGKILL == Child(act).wait()
    return log


def test_an_acknowledged_entry_that_was_cut_off_is_missed(tmp_path: Path) -> None:
    """Unsigned or not: what was acknowledged and is gone is damage, and the log is not taken up without it."""
    log = crashed_before_signing(tmp_path)
    cut_last_line(day_file(log))
    with pytest.raises(LogDamaged) as caught:
        AuditLog.open(log)
    assert "tail_cut" == caught.value.kind_of_damage


def test_an_acknowledged_entry_that_was_changed_is_missed(tmp_path: Path) -> None:
    """A changed line has no valid seal, but it is not put aside as if nobody had been told of it."""
    log = crashed_before_signing(tmp_path)
    day = day_file(log)
    day.write_bytes(day.read_bytes().replace(b'"event_type":"x_paid"', b'"event_type":"x_pai2"'))
    before = day.read_bytes()
    with pytest.raises(LogDamaged):
        AuditLog.open(log)
    assert before == day.read_bytes()


def test_without_interference_the_same_crash_is_recovered(tmp_path: Path) -> None:
    """The acknowledged entry is there and published afterwards."""
    log = crashed_before_signing(tmp_path)
    with AuditLog.open(log) as audit:
        assert audit.verify().integrity_ok
        assert 1 == sum(b'"event_type":"x_paid"' in entry for entry in audit.entries())


def test_a_running_writer_misses_a_cut_and_so_does_the_next(tmp_path: Path) -> None:
    """The writer stops, and a later one does not start over the hole."""
    log = tmp_path / "audit"
    audit = AuditLog.open(log)
    audit._appender._publisher.stop(AuditUnavailable("slow disk"))
    audit.log("x_paid", "user@example.com").wait()
    cut_last_line(day_file(log))
    with pytest.raises(AuditUnavailable):
        audit.log("x_next", "user@example.com").wait()
    with pytest.raises(AuditUnavailable):
        audit.close()
    with pytest.raises(LogDamaged) as caught:
        AuditLog.open(log)
    assert "tail_cut" == caught.value.kind_of_damage


def test_garbage_beside_a_writer_never_stops_it_for_good(tmp_path: Path) -> None:
    """Bytes that get in between look and write go aside; the batch is written again behind what belongs."""
    log = tmp_path / "audit"
    with AuditLog.open(log) as audit:
        store = audit.reader.store
        write = store.ops.write  # type: ignore[attr-defined]
        pending = [b"x\n", b'{"schema":1}\n', b"torn"]

        def disturbed(fd: int, data: bytes) -> int:
            if data.endswith(b'"}\n') and pending:
                with day_file(log).open("ab") as file:
                    file.write(pending.pop())
            return write(fd, data)

        patch = pytest.MonkeyPatch()
        patch.setattr(type(store.ops), "write", lambda _self, fd, data: disturbed(fd, data))  # type: ignore[attr-defined]
        try:
            receipts = [audit.log("x_work", "user@example.com", number=number) for number in range(3)]
            for receipt in receipts:
                try:
                    receipt.wait()
                except AuditUnavailable:  # refused is fine, as long as it is told
                    continue
        finally:
            patch.undo()
        audit.log("x_after", "user@example.com").wait("published")
    with AuditLog.open(log) as audit:
        assert [] == [finding.kind for finding in audit.verify().broken]


def test_a_held_lock_is_told_not_waited_for_without_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who can read the folder can lock it; writers say so after a while and go on when it is free."""
    log = tmp_path / "audit"
    with AuditLog.open(log) as audit:
        fd = os.open(log, os.O_RDONLY)
        fcntl.flock(fd, fcntl.LOCK_EX)
        with monkeypatch.context() as hasty:  # not for longer: this log's own threads hold the lock, too
            hasty.setattr(lock, "PATIENCE_S", 0.2)
            with pytest.raises(AuditUnavailable, match="held the lock"):
                audit.log("x_work", "user@example.com").wait(timeout=60)
        os.close(fd)
        audit.log("x_work", "user@example.com").wait()


@pytest.mark.parametrize("name", ["checkpoint", "tree/0", "audit-2000-01-01.jsonl", "audit-9999-12-31.jsonl"])
def test_a_pipe_in_the_log_does_not_hang_a_writer(name: str, tmp_path: Path) -> None:
    """A writer either goes on or refuses; it does not wait for a pipe."""
    log = tmp_path / "audit"
    AuditLog.open(log).close()
    (log / name).unlink(missing_ok=True)
    os.mkfifo(log / name)
    with contextlib.suppress(AuditUnavailable, LogDamaged):
        AuditLog.open(log).close()


def test_invented_leftovers_in_the_state_folder_are_not_signed(tmp_path: Path) -> None:
    """What claims to have been put aside has to have the digest it is named after."""
    log = tmp_path / "audit"
    AuditLog.open(log).close()
    for number in range(5):
        (tmp_path / "audit.state" / "aside" / f"{number:064x}.new").write_bytes(b"")
    (tmp_path / "audit.state" / "aside" / f"{'a' * 64}.new").symlink_to("/nonexistent")
    with AuditLog.open(log) as audit:
        assert 0 == sum(b'"event_type":"log_recovered"' in entry for entry in audit.entries())
