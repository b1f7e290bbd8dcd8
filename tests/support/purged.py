"""Logs of many days with sealed days and purged entries, made through the product on a clock of the test's own."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Final

from klingai_audit import AuditLog, acting
from klingai_audit.durable import FileOps
from klingai_audit.ledger.line import PURGED_PREFIX
from klingai_audit.testing import HandClock
from klingai_audit.upkeep.retention import apply_retention
from tests.support.faulty import QuickOps

START: Final = dt.datetime(2026, 1, 5, 12, tzinfo=dt.UTC)
DAY: Final = 24 * 3600
TASK: Final = "831234567890123456"
POLICY: Final = b"""
[retention]
minimum = "1d"
maximum = "30d"
seal_after = "2d"
[retention.classes]
admin = { minimum = "1d", maximum = "forever" }
x_brief = { minimum = "1d", maximum = "3d" }
"""
TYPES: Final = ("x_brief", "x_other", "budget_modified", "video_generation_started")


class OldLog:
    """A log below `folder` whose days the test decides."""

    def __init__(self, folder: Path, ops: FileOps | None = None) -> None:
        self.folder = folder
        self.path = folder / "audit"
        self.clock = HandClock(START)
        self.ops = ops or QuickOps()
        self.open().close()
        (folder / "audit.keys" / "policy.toml").write_bytes(POLICY)

    def open(self) -> AuditLog:
        return AuditLog.open(self.path, clock=self.clock, ops=self.ops)

    def day(self, audit: AuditLog, rounds: int = 3) -> None:
        """One day's work, then midnight passes."""
        self.work(audit, rounds)
        self.clock.advance(DAY)

    def work(self, audit: AuditLog, rounds: int = 3) -> None:
        """Entries of each type by two people."""
        for number in range(rounds):
            for kind in TYPES:
                with acting(f"user{number % 2}@example.com", team="studio-a"):
                    audit.log(kind, resource_type="video", action="set", resource_id=TASK)
            self.clock.advance(60)
        audit.flush()

    def apply(self, audit: AuditLog) -> list[int]:
        """Apply retention as of the log's own clock; return the entries that are purged now."""
        with acting("keeper@example.com", actor_type="admin"):
            apply_retention(audit, today=self.clock.now.date())
        audit.flush("published")
        return [seq for seq, line in enumerate(audit.reader.lines()) if line.startswith(PURGED_PREFIX)]


def old_log(folder: Path, days: int = 6) -> tuple[OldLog, list[int]]:
    """Make a closed log of some days, old ones sealed, their short-lived entries purged; return it and these."""
    log = OldLog(folder)
    with log.open() as audit:
        for _ in range(days):
            log.day(audit)
        purged = log.apply(audit)
        log.work(audit)
    return log, purged
