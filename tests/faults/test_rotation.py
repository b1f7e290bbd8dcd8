"""Epochs that end under fire: killed at every step, by several processes at once, by clocks that jump at midnight."""

from __future__ import annotations

import os
import random
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from klingai_audit.durable import FileOps
from klingai_audit.ledger import keys as keys_module
from klingai_audit.ledger.keys import KeyFolder
from tests.support.children import Child, Tell
from tests.support.faulty import QuickOps
from tests.support.judge import judge
from tests.support.ledgers import HandClock, Ledger, event
from tests.support.settle import settle
from tests.support.signers import Signer

pytestmark = pytest.mark.slow

HOUR_S = 3_600
MIDNIGHT_S = 12 * HOUR_S
"""From `NOON` to the next midnight."""


def opened(base: Path, clock: HandClock | None = None) -> Ledger:
    return Ledger(base, ops=QuickOps(), clock=clock or HandClock()).open()


def log(ledger: Ledger) -> dict[str, int]:
    """Append an entry; returns where it stands."""
    receipt = ledger.appender.append(event()).wait(timeout=60)
    return {receipt.event_id: receipt.seq or 0}


def killed_at(step: int) -> FileOps:
    """Operations that kill their process, without a chance to do anything, before the change number `step`."""

    class Killing(QuickOps):
        left = step

    def wrapped(name: str) -> Callable[..., object]:
        def act(self: Killing, *arguments: object, **options: object) -> object:
            if Killing.left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            Killing.left -= 1
            return getattr(QuickOps, name)(self, *arguments, **options)

        return act

    for name in ("write", "write_at", "sync", "truncate", "rename", "unlink", "mkdir", "rmdir"):
        setattr(Killing, name, wrapped(name))
    return Killing()


def rotate_and_die(base: Path, step: int) -> bool:
    """Rotate in another process that is killed before its change number `step`; returns whether it was."""

    def act(tell: Tell) -> None:
        child = opened(base)
        for event_id, seq in log(child).items():
            tell(f"{event_id} {seq}")
        ops = killed_at(step)
        for part in (child.store, child.keys, child.state):
            setattr(part, "ops" if part is child.store else "_ops", ops)
        child.appender.rotate()

    code = Child(act).wait()
    assert code in (0, -signal.SIGKILL)
    return code != 0


def check_epochs(base: Path, acknowledged: dict[str, int]) -> int:
    """Everything stands where it was said, each epoch began once, only one epoch's private keys are left."""
    judged = settle(base, acknowledged, clock=HandClock())
    epochs = [entry["metadata"]["epoch"] for entry in judged.entries if entry["event_type"] == "signing_key_rotated"]
    assert list(range(1, len(epochs) + 1)) == epochs
    keys = KeyFolder(base / "audit.keys")
    assert len(epochs) == keys.current.epoch
    assert 1 == len(list(keys.path.glob("epoch-*.key"))) == len(list(keys.path.glob("tail-*.key")))
    assert not (keys.path / "next").exists()
    return len(epochs)


@pytest.mark.parametrize("after", ["a living writer", "the next opening", "two openings at once"])
def test_killed_at_every_step(tmp_path: Path, after: str) -> None:
    """SIGKILL before each change that a rotation makes; whoever comes next completes it, and the next works too."""
    begun = tmp_path / "begun"
    opened(begun).close()
    for step in range(500):
        base = tmp_path / str(step)
        shutil.copytree(begun, base)
        bystander = opened(base) if after == "a living writer" else None
        died = rotate_and_die(base, step)
        writers = [bystander or opened(base)]
        if after == "two openings at once":
            writers.append(opened(base))
        acknowledged: dict[str, int] = {}
        for writer in writers:
            acknowledged |= log(writer)
            writer.appender.rotate()
            acknowledged |= log(writer)
        for writer in writers:
            writer.close()
        assert check_epochs(base, acknowledged) >= len(writers)
        shutil.rmtree(base)
        if not died:
            break
    assert 25 < step < 499


def test_killed_at_every_step_with_a_signer_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same where the log key is not in the process: what was signed and not published is signed alike again."""
    monkeypatch.setattr(keys_module, "SIGNING_INTERVAL_S", 0.0)
    begun = tmp_path / "begun"
    begun.mkdir()
    Signer(tmp_path / "signer").plan(begun)
    opened(begun).close()
    for step in range(0, 500, 4):
        base = tmp_path / str(step)
        shutil.copytree(begun, base)
        died = rotate_and_die(base, step)
        writer = opened(base)
        acknowledged = log(writer)
        writer.appender.rotate()
        acknowledged |= log(writer)
        writer.close()
        assert check_epochs(base, acknowledged) >= 1
        if not died:
            break
    assert 25 < step < 499


@pytest.mark.parametrize("killing", [False, True])
def test_processes_that_rotate_at_once(tmp_path: Path, *, killing: bool) -> None:
    """Four processes rotate as fast as they can, and some are killed: every epoch begins once, nothing is lost."""
    opened(tmp_path).close()
    rounds = 8

    def act(tell: Tell) -> None:
        ledger = opened(tmp_path)
        for _ in range(rounds):
            ledger.appender.rotate()
            for event_id, seq in log(ledger).items():
                tell(f"{event_id} {seq}")
        ledger.close()

    children = [Child(act) for _ in range(4)]
    if killing:
        rng = random.Random(5)
        for child in children[:3]:
            wanted = rng.randrange(1, 4)
            while len(child.lines) < wanted:
                time.sleep(0.002)
            child.kill()
    for child in children[3 if killing else 0 :]:
        assert 0 == child.wait()
    acknowledged: dict[str, int] = {}
    for child in children:
        for line in child.lines:
            event_id, _, seq = line.partition(" ")
            acknowledged[event_id] = int(seq)
    begun = check_epochs(tmp_path, acknowledged)
    assert (begun == 4 * rounds) if not killing else (rounds < begun <= 4 * rounds)


@pytest.mark.parametrize("seed", range(6))
def test_clocks_that_jump_over_midnight(tmp_path: Path, seed: int) -> None:
    """Two writers whose clocks jump back and forth around midnights: each day begins one epoch, none begins two."""
    rng = random.Random(seed)
    clocks = [HandClock(), HandClock()]
    writers: list[Ledger] = [opened(tmp_path, clock) for clock in clocks]
    acknowledged: dict[str, int] = {}
    for clock in clocks:
        clock.advance(MIDNIGHT_S - HOUR_S)
    for _ in range(60):
        which = rng.randrange(2)
        jump = rng.choice([-20, -3, -1, 1, 3, 20]) * HOUR_S * rng.random()
        clocks[which].step(jump) if rng.random() < 0.7 else clocks[which].advance(abs(jump))
        acknowledged |= log(writers[which])
        if rng.random() < 0.1:
            writers[which].close()
            writers[which] = opened(tmp_path, clocks[which])
    for writer in writers:
        writer.close()
    judged = judge(writers[0].log, writers[0].vkey)
    judged.check_acknowledged(acknowledged)
    times = [entry["logged_at"] for entry in judged.entries]
    assert sorted(times) == times
    rotations = [entry["logged_at"][:10] for entry in judged.entries if entry["event_type"] == "signing_key_rotated"]
    assert sorted({time[:10] for time in times})[1:] == rotations
    assert len(rotations) > 0
    assert len(list(writers[0].log.glob("audit-*"))) == len(rotations) + 1
