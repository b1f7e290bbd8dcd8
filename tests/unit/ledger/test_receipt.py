"""Receipts: when they are fulfilled, how they fail, who may wait for them."""

from __future__ import annotations

import asyncio
import os
import pickle
import threading
import time
from pathlib import Path
from typing import Self

import pytest

from klingai_audit.errors import AuditUnavailable, UsageError
from klingai_audit.ledger.publisher import Publisher
from klingai_audit.tlog.merkle import leaf_hash
from klingai_audit.tlog.note import VerifierKey
from klingai_audit.tlog.proof import verify_leaf_proof
from tests.support.children import Child, Tell
from tests.support.faulty import FaultyOps
from tests.support.ledgers import ORIGIN, Ledger, event


class Gate:
    """Holds the log's writer lock until told to let go."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._go, self._held = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._hold)

    def _hold(self) -> None:
        other = Ledger(self._ledger.base, clock=self._ledger.clock)
        with other.store.transaction():
            self._held.set()
            self._go.wait()
        other.store.close()

    def __enter__(self) -> Self:
        self._thread.start()
        self._held.wait()
        return self

    def open(self) -> None:
        """Let the log's writers go on."""
        self._go.set()
        self._thread.join()

    def __exit__(self, *_: object) -> None:
        self.open()


def test_a_receipt_says_where_the_entry_stands(ledger: Ledger) -> None:
    """After `wait` the receipt has the index and the leaf hash of the stored line."""
    receipt = ledger.appender.append(event())
    assert receipt.wait() is receipt
    assert receipt.seq == 2
    assert leaf_hash(ledger.lines()[2]) == receipt.leaf_hash
    assert f"<Receipt {receipt.event_id} seq 2>" == repr(receipt)


def test_nothing_is_said_before_it_is_durable(ledger: Ledger) -> None:
    """A receipt is pending until the batch is committed; a wait that times out says so and can be repeated."""
    with Gate(ledger) as gate:
        receipt = ledger.appender.append(event())
        assert (None, None, False) == (receipt.seq, receipt.leaf_hash, receipt.done)
        begun = time.monotonic()
        with pytest.raises(AuditUnavailable, match=r"not durable within 0\.05 s"):
            receipt.wait(timeout=0.05)
        assert 0.05 <= time.monotonic() - begun < 5
        gate.open()
    assert receipt.wait(timeout=10).done


def test_timeouts_count_once(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    """The time for `published` is what durability left of it."""
    left: list[float] = []
    wait_published = ledger.appender.wait_published

    def noted(size: int, timeout: float) -> None:
        left.append(timeout)
        wait_published(size, timeout)

    monkeypatch.setattr(ledger.appender, "wait_published", noted)
    with Gate(ledger) as gate:
        receipt = ledger.appender.append(event())

        def let_go() -> None:
            while not receipt._waiters:
                time.sleep(0.001)
            time.sleep(0.1)
            gate.open()

        opening = threading.Thread(target=let_go)
        opening.start()
        begun = time.monotonic()
        receipt.wait("published", timeout=60)
        assert 60 - (time.monotonic() - begun) <= left[0] < 59.95
        opening.join()


def test_a_time_out_names_the_entry(ledger: Ledger) -> None:
    """If no checkpoint comes in time it is said of which entry, which is durable; the wait can be repeated."""
    with ledger.store.publication():
        receipt = ledger.appender.append(event()).wait()
        begun = time.monotonic()
        with pytest.raises(AuditUnavailable, match="No checkpoint covered entry 2"):
            receipt.wait("published", timeout=0.1)
        assert time.monotonic() - begun < 5
        assert receipt.wait(timeout=0).seq == 2
    receipt.wait("published", timeout=10)
    receipt.wait("published", timeout=0)


def test_published_means_under_a_checkpoint(ledger: Ledger) -> None:
    """`wait("published")` returns when a checkpoint covers the entry, and the proof then verifies."""
    receipt = ledger.appender.append(event()).wait("published")
    assert ledger.reader.size > (receipt.seq or 0)
    proof = receipt.proof()
    assert receipt.leaf_hash is not None
    checkpoint = verify_leaf_proof(proof, receipt.leaf_hash, ORIGIN, [VerifierKey.parse(ledger.vkey)])
    assert checkpoint.size > proof.index == receipt.seq


def test_an_unknown_state_is_refused(ledger: Ledger) -> None:
    """Only `durable`, `published` and `witnessed` can be waited for."""
    receipt = ledger.appender.append(event())
    with pytest.raises(UsageError):
        receipt.wait("seen")  # type: ignore[arg-type]
    with pytest.raises(UsageError):
        asyncio.run(receipt.reached("sealed"))  # type: ignore[arg-type]


def test_many_may_wait_for_one_receipt(ledger: Ledger) -> None:
    """Threads and tasks that wait for the same receipt are all woken."""
    with Gate(ledger) as gate:
        receipt = ledger.appender.append(event())
        seen: list[int | None] = []
        threads = [threading.Thread(target=lambda: seen.append(receipt.wait().seq)) for _ in range(5)]

        async def tasks() -> None:
            waiting = [asyncio.ensure_future(receipt.reached()) for _ in range(5)]
            await asyncio.sleep(0.02)
            await asyncio.to_thread(gate.open)
            seen.extend([done.seq for done in await asyncio.gather(*waiting)])

        for thread in threads:
            thread.start()
        asyncio.run(tasks())
        for thread in threads:
            thread.join()
    assert [2] * 10 == seen


def test_a_cancelled_wait_harms_nobody(ledger: Ledger) -> None:
    """A task that stops waiting does not stop the entry, nor others that wait for it."""

    async def story() -> int | None:
        with Gate(ledger) as gate:
            receipt = ledger.appender.append(event())
            impatient = asyncio.ensure_future(receipt.reached())
            patient = asyncio.ensure_future(receipt.reached("published"))
            await asyncio.sleep(0.02)
            impatient.cancel()
            with pytest.raises(asyncio.CancelledError):
                await impatient
            await asyncio.to_thread(gate.open)
            return (await patient).seq

    assert asyncio.run(story()) == 2


def test_a_closed_loop_harms_nobody(ledger: Ledger) -> None:
    """If the event loop of a waiting task is gone when the entry is durable, the writer goes on."""
    with Gate(ledger) as gate:
        receipt = ledger.appender.append(event())
        loop = asyncio.new_event_loop()
        task = loop.create_task(receipt.reached())
        loop.run_until_complete(asyncio.sleep(0.01))
        task.cancel()
        loop.run_until_complete(asyncio.gather(task, return_exceptions=True))
        loop.close()
        gate.open()
    assert receipt.wait(timeout=10).seq == 2
    assert ledger.appender.append(event()).wait(timeout=10).seq == 3


def test_failure_reaches_the_receipt(tmp_path: Path) -> None:
    """A batch that cannot be written fails its receipts; the next one may succeed."""
    ops = FaultyOps()
    with Ledger(tmp_path, ops=ops) as ledger:
        ops.fails = lambda call: call.name == "write" and call.about.startswith("audit-")
        receipt = ledger.appender.append(event())
        for _ in range(2):
            with pytest.raises(AuditUnavailable, match="could not be written") as caught:
                receipt.wait()
            assert caught.value.do != ""
        with pytest.raises(AuditUnavailable):
            asyncio.run(receipt.reached())
        assert f"<Receipt {receipt.event_id} failed>" == repr(receipt)
        ops.fails = None
        assert ledger.appender.append(event()).wait().seq == 2


def test_what_waits_is_called_back(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Callbacks come once, when the entry is durable or has failed, or at once; what they raise harms nobody."""
    ops = FaultyOps()
    with Ledger(tmp_path, ops=ops) as ledger:
        called: list[int | None] = []
        with Gate(ledger) as gate:
            receipt = ledger.appender.append(event())
            receipt.when_done(lambda: called.append(receipt.seq))
            receipt.when_done(lambda: called.remove(7))
            assert [] == called
            gate.open()
            receipt.wait()
            ledger.appender.append(event()).wait()
        assert [2] == called
        assert "what waited for an entry failed" in caplog.text
        receipt.when_done(lambda: called.append(receipt.seq))
        assert [2, 2] == called
        ops.fails = lambda call: call.name == "write" and call.about.startswith("audit-")
        failed = ledger.appender.append(event())
        failed.when_done(lambda: called.append(failed.seq))
        with pytest.raises(AuditUnavailable):
            failed.wait()
        ops.fails = None
        ledger.appender.append(event()).wait()
        assert [2, 2, None] == called


def test_unpublished_is_told_and_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If no checkpoint can be written the entry stays durable, waiting for it raises, and later it is published."""
    monkeypatch.setattr("klingai_audit.ledger.publisher._RETRY_S", 0.01)
    ops = FaultyOps()
    with Ledger(tmp_path, ops=ops) as ledger:
        ops.fails = lambda call: call.about == "checkpoint.tmp"
        receipt = ledger.appender.append(event())
        with pytest.raises(AuditUnavailable, match="Durable, but not published"):
            receipt.wait("published")
        assert receipt.wait().seq == 2
        ops.fails = None
        ledger.appender.append(event()).wait()
        for _ in range(500):
            if ledger.reader.size == 4:
                break
            time.sleep(0.01)
        receipt.wait("published", timeout=10)


def test_waiting_for_published_never_misses_its_moment(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever begins to wait while a publication ends is woken by it or by the next one."""
    registered = Publisher._register

    def slow(self: Publisher, waiters: object) -> None:
        time.sleep(0.002)
        registered(self, waiters)  # type: ignore[arg-type]
        time.sleep(0.002)

    monkeypatch.setattr(Publisher, "_register", slow)
    for _ in range(100):
        ledger.appender.append(event()).wait("published", timeout=10)


def test_receipts_of_a_closed_log(ledger: Ledger) -> None:
    """After `close` receipts still say where their entries stand, and that they were published."""
    receipts = [ledger.appender.append(event()) for _ in range(3)]
    ledger.close()
    assert [2, 3, 4] == [receipt.wait("published").seq for receipt in receipts]


def test_receipts_stay_in_their_process(ledger: Ledger) -> None:
    """In a forked child a pending receipt of the parent raises at once, in every way to wait."""
    with Gate(ledger) as gate:
        receipt = ledger.appender.append(event())
        done = ledger.base / "done"

        def act(tell: Tell) -> None:
            for wait in (receipt.wait, lambda: asyncio.run(receipt.reached()), lambda: receipt.wait("published")):
                with pytest.raises(AuditUnavailable, match="pending in the parent"):
                    wait()
            done.touch()

        assert Child(act).wait() == 0
        assert done.exists()
        gate.open()
    assert receipt.wait().seq == 2


def test_fulfilled_receipts_are_known_in_a_child(ledger: Ledger) -> None:
    """What was durable before the fork the child knows; `published` only the parent can tell."""
    receipt = ledger.appender.append(event()).wait()

    def act(tell: Tell) -> None:
        tell(str(receipt.wait().seq))
        with pytest.raises(AuditUnavailable):
            receipt.wait("published", timeout=5)

    child = Child(act)
    assert (0, ["2"]) == (child.wait(), child.lines)


def test_a_receipt_is_not_pickled(ledger: Ledger) -> None:
    """A receipt belongs to its process and is refused as a message to another."""
    receipt = ledger.appender.append(event()).wait()
    with pytest.raises(TypeError):
        pickle.dumps(receipt)
    assert os.getpid() == receipt._pid
