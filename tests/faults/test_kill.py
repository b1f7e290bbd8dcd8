"""Real writers, several processes with threads and coroutines each, are killed with SIGKILL at random moments."""

from __future__ import annotations

import asyncio
import contextlib
import random
import threading
import time
from pathlib import Path

import pytest

from klingai_audit.errors import AuditUnavailable
from tests.support.children import Child, Tell
from tests.support.judge import judge
from tests.support.ledgers import Ledger, end_event, event
from tests.support.receivers import wait_until
from tests.support.settle import reopen

PROCESSES = 3


def write(base: Path, seed: int, tell: Tell) -> None:
    """Write as fast as can be, from two threads and three coroutines, and tell what was acknowledged."""
    rng = random.Random(seed)
    ledger = Ledger(base).open()
    tell("opened")

    def from_thread(number: int) -> None:
        while True:
            once = rng.random() < 0.1
            one = end_event(f"task-{rng.randrange(50)}") if once else event(metadata={"thread": number})
            receipt = ledger.appender.append(one, once=once)
            if rng.random() < 0.2:
                receipt.wait("published")
            tell(f"{receipt.wait().event_id} {receipt.seq}")

    async def from_task() -> None:
        while True:
            receipt = await ledger.appender.append(event(metadata={"task": True}))
            tell(f"{receipt.event_id} {receipt.seq}")

    async def tasks() -> None:
        await asyncio.gather(*(from_task() for _ in range(3)))

    for number in range(2):
        threading.Thread(target=from_thread, args=(number,), daemon=True).start()
    threading.Thread(target=lambda: asyncio.run(tasks()), daemon=True).start()
    while True:
        time.sleep(rng.random() * 0.3)
        ledger.appender.rotate()


def kill_writers(base: Path, seed: int, kills: int) -> int:
    """Kill that many writers of one log, always replaced by new ones; then judge. Returns entries acknowledged."""
    rng = random.Random(seed)
    acknowledged: dict[str, int] = {}
    writers: list[Child] = []
    for number in range(kills):
        while len(writers) < PROCESSES:
            writers.append(Child(lambda tell, number=number: write(base, seed * 1000 + number, tell)))  # type: ignore[misc]
        time.sleep(rng.choice((0.005, 0.05, 0.15, 0.3)) * rng.random() + 0.002)
        writer = writers.pop(rng.randrange(len(writers)))
        writer.kill()
        collect(writer, acknowledged)
    wait_until(lambda: bool(acknowledged) or any(" " in line for writer in writers for line in writer.lines))
    for writer in writers:
        writer.kill()
        collect(writer, acknowledged)
    ledger = reopen(base)
    ledger.close()
    judged = judge(ledger.log, ledger.vkey)
    judged.check_acknowledged(acknowledged)
    print(len(acknowledged), "entries acknowledged")
    return len(acknowledged)


def collect(writer: Child, acknowledged: dict[str, int]) -> None:
    for line in writer.lines:
        event_id, _, seq = line.partition(" ")
        if seq:
            assert int(seq) == acknowledged.setdefault(event_id, int(seq)), f"{event_id} was acknowledged twice"


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_killed_writers_lose_nothing(tmp_path: Path, seed: int) -> None:
    """What any killed writer acknowledged is in the log once, with the number that it said, and the log verifies."""
    assert kill_writers(tmp_path, seed, 12) > 0


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(100, 120))
def test_killed_writers_lose_nothing_long(tmp_path: Path, seed: int) -> None:
    """The same, two hundred times and more."""
    assert kill_writers(tmp_path, seed, 20) > 0


@pytest.mark.parametrize("seed", range(6))
def test_killed_creators_leave_a_log(tmp_path: Path, seed: int) -> None:
    """Processes that create one log at the same moment are killed; whoever comes next completes what they began."""
    rng = random.Random(seed)
    for _ in range(4):
        creators = [Child(lambda tell: tell(str(Ledger(tmp_path).open().head.size))) for _ in range(PROCESSES)]
        time.sleep(rng.random() * 0.015)
        for creator in creators:
            creator.kill()
    ledger = reopen(tmp_path)
    ledger.close()
    assert "log_created" == judge(ledger.log, ledger.vkey).types()[0]


def test_a_process_that_ends_normally_loses_nothing(tmp_path: Path) -> None:
    """A writer that is told to end closes its log, and the next one finds nothing to recover."""

    def act(tell: Tell) -> None:
        with Ledger(tmp_path) as ledger, contextlib.suppress(AuditUnavailable):
            for _ in range(20):
                receipt = ledger.appender.append(event())
                tell(f"{receipt.wait().event_id} {receipt.seq}")

    children = [Child(act) for _ in range(PROCESSES)]
    assert [0] * PROCESSES == [child.wait() for child in children]
    acknowledged: dict[str, int] = {}
    for child in children:
        collect(child, acknowledged)
    ledger = Ledger(tmp_path)
    judged = judge(ledger.log, ledger.vkey)
    judged.check_acknowledged(acknowledged)
    assert (60, 3) == (len(acknowledged), judged.types().count("log_closed"))
