"""Clocks that step, midnights, silence, and epochs that end while somebody sleeps or dies."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from klingai_audit.durable import FileOps
from klingai_audit.errors import AuditUnavailable
from klingai_audit.ledger import appender
from klingai_audit.ledger.appender import Appender
from klingai_audit.ledger.keys import KeyFolder
from tests.support.children import Child, Tell
from tests.support.faulty import FaultyOps, QuickOps
from tests.support.judge import Judged, judge
from tests.support.ledgers import NOON, HandClock, Ledger, event
from tests.support.settle import reopen, settle

DAY_S = 86_400


def opened(base: Path, clock: HandClock, **options: object) -> Ledger:
    return Ledger(base, ops=QuickOps(), clock=clock, **options).open()  # type: ignore[arg-type]


def log(ledger: Ledger, count: int = 1) -> int:
    """Append and publish; returns the last number."""
    for _ in range(count):
        receipt = ledger.appender.append(event()).wait("published", timeout=20)
    return receipt.seq or 0


def look(ledger: Ledger) -> Judged:
    ledger.close()
    return judge(ledger.log, ledger.vkey)


def steps(judged: Judged) -> list[dict[str, object]]:
    return [entry["metadata"] for entry in judged.entries if entry["event_type"] == "clock_stepped"]


# --- steps --------------------------------------------------------------------------------------------


def test_an_hour_back(tmp_path: Path) -> None:
    """A clock set back is noted once, time in the log stands still and never goes back."""
    clock = HandClock()
    ledger = opened(tmp_path, clock)
    log(ledger)
    clock.step(-3_600)
    log(ledger, 3)
    judged = look(ledger)
    assert [{"direction": "back", "seconds": 3_600}] == steps(judged)
    assert len({entry["logged_at"] for entry in judged.entries}) == 1


def test_ten_minutes_ahead(tmp_path: Path) -> None:
    """A clock that gained ten minutes is noted, and the log goes by it."""
    clock = HandClock()
    ledger = opened(tmp_path, clock)
    log(ledger)
    clock.step(600)
    log(ledger, 2)
    judged = look(ledger)
    assert [{"direction": "ahead", "seconds": 600}] == steps(judged)
    assert judged.entries[-1]["logged_at"] == "2026-11-21T12:10:00.000000Z"


def test_two_days_ahead(tmp_path: Path) -> None:
    """A clock that gained days is refused, until the operator accepts it; nothing is written meanwhile."""
    clock = HandClock()
    ledger = opened(tmp_path, clock)
    log(ledger)
    clock.step(2 * DAY_S)
    for _ in range(2):
        with pytest.raises(AuditUnavailable, match="jumped ahead") as caught:
            ledger.appender.append(event()).wait()
        assert "accept_clock=True" in caught.value.do
    clock.step(-2 * DAY_S)
    log(ledger)
    ledger.close()
    accepting = opened(tmp_path, clock, accept_clock=True)
    clock.step(2 * DAY_S)
    log(accepting)
    judged = look(accepting)
    assert [{"direction": "ahead", "seconds": 2 * DAY_S}] == steps(judged)
    assert judged.types().count("x_test") == 3


def test_a_suspended_machine(tmp_path: Path) -> None:
    """When both clocks advance, time has passed: nothing is noted."""
    clock = HandClock()
    ledger = opened(tmp_path, clock)
    log(ledger)
    clock.advance(5 * 3_600)
    log(ledger)
    clock.advance(3 * DAY_S)
    log(ledger)
    assert [] == steps(look(ledger))


def test_a_step_that_could_not_be_noted_is_noted_later(tmp_path: Path) -> None:
    """If the batch that was to tell of a step fails, the next one tells of it."""
    clock, ops = HandClock(), FaultyOps()
    ledger = Ledger(tmp_path, ops=ops, clock=clock).open()
    log(ledger)
    ops.fails = lambda call: call.name == "write" and call.about.startswith("audit-")
    clock.step(600)
    for _ in range(2):
        with pytest.raises(AuditUnavailable):
            ledger.appender.append(event()).wait()
    ops.fails = None
    log(ledger, 2)
    assert [{"direction": "ahead", "seconds": 600}] == steps(look(ledger))


def test_a_pause_between_processes(tmp_path: Path) -> None:
    """How long nobody wrote says nothing about the clock."""
    clock = HandClock()
    log(ledger := opened(tmp_path, clock))
    ledger.close()
    clock.wall += 400 * DAY_S * 10**9
    log(ledger := opened(tmp_path, clock))
    assert [] == steps(look(ledger))


def test_another_process_with_another_clock(tmp_path: Path) -> None:
    """Two machines' worth of clocks on one log: times never decrease, and the one behind says so once."""
    ahead, behind = HandClock(NOON + 60 * 10**9), HandClock()
    one, other = opened(tmp_path, ahead), opened(tmp_path, behind)
    for _ in range(3):
        log(one)
        log(other)
    one.close()
    judged = look(other)
    assert [{"direction": "back", "seconds": 60}] == steps(judged)


# --- midnight -----------------------------------------------------------------------------------------


def test_midnight(tmp_path: Path) -> None:
    """The first entry of a UTC day begins a new file and a new epoch; the handover is in the new file."""
    clock = HandClock(NOON + (DAY_S // 2) * 10**9 - 1)
    ledger = opened(tmp_path, clock)
    log(ledger, 2)
    clock.wall += 1
    log(ledger, 2)
    clock.advance(DAY_S - 1)
    log(ledger)
    clock.advance(1)
    log(ledger)
    judged = look(ledger)
    assert ["audit-2026-11-21.jsonl", "audit-2026-11-22.jsonl", "audit-2026-11-23.jsonl"] == sorted(
        path.name for path in ledger.log.glob("audit-*")
    )
    assert judged.types().count("signing_key_rotated") == 2
    assert judged.entries[4]["logged_at"] == "2026-11-22T00:00:00.000000Z"
    assert judged.types()[4] == "signing_key_rotated"


def test_midnight_for_two_processes(tmp_path: Path) -> None:
    """Two writers cross midnight: one of them rotates, both go on with the new epoch."""
    clock = HandClock()
    one, other = opened(tmp_path, clock), opened(tmp_path, clock)
    for _ in range(3):
        log(one)
        log(other)
        clock.advance(DAY_S)
    log(one)
    one.close()
    judged = look(other)
    assert judged.types().count("signing_key_rotated") == 3
    assert ["epoch-3.key"] == [path.name for path in one.keys.path.glob("epoch-*.key")]


def test_no_rotation_if_policy_says_never(tmp_path: Path) -> None:
    """Without daily epochs midnight makes a new file only."""
    clock = HandClock()
    ledger = opened(tmp_path, clock, rotation="never")
    log(ledger)
    clock.advance(DAY_S)
    log(ledger)
    judged = look(ledger)
    assert "signing_key_rotated" not in judged.types()
    assert len(list(ledger.log.glob("audit-*"))) == 2


def test_a_clock_set_back_over_midnight(tmp_path: Path) -> None:
    """Entries stay in the later day's file: `logged_at` does not go back, and no epoch ends twice."""
    clock = HandClock()
    ledger = opened(tmp_path, clock)
    log(ledger)
    clock.advance(DAY_S)
    log(ledger)
    clock.step(-DAY_S)
    log(ledger, 2)
    clock.step(DAY_S)
    log(ledger)
    judged = look(ledger)
    assert judged.types().count("signing_key_rotated") == 1
    assert len(list(ledger.log.glob("audit-*"))) == 2


# --- epochs -------------------------------------------------------------------------------------------


def test_sleeping_over_two_rotations(tmp_path: Path) -> None:
    """A writer that slept while others rotated twice takes over all of it and seals with the newest key."""
    clock = HandClock()
    sleeper, other = opened(tmp_path, clock), opened(tmp_path, clock)
    log(sleeper)
    for _ in range(2):
        log(other, 2)
        other.appender.rotate()
    other.appender.append(event()).wait()
    assert log(sleeper) == 11
    assert sleeper.keys.current.epoch == 2
    other.close()
    judged = look(sleeper)
    assert "log_recovered" not in judged.types()


def test_sleeping_while_the_log_is_not_signed(tmp_path: Path) -> None:
    """The same when the last entries behind the rotations are acknowledged and not signed yet."""
    clock = HandClock()
    sleeper, other = opened(tmp_path, clock), opened(tmp_path, clock)
    log(sleeper)
    other.appender.rotate()
    log(other)
    with Ledger(tmp_path, ops=QuickOps(), clock=clock).store.publication():
        seqs = [other.appender.append(event()).wait().seq for _ in range(3)]
        late = sleeper.appender.append(event()).wait()
        assert late.seq == (seqs[-1] or 0) + 1
    other.close()
    judged = look(sleeper)
    judged.check_acknowledged({late.event_id: late.seq or 0})
    assert "log_recovered" not in judged.types()


def dying(lives: int) -> FileOps:
    """Operations of a process that dies after so many that change something."""

    class Dying(QuickOps):
        left = lives

    def wrapped(name: str) -> Callable[..., object]:
        def act(self: Dying, *arguments: object, **options: object) -> object:
            if Dying.left == 0:
                os._exit(9)
            Dying.left -= 1
            return getattr(QuickOps, name)(self, *arguments, **options)

        return act

    for name in ("write", "write_at", "sync", "truncate", "rename", "unlink", "mkdir", "rmdir"):
        setattr(Dying, name, wrapped(name))
    return Dying()


@pytest.mark.slow
def test_a_rotation_that_dies_at_any_step(tmp_path: Path) -> None:
    """Whichever step a rotation dies at, a living writer or the next opening completes it."""
    begun = tmp_path / "begun"
    log(ledger := opened(begun, HandClock()))
    ledger.close()
    steps_taken = 0
    for lives in range(0, 300, 3):
        base = tmp_path / str(lives)
        shutil.copytree(begun, base)
        bystander = opened(base, HandClock()) if lives % 2 else None

        def act(tell: Tell, base: Path = base, lives: int = lives) -> None:
            child = Ledger(base, ops=QuickOps(), clock=HandClock()).open()
            log(child)
            ops = dying(lives)
            for part in (child.store, child.keys, child.state):
                setattr(part, "ops" if part is child.store else "_ops", ops)
            child.appender.rotate()

        died = Child(act).wait() != 0
        steps_taken += died
        writer = bystander or reopen(base, HandClock())
        acknowledged = {}
        for _ in range(2):
            receipt = writer.appender.append(event()).wait("published", timeout=20)
            acknowledged[receipt.event_id] = receipt.seq or 0
        writer.close()
        judged = settle(base, acknowledged, clock=HandClock())
        keys = KeyFolder(base / "audit.keys")
        assert judged.types().count("signing_key_rotated") == keys.current.epoch
        assert 1 == len(list(keys.path.glob("epoch-*.key"))) == len(list(keys.path.glob("tail-*.key")))
        if not died:
            break
    assert steps_taken > 10


# --- silence ------------------------------------------------------------------------------------------


def test_one_heartbeat_of_two_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When an hour of silence ends for two writers at the same moment, one of them writes the heartbeat."""
    monkeypatch.setattr(appender, "_HEARTBEAT_LOOK_S", 0.01)
    clock = HandClock()
    writers = [opened(tmp_path, clock), opened(tmp_path, clock)]
    for number in (1, 2, 3):
        clock.advance(3_600)
        for writer in writers:
            _look_around(writer.appender)
        deadline = time.monotonic() + 120
        while writers[0].types().count("log_heartbeat") < number and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(0.1)
        assert number == writers[0].types().count("log_heartbeat")
    writers[0].close()
    assert look(writers[1]).types().count("log_heartbeat") == 3


def _look_around(one: Appender) -> None:
    with one._changed:
        one._changed.notify_all()
