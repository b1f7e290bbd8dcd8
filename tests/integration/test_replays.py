"""Lines that were sealed once and are appended again by somebody without keys: never signed, never in the way."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from klingai_audit import AuditLog


def last_line(day: Path) -> None:
    """An exact copy of the log's last line."""
    lines = day.read_bytes().splitlines(keepends=True)
    day.write_bytes(b"".join([*lines, lines[-1]]))


def last_lines(day: Path) -> None:
    """A copy of the last four lines, links and all."""
    lines = day.read_bytes().splitlines(keepends=True)
    day.write_bytes(b"".join([*lines, *lines[-4:]]))


def older_sealed_line(day: Path) -> None:
    """A copy of a sealed line from further up."""
    lines = day.read_bytes().splitlines(keepends=True)
    sealed = [line for line in lines if b'"seal":"' in line]
    day.write_bytes(b"".join([*lines, sealed[1]]))


def whole_day_as_another(day: Path) -> None:
    """The whole day file under a later day's name."""
    shutil.copyfile(day, day.with_name("audit-2099-01-01.jsonl"))


@pytest.mark.parametrize("replay", [last_line, last_lines, older_sealed_line, whole_day_as_another])
@pytest.mark.parametrize("running", [False, True], ids=["between writers", "beside a writer"])
def test_replayed_lines_go_aside(replay: Callable[[Path], None], running: bool, tmp_path: Path) -> None:
    """The next writer puts the copies aside, says so, goes on, and the log verifies."""
    with AuditLog.open(tmp_path / "audit") as audit:
        for number in range(6):
            audit.log("x_work", "user@example.com", number=number).wait()
        audit.flush("published")
        day = next((tmp_path / "audit").glob("audit-*.jsonl"))
        if running:
            replay(day)
            audit.log("x_more", "user@example.com").wait()
    if not running:
        replay(day)
    with AuditLog.open(tmp_path / "audit") as audit:
        receipt = audit.log("x_last", "user@example.com").wait("published")
        verdict = audit.verify()
        entries = list(audit.entries())
    assert [] == [finding.kind for finding in verdict.broken]
    assert receipt.seq == next(seq for seq, line in enumerate(entries) if b'"event_type":"x_last"' in line)
    assert 1 == sum(b'"event_type":"log_recovered"' in line for line in entries)
    assert 1 == len(list((tmp_path / "audit.state" / "aside").iterdir()))
