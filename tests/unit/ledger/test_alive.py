"""What is open at the end of a process is closed, one thing whatever becomes of another."""

from __future__ import annotations

import pytest

from klingai_audit.errors import AuditUnavailable
from klingai_audit.ledger.alive import Alive


class Thing:
    def __init__(self, error: Exception) -> None:
        self.error = error
        self.closed = 0

    def after_fork(self) -> None:
        pass

    def close(self) -> None:
        self.closed += 1
        raise self.error


def test_one_that_cannot_be_closed_keeps_no_other_open(caplog: pytest.LogCaptureFixture) -> None:
    """Each failure has its line, of errors that are not ours without their text."""
    alive = Alive[Thing]()
    things = [Thing(OSError(5, "secret")), Thing(RuntimeError("secret")), Thing(AuditUnavailable("words"))]
    for thing in things:
        alive.add(thing)
    alive._close_all()
    assert [1, 1, 1] == [thing.closed for thing in things]
    told = [record for record in caplog.records if getattr(record, "event", "") == "not_closed"]
    assert 3 == len(told)
    assert not any("secret" in record.getMessage() for record in told)
    for thing in things:
        alive.discard(thing)
