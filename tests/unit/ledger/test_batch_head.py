"""Heads of batch-signed logs: several hosts, each with keys and state of its own, move one store."""

from __future__ import annotations

import contextlib
import copy
import json
import logging
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from klingai_audit.errors import AuditUnavailable, InconsistentCheckpoints, KlingAuditError, LogDamaged
from klingai_audit.ledger import appender, batch_head
from klingai_audit.ledger.batch_head import BatchHead
from klingai_audit.ledger.batches import CommitUnknown, SignedBatch
from klingai_audit.ledger.keys import KeyFolder
from klingai_audit.ledger.purged import purged_line
from klingai_audit.tlog.checkpoint import open_checkpoint, parse_checkpoint
from klingai_audit.tlog.hashing import hash_leaves
from klingai_audit.tlog.keys import VerifierKey
from klingai_audit.tlog.merkle import CompactRange
from klingai_audit.tlog.note import parse_note
from tests.support.batches import BatchMemory, BatchMemoryTransaction
from tests.support.faulty import FaultyOps
from tests.support.ledgers import NOON, HandClock, Ledger, end_event, event

DAY_S = 86_400


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


@pytest.fixture(params=[True, False], ids=["publishes", "publishes later"])
def store(request: pytest.FixtureRequest) -> BatchMemory:
    return BatchMemory(publishes=request.param)


@pytest.fixture
def hosts(tmp_path: Path, store: BatchMemory, clock: HandClock) -> Iterator[Callable[..., Ledger]]:
    """Make hosts: the first creates the log, others come by its keys and its remembered head."""
    made: list[Ledger] = []

    def make(clock: HandClock = clock, *, opened: bool = True) -> Ledger:
        base = tmp_path / f"host-{len(made)}"
        if made:
            for part in ("audit.keys", "audit.state"):
                shutil.copytree(made[0].base / part, base / part)
        host = Ledger(base, store=store, clock=clock)
        made.append(host)
        return host.open() if opened else host

    yield make
    for host in made:
        host.store.before = lambda batch: None
        with contextlib.suppress(KlingAuditError):  # a test broke it on purpose
            host.close()


def judge(store: BatchMemory, vkey: str) -> list[dict[str, object]]:
    """Check links, order, root and log key of what lies in a store, slowly; return the entries."""
    entries = [json.loads(line) for line in store.entries]
    leaves = hash_leaves(store.entries)
    before = [CompactRange().root().hex(), *(leaves[i : i + 32].hex() for i in range(0, len(leaves), 32))]
    assert [entry["seq"] for entry in entries] == list(range(len(entries)))
    assert [entry["prev_hash"] for entry in entries] == before[:-1]
    assert [entry["logged_at"] for entry in entries] == sorted(entry["logged_at"] for entry in entries)
    assert not any("seal" in entry for entry in entries)
    assert store.checkpoint is not None
    checkpoint, _note, _by = open_checkpoint(store.checkpoint, VerifierKey.parse(vkey).name, [VerifierKey.parse(vkey)])
    tree = CompactRange()
    tree.extend(leaves)
    assert (checkpoint.size, checkpoint.root) == (len(entries), tree.root())
    return entries


@contextlib.contextmanager
def refused(kind: type[Exception], words: str) -> Iterator[None]:
    """Expect that a receipt fails for a reason of this kind."""
    with pytest.raises(AuditUnavailable, match=words) as caught:
        yield
    assert type(caught.value.__cause__) is kind


def vkey_of(host: Ledger) -> str:
    return host.keys.log_signer.verifier.format()


def types(store: BatchMemory) -> list[str]:
    return [json.loads(line)["event_type"] for line in store.entries]


def test_one_host(hosts, store):
    """What one writer logs is in order, linked, signed with each batch, and published when it closes."""
    host = hosts()
    receipts = [host.appender.append(event()) for _ in range(20)]
    assert [receipt.wait().seq for receipt in receipts] == list(range(2, 22))
    host.close()
    judge(store, vkey_of(host))
    assert types(store) == ["log_created", "log_opened", *["x_test"] * 20, "log_closed"]


def test_hosts_take_turns(hosts, store):
    """Each host continues what the other committed; a publication covers what was waited for."""
    one = hosts()
    two = hosts()
    for _ in range(5):
        one.appender.append(event()).wait()
        two.appender.append(event()).wait("published")
        assert two.head.published == len(store.entries)
    one.close()
    two.close()
    assert judge(store, vkey_of(one))[-1]["event_type"] == "log_closed"
    assert types(store).count("x_test") == 10


def test_hosts_at_once(hosts, store):
    """Writers that contend lose nothing and double nothing."""
    several = [hosts() for _ in range(4)]
    threads = [
        threading.Thread(target=lambda host=host: [host.appender.append(event()).wait() for _ in range(15)])
        for host in several
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for host in several:
        host.close()
    entries = judge(store, vkey_of(several[0]))
    assert types(store).count("x_test") == 60
    assert len({entry["event_id"] for entry in entries}) == len(entries)


def test_a_host_that_was_away_for_long(hosts, store):
    """More entries of others than are followed one by one are taken in from stored hashes."""
    one = hosts()
    two = hosts()
    for receipt in [one.appender.append(event()) for _ in range(4_500)]:
        receipt.wait()
    two.appender.append(event()).wait()
    one.close()
    two.close()
    judge(store, vkey_of(one))
    assert min(store.kept) == 4_096


def test_epochs_follow_each_other_on_every_host(hosts, store, clock):
    """Each host derives the same keys, destroys the old ones, and signs what follows."""
    one = hosts()
    two = hosts()
    for _ in range(3):
        clock.advance(DAY_S)
        one.appender.append(event()).wait()
    assert one.keys.current.epoch == 3
    two.appender.append(event()).wait()
    assert two.keys.current == one.keys.current
    for host in (one, two):
        assert [path.name for path in host.keys.path.glob("*.key") if path.name.startswith("epoch-")] == ["epoch-3.key"]
        host.close()
    entries = judge(store, vkey_of(one))
    rotations = [entry["seq"] + 1 for entry in entries if entry["event_type"] == "signing_key_rotated"]
    assert len(rotations) == 3
    assert set(rotations) <= set(store.kept)


def test_a_rotation_by_hand(hosts, store):
    """A host ends the epoch; the other, which had not heard of it, continues in the new one."""
    one = hosts()
    two = hosts()
    one.appender.rotate()
    assert two.appender.append(event()).wait().seq == len(store.entries) - 1
    assert two.keys.current.epoch == 1


def test_a_host_dies_between_a_rotation_and_its_keys(hosts, store, monkeypatch):
    """The handover is committed, the keys still those of before: opening again moves them on."""
    one = hosts()
    monkeypatch.setattr("klingai_audit.ledger.batch_keys.BatchKeys.promote", lambda keys: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        one.head.rotate_now()
    monkeypatch.undo()
    again = Ledger(one.base, store=store, clock=one.clock).open()
    assert again.keys.current.epoch == 1
    again.appender.append(event()).wait()
    again.close()
    judge(store, vkey_of(again))


def test_keys_that_cannot_be_moved_on_just_then(hosts, store, clock):
    """Nothing is signed by an epoch that has ended: the next batch moves the keys on first."""
    one = hosts()

    def full(_keys: KeyFolder, _epoch: int) -> None:
        raise AuditUnavailable("the disk is full")

    clock.advance(DAY_S)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(KeyFolder, "_promote", full)
        for _ in range(2):
            with pytest.raises(AuditUnavailable, match="disk is full"):
                one.appender.append(event()).wait()
    assert types(store)[-1] == "signing_key_rotated"
    one.appender.append(event()).wait()
    assert b"/epoch-1 " in store.note
    one.close()
    judge(store, vkey_of(one))
    assert types(store).count("signing_key_rotated") == 1


def test_one_end_for_all_hosts(hosts, store):
    """An end that one host logged is not logged by another where the store can tell, and never twice by one."""
    one = hosts()
    two = hosts()
    first = one.appender.append(end_event("831"), once=True).wait().seq
    assert one.appender.append(end_event("831"), once=True).wait().seq == first
    assert two.appender.append(end_event("831"), once=True).wait().seq == first
    assert types(store).count("task_completed") == 1


def test_an_end_that_was_purged(hosts, store):
    """It was there, and is not logged again; the receipt is that of the entry that it was."""
    one = hosts()
    first = one.appender.append(end_event("831"), once=True).wait()
    by = one.appender.append(event()).wait().seq
    store.entries[first.seq] = purged_line(first.leaf_hash, by)
    again = hosts().appender.append(end_event("831"), once=True).wait()
    assert (again.seq, again.leaf_hash) == (first.seq, first.leaf_hash)


def test_hosts_with_other_clocks(hosts, store):
    """Times never go back, and a host whose clock is an hour behind says so."""
    one = hosts(HandClock(NOON + 3_600 * 10**9))
    two = hosts(HandClock(NOON))
    one.appender.append(event()).wait()
    two.appender.append(event()).wait()
    one.close()
    two.close()
    judge(store, vkey_of(one))
    assert types(store).count("clock_stepped") == 1


def test_a_clock_that_jumps_over_a_day(hosts, store, clock):
    """Nothing is logged at a time that is refused, the end of an epoch neither."""
    host = hosts()
    host.appender.append(event()).wait()
    clock.step(3 * DAY_S)
    with pytest.raises(AuditUnavailable, match="jumped ahead"):
        host.appender.append(event()).wait()
    assert types(store)[-1] == "x_test"


def test_a_step_of_the_clock_in_a_batch_that_was_too_slow(hosts, store, clock):
    """It is told in the batch that comes through."""
    one = hosts()
    two = hosts(HandClock())
    one.appender.append(event()).wait()
    clock.step(600)
    lost = []

    def faster(batch: SignedBatch) -> None:
        if not lost:
            lost.append(batch.id)
            two.head.commit([(event(), False)])

    store.before = faster
    one.appender.append(event()).wait()
    assert types(store)[-4:] == ["x_test", "x_test", "clock_stepped", "x_test"]


def test_a_state_folder_that_is_gone_is_told_once(hosts, store, clock):
    """However often opening is tried: here the first attempt ends the epoch."""
    host = hosts()
    host.close()
    shutil.rmtree(host.state.path)
    clock.advance(DAY_S)
    Ledger(host.base, store=store, clock=clock).open().close()
    assert types(store)[3:] == ["signing_key_rotated", "log_recovered", "log_opened", "log_closed"]


def test_the_clock_of_the_server(hosts, store, clock):
    """Where the store has a clock, that one counts, whatever the hosts believe."""
    store.now_ns = lambda: NOON + 7 * 10**9
    one = hosts(HandClock(NOON - 3_600 * 10**9))
    one.appender.append(event()).wait()
    one.close()
    times = {entry["logged_at"] for entry in judge(store, vkey_of(one))}
    assert times == {"2026-11-21T12:00:07.000000Z"}


@pytest.mark.parametrize("landed", [True, False])
def test_a_commit_that_nobody_knows_of(hosts, store, landed):
    """The caller is told that it is unknown; the next batch builds on what is really there."""
    host = hosts()
    real = BatchMemoryTransaction.append

    def lose(txn: BatchMemoryTransaction, batch: SignedBatch) -> None:
        if landed:
            real(txn, batch)
        raise CommitUnknown("the server is gone")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(BatchMemoryTransaction, "append", lose)
        with refused(CommitUnknown, "server is gone"):
            host.appender.append(event()).wait()
    host.appender.append(event()).wait()
    host.close()
    judge(store, vkey_of(host))
    assert types(store).count("x_test") == 1 + landed


@pytest.mark.parametrize("back", [1, 3])
def test_a_rollback_is_refused(hosts, store, back):
    """A store that was put back to an older state is refused by whoever knows better, open or opening."""
    host = hosts()
    states = []
    for _ in range(4):
        states.append((copy.copy(store.entries), copy.deepcopy(store.hashes), store.note))
        host.appender.append(event()).wait("published")
    host.head.close()
    store.entries, store.hashes, store.note = states[-back]
    with refused(LogDamaged, "entries, but"):
        host.appender.append(event()).wait()
    with pytest.raises(LogDamaged, match="were signed"):
        Ledger(host.base, store=store, clock=host.clock).open()


def test_a_fork_is_refused(hosts, store, tmp_path):
    """A thief of the keys wrote another history: who remembers the first one refuses it."""
    host = hosts()
    before = copy.copy(store.entries), copy.deepcopy(store.hashes), store.note
    thief = hosts(opened=False)
    host.appender.append(event()).wait("published")
    host.head.close()
    store.entries, store.hashes, store.note = before
    store.days = store.days[: len(before[0])]
    shutil.rmtree(thief.base / "audit.state")
    thief.open()
    for _ in range(3):
        thief.appender.append(event()).wait()
    with refused(LogDamaged, "are not those that were signed"):
        host.appender.append(event()).wait()
    with pytest.raises(InconsistentCheckpoints):
        Ledger(host.base, store=store, clock=host.clock).open()


def _last_entry(store: BatchMemory) -> None:
    store.entries[-1] = store.entries[-1].replace(b"x_test", b"x_tesu")


def _leaf(store: BatchMemory) -> None:
    store.hashes[0][-32:] = bytes(32)


def _foreign(store: BatchMemory) -> None:
    assert store.note is not None
    store.note = store.note[:-10] + b"AAAAAAAA=\n"


@pytest.mark.parametrize("damage", [_last_entry, _leaf, _foreign])
def test_what_the_store_changed_is_refused(hosts, store, damage):
    """Nobody builds on a head, a tree or a last entry that is not what was signed."""
    one = hosts()
    two = hosts()
    one.appender.append(event()).wait()
    damage(store)
    with refused(LogDamaged, "signed"):
        two.appender.append(event()).wait()


def test_a_log_that_is_gone(hosts, store):
    """Keys in use and no head: that is damage, not a new log."""
    host = hosts()
    host.head.close()
    store.entries, store.note = [], None
    with pytest.raises(LogDamaged, match="no head"):
        Ledger(host.base, store=store, clock=host.clock).open()


def test_keys_that_do_not_follow(hosts, store):
    """A host whose keys are not derived from those in force is told where to get them."""
    one = hosts()
    two = hosts(opened=False)
    stranger = two.keys.prepare_next()
    two.keys.prepare_next(stranger)
    one.appender.rotate()
    other = Ledger(two.base, store=store, clock=two.clock)
    other.open()
    assert other.keys.current == one.keys.current


def test_losing_again_and_again(hosts, store):
    """Who is always too slow goes on trying, and comes through when the others rest."""
    one = hosts()
    two = hosts()
    lost = []

    def faster(batch: SignedBatch) -> None:
        if b"slow" in batch.entries[-1] and len(lost) < 7:
            lost.append(batch.id)
            two.head.commit([(event(), False)])

    store.before = faster
    one.appender.append(event(metadata={"slow": True})).wait()
    assert len(lost) == len(set(lost)) == 7
    assert types(store).count("x_test") == 8


def test_which_head_a_store_gets(hosts):
    """A store that takes batches is moved by a head that signs them."""
    assert isinstance(hosts().head, BatchHead)


def test_what_is_remembered_does_not_go_back(hosts, store):
    """A process that knows less than another one of its host leaves the newer head where it is."""
    one = hosts()
    two = Ledger(one.base, store=store, clock=one.clock).open()
    for _ in range(3):
        two.appender.append(event()).wait("published")
    two.close()
    newest = two.state.read_head()
    one.head.close()
    assert two.state.read_head() == newest
    assert len(store.entries) == parse_checkpoint(parse_note(newest).text).size


def test_an_idle_writer_remembers_its_last_head(hosts, store, monkeypatch):
    """Under load not every head is remembered; when nothing more comes, the last one is."""
    monkeypatch.setattr(appender, "_HEARTBEAT_LOOK_S", 0.01)
    monkeypatch.setattr(batch_head, "_REMEMBER_S", 3_600.0)
    host = hosts()
    host.appender.append(event()).wait()
    size = len(store.entries)
    deadline, remembered = time.monotonic() + 60, 0
    while remembered < size and time.monotonic() < deadline:
        time.sleep(0.01)
        remembered = parse_checkpoint(parse_note(host.state.read_head()).text).size
    assert remembered == size


def test_a_late_publication_does_not_set_back_what_is_remembered(hosts, store):
    """A process whose checkpoint comes after that of a faster one leaves its newer head where it is."""
    one = hosts()
    two = Ledger(one.base, store=store, clock=one.clock).open()
    with one.head._publishing:
        one.appender.append(event()).wait()
        two.appender.append(event()).wait("published")
        two.head._remember()
        newest = two.state.read_head()
    one.head.publish()
    assert two.state.read_head() == newest
    assert parse_checkpoint(parse_note(newest).text).size == len(store.entries)
    two.close()


def test_a_disk_that_does_not_sync_stops_no_log_on_a_server(tmp_path, clock):
    """The entries do not lie on it: publishing is tried again, and nobody is told to recover what needs no recovery."""
    ops = FaultyOps()
    with Ledger(tmp_path, ops=ops, store=BatchMemory(publishes=False), clock=clock) as host:
        ops.fails = lambda call: call.name == "sync"
        receipt = host.appender.append(event())
        with pytest.raises(AuditUnavailable, match="cannot remember the signed head"):
            receipt.wait("published")
        ops.fails = None
        host.appender.append(event()).wait("published", timeout=60)
        assert not host.state.failed_sync


def test_a_head_that_cannot_be_remembered_is_told(hosts, caplog):
    """The entries are durable, so nobody is refused; the line has a name for programs."""
    host = hosts()
    shutil.rmtree(host.state.path)
    host.state.path.write_text("no folder")
    host.head._remember()
    told = [record for record in caplog.records if getattr(record, "event", "") == "not_remembered"]
    assert [(record.name, record.levelno) for record in told] == [("klingai_audit", logging.WARNING)]
    host.state.path.unlink()
