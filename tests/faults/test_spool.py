"""The spool under faults: failing operations, lost power, killed processes. What was accepted is in the log once."""

from __future__ import annotations

import contextlib
import errno
import json
import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from klingai_audit import AuditLog, acting
from klingai_audit.capture.desk import Item
from klingai_audit.durable import FileOps
from klingai_audit.errors import AuditUnavailable, KlingAuditError
from klingai_audit.event.record import Draft
from tests.support.children import Child, Tell
from tests.support.faulty import FaultyOps, How
from tests.support.judge import judge
from tests.support.ledgers import event
from tests.support.powerloss import JournalOps, after_power_loss, marks
from tests.support.receivers import wait_until
from tests.support.spooled import Outage, SharedLog, Writer, make_log


class Stage:
    """One process under faults: what it was told is accepted, what it was refused is not."""

    def __init__(self, state: Path, shared: SharedLog, ops: FileOps) -> None:
        self.shared = shared
        self.accepted: list[str] = []
        self.tell: Callable[[str], object] = lambda event_id: None
        self.writer = Writer(shared, state, ops=ops, fate=lambda: "away")

    def act(self) -> None:
        with contextlib.suppress(AuditUnavailable):
            self.accepted.append(self.writer.act(metadata={"text": "x" * 3_000}))
            self.tell(self.accepted[-1])

    def outcome(self) -> None:
        one = event()
        late = self.writer.desk.late
        self.writer.desk.write([Item(one, None, kind="paid_create")])
        if self.writer.desk.late == late:
            self.accepted.append(one.event_id)
            self.tell(one.event_id)

    def drain(self, fate: str = "ok") -> None:
        self.writer.fate = lambda: fate
        self.writer.spool.drain()
        self.writer.fate = lambda: "away"


def story(stage: Stage) -> None:
    """Two outages, one of which somebody tries in vain to end; what another process left is drained, too."""
    stage.act()
    stage.outcome()
    stage.drain("lost")
    stage.act()
    stage.drain()
    stage.act()
    stage.act()
    stage.outcome()
    stage.drain()


def check(shared: SharedLog, accepted: list[str]) -> None:
    """Everything accepted is there, in order, nothing is there twice, and each gap is closed once."""
    ids = shared.ids()
    assert [] == [one for one, times in Counter(ids).items() if times > 1]
    assert [] == [one for one in accepted if one not in ids]
    assert accepted == [one for one in ids if one in set(accepted)]
    spools = Counter((kind, facts["spool"]) for kind, facts in shared.gaps())
    assert set(spools.values()) <= {1}
    opened = {name for kind, name in spools if kind == "gap_opened"}
    assert opened <= {name for kind, name in spools if kind == "gap_closed"}


@pytest.mark.parametrize("how, code", [("lost", errno.EIO), ("lost", errno.ENOSPC), ("done", errno.EIO)])
def test_every_operation_fails_once(ram: Path, how: How, code: int) -> None:
    """Whichever operation of the spool fails: an act is refused, or its entry gets into the log once."""
    with contextlib.suppress(KlingAuditError):
        whole = FaultyOps()
        story(Stage(ram / "whole", SharedLog(), whole))
    assert len(whole.calls) > 30
    for index in range(len(whole.calls)):
        state, shared = ram / str(index), SharedLog()
        stage = Stage(state, shared, FaultyOps(index, how, code))
        story(stage)
        late = stage.writer.desk.late
        stage.writer.die()
        Writer(shared, state).spool.take_up()
        check(shared, stage.accepted)
        assert len(stage.accepted) + late >= 4, index
        assert [] == list((state / "spool").glob("*"))


@pytest.mark.parametrize("seeds", [range(60), pytest.param(range(1_000, 3_000), marks=pytest.mark.slow)])
def test_power_is_lost(ram: Path, seeds: range) -> None:
    """Power goes at any moment, and anything that was not synced may be gone: what was accepted is not."""
    base = ram / "story"
    base.mkdir()
    ops, shared = JournalOps(base), SharedLog()
    stage = Stage(base / "state", shared, ops)
    stage.tell = lambda event_id: ops.mark("accepted", event_id)
    commit = stage.writer.commit

    def committed(events: object) -> None:
        commit(events)  # type: ignore[arg-type]
        ops.mark("log", len(shared.lines))

    stage.writer.commit = committed  # type: ignore[method-assign,assignment]
    story(stage)
    for seed in seeds:
        moment = random.Random(seed).randint(0, len(ops.events))
        left = ram / str(seed)
        left.mkdir()
        after_power_loss(ops.events, moment, left, seed)
        remains = SharedLog()
        remains.lines = shared.lines[: max(marks(ops.events, moment, "log"), default=0)]
        Writer(remains, left / "state").spool.take_up()
        check(remains, marks(ops.events, moment, "accepted"))


def work(base: Path, tell: Tell) -> None:
    """Order, and tell what was accepted; what is left of others is drained when the log is opened."""
    with acting("user@example.com"):
        while True:
            try:
                audit = AuditLog.open(base / "audit", ops=Outage(base / "away"))
            except AuditUnavailable:
                continue
            desk = audit.recorder.desk

            def order(audit: AuditLog = audit, desk: object = desk) -> None:
                while True:
                    one = audit.admit(Draft(event_type="prompt_submitted", action="text_to_video"))
                    desk.announce(Item(one, None, kind="paid_create"))  # type: ignore[attr-defined]
                    tell(one.event_id)

            threading.Thread(target=order, daemon=True).start()
            order()


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(6))
def test_killed_writers(tmp_path: Path, seed: int) -> None:
    """Writers are killed at any moment, in and out of outages: everything they were told is in the log once."""
    rng = random.Random(seed)
    make_log(tmp_path, after="2s")
    away = tmp_path / "away"
    children: list[Child] = []
    told: list[str] = []
    for _ in range(12):
        while len(children) < 3:
            children.append(Child(lambda tell: work(tmp_path, tell)))
        time.sleep(0.1 + rng.random() * 0.4)
        away.unlink(missing_ok=True) if rng.random() < 0.5 else away.touch()
        child = children.pop(rng.randrange(len(children)))
        child.kill()
        told += child.lines
    away.touch()
    before = len(children[0].lines)
    wait_until(lambda: len(children[0].lines) > before + 20)  # whatever came before, these are in a gap
    for child in children:
        child.kill()
        told += child.lines
    away.unlink(missing_ok=True)
    with AuditLog.open(tmp_path / "audit") as audit:
        assert [] == list((tmp_path / "audit.state" / "spool").glob("*"))
        assert 0 == audit.verify().exit_code
        lines = [json.loads(line) for line in audit.entries()]
    ids = Counter(line["event_id"] for line in lines)
    assert len(told) > 20
    assert [] == [one for one in told if ids[one] != 1]
    assert [] == [one for one, times in ids.items() if times > 1]
    gaps = Counter(line["event_type"] for line in lines if line["event_type"].startswith("gap_"))
    assert gaps["gap_opened"] == gaps["gap_closed"] > 0
    judge(tmp_path / "audit", (tmp_path / "audit.keys" / "log.pub").read_text().strip())
