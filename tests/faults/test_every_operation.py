"""Every file operation of every story fails once: not done, done but reported failed, written short.

Whatever fails, nothing that was acknowledged is lost, and the log can be taken up again and verifies.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import itertools
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from _pytest.mark import ParameterSet

from klingai_audit.errors import AuditUnavailable
from klingai_audit.ledger import tree
from klingai_audit.ledger.store import SyncFailed
from tests.support.faulty import PRIMITIVES, Call, FaultyOps, How, QuickOps
from tests.support.judge import judge
from tests.support.ledgers import HandClock, Ledger, end_event, event, next_batch
from tests.support.settle import reopen, settle

pytestmark = pytest.mark.slow

KEPT_EVERY = 4


@dataclass
class Stage:
    """One run of a story: where it plays, what fails, what was acknowledged."""

    base: Path
    ops: FaultyOps
    clock: HandClock = field(default_factory=HandClock)
    acknowledged: dict[str, int] = field(default_factory=dict)
    ledgers: list[Ledger] = field(default_factory=list)

    def ledger(self, ops: QuickOps | None = None) -> Ledger:
        self.ledgers.append(Ledger(self.base, ops=self.ops if ops is None else ops, clock=self.clock))
        return self.ledgers[-1].open()

    def die(self) -> None:
        """End all writers as the end of their process would."""
        self.ops.fails = lambda _call: True
        for ledger in self.ledgers:
            ledger.die()

    def log(self, ledger: Ledger, *, once: str = "", publish: bool = True) -> None:
        """Append one event; if it is acknowledged, note that."""
        encoded = end_event(once) if once else event()
        receipt = ledger.appender.append(encoded, once=bool(once)).wait()
        assert receipt.seq is not None
        self.acknowledged[encoded.event_id] = receipt.seq
        if publish:
            receipt.wait("published")


Story = Callable[[Stage], None]


def init(stage: Stage) -> None:
    """The first open of a log."""
    ledger = stage.ledger()
    stage.log(ledger)
    ledger.close()


def append(stage: Stage) -> None:
    """Appends and publications, kept checkpoints among them."""
    ledger = stage.ledger(stage.ops)
    for _ in range(5):
        with contextlib.suppress(AuditUnavailable):
            stage.log(ledger)
    ledger.close()


def once(stage: Stage) -> None:
    """End events, each told twice."""
    ledger = stage.ledger()
    for task in ("a", "b", "a", "c"):
        with contextlib.suppress(AuditUnavailable):
            stage.log(ledger, once=task)
    ledger.close()


def day_change(stage: Stage) -> None:
    """Midnight passes: a new day file and a new epoch."""
    ledger = stage.ledger()
    stage.log(ledger)
    for _ in range(2):
        stage.clock.advance(86_400)
        for _ in range(2):
            with contextlib.suppress(AuditUnavailable):
                stage.log(ledger)
    ledger.close()


def rotation(stage: Stage) -> None:
    """Keys are rotated on demand, twice, with entries between."""
    ledger = stage.ledger()
    for _ in range(2):
        with contextlib.suppress(AuditUnavailable):
            ledger.appender.rotate()
        with contextlib.suppress(AuditUnavailable):
            stage.log(ledger)
    ledger.close()


def catch_up(stage: Stage) -> None:
    """Another process appends, rotates and closes between this one's entries."""
    ledger = stage.ledger()
    with contextlib.suppress(AuditUnavailable):
        stage.log(ledger)
    other = stage.ledger(QuickOps())
    for _ in range(3):
        stage.log(other)
    with contextlib.suppress(AuditUnavailable):
        stage.log(ledger)
    other.appender.rotate()
    stage.log(other)
    with contextlib.suppress(AuditUnavailable):
        stage.log(ledger)
    other.close()
    with contextlib.suppress(AuditUnavailable):
        stage.log(ledger)
    ledger.close()


def recovery(stage: Stage) -> None:
    """A writer left acknowledged lines that nobody signed, an unfinished line behind them, and an older checkpoint."""
    ledger = stage.ledger(QuickOps())
    stage.log(ledger)
    older = (ledger.log / "checkpoint").read_bytes()
    for _ in range(3):
        stage.log(ledger)
    ledger.store.close()
    (ledger.log / "checkpoint").write_bytes(older)
    day = ledger.log / "audit-2026-11-21.jsonl"
    day.write_bytes(day.read_bytes() + b'{"schema":1,"event_id":"01')
    again = stage.ledger()
    stage.log(again)
    again.close()


def disturbed(stage: Stage) -> None:
    """A writer died after it wrote a batch behind bytes of something else, and before it could take it back."""
    ledger = stage.ledger(QuickOps())
    stage.log(ledger)
    older = (ledger.log / "checkpoint").read_bytes()
    for _ in range(2):
        stage.log(ledger)
    ledger.store.close()
    (ledger.log / "checkpoint").write_bytes(older)
    day = ledger.log / "audit-2026-11-21.jsonl"
    day.write_bytes(day.read_bytes() + b"garbage\n{" + next_batch(ledger, 3))
    again = stage.ledger()
    stage.log(again)
    again.close()


def recovery_of_sync(stage: Stage) -> None:
    """A sync failed, and the operator recovers."""
    broken = FaultyOps()
    ledger = stage.ledger(broken)
    stage.log(ledger)
    broken.fails = lambda call: call.name == "sync" and call.about.startswith("audit-")
    with contextlib.suppress(AuditUnavailable):
        stage.log(ledger)
    again = reopen(stage.base, stage.clock, stage.ops)
    stage.ledgers.append(again)
    stage.log(again)
    again.close()


CAN_FAIL: dict[tuple[How, int], tuple[str, ...]] = {
    ("lost", errno.EIO): PRIMITIVES,
    ("lost", errno.ENOSPC): ("open", "write", "write_at", "rename", "mkdir"),
    ("done", errno.EIO): ("open", "write", "write_at", "sync", "truncate", "rename", "unlink", "mkdir", "rmdir"),
    ("short", errno.ENOSPC): ("write", "write_at"),
}

STORIES: tuple[Story, ...] = (
    init,
    append,
    once,
    day_change,
    rotation,
    catch_up,
    recovery,
    recovery_of_sync,
    disturbed,
)


@pytest.fixture(autouse=True)
def _kept_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tree, "KEPT_INTERVAL", KEPT_EVERY)


@functools.cache
def calls_of(story: Story) -> tuple[Call, ...]:
    """Play the story without faults and return all that it does with files."""
    with tempfile.TemporaryDirectory() as folder:
        stage = Stage(fresh(Path(folder), "clean", story), FaultyOps(trace=True))
        story(stage)
    return tuple(stage.ops.calls)


@functools.cache
def new_ways(story: Story) -> frozenset[int]:
    """Return which calls of the story are the first that the stories, taken in order, reach in their way."""
    known: set[tuple[object, ...]] = set()
    for other in STORIES:
        found = set()
        for index, call in enumerate(calls_of(other)):
            way = (call.name, re.sub("[0-9]+", "#", call.about), call.way)
            if way not in known:
                known.add(way)
                found.add(index)
        if other is story:
            return frozenset(found)
    raise AssertionError


def fresh(folder: Path, name: str, story: Story) -> Path:
    """Return a folder with the keys and the log that the story begins with."""
    begun = folder / "begun"
    if not begun.exists() and story is not init:
        begun.mkdir()
        Ledger(begun, ops=QuickOps(), clock=HandClock()).open().close()
    base = folder / name
    if story is init:
        base.mkdir()
    else:
        shutil.copytree(begun, base)
    return base


def stages(
    folder: Path, how: How, code: int, story: Story, *, every: bool, only: Sequence[str] = PRIMITIVES
) -> Iterator[Stage]:
    """Play the story again and again, each time with another operation failing.

    Not `every`: only operations that no earlier story reaches in the same way, and that one once.
    """
    for index, call in enumerate(calls_of(story)):
        if call.name not in only or call.name not in CAN_FAIL[how, code] or not (every or index in new_ways(story)):
            continue
        stage = Stage(fresh(folder, f"at-{index}", story), FaultyOps(index, how, code))
        failed = ""
        try:
            story(stage)
        except AuditUnavailable as error:
            failed = error.message
        stage.die()
        if stage.ops.failed:  # two threads may take turns in another order
            print(f"{story.__name__} {index} {how} {stage.ops.failed[0].name} {stage.ops.failed[0].about}: {failed}")
            yield stage
        shutil.rmtree(stage.base)


def cases() -> Iterator[ParameterSet]:
    """All stories with all kinds of failure: the fast ones try each way to an operation, the slow ones each call."""
    for story, (how, code) in itertools.product(STORIES, CAN_FAIL):
        name = f"{story.__name__}-{how}-{errno.errorcode[code]}"
        if (how, code) != ("lost", errno.ENOSPC) or story in (init, append):
            yield pytest.param(story, how, code, False, id=name)
        yield pytest.param(story, how, code, True, id=f"every-{name}", marks=pytest.mark.slow)


@pytest.mark.parametrize("story, how, code, every", list(cases()))
def test_nothing_acknowledged_is_lost(ram: Path, story: Story, how: How, code: int, every: bool) -> None:
    """Whichever operation fails, the log reopens with everything acknowledged, each once at its place."""
    count = 0
    for stage in stages(ram, how, code, story, every=every):
        settle(stage.base, stage.acknowledged, clock=stage.clock, kept_every=KEPT_EVERY)
        count += 1
    print(count, "operations")
    assert count >= (3 if every or story is init else 0)


@pytest.mark.parametrize("story", [append, rotation], ids=lambda story: str(story.__name__))
def test_a_failed_sync_stops_every_writer(ram: Path, story: Story) -> None:
    """After any failed sync of the log this writer is closed, others are refused, and the mark says so."""
    for stage in stages(ram, "lost", errno.EIO, story, every=True, only=("sync",)):
        call = stage.ops.failed[0]
        if call.name != "sync" or not re.match("audit$|audit-|checkpoint|head|tree|[0-9]$", call.about):
            continue
        assert (stage.base / "audit.state" / "failed-sync").exists(), call
        with pytest.raises(SyncFailed):
            stage.ledger(QuickOps())


def test_the_stories_reach_what_there_is(ram: Path) -> None:
    """Together the stories take very many ways to each kind of operation, so that the fast run is worth something."""
    ways = [calls_of(story)[index] for story in STORIES for index in new_ways(story)]
    assert len(ways) > 250
    assert set(PRIMITIVES) == {call.name for call in ways}


def test_a_story_without_faults_is_judged_good(ram: Path) -> None:
    """The stories themselves make good logs, which the judge would not say of anything."""
    for story in STORIES:
        stage = Stage(fresh(ram, story.__name__, story), FaultyOps())
        story(stage)
        ledger = Ledger(stage.base, ops=QuickOps())
        judged = judge(ledger.log, ledger.vkey, kept_every=KEPT_EVERY)
        judged.check_acknowledged(stage.acknowledged)
        assert stage.acknowledged != {}
