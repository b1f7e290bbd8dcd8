"""Power goes at any moment, and of what was not synced anything may be gone.

Each story is played once with a journal of all file operations; then, for thousands of moments and fates, the disk
that may be left is made in a new folder, the log is taken up there, and judged.
"""

from __future__ import annotations

import contextlib
import random
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from klingai_audit.errors import AuditUnavailable, KlingAuditError
from klingai_audit.ledger import tree
from klingai_audit.ledger.store import SyncFailed
from klingai_audit.upkeep.recover import mend
from tests.support.faulty import FaultyOps
from tests.support.ledgers import HandClock, Ledger, event, next_batch
from tests.support.powerloss import PAGE, Event, JournalOps, after_power_loss, marks
from tests.support.settle import reopen, settle

KEPT_EVERY = 4


@pytest.fixture(autouse=True)
def _kept_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tree, "KEPT_INTERVAL", KEPT_EVERY)


@dataclass
class Stage:
    """Where a story plays; what is acknowledged is noted in the journal."""

    base: Path
    clock: HandClock = field(default_factory=HandClock)
    ledgers: list[Ledger] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.base.mkdir()
        self.ops = JournalOps(self.base)

    def ledger(self) -> Ledger:
        self.ledgers.append(Ledger(self.base, ops=self.ops, clock=self.clock))
        return self.ledgers[-1].open()

    def log(self, ledger: Ledger, count: int = 1, *, size: int = 1, publish: bool = True) -> None:
        """Append `count` events as one batch or few, each with `size` bytes of content."""
        events = [event(metadata={"text": "x" * size}) for _ in range(count)]
        receipts = [ledger.appender.append(one) for one in events]
        for receipt in receipts:
            self.ops.mark("acknowledged", (receipt.wait().event_id, receipt.seq))
        if publish:
            receipts[-1].wait("published")


def init(stage: Stage) -> None:
    """A log is created, used and closed."""
    ledger = stage.ledger()
    stage.log(ledger)
    ledger.close()


def batches(stage: Stage) -> None:
    """Small and large batches, larger than a page, some not published before the next."""
    ledger = stage.ledger()
    for count in (1, 3, 20, 2):
        stage.log(ledger, count, size=700, publish=count != 3)
    ledger.close()


def days(stage: Stage) -> None:
    """Midnights pass."""
    ledger = stage.ledger()
    for _ in range(3):
        stage.log(ledger, 2)
        stage.clock.advance(86_400)
    ledger.close()


def rotations(stage: Stage) -> None:
    """Keys are rotated again and again."""
    ledger = stage.ledger()
    for _ in range(3):
        ledger.appender.rotate()
        stage.log(ledger)
    ledger.close()


def reopenings(stage: Stage) -> None:
    """The log is closed and opened."""
    for _ in range(3):
        ledger = stage.ledger()
        stage.log(ledger, 2)
        ledger.close()


def two_writers(stage: Stage) -> None:
    """Two writers take turns, one of them rotates."""
    one, other = stage.ledger(), stage.ledger()
    for number in range(4):
        stage.log(one)
        stage.log(other, 2, publish=number % 2 == 0)
        if number == 1:
            other.appender.rotate()
    other.close()
    stage.log(one)
    one.close()


def recovered(stage: Stage) -> None:
    """Something that no writer wrote is put aside, twice."""
    for number in range(2):
        ledger = stage.ledger()
        stage.log(ledger, 2)
        ledger.die()
        day = ledger.log / "audit-2026-11-21.jsonl"
        fd = stage.ops.open(day, 1 | 1024)
        stage.ops.write(fd, b'{"schema":1,"forged":%d}\n{"schema' % number)
        stage.ops.sync(fd)
        stage.ops.close(fd)
    stage.ledger().close()


def disturbed(stage: Stage) -> None:
    """A writer died behind bytes that something else wrote in the moment of its write."""
    ledger = stage.ledger()
    stage.log(ledger, 2)
    ledger.die()
    day = ledger.log / "audit-2026-11-21.jsonl"
    batch = next_batch(ledger, 3)
    fd = stage.ops.open(day, 1 | 1024)
    stage.ops.write(fd, b"garbage\n{")
    stage.ops.write(fd, batch)
    stage.ops.close(fd)
    again = stage.ledger()
    stage.log(again, 2)
    again.close()


def failed_sync(stage: Stage) -> None:
    """A sync of entries fails, the operator recovers, the log goes on."""
    ledger = stage.ledger()
    stage.log(ledger, 3)
    ledger.close()
    faulty = FaultyOps()
    faulty.fails = lambda call: call.name == "sync" and call.about.startswith("audit-")
    journal, stage.ops.sync = stage.ops.sync, faulty.sync  # type: ignore[method-assign]
    broken = Ledger(stage.base, ops=stage.ops, clock=stage.clock)
    faulty._names = _Names(stage.ops)
    with contextlib.suppress(AuditUnavailable):
        broken.open()
    broken.die()
    stage.ops.sync = journal  # type: ignore[method-assign]
    again = Ledger(stage.base, ops=stage.ops, clock=stage.clock)
    with pytest.raises(SyncFailed):
        again.open()
    mend(again.store, again.state, again.keys)
    again.open()
    stage.log(again, 2)
    again.close()


class _Names(dict[int, str]):
    """The names of a journal's open descriptors."""

    def __init__(self, ops: JournalOps) -> None:
        super().__init__()
        self._ops = ops

    def get(self, fd: int, default: str = "?") -> str:  # type: ignore[override]
        node = self._ops._open[fd][0]
        return next((path.name for path, number in self._ops._nodes.items() if number == node), default)


Story = Callable[[Stage], None]
STORIES: tuple[Story, ...] = (
    init,
    batches,
    days,
    rotations,
    reopenings,
    two_writers,
    recovered,
    disturbed,
    failed_sync,
)


def play(base: Path, story: Story) -> tuple[list[Event], HandClock]:
    stage = Stage(base)
    story(stage)
    return stage.ops.events, stage.clock


def lose_power(place: Path, story: Story, seeds: range) -> None:
    events, clock = play(place / "story", story)
    clock.advance(1)
    for seed in seeds:
        moment = random.Random(f"{story.__name__} {seed}").randint(0, len(events))
        base = place / str(seed)
        base.mkdir()
        after_power_loss(events, moment, base, seed)
        acknowledged = dict(marks(events, moment, "acknowledged"))
        try:
            settle(base, acknowledged, marks(events, moment, "note"), clock=clock, kept_every=KEPT_EVERY)
        except BaseException:
            print(
                f"{story.__name__}: seed {seed}, before event {moment} of {len(events)}: {events[moment : moment + 1]}"
            )
            raise
        shutil.rmtree(base)


def die_then_lose_power(place: Path, story: Story, seeds: range) -> None:
    """The first process dies at some operation, a second one goes on, then power goes."""
    lives = Stage(place / "whole")
    story(lives)
    for seed in seeds:
        rng = random.Random(f"{story.__name__} {seed}")
        stage = Stage(place / f"story-{seed}")
        stage.ops.lives = rng.randint(0, lives.ops.done)
        with contextlib.suppress(KlingAuditError, OSError):
            story(stage)
        for ledger in stage.ledgers:
            ledger.die()
        stage.ops.lives, died = None, len(stage.ops.events)
        stage.clock.advance(1)
        again = reopen(stage.base, stage.clock, stage.ops)
        stage.log(again, 2)
        again.die()
        events = stage.ops.events
        moment = rng.randint(died, len(events))
        base = place / str(seed)
        base.mkdir()
        after_power_loss(events, moment, base, seed)
        acknowledged = dict(marks(events, moment, "acknowledged"))
        try:
            settle(base, acknowledged, marks(events, moment, "note"), clock=stage.clock, kept_every=KEPT_EVERY)
        except BaseException:
            print(f"{story.__name__}: seed {seed}, died at {died}, before event {moment} of {len(events)}")
            raise
        shutil.rmtree(base)
        shutil.rmtree(stage.base)


DEADLY = (init, days, rotations, reopenings, recovered, disturbed)


@pytest.mark.parametrize("story", DEADLY, ids=lambda story: str(story.__name__))
def test_what_a_dead_process_left_survives(ram: Path, story: Story) -> None:
    """A process dies anywhere, the next one goes on with what is there, and then power goes."""
    die_then_lose_power(ram, story, range(25))


@pytest.mark.slow
@pytest.mark.parametrize("story", DEADLY, ids=lambda story: str(story.__name__))
def test_what_a_dead_process_left_survives_long(ram: Path, story: Story) -> None:
    """The same for very many moments and fates."""
    die_then_lose_power(ram, story, range(1_000, 1_400))


@pytest.mark.slow
@pytest.mark.parametrize("story", STORIES, ids=lambda story: str(story.__name__))
def test_what_was_acknowledged_survives(ram: Path, story: Story) -> None:
    """Whatever is left of what was not synced, everything acknowledged and published is there and verifies."""
    lose_power(ram, story, range(80))


@pytest.mark.slow
@pytest.mark.parametrize("story", STORIES, ids=lambda story: str(story.__name__))
def test_what_was_acknowledged_survives_long(ram: Path, story: Story) -> None:
    """The same for very many moments and fates."""
    lose_power(ram, story, range(1_000, 1_800))


def test_the_simulator_loses_what_it_may(tmp_path: Path) -> None:
    """Unsynced bytes and names do vanish, tear and hold zero bytes, and synced ones never do."""
    base = tmp_path / "base"
    base.mkdir()
    ops = JournalOps(base)
    ops.replace(base / "kept", b"synced")
    fd = ops.open(base / "kept", 1 | 1024)
    ops.write(fd, b"y" * 3 * PAGE)
    ops.close(ops.open(base / "new", 65))
    seen = set()
    for seed in range(200):
        target = tmp_path / str(seed)
        target.mkdir()
        after_power_loss(ops.events, len(ops.events), target, seed)
        data = (target / "kept").read_bytes()
        assert data.startswith(b"synced")
        seen.add(("new", (target / "new").exists()))
        seen.add(("length", 0 < len(data) - 6 < 3 * PAGE))
        seen.add(("zeros", b"\0" in data))
    ops.close(fd)
    assert {(name, value) for name in ("new", "length", "zeros") for value in (True, False)} == seen


def test_a_rename_loses_neither_name(tmp_path: Path) -> None:
    """Between two names of a moved file, one at least is always there."""
    base = tmp_path / "base"
    base.mkdir()
    ops = JournalOps(base)
    ops.make_folder(base / "next")
    ops.replace(base / "next" / "key", b"secret")
    ops.rename(base / "next" / "key", base / "key")
    seen = set()
    for seed in range(100):
        target = tmp_path / str(seed)
        target.mkdir()
        after_power_loss(ops.events, len(ops.events), target, seed)
        seen.add(tuple(sorted(path.relative_to(target).as_posix() for path in target.rglob("key"))))
    assert {("key",), ("next/key",), ("key", "next/key")} == seen
