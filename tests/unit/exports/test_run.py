"""The way from log to destination: at least once, in order, and no cursor ahead of what arrived.

The destination here is a model of the worst kind: it breaks at any call and then forgets whatever it did not call
settled.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from klingai_audit.errors import LogDamaged, StorageError
from klingai_audit.exports import record as exports_record
from klingai_audit.exports.cursor import CursorFile
from klingai_audit.exports.record import Position, Record, Source, TreeHead
from klingai_audit.exports.run import LONGEST_PAUSE, PATIENCE_SECONDS, Course, ExportResult, Job
from klingai_audit.exports.sink import SinkLost
from klingai_audit.ledger.reader import LogReader
from klingai_audit.stores.memory import MemoryStore
from tests.support.faulty import QuickOps
from tests.support.ledgers import Ledger, event

ENTRIES = 180
FATE = st.sampled_from(["good", "good", "good", "settle", "lose", "lose all"])


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> LogReader:
    """A log of some 180 entries in memory."""
    base = tmp_path_factory.mktemp("log")
    with Ledger(base, ops=QuickOps(), store=MemoryStore()) as ledger:
        for number in range(ENTRIES):
            ledger.appender.append(event(metadata={"n": number}))
    return ledger.reader


@pytest.fixture(scope="module", autouse=True)
def _small_batches() -> Iterator[None]:
    """Make a small log a matter of many batches."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exports_record, "BATCH_ENTRIES", 20)
        yield


class Clock:
    """Time that passes only in pauses."""

    def __init__(self) -> None:
        self.now = 100.0
        self.pauses: list[float] = []

    def __call__(self) -> float:
        return self.now

    def pause(self, seconds: float) -> None:
        self.now += seconds
        self.pauses.append(seconds)


class Unreliable:
    """A destination with a script of fates, good from the script's end on; `arrived` is what outlived every break."""

    def __init__(self, fates: Sequence[str] = (), *, refuses: int = 0) -> None:
        self.fates = list(fates)
        self.refuses = refuses
        self.settled = Position(0, None)
        self.arrived: list[int] = []
        self.unsettled: list[int] = []
        self.sent = Position(0, None)
        self.opened: list[int] = []
        self.abandoned = 0

    def open(self, position: Position) -> bool:
        self.opened.append(position.seq)
        if len(self.opened) > 1 and self.refuses > 0:
            self.refuses -= 1
            raise SinkLost("still away")
        self.settled = self.sent = position
        return True

    def send(self, records: Sequence[Record], position: Position) -> None:
        self.unsettled += [record.seq for record in records]
        self._live()
        self.sent = position

    def check(self, head: TreeHead) -> None:
        self._live()

    def finish(self, head: TreeHead) -> None:
        self._live()
        self._settle()

    def abandon(self) -> None:
        self.abandoned += 1

    def _settle(self) -> None:
        self.arrived += self.unsettled
        self.unsettled.clear()
        self.settled = self.sent

    def _live(self) -> None:
        fate = self.fates.pop(0) if self.fates else "good"
        if fate == "settle":
            kept = [seq for seq in self.unsettled if seq < self.sent.seq]
            self.arrived += kept
            self.unsettled = self.unsettled[len(kept) :]
            self.settled = self.sent
        elif fate.startswith("lose"):
            self.arrived += self.unsettled[: 0 if fate == "lose all" else len(self.unsettled) // 2]
            self.unsettled.clear()
            raise SinkLost("it broke")


class Watched(CursorFile):
    """A cursor that checks, whenever it moves, that everything before it has arrived."""

    sink: Unreliable
    seen: list[int]

    def save(self, position: Position, head: TreeHead, format: str, to: str) -> None:
        assert set(range(position.seq)) <= set(self.sink.arrived) | set(range(self.seen[0]))
        self.seen.append(position.seq)
        super().save(position, head, format, to)


def job(reader: LogReader, sink: Unreliable, course: Course, begin: int = 0, cursor: CursorFile | None = None) -> Job:
    source = Source(reader)
    result = ExportResult("ocsf", "model", begin, begin)
    return Job(source, sink, course, result, source.position(begin), cursor)


def course(clock: Clock, **members: object) -> Course:
    return Course(pause=clock.pause, clock=clock, **members)  # type: ignore[arg-type]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(st.lists(FATE, max_size=25), st.integers(0, ENTRIES), st.integers(0, 3))
def test_everything_arrives_whatever_breaks(
    reader: LogReader, tmp_path: Path, fates: list[str], begin: int, refuses: int
) -> None:
    """Every entry at least once, first arrivals in order, the cursor never ahead, and the counts are true."""
    sink, clock = Unreliable(fates, refuses=refuses), Clock()
    with Watched.open(tmp_path, "model", QuickOps()) as cursor:
        cursor.sink, cursor.seen = sink, [begin]
        done = job(reader, sink, course(clock), begin, cursor).run(TreeHead.read(reader))
    size = reader.size
    assert list(range(begin, size)) == list(dict.fromkeys(sink.arrived))
    assert (size, size) == (cursor.seen[-1], done.end)
    assert size - begin <= done.entries - done.again <= done.entries
    assert sink.abandoned == 1


def test_calm_export_sends_each_entry_once(reader: LogReader) -> None:
    """Without a break nothing is sent twice, and nobody waits."""
    sink, clock = Unreliable(), Clock()
    told: list[tuple[int, int]] = []
    done = job(reader, sink, course(clock, told=lambda seq, size: told.append((seq, size)))).run(TreeHead.read(reader))
    assert list(range(reader.size)) == sink.arrived
    assert (reader.size, 0, []) == (done.entries, done.again, clock.pauses)
    assert (reader.size, reader.size) == told[-1]
    assert (reader.size, 0, False) == (done.tree_size, done.unsigned_tail, done.recorded)


def test_receiver_that_never_was_there_is_an_error_at_once(reader: LogReader) -> None:
    """A wrong address is told, not waited for."""

    class Nowhere(Unreliable):
        def open(self, position: Position) -> bool:
            raise SinkLost("nowhere")

    clock = Clock()
    with pytest.raises(StorageError):
        job(reader, Nowhere(), course(clock, follow=True)).run(TreeHead.read(reader))
    assert [] == clock.pauses


def test_patience_ends(reader: LogReader) -> None:
    """An export that does not follow gives up after a minute without progress, with growing pauses in between."""
    sink, clock = Unreliable(["good", "lose"], refuses=1000), Clock()
    troubles: list[float] = []
    with pytest.raises(SinkLost):
        job(reader, sink, course(clock, trouble=lambda error, pause: troubles.append(pause))).run(TreeHead.read(reader))
    assert troubles == clock.pauses
    assert [0.2, 0.4, 0.8] == pytest.approx(clock.pauses[:3])
    assert PATIENCE_SECONDS < sum(clock.pauses) < PATIENCE_SECONDS + 2 * LONGEST_PAUSE


def test_follower_waits_as_long_as_it_takes(reader: LogReader) -> None:
    """A receiver that is away for hours loses nothing; pauses stay below half a minute."""
    sink, clock = Unreliable(["settle", "lose"], refuses=500), Clock()
    following = course(clock, follow=True, stop=lambda: sink.sent.seq == reader.size)
    job(reader, sink, following).run(TreeHead.read(reader))
    assert list(range(reader.size)) == list(dict.fromkeys(sink.arrived))
    assert max(clock.pauses) <= LONGEST_PAUSE < 3600 < sum(clock.pauses)


def test_follower_that_is_stopped_while_the_receiver_is_away_says_so(reader: LogReader, tmp_path: Path) -> None:
    """It ends with an error, and its cursor stands where the receiver certainly was."""
    sink, clock = Unreliable(["good", "settle", "lose all"], refuses=1000), Clock()
    following = course(clock, follow=True, stop=lambda: len(clock.pauses) > 3)
    with Watched.open(tmp_path, "model", QuickOps()) as cursor:
        cursor.sink, cursor.seen = sink, [0]
        with pytest.raises(SinkLost):
            job(reader, sink, following, 0, cursor).run(TreeHead.read(reader))
        source = Source(reader)
        assert cursor.seen[-1] == sink.settled.seq > 0
        assert cursor.load(source, source.head(), "ocsf", "model") == sink.settled


def test_follower_takes_what_is_new(tmp_path: Path) -> None:
    """Entries that are published while it waits go out, each under a head that covers it."""
    sink, clock = Unreliable(), Clock()
    with Ledger(tmp_path, ops=QuickOps()) as ledger:
        sizes: list[int] = []

        def stop() -> bool:
            if len(sizes) < 5 and len(sink.unsettled) == ledger.reader.size:
                sizes.append(ledger.reader.size)
                ledger.appender.append(event(metadata={"n": 1}))
                ledger.appender.flush(publish=True)
            return len(sizes) == 5 and len(sink.unsettled) == ledger.reader.size

        done = job(ledger.reader, sink, course(clock, follow=True, stop=stop)).run(TreeHead.read(ledger.reader))
        assert list(range(ledger.reader.size)) == sink.arrived
        assert (ledger.reader.size, ledger.reader.size) == (done.entries, done.tree_size)


def test_log_that_is_set_back_while_it_is_followed_is_noticed(tmp_path: Path) -> None:
    """An older copy in the place of the log ends the export: what it would send next is not what comes next."""
    sink, clock = Unreliable(), Clock()
    with Ledger(tmp_path, ops=QuickOps()) as ledger:
        ledger.appender.flush(publish=True)
        shutil.copytree(ledger.log, tmp_path / "older")
        for number in range(10):
            ledger.appender.append(event(metadata={"n": number}))

    def set_back() -> bool:
        if ledger.log.exists() and len(sink.unsettled) == ledger.reader.size and (tmp_path / "older").exists():
            shutil.rmtree(ledger.log)
            (tmp_path / "older").rename(ledger.log)
        return len(clock.pauses) > 10

    with pytest.raises(LogDamaged) as caught:
        job(ledger.reader, sink, course(clock, follow=True, stop=set_back)).run(TreeHead.read(ledger.reader))
    assert "rollback" == caught.value.kind_of_damage


def test_damage_ends_an_export(reader: LogReader, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is not the signed log is no trouble that passes: it ends with an error, and the destination is let go."""
    sink = Unreliable()
    running = job(reader, sink, course(Clock(), follow=True))
    real = reader.store.read_entries

    def changed(begin: int, end: int | None = None):
        return (line.replace(b'"n":60}', b'"n":61}') for line in real(begin, end))

    monkeypatch.setattr(reader.store, "read_entries", changed)
    with pytest.raises(LogDamaged):
        running.run(TreeHead.read(reader))
    assert sink.abandoned == 1
