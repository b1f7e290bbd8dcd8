"""Archives under lock: what is put there, in which order, and what is never put there."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from klingai_audit.errors import AuditUnavailable, HeadConflict, InconsistentCheckpoints, LogDamaged, UsageError
from klingai_audit.ledger.purged import line_hash, purged_line
from klingai_audit.ledger.reader import LogReader
from klingai_audit.publish import archive as module
from klingai_audit.publish.archive import Archived, archive
from klingai_audit.tlog.checkpoint import parse_checkpoint
from klingai_audit.tlog.keys import VerifierKey
from klingai_audit.tlog.note import parse_note
from klingai_audit.tlog.tile import decode_bundle, new_tiles, tile_path
from tests.support.batches import BatchMemory
from tests.support.ledgers import HandClock, Ledger, event
from tests.support.lockers import MemoryLocker

NOW = dt.datetime.now(dt.UTC).replace(microsecond=0)
SOON, LATER = NOW + dt.timedelta(days=10), NOW + dt.timedelta(days=20)


class Log:
    """A log that grows, and its archive."""

    def __init__(self, folder: Path) -> None:
        self.clock, self.store, self.locker = HandClock(), BatchMemory(), MemoryLocker()
        self.ledger = Ledger(folder, store=self.store, clock=self.clock).open()
        self.key = VerifierKey.parse(self.ledger.vkey)

    def grow(self, count: int) -> None:
        for _ in range(count):
            self.ledger.appender.append(event())
        self.ledger.appender.flush(publish=True)

    def archive(self, until: dt.datetime = SOON) -> Archived:
        return archive(LogReader(self.store), self.locker, until, self.key)

    def wanted(self, *sizes: int) -> set[str]:
        """Tiles and bundles of an archive that was brought up to these sizes."""
        steps = zip([0, *sizes], sizes, strict=False)
        return {tile_path(*tile) for old, size in steps for tile in new_tiles(old, size)}


@pytest.fixture
def log(tmp_path: Path) -> Log:
    made = Log(tmp_path)
    yield made
    made.ledger.close()


def test_everything_is_there(log: Log):
    """Tiles, bundles, days, kept checkpoints, time stamps and the checkpoint, each kept until the date."""
    log.grow(300)
    log.clock.advance(24 * 3600)
    log.grow(30)
    kept = min(log.store.kept)
    log.store.tokens[kept] = b"token"
    done = log.archive()
    objects, size = log.locker.objects, len(log.store.entries)
    assert (0, size, len(objects) - 1) == (done.old_size, done.size, done.objects)
    tiles = {path for path in objects if path.startswith("tile/")}
    assert log.wanted(size) == tiles
    rest = {f"checkpoints/{size:020}" for size in log.store.kept} | {f"checkpoints/{kept:020}.tsr", "checkpoint"}
    rest |= {"days/2026-11-21/" + "0" * 20, f"days/2026-11-22/{log.store.days.index(dt.date(2026, 11, 22)):020}"}
    assert rest == set(objects) - tiles
    assert log.store.entries[256:] == decode_bundle(objects[tile_path("entries", 1, size - 256)])
    assert {SOON} == {versions[-1].until for versions in log.locker.versions.values()}


def test_a_few_at_a_time(log: Log, monkeypatch: pytest.MonkeyPatch):
    """Of a log with millions of tiles only those that are on their way are in memory."""
    made, put, waiting = list[str](), list[str](), list[int]()
    maker = module._maker

    def make(*about: Any) -> Any:
        made.append("tile")
        return maker(*about)

    def fails(path: str) -> bool:
        put.append(path)
        waiting.append(len(made) - len(put))
        return False

    monkeypatch.setattr(module, "_AHEAD", 2)
    monkeypatch.setattr(module, "_maker", make)
    log.locker.fails = fails
    log.grow(1300)
    log.archive()
    assert len(made) > 10
    assert max(waiting) <= 2


def test_a_day_that_begins_meanwhile(log: Log, monkeypatch: pytest.MonkeyPatch):
    """No day gets the first entry of another, which would lie there under lock for years."""
    log.grow(300)
    log.clock.advance(24 * 3600)
    log.grow(30)
    size, old_days, inspect = len(log.store.entries), log.store.old_days, log.store.inspect

    def next_day(ask: Callable[[], Any]) -> Any:
        answer = ask()
        if len(log.store.entries) == size:
            log.clock.advance(24 * 3600)
            log.grow(1)
        return answer

    monkeypatch.setattr(log.store, "old_days", lambda: next_day(old_days))
    monkeypatch.setattr(log.store, "inspect", lambda: next_day(inspect))
    log.archive()
    begun = log.store.days.index(dt.date(2026, 11, 22))
    days = {f"days/2026-11-21/{0:020}", f"days/2026-11-22/{begun:020}"}
    assert days == {path for path in log.locker.objects if path.startswith("days/")}


def test_only_what_is_new(log: Log):
    """A second run puts what grew, replaces `checkpoint` by a newer version, and leaves the rest alone."""
    log.grow(300)
    first = log.archive()
    before = dict(log.locker.objects)
    log.grow(300)
    second = log.archive(LATER)
    assert (first.size, len(log.store.entries)) == (second.old_size, second.size)
    tiles = {path for path in log.locker.objects if path.startswith("tile/")}
    assert log.wanted(first.size, second.size) == tiles
    assert ["checkpoint"] == [path for path, versions in log.locker.versions.items() if len(versions) > 1]
    assert before.items() - {("checkpoint", before["checkpoint"])} <= log.locker.objects.items()
    assert (0, second.size) == (log.archive(LATER).objects, log.archive(LATER).size)


@pytest.mark.parametrize("after", [3, 7, 8])
def test_stopped_and_gone_on_with(log: Log, after: int):
    """A run that was stopped leaves no checkpoint; the next one completes it, and keeps all of it as long as asked."""
    log.grow(600)
    log.ledger.head.rotate_now()
    log.grow(5)
    done: list[str] = []
    log.locker.fails = lambda path: len(done) > after or done.append(path) is not None  # type: ignore[func-returns-value]
    with pytest.raises(AuditUnavailable):
        log.archive()
    assert "checkpoint" not in log.locker.versions
    assert log.locker.versions
    log.locker.fails = lambda path: False
    log.archive(LATER)
    assert {LATER} == {versions[-1].until for versions in log.locker.versions.values()}


def test_never_backwards(log: Log):
    """An archive that is ahead of the log, or of another history, is left as it is."""
    log.grow(20)
    old = log.store.checkpoint
    log.grow(20)
    log.archive()
    before = dict(log.locker.objects)
    log.store.checkpoint = old
    with pytest.raises(InconsistentCheckpoints) as caught:
        log.archive()
    assert (before["checkpoint"], old) == (caught.value.older, caught.value.newer)
    assert before == log.locker.objects


def test_another_history(log: Log, tmp_path: Path):
    """The same keys, other entries: refused."""
    log.grow(20)
    log.archive()
    before = dict(log.locker.objects)
    log.grow(5)
    log.store.hashes[0][0] ^= 1
    with pytest.raises((InconsistentCheckpoints, LogDamaged)):
        log.archive()
    assert before == log.locker.objects


@pytest.mark.parametrize("what", ["entry", "hash", "upper"])
def test_what_was_not_signed_is_not_kept(log: Log, what: str):
    """Entries and hashes that do not lead to the signed root never get a checkpoint there."""
    log.grow(600)
    if what == "entry":
        log.store.entries[300] = log.store.entries[300].replace(b'"n":1', b'"n":2')
    else:
        log.store.hashes[0 if what == "hash" else 1][32 * 1] ^= 1
    with pytest.raises(LogDamaged):
        log.archive()
    assert "checkpoint" not in log.locker.versions


def test_purged_since(log: Log):
    """What is archived stays when the log purges it; what was purged before is archived as it stands."""
    log.grow(300)
    log.archive()
    for seq in (10, 270):
        log.store.entries[seq] = purged_line(line_hash(log.store.entries[seq]), 301)
    log.grow(300)
    size = log.archive().size
    assert size == parse_checkpoint(parse_note(log.locker.objects["checkpoint"]).text).size
    assert b'"purged"' not in log.locker.objects["tile/entries/000"]
    assert b'"purged"' in log.locker.objects["tile/entries/001"]


def test_something_else_is_there(log: Log):
    """An object with other bytes under a name of ours is not passed over."""
    log.grow(300)
    log.locker.put_new("tile/0/000", bytes(8192), SOON)
    with pytest.raises(LogDamaged):
        log.archive()


def test_two_runs_at_once(log: Log):
    """The slower one does not put its checkpoint over the other's."""
    log.grow(300)
    log.archive()
    log.grow(10)
    first = log.locker.get("checkpoint")
    assert first is not None
    real = log.locker.replace

    def replace(path: str, data: bytes, tag: str | None, until: dt.datetime) -> None:
        if path == "checkpoint":
            real(path, first.data, tag, until)
        real(path, data, tag, until)

    log.locker.replace = replace  # type: ignore[method-assign]
    with pytest.raises(HeadConflict):
        log.archive()


def test_not_over_a_log(log: Log):
    """Where writers have a log of their own, nothing is put under lock."""
    log.grow(20)
    log.locker.put_new("head", b"x", SOON)
    with pytest.raises(UsageError):
        log.archive()
    assert {"head"} == set(log.locker.versions)


def test_told_before_anything_leaves(log: Log):
    """Who records the act does so after all checks and before the first object; who fails there stops it."""
    log.grow(20)
    told: list[tuple[int, int]] = []
    archive(
        LogReader(log.store),
        log.locker,
        SOON,
        log.key,
        begin=lambda size: told.append((size, len(log.locker.versions))),
    )
    assert [(len(log.store.entries), 0)] == told
    archive(LogReader(log.store), log.locker, SOON, log.key, begin=lambda size: told.append((size, -1)))
    assert 1 == len(told)
    log.grow(5)

    def refuse(size: int) -> None:
        raise AuditUnavailable("It cannot be recorded.")

    before = dict(log.locker.objects)
    with pytest.raises(AuditUnavailable):
        archive(LogReader(log.store), log.locker, SOON, log.key, begin=refuse)
    assert before == log.locker.objects


def test_whole_seconds(log: Log):
    """Servers keep a date to the second: it is rounded up."""
    done = log.archive(SOON - dt.timedelta(microseconds=1))
    assert SOON == done.until
    assert {SOON} == {versions[-1].until for versions in log.locker.versions.values()}


@pytest.mark.parametrize("until", [NOW - dt.timedelta(days=1), NOW + dt.timedelta(days=40_000)])
def test_dates(log: Log, until: dt.datetime):
    """A date that is over, or a century away, is refused before anything is put."""
    with pytest.raises(UsageError):
        log.archive(until)
    assert {} == log.locker.versions
