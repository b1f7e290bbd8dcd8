"""The writer: threads, coroutines, back-pressure, closing, heartbeat, what stops it and what does not."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from klingai_audit.errors import AuditUnavailable, LogDamaged
from klingai_audit.ledger import appender as appender_module
from klingai_audit.ledger.appender import Appender
from klingai_audit.ledger.line import event_type_of
from klingai_audit.ledger.store import SyncFailed
from klingai_audit.stores.memory import MemoryStore
from tests.support.children import open_below
from tests.support.faulty import FaultyOps, QuickOps
from tests.support.judge import judge
from tests.support.ledgers import HandClock, Ledger, end_event, event


def eventually(fact: Callable[[], bool]) -> None:
    """Wait up to ten seconds for something to become true."""
    for _ in range(1_000):
        if fact():
            return
        time.sleep(0.01)
    assert fact()


def test_a_log_begins_and_ends_with_its_own_entries(ledger: Ledger) -> None:
    """`log_created`, `log_opened`, what was logged, `log_closed`; and all of it verifies."""
    ledger.appender.append(event()).wait()
    ledger.close()
    assert ["log_created", "log_opened", "x_test", "log_closed"] == judge(ledger.log, ledger.vkey).types()


def test_the_ledger_works_on_the_memory_store(tmp_path: Path) -> None:
    """The same writer on a store without files."""
    store = MemoryStore()
    with Ledger(tmp_path, store=store, ops=QuickOps()) as ledger:
        assert ledger.appender.append(event()).wait("published").seq == 2
    assert ["log_created", "log_opened", "x_test", "log_closed"] == [event_type_of(line) for line in store.entries]
    with Ledger(tmp_path, store=store, ops=QuickOps()) as ledger:
        assert ledger.appender.append(event()).wait("published").seq == 5


def test_threads_get_every_number_once(ledger: Ledger) -> None:
    """Eight threads append two hundred events each; every receipt names its own line."""
    seen: dict[str, int] = {}

    def work() -> None:
        for _ in range(200):
            receipt = ledger.appender.append(event()).wait()
            seen[receipt.event_id] = receipt.seq or -1

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    ledger.close()
    judged = judge(ledger.log, ledger.vkey)
    judged.check_acknowledged(seen)
    assert sorted(seen.values()) == list(range(2, 1_602))


def test_one_caller_is_written_in_order(ledger: Ledger) -> None:
    """Events of one thread stand in the log in the order in which they were appended."""
    receipts = [ledger.appender.append(event()) for _ in range(500)]
    assert list(range(2, 502)) == [receipt.wait().seq for receipt in receipts]


def test_a_thousand_coroutines(ledger: Ledger) -> None:
    """A thousand tasks of one loop append at the same time and are all answered, in batches."""

    async def one(number: int) -> tuple[str, int | None]:
        receipt = await ledger.appender.append(event(metadata={"number": number}))
        if number % 10 == 0:
            await receipt.reached("published")
        return receipt.event_id, receipt.seq

    async def story() -> list[tuple[str, int | None]]:
        return await asyncio.gather(*(one(number) for number in range(1_000)))

    answers = asyncio.run(story())
    assert list(range(2, 1_002)) == [seq for _, seq in answers]
    times = {line[-230:].split(b'"logged_at":"')[1][:27] for line in ledger.lines()}
    assert len(times) == 1  # the clock did not move


def test_a_full_queue_makes_the_caller_wait(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    """When as many events wait as may wait, the next caller waits too, and nothing is dropped."""
    monkeypatch.setattr(appender_module, "MAX_QUEUE", 5)
    other = Ledger(ledger.base, ops=QuickOps(), clock=ledger.clock)
    receipts = []
    with other.store.transaction():
        receipts = [ledger.appender.append(event())]
        eventually(lambda: not ledger.appender._queue)  # the writer holds this one and waits for the lock
        receipts += [ledger.appender.append(event()) for _ in range(5)]
        late = threading.Thread(target=lambda: receipts.append(ledger.appender.append(event())))
        late.start()
        late.join(0.1)
        assert late.is_alive()
    late.join(10)
    assert not late.is_alive()
    assert list(range(2, 9)) == [receipt.wait(timeout=10).seq for receipt in receipts]
    other.store.close()


@pytest.mark.parametrize("ending", ["close", "stop"])
def test_a_caller_that_waits_is_told_of_the_end(tmp_path: Path, ending: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the log is closed or stopped while a caller waits for room, the caller gets an error, not silence."""
    monkeypatch.setattr(appender_module, "MAX_QUEUE", 1)
    ledger = Ledger(tmp_path, ops=QuickOps()).open()
    other = Ledger(tmp_path, ops=QuickOps())
    failed: list[str] = []

    def wait() -> None:
        try:
            ledger.appender.append(event())
        except AuditUnavailable as error:
            failed.append(error.message)

    with other.store.transaction():
        ledger.appender.append(event())
        eventually(lambda: not ledger.appender._queue)
        ledger.appender.append(event())
        late = threading.Thread(target=wait)
        late.start()
        late.join(0.05)
        if ending == "close":
            closing = threading.Thread(target=ledger.close)
            closing.start()
        else:
            closing = threading.Thread(target=lambda: ledger.appender._stop(SyncFailed("a sync failed")))
            closing.start()
        late.join(10)
    closing.join(10)
    assert {"close": ["The log was closed in this process."], "stop": ["a sync failed"]}[ending] == failed


def test_close_commits_what_is_queued(ledger: Ledger) -> None:
    """Closing writes and publishes everything; a second close does nothing; appending afterwards is refused."""
    receipts = [ledger.appender.append(event()) for _ in range(300)]
    ledger.close()
    ledger.close()
    assert list(range(2, 302)) == [receipt.seq for receipt in receipts]
    with pytest.raises(AuditUnavailable, match="closed in this process"):
        ledger.appender.append(event())


def test_flush_waits_for_everything(ledger: Ledger) -> None:
    """`flush` returns when all that was queued is durable, or under a checkpoint."""
    receipts = [ledger.appender.append(event()) for _ in range(100)]
    ledger.appender.flush()
    assert all(receipt.done for receipt in receipts)
    ledger.appender.flush(publish=True)
    assert ledger.reader.size == 102


def test_a_failed_batch_leaves_the_log_usable(tmp_path: Path) -> None:
    """A full disk fails one batch; nothing of it is in the log and the next one goes on where it was."""
    ops = FaultyOps(how="short")
    with Ledger(tmp_path, ops=ops) as ledger:
        day = next(ledger.log.glob("audit-*"))
        before = day.read_bytes()
        ops.fails = lambda call: call.name == "write" and call.about == day.name
        receipts = [ledger.appender.append(event()) for _ in range(3)]
        for receipt in receipts:
            with pytest.raises(AuditUnavailable, match="Nothing of it remains"):
                receipt.wait()
        assert before == day.read_bytes()
        ops.fails = None
        assert ledger.appender.append(event()).wait().seq == 2
    judge(ledger.log, ledger.vkey)


def test_a_failed_sync_closes_the_log(tmp_path: Path) -> None:
    """After a failed sync nothing is tried again: this writer is closed, later calls say what to do."""
    ops = FaultyOps()
    ledger = Ledger(tmp_path, ops=ops).open()
    ops.fails = lambda call: call.name == "sync" and call.about.startswith("audit-")
    with pytest.raises(AuditUnavailable, match="What is durable is unknown"):
        ledger.appender.append(event()).wait()
    calls = len(ops.calls)
    ops.fails = None
    for _ in range(2):
        with pytest.raises(AuditUnavailable) as caught:
            ledger.appender.append(event())
        assert "klingai-audit recover" in caught.value.do
    with pytest.raises(AuditUnavailable):
        ledger.appender.flush()
    with pytest.raises(AuditUnavailable):
        ledger.close()
    ledger.close()
    assert [] == [call for call in ops.calls[calls:] if call.name in ("write", "sync")]


def test_a_failed_sync_of_the_tree_stops_the_writer_too(tmp_path: Path) -> None:
    """The publisher's failed sync closes the log for those who append, and nobody waits for ever."""
    ops = FaultyOps()
    ledger = Ledger(tmp_path, ops=ops).open()
    ops.fails = lambda call: call.name == "sync" and call.about == "0"
    receipt = ledger.appender.append(event())
    assert receipt.wait().seq == 2
    with pytest.raises(AuditUnavailable):
        receipt.wait("published", timeout=10)
    with pytest.raises(AuditUnavailable):
        for _ in range(1_000):
            ledger.appender.append(event()).wait(timeout=10)
    with pytest.raises(AuditUnavailable):
        ledger.close()


def test_callers_are_answered_when_the_publisher_stops_the_log(tmp_path: Path) -> None:
    """A batch in the writer's hands when the publisher stops the log is answered like all others."""
    for _ in range(20):
        ops = FaultyOps()
        ledger = Ledger(tmp_path, ops=ops).open()
        ops.fails = lambda call: call.name == "sync" and call.about == "0"
        receipts = []
        with contextlib.suppress(AuditUnavailable):
            receipts += [ledger.appender.append(event()) for _ in range(50)]
        for receipt in receipts:
            with contextlib.suppress(AuditUnavailable):
                receipt.wait(timeout=10)
            assert receipt.done
        with pytest.raises(AuditUnavailable):
            ledger.close()
        (tmp_path / "audit.state" / "failed-sync").unlink()


def test_damage_stops_the_writer(ledger: Ledger) -> None:
    """A day file shortened underneath is damage: pending and later events fail, nothing is written over it."""
    day = next(ledger.log.glob("audit-*"))
    ledger.appender.append(event()).wait()
    day.write_bytes(day.read_bytes()[:-10])
    with pytest.raises(AuditUnavailable, match="fewer than the 3 entries"):
        ledger.appender.append(event()).wait()
    before = day.read_bytes()
    with pytest.raises(AuditUnavailable) as caught:
        ledger.close()
    assert isinstance(caught.value.__cause__, LogDamaged)
    assert before == day.read_bytes()


def test_an_unexpected_error_is_no_silence(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the writer thread itself breaks, those who wait are told, and so are later callers."""

    def broken(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(ledger.head, "catch_up", broken)
    monkeypatch.setattr(threading, "excepthook", lambda _args: None)
    with pytest.raises(AuditUnavailable, match="ZeroDivisionError"):
        ledger.appender.append(event()).wait(timeout=10)
    with pytest.raises(AuditUnavailable, match="ZeroDivisionError"):
        ledger.appender.append(event())
    with pytest.raises(AuditUnavailable):
        ledger.close()


def test_what_an_observer_does_is_its_own_affair(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A view that fails neither fails the entry nor stops the log."""
    seen: list[bytes] = []

    def observe(lines: object) -> None:
        seen.extend(lines)  # type: ignore[arg-type]
        raise RuntimeError

    ledger = Ledger(tmp_path, ops=QuickOps())
    ledger.appender = Appender(ledger.head, opening=dict, observer=observe)
    with caplog.at_level(logging.CRITICAL, "klingai_audit"):
        ledger.open()
        assert [2, 3] == [ledger.appender.append(event()).wait().seq for _ in range(2)]
        ledger.close()
    assert [*ledger.lines()] == seen


@pytest.mark.parametrize("name", ["klingai-audit-publisher", "klingai-audit-writer"])
def test_no_thread_to_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """A machine without room for one more thread: nothing is left running, and the same log opens when there is."""
    start, refused = threading.Thread.start, [name]

    def start_or_not(thread: threading.Thread) -> None:
        if thread.name in refused:
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", start_or_not)
    ledger = Ledger(tmp_path, ops=QuickOps())
    before = set(threading.enumerate())
    with pytest.raises(AuditUnavailable, match="thread"):
        ledger.open()
    assert set() == set(threading.enumerate()) - before
    refused.clear()
    ledger.open()
    assert ledger.appender.append(event()).wait("published").seq == 3
    ledger.close()
    judge(ledger.log, ledger.vkey)


def test_when_an_observer_sees(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In one go after a pause, of a busy writer every so many entries, and before a flush returns."""
    monkeypatch.setattr(appender_module, "OBSERVE_DELAY_S", 60.0)
    monkeypatch.setattr(appender_module, "MAX_UNSEEN", 3)
    seen: list[int] = []
    ledger = Ledger(tmp_path, ops=QuickOps())
    ledger.appender = Appender(ledger.head, opening=dict, observer=lambda lines: seen.append(len(lines)))
    ledger.open()
    for _ in range(2):
        ledger.appender.append(event()).wait()
    assert [2] == seen
    ledger.appender.flush()
    assert [2, 2] == seen
    for _ in range(3):
        ledger.appender.append(event()).wait()
    ledger.appender.flush()
    assert [2, 2, 3] == seen
    monkeypatch.setattr(appender_module, "OBSERVE_DELAY_S", 0.001)
    ledger.appender.append(event()).wait()
    while len(seen) < 4:
        time.sleep(0.001)
    assert [2, 2, 3, 1] == seen
    ledger.close()
    assert [2, 2, 3, 1, 1] == seen


def test_an_end_is_written_once(ledger: Ledger) -> None:
    """In one batch, in the next and from another writer: an end stands once, and every receipt names that place."""
    other = Ledger(ledger.base, ops=QuickOps(), clock=ledger.clock).open()
    receipts = [ledger.appender.append(end_event("a"), once=True) for _ in range(5)]
    receipts += [ledger.appender.append(end_event("b"), once=True)]
    assert len({receipt.wait().seq for receipt in receipts[:5]}) == 1
    again = [writer.appender.append(end_event("a"), once=True).wait() for writer in (other, ledger, other)]
    assert {(receipts[0].seq, receipts[0].leaf_hash)} == {(one.seq, one.leaf_hash) for one in again}
    other.close()
    ledger.close()
    assert judge(ledger.log, ledger.vkey).types().count("task_completed") == 2


def test_a_batch_that_holds_nothing_new(ledger: Ledger) -> None:
    """If all events of a batch are in the log already, nothing is written and all are answered."""
    first = ledger.appender.append(end_event("a"), once=True).wait()
    day = next(ledger.log.glob("audit-*"))
    before = day.read_bytes()
    receipts = [ledger.appender.append(end_event("a"), once=True) for _ in range(50)]
    assert {first.seq} == {receipt.wait().seq for receipt in receipts}
    assert before == day.read_bytes()


@pytest.mark.parametrize("held", [True, False])
def test_the_last_new_line_bears_the_seal(ledger: Ledger, held: bool) -> None:
    """A batch that ends with an end known already is sealed on its last new line."""
    if held:
        ledger.appender.append(end_event("a"), once=True).wait()
    with ledger.store.transaction() as txn:
        ledger.head.catch_up(txn)
        batch = [(end_event("a"), True), (event(), False), (end_event("a"), True)]
        results = ledger.head.append(txn, batch)
    assert results[0].seq == results[2].seq
    assert b',"seal":"' in ledger.lines()[-1]
    assert results[1].seq == len(ledger.lines()) - 1
    ledger.close()
    judge(ledger.log, ledger.vkey)


def test_silence_is_broken_by_a_heartbeat(ledger: Ledger, clock: HandClock, monkeypatch: pytest.MonkeyPatch) -> None:
    """After an hour without entries one heartbeat is written, and no second one until another hour has gone."""
    for number in (1, 2):
        clock.advance(3_599)
        monkeypatch.setattr(appender_module, "_HEARTBEAT_LOOK_S", 0.01)
        with ledger.appender._changed:
            ledger.appender._changed.notify_all()
        time.sleep(0.1)
        assert number - 1 == ledger.types().count("log_heartbeat")
        clock.advance(1)
        eventually(lambda number=number: ledger.types().count("log_heartbeat") == number)  # type: ignore[misc]
    time.sleep(0.1)
    assert ledger.types().count("log_heartbeat") == 2


def test_a_heartbeat_that_fails_is_tried_again(
    tmp_path: Path, clock: HandClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that is full at the wrong moment does not end the heartbeat."""
    monkeypatch.setattr(appender_module, "_HEARTBEAT_LOOK_S", 0.01)
    ops = FaultyOps()
    with Ledger(tmp_path, ops=ops, clock=clock) as ledger:
        ops.fails = lambda call: call.name == "write"
        clock.advance(3_600)
        eventually(lambda: any(call.name == "write" for call in ops.failed))
        ops.fails = None
        eventually(lambda: "log_heartbeat" in ledger.types())


def test_a_failed_open_leaves_nothing_open(tmp_path: Path) -> None:
    """An open that fails leaves no thread and no descriptor behind; the next one succeeds."""
    ops = FaultyOps()
    ledger = Ledger(tmp_path, ops=ops)
    ops.fails = lambda call: call.about == "checkpoint.tmp"
    threads, descriptors = set(threading.enumerate()), open_below(tmp_path)
    for _ in range(3):
        with pytest.raises(AuditUnavailable):
            ledger.open()
        assert descriptors == open_below(tmp_path)
    assert set() == set(threading.enumerate()) - threads
    ops.fails = None
    ledger.open().close()
    assert judge(ledger.log, ledger.vkey).types()[0] == "log_created"


def test_two_rotations_at_once(ledger: Ledger) -> None:
    """Two writers that rotate at the same moment take turns; each epoch hands over to the next."""
    other = Ledger(ledger.base, ops=QuickOps(), clock=ledger.clock).open()
    threads = [
        threading.Thread(target=lambda one=one: one.appender.rotate())  # type: ignore[misc]
        for one in (ledger, other, ledger, other)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for one in (ledger, other):
        one.appender.append(event()).wait("published")
        one.close()
    assert judge(ledger.log, ledger.vkey).types().count("signing_key_rotated") == 4
    assert ["epoch-4.key"] == [path.name for path in ledger.keys.path.glob("epoch-*.key")]
