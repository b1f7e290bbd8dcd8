"""Retention: what is due goes, what is held stays, and the log verifies before, between and after."""

from __future__ import annotations

import datetime as dt
import gzip
import json
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from klingai_audit import AuditLog, acting
from klingai_audit.durable import FileOps
from klingai_audit.errors import AuditUnavailable, UsageError, VerificationError
from klingai_audit.ledger.line import PURGED_PREFIX
from klingai_audit.ledger.purged import line_hash, purged_line
from klingai_audit.privacy.policy import Policy
from klingai_audit.testing import HandClock
from klingai_audit.tlog.keys import VerifierKey
from klingai_audit.tlog.proof import verify_leaf_proof
from klingai_audit.trust.proofs import prove_entry
from klingai_audit.upkeep.holds import active_holds, release_hold, set_hold
from klingai_audit.upkeep.retention import Authorised, apply_retention, plan_retention
from klingai_audit.views.query import Filter
from tests.support.faulty import QuickOps

START = dt.datetime(2026, 1, 5, 12, tzinfo=dt.UTC)
DAY = 24 * 3600
POLICY = b"""
[retention]
minimum = "1d"
maximum = "30d"
seal_after = "2d"
[retention.classes]
admin = { minimum = "1d", maximum = "forever" }
x_brief = { minimum = "1d", maximum = "3d" }
"""
TYPES = ("x_brief", "x_other", "budget_modified")


class World:
    """A log whose days the test decides."""

    def __init__(self, folder: Path, ops: FileOps | None = None) -> None:
        self.folder = folder
        self.clock = HandClock(START)
        self.ops = ops or QuickOps()
        self.open().close()
        (folder / "audit.keys" / "policy.toml").write_bytes(POLICY)

    def open(self) -> AuditLog:
        return AuditLog.open(self.folder / "audit", clock=self.clock, ops=self.ops)

    def day(self, audit: AuditLog, rounds: int = 3) -> None:
        """One day's work, then midnight passes."""
        for number in range(rounds):
            for kind in TYPES:
                with acting(f"user{number % 2}@example.com"):
                    audit.log(kind, resource_type="budget", action="set", resource_id=f"r{number}").wait()
            self.clock.advance(60)
        self.clock.advance(DAY)

    @property
    def today(self) -> dt.date:
        return self.clock.now.date()

    def ok(self, audit: AuditLog) -> list[str]:
        """Verify; return the kinds of findings, but for silence at night."""
        audit.flush("published")
        found = [finding.kind for finding in audit.verify(now=self.clock.now).findings]
        return [kind for kind in found if kind != "heartbeat_gap"]


@pytest.fixture(autouse=True)
def keeper() -> Iterator[None]:
    """Who runs retention."""
    with acting("keeper@example.com", actor_type="admin"):
        yield


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


@pytest.fixture
def audit(world: World) -> Iterator[AuditLog]:
    """A log of six days of work."""
    with world.open() as audit:
        for _ in range(6):
            world.day(audit)
        yield audit


def whole(audit: AuditLog) -> dict[int, bytes]:
    return {seq: line for seq, line in enumerate(audit.reader.lines()) if not line.startswith(PURGED_PREFIX)}


def kinds(lines: dict[int, bytes]) -> list[str]:
    return sorted({json.loads(line)["event_type"] for line in lines.values()})


def test_a_plan_says_what_why_and_when(world, audit):
    """Per day and type: counts, what is due, until when the rest stays; nothing is written."""
    before = audit.reader.size
    audit.flush("published")
    plan = plan_retention(audit.reader, audit.policy, world.today)
    assert [day.day.day for day in plan.days] == [START.date() + dt.timedelta(days=n) for n in range(6)][
        : len(plan.days)
    ]
    first = plan.days[0]
    rows = {row.event_type: row for row in first.rows}
    assert (3, 3, 0, START.date() + dt.timedelta(days=4)) == tuple(
        getattr(rows["x_brief"], name) for name in ("entries", "due", "held", "keep_until")
    )
    assert (3, 0, START.date() + dt.timedelta(days=31)) == tuple(
        getattr(rows["x_other"], name) for name in ("entries", "due", "keep_until")
    )
    assert (None, 0) == (rows["budget_modified"].keep_until, rows["budget_modified"].due)
    assert (None, 0) == (rows["log_opened"].keep_until, rows["log_opened"].due)
    assert "at most 3d (classes.x_brief)" in rows["x_brief"].why
    assert before <= audit.reader.size


def test_what_is_due_goes_and_the_log_verifies(world, audit):
    """Purged entries leave their leaf hashes; every other byte stays; old proofs hold for both."""
    audit.flush("published")
    lines = dict(enumerate(audit.reader.lines()))
    proofs = {seq: prove_entry(audit.reader, seq) for seq in lines}
    due = {seq for day in plan_retention(audit.reader, audit.policy, world.today).days for seq in day.due}
    done = apply_retention(audit, today=world.today)
    assert (len(due), 1) == (done.purged, len(done.authorised_by))
    left = whole(audit)
    assert set(lines) - due == set(lines) & set(left)
    assert all(left[seq] == lines[seq] for seq in set(lines) & set(left))
    assert [] == world.ok(audit)
    verdict = audit.verify(now=world.clock.now)
    assert due == {seq for begin, end, by in verdict.purged for seq in range(begin, end) if by == done.authorised_by[0]}
    for seq, proof in proofs.items():
        verify_leaf_proof(proof, line_hash(lines[seq]), audit.origin, [VerifierKey.parse(audit.vkey)])
    assert ["audit-2026-01-05.jsonl.gz"] == [name for name in done.sealed if "01-05" in name]


def test_a_second_run_does_nothing(world, audit):
    """What is done is done: no entry, no file changes."""
    apply_retention(audit, today=world.today)
    audit.flush("published")
    size, files = audit.reader.size, [(file.name, file.identity) for file in audit.reader.store.inspect()]
    done = apply_retention(audit, today=world.today)
    assert (0, [], []) == (done.purged, done.sealed, done.authorised_by)
    assert (size, files) == (audit.reader.size, [(f.name, f.identity) for f in audit.reader.store.inspect()])


@pytest.mark.slow
def test_day_after_day(world, audit):
    """Run daily, each run purges what came due; after months only what is kept for ever is left of the first days."""
    for _ in range(40):
        apply_retention(audit, today=world.today)
        world.day(audit, 1)
    apply_retention(audit, today=world.today)
    assert [] == world.ok(audit)
    old = {seq: line for seq, line in whole(audit).items() if seq < 50}
    assert "x_other" not in kinds(old)
    assert {"budget_modified", "log_created"} <= set(kinds(old))


def test_a_broken_log_is_not_touched(world, audit):
    """Evidence of damage stays as it is."""
    audit.flush("published")
    path = world.folder / "audit" / "audit-2026-01-06.jsonl"
    path.write_bytes(path.read_bytes().replace(b"x_other", b"x_odder", 1))
    before = sorted((file.name, file.size) for file in audit.reader.store.inspect())
    with pytest.raises(VerificationError):
        apply_retention(audit, today=world.today)
    assert before == sorted((file.name, file.size) for file in audit.reader.store.inspect())


# --- holds ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "hold",
    [
        {"range": (0, 12)},
        {"actor": "user1@example.com"},
        {"query": Filter(event_type="x_brief", until="2026-01-06T00:00:00Z")},
    ],
)
def test_holds_stop_the_purge(world, audit, hold):
    """What is held stays, the rest goes; after the release it goes too."""
    set_hold(audit, "case-7", reason="a claim", **hold)
    test = active_holds(audit)[0].test()
    due = {seq for day in plan_retention(audit.reader, Policy.parse(POLICY), world.today).days for seq in day.due}
    held = {seq for seq, line in whole(audit).items() if b'"x_brief"' in line and test(line)}
    assert not held & due
    held = {seq for seq in held if json.loads(whole(audit)[seq])["logged_at"] < f"{world.today - dt.timedelta(days=4)}"}
    assert held
    apply_retention(audit, today=world.today)
    assert held == {seq for seq, line in whole(audit).items() if b'"x_brief"' in line and seq in held}
    assert [] == world.ok(audit)
    release_hold(audit, "case-7")
    assert [] == active_holds(audit)
    apply_retention(audit, today=world.today)
    assert not held & set(whole(audit))
    assert [] == world.ok(audit)


def test_holds_name_nobody(world, audit):
    """A hold on a person holds the pseudonym, and its entry says nothing else."""
    seq = set_hold(audit, "case-8", actor="user1@example.com").seq
    text = audit.reader.entry(seq)
    assert b"user1" not in text
    assert [("case-8", {"actor"})] == [(hold.name, set(hold.covers)) for hold in active_holds(audit)]


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"range": (3, 2)},
        {"range": (0, 1), "task": "7"},
        {"task": "no such task"},
        {"actor": "nobody@example.com"},
        {"query": Filter()},
        {"query": Filter(text="word")},
    ],
)
def test_holds_that_are_none(audit, given):
    """Nothing is written for a hold that covers nothing, or two things, or what entries do not keep."""
    audit.flush("published")
    size = audit.reader.size
    with pytest.raises(UsageError):
        set_hold(audit, "case-9", **given)
    audit.flush("published")
    assert size == audit.reader.size


def test_names_of_holds(audit):
    """A name is taken once, and released only while it is in force."""
    set_hold(audit, "case-9", range=(0, 3))
    with pytest.raises(UsageError):
        set_hold(audit, "case-9", range=(0, 4))
    with pytest.raises(UsageError):
        set_hold(audit, "not a name", range=(0, 4))
    release_hold(audit, "case-9")
    with pytest.raises(UsageError):
        release_hold(audit, "case-9")


# --- stopped anywhere -------------------------------------------------------------------------------------


class _Stop(BaseException):
    """The process was killed here."""


class Stopping(QuickOps):
    """Stops at one of the operations on sealed files."""

    def __init__(self) -> None:
        self.left = -1

    def rename(self, source: Path, target: Path) -> None:
        self._count(target)
        super().rename(source, target)
        self._count(target)

    def unlink(self, path: Path) -> None:
        self._count(path)
        super().unlink(path)
        self._count(path)

    def open(self, path: Path, flags: int, mode: int = 0o644) -> int:
        self._count(path)
        return super().open(path, flags, mode)

    def _count(self, path: Path) -> None:
        if ".jsonl" in path.name and ("gz" in path.name or not path.name.startswith("audit-2026-01-1")):
            self.left -= 1
            if self.left == 0:
                raise _Stop


@pytest.mark.slow
def test_stopped_at_every_step(tmp_path):
    """The log verifies after each stop, nothing half-done is told as done, and the next run completes it."""
    stops, at = 0, 1
    while True:
        ops = Stopping()
        world = World(tmp_path / str(at), ops)
        with world.open() as audit:
            for _ in range(6):
                world.day(audit, 1)
            audit.flush("published")
            due = {seq for day in plan_retention(audit.reader, audit.policy, world.today).days for seq in day.due}
            lines = dict(enumerate(audit.reader.lines()))
            ops.left = at
            stopped = False
            try:
                apply_retention(audit, today=world.today)
            except _Stop:
                stopped = True
            ops.left = -1
        with world.open() as audit:
            assert {"purge_unfinished", "seal_unfinished"} >= set(world.ok(audit))
            apply_retention(audit, today=world.today)
            assert [] == world.ok(audit)
            assert set(lines) - due == set(lines) & set(whole(audit))
        if not stopped:
            break
        stops, at = stops + 1, at + 1
    assert stops > 10


def test_what_is_listed_twice_is_authorised_once():
    """A stopped run's ranges and those of the next one overlap as they like: every listed entry has an authority."""
    luck = random.Random(3)
    for _ in range(300):
        ranges = [(at, at + luck.randrange(12), 100 + n) for n in range(5) for at in [luck.randrange(40)]]
        allowed = Authorised(ranges)
        listed = {seq for first, last, _ in ranges for seq in range(first, last + 1)}
        assert listed == {seq for seq in range(60) if allowed.by(seq) is not None}
        assert all(any(f <= seq <= last and by == allowed.by(seq) for f, last, by in ranges) for seq in listed)
        begin, end = sorted((luck.randrange(60), luck.randrange(60)))
        assert len(listed & set(range(begin, end))) == allowed.count(begin, end)


# --- what is no purge -------------------------------------------------------------------------------------


def tampered(world: World, audit: AuditLog, change) -> list[str]:
    """Let `change` work on the first day's file and return the kinds of broken findings."""
    audit.flush("published")
    path = world.folder / "audit" / "audit-2026-01-05.jsonl"
    lines = path.read_bytes().split(b"\n")
    change(lines)
    path.write_bytes(b"\n".join(lines))
    verdict = audit.verify(now=world.clock.now)
    return sorted({finding.kind for finding in verdict.broken})


@pytest.mark.parametrize("by", [0, 1, 5, 40, 10_000])
def test_a_purge_without_authority(world, audit, by):
    """A line that claims one is found, whatever entry it names."""
    assert ["purge_unauthorised"] == tampered(
        world, audit, lambda lines: lines.__setitem__(3, purged_line(line_hash(lines[3]), by))
    )


def test_more_than_was_authorised(world, audit):
    """An entry beside those that were listed is found, although the list is real."""
    apply_retention(audit, today=world.today)
    by = audit.verify(now=world.clock.now).purged[0][2]
    seq = next(seq for seq, line in whole(audit).items() if b'"x_other"' in line)
    path = world.folder / "audit" / "audit-2026-01-05.jsonl.gz"
    lines = gzip.decompress(path.read_bytes()).split(b"\n")
    lines[seq] = purged_line(line_hash(lines[seq]), by)
    path.write_bytes(gzip.compress(b"\n".join(lines), mtime=0))
    found = audit.verify(now=world.clock.now)
    assert {("purge_unauthorised", seq), ("sealed_changed", None)} == {(one.kind, one.seq) for one in found.broken}
    assert "detected" == found.threat("delete").state


def test_another_hash_in_a_purged_line(world, audit):
    """A purged line with a wrong hash is a changed entry."""
    assert "entry_changed" in tampered(world, audit, lambda lines: lines.__setitem__(3, purged_line(bytes(32), 40)))


@pytest.mark.parametrize("kind", ["drop", "add", "flip", "repack"])
def test_a_changed_sealed_file(world, audit, kind):
    """Bytes of the packed file that unpack to the same lines are found as well."""
    apply_retention(audit, today=world.today)
    path = world.folder / "audit" / "audit-2026-01-05.jsonl.gz"
    data = path.read_bytes()
    changed = {
        "drop": None,
        "add": data + b"\0",
        "flip": data[:-9] + bytes([data[-9] ^ 1]) + data[-8:],
        "repack": gzip.compress(gzip.decompress(data), 9, mtime=0),
    }[kind]
    path.unlink() if changed is None else path.write_bytes(changed)
    found = {one.kind for one in audit.verify(now=world.clock.now).broken}
    expected = {"drop": "head_cut", "add": "file_unreadable", "flip": "file_unreadable", "repack": "sealed_changed"}
    assert expected[kind] in found


def test_writing_fails(world, audit):
    """A folder that cannot be made is an error, and nothing is lost."""
    before = whole(audit)
    scratch = world.folder / "audit.state" / "sealing"
    scratch.parent.mkdir(exist_ok=True)
    scratch.write_bytes(b"a file where a folder belongs")
    with pytest.raises(AuditUnavailable):
        apply_retention(audit, today=world.today)
    scratch.unlink()
    assert set(before) <= set(whole(audit))
    apply_retention(audit, today=world.today)
    assert [] == world.ok(audit)


def test_what_is_locked_is_not_due(world, audit, monkeypatch):
    """Entries that their store lets nobody purge before a date are told with it, and left alone until then."""
    audit.flush("published")
    free = plan_retention(audit.reader, audit.policy, world.today)
    until = dt.datetime.combine(world.today, dt.time(), dt.UTC) + dt.timedelta(days=1)
    monkeypatch.setattr(type(audit.reader.store), "locked_until", lambda self, begin, end: until, raising=False)
    plan = plan_retention(audit.reader, audit.policy, world.today)
    assert (0, free.due) == (plan.due, sum(row.locked for day in plan.days for row in day.rows))
    assert {until} == {day.locked for day in plan.days if any(row.locked for row in day.rows)}
    later = plan_retention(audit.reader, audit.policy, world.today + dt.timedelta(days=2))
    assert later.due >= free.due > 0
