"""Numbers and readiness while the log is out of reach and entries wait."""

from __future__ import annotations

from pathlib import Path

import pytest

from klingai_audit.event.context import acting
from klingai_audit.kling import KlingAI
from klingai_audit.kling.simulator import DEFAULT_API_KEY, RealClock, Simulator, serve
from klingai_audit.ledger import publisher
from klingai_audit.log import AuditLog
from klingai_audit.operation.board import Board
from klingai_audit.operation.health import observe
from tests.support.spooled import Outage, make_log


@pytest.mark.slow
def test_a_process_that_spools_is_ready_and_says_how_much_waits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In an outage acts go on: entries and bytes are told; when the log is back, nothing waits."""
    monkeypatch.setattr(publisher, "_RETRY_S", 0.01)
    make_log(tmp_path)
    board = Board()
    with (
        serve(Simulator(RealClock(speed=3000))) as server,
        AuditLog.open(tmp_path / "audit", ops=Outage(tmp_path / "away")) as audit,
        KlingAI(api_key=DEFAULT_API_KEY, audit=audit, base_url=server.base_url, trust_env=False) as kling,
        acting("user@example.com"),
    ):
        observe(board, audit)
        key = (audit.origin,)
        assert {key: 0.0} == board.numbers()["spool_entries"] == board.numbers()["spool_bytes"]
        (tmp_path / "away").touch()
        kling.text_to_video("a lake")
        audit.recorder.desk.settle()
        numbers = board.numbers()
        assert 1 <= numbers["spool_entries"][key]
        assert 200 < numbers["spool_bytes"][key]
        assert {"writer": None, "log": None, "log_disk": None, "state_disk": None} == board.troubles()
        (tmp_path / "away").unlink()
        assert audit.spool.drain()
        assert {key: 0.0} == board.numbers()["spool_entries"] == board.numbers()["spool_bytes"]
