"""What stores before a server promise when a connection ends: the batch is there whole or not at all, and they say so.

A commit is tried again and again through a `FaultProxy` that cuts at another byte each time. What the store answers
is compared with what a look past the proxy shows.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator
from typing import Any, Final, Literal

import pytest

from klingai_audit.errors import AuditUnavailable, HeadConflict
from klingai_audit.ledger.batches import BatchStore, CommitUnknown, SignedBatch
from klingai_audit.testing.batches import BatchMaker, commit
from klingai_audit.testing.proxy import Cut, Delay, Direction, Duplicate, Fault, FaultProxy, Repeat, Traffic
from klingai_audit.testing.store_contract.common import OpenStore, StoreFixtures
from klingai_audit.testing.store_contract.forked import in_child
from klingai_audit.testing.store_contract.signed import commit_somehow, together

__all__ = ["Outcome", "ServerFaultsContract"]

Outcome = Literal["committed", "conflict", "unavailable", "unknown"]
"""What a store answered to a commit."""

ABSENT: Final = ("conflict", "unavailable")
"""Answers after which the batch must not be there, now or later."""


class ServerFaultsContract(StoreFixtures):
    """Give the fixtures `proxy`, a `FaultProxy` before the server, and `open_proxied`: as `open_store`, through it."""

    places: int = 24
    """At how many bytes of each direction a commit is cut."""

    repeatable: bool = False
    """Whether requests stand for themselves (HTTP), so that one may reach the server twice."""

    patience: float = 90.0
    """Seconds after which a store has given up, at the latest, whatever the server does."""

    @pytest.fixture
    def proxied(self, store: BatchStore, open_proxied: OpenStore) -> Iterator[BatchStore]:
        """The log of `store`, through the proxy."""
        made: BatchStore = open_proxied()
        yield made
        made.close()

    @pytest.fixture
    def traffic(self, store: BatchStore, proxied: BatchStore, proxy: FaultProxy, maker: BatchMaker) -> Traffic:
        """How many bytes a commit takes in both directions; some entries are there afterwards."""
        self.accept(maker, self.attempt(proxied, maker.batch(2)))
        with proxy.watched() as traffic:
            self.accept(maker, self.attempt(proxied, maker.batch(2)))
        assert traffic.up > 0
        assert traffic.down > 0
        return traffic

    @pytest.mark.parametrize("reset", [True, False])
    @pytest.mark.parametrize("direction", ["up", "down"])
    def test_a_commit_that_is_cut(
        self,
        store: BatchStore,
        proxied: BatchStore,
        proxy: FaultProxy,
        maker: BatchMaker,
        traffic: Traffic,
        direction: Direction,
        reset: bool,
    ) -> None:
        """Lost, torn, and done without an answer: at the first and last bytes and at many between them."""
        total = traffic.up if direction == "up" else traffic.down
        for at in _spread(total, self.places):
            self.try_commit(store, proxied, proxy, maker, Cut(direction, at, reset))
        self.check(store, maker)

    def test_commits_that_are_cut_again_and_again(
        self, store: BatchStore, proxied: BatchStore, proxy: FaultProxy, maker: BatchMaker, traffic: Traffic
    ) -> None:
        """The connection by which a store looks for its batch is cut too."""
        for number, at in enumerate(_spread(traffic.up, self.places // 2)):
            more: list[Fault] = [Cut("up", at + traffic.up // 3 * n) for n in range(1, 2 + number % 3)]
            self.try_commit(store, proxied, proxy, maker, Cut("down", 0), *more)
        self.check(store, maker)

    def test_an_answer_that_comes_late(
        self, store: BatchStore, proxied: BatchStore, proxy: FaultProxy, maker: BatchMaker, traffic: Traffic
    ) -> None:
        """A network that stands still for a moment is waited for."""
        for fault in (Delay("up", 0, 0.5), Delay("up", traffic.up // 2, 0.5), Delay("down", traffic.down // 2, 0.5)):
            assert "committed" == self.try_commit(store, proxied, proxy, maker, fault)

    def test_bytes_that_come_twice(
        self, store: BatchStore, proxied: BatchStore, proxy: FaultProxy, maker: BatchMaker, traffic: Traffic
    ) -> None:
        """Whatever the server makes of them, the answer is true, and the next commit succeeds."""
        for at, length in ((0, traffic.up), (traffic.up // 2, 1 + traffic.up // 5)):
            self.try_commit(store, proxied, proxy, maker, Duplicate("up", at, length))
        self.try_commit(store, proxied, proxy, maker, Duplicate("down", 0, 1 + traffic.down // 5))
        self.check(store, maker)

    def test_requests_that_are_handled_twice(
        self, store: BatchStore, proxied: BatchStore, proxy: FaultProxy, maker: BatchMaker, traffic: Traffic
    ) -> None:
        """A put that landed and is repeated comes back as refused: the batch counts as committed, once."""
        if self.repeatable:
            for at in _spread(traffic.up - 1, self.places // 2):
                assert "committed" == self.try_commit(store, proxied, proxy, maker, Repeat(at))
        self.check(store, maker)

    def test_a_server_that_cannot_be_reached(
        self, store: BatchStore, proxied: BatchStore, proxy: FaultProxy, maker: BatchMaker, traffic: Traffic
    ) -> None:
        """Commits are refused in time, also by a new store object; when the server is back both go on."""
        proxy.refuse()
        begun = time.monotonic()
        assert "unavailable" == self.attempt(proxied, maker.batch())[1]
        with pytest.raises(AuditUnavailable):
            proxied.read_checkpoint()
        assert time.monotonic() - begun < 2 * self.patience
        proxy.admit()
        self.next_commit(proxied, maker)
        self.check(store, maker)

    def test_a_server_that_does_not_answer(
        self, store: BatchStore, proxied: BatchStore, proxy: FaultProxy, maker: BatchMaker, traffic: Traffic
    ) -> None:
        """A connection that stays open and silent is given up, and the answer is true."""
        begun = time.monotonic()
        self.try_commit(store, proxied, proxy, maker, Delay("down", traffic.down // 2, 10 * self.patience))
        assert time.monotonic() - begun < 2 * self.patience
        self.check(store, maker)

    def test_writers_whose_connections_are_cut(
        self, store: BatchStore, open_proxied: OpenStore, proxy: FaultProxy, maker: BatchMaker, traffic: Traffic
    ) -> None:
        """Several at once: what was acknowledged is there once, what was refused is not, nothing else is."""
        known, lock, over = list[SignedBatch](), threading.Lock(), threading.Event()
        tried: dict[str, tuple[SignedBatch, Outcome]] = {}
        chance = random.Random(7)

        def cut() -> None:
            while not over.is_set():
                side: Direction = chance.choice(["up", "down"])
                proxy.arm(Cut(side, chance.randrange(3 * max(traffic.up, traffic.down))))
                until = time.monotonic() + 0.5
                while not proxy.fired and not over.is_set() and time.monotonic() < until:
                    time.sleep(0.002)

        def write() -> None:
            mine: BatchStore = open_proxied()
            for _ in range(40):
                batch, outcome = self.attempt_behind(mine)
                if batch is not None:
                    with lock:
                        tried[batch.id] = (batch, outcome)
            mine.close()

        cutter = threading.Thread(target=cut)
        cutter.start()
        try:
            together(*[write] * 3)
        finally:
            over.set()
            cutter.join()
            proxy.disarm()
        last = commit_somehow(store)  # what is under way on an older head comes to nothing now
        tried[last.id] = (last, "committed")
        lines = list(store.read_entries(0))
        for batch, outcome in tried.values():
            there = lines[batch.begin : batch.end] == batch.entries
            assert not (there and outcome in ABSENT), f"{outcome}, and it is there"
            assert there or outcome != "committed", "acknowledged, and it is not there"
            assert there or not set(batch.entries) & set(lines), "a part of it is there"
            if there:
                known.append(batch)
        maker.replay(known)
        self.check(store, maker)

    def test_a_forked_child_writes_too(self, store: BatchStore, maker: BatchMaker, opened: OpenStore) -> None:
        """After `after_fork` it shares nothing with its parent but the log; the parent goes on as before."""
        maker.put(store, 2)

        def act() -> None:
            store.after_fork()
            assert maker.lines == list(store.read_entries(0))
            maker.put(store, 2)

        assert 0 == in_child(act)
        commit_somehow(store)
        assert 5 == len(list(store.read_entries(0))) == len(list(opened().read_entries(0)))

    # --- one attempt ---------------------------------------------------------------------------------------------

    def attempt(self, store: BatchStore, batch: SignedBatch) -> tuple[SignedBatch, Outcome]:
        """Commit a batch once; whatever else a store raises is a breach of the contract."""
        try:
            with store.transaction() as txn:
                commit(txn, batch)
        except CommitUnknown:
            return batch, "unknown"
        except AuditUnavailable:
            return batch, "unavailable"
        except HeadConflict:
            return batch, "conflict"
        return batch, "committed"

    def attempt_behind(self, store: BatchStore) -> tuple[SignedBatch | None, Outcome]:
        """Commit one entry behind whatever is there; no batch if that could not be read."""
        batch: SignedBatch | None = None
        try:
            with store.transaction() as txn:
                batch = BatchMaker.of(store, txn.head()).batch()
                txn.append(batch)
        except CommitUnknown:
            return batch, "unknown"
        except AuditUnavailable:
            return batch, "unavailable"
        except HeadConflict:
            return batch, "conflict"
        return batch, "committed"

    def try_commit(
        self, store: BatchStore, proxied: BatchStore, proxy: FaultProxy, maker: BatchMaker, *faults: Fault
    ) -> Outcome:
        """Commit under faults, hold the answer against what is there, and commit again without."""
        proxy.arm(*faults)
        batch, outcome = self.attempt(proxied, maker.batch(2, keep=True))
        proxy.disarm()
        lines = list(store.read_entries(maker.size))
        assert lines in ([], batch.entries), f"{faults}: a part of the batch is there"
        assert not (lines and outcome in ABSENT), f"{faults}: {outcome}, and it is there"
        assert lines or outcome != "committed", f"{faults}: acknowledged, and it is not there"
        if lines:
            maker.accept(batch)
            assert batch.note == store.read_kept(batch.end)
        self.next_commit(proxied, maker, None if lines or outcome in ABSENT else batch)
        return outcome

    def next_commit(self, proxied: BatchStore, maker: BatchMaker, pending: SignedBatch | None = None) -> None:
        """Commit through the proxy, which lets everything through; `pending` may appear before it."""
        until = time.monotonic() + self.patience
        while True:
            batch, outcome = self.attempt(proxied, maker.batch())
            if outcome == "committed":
                maker.accept(batch)
                return
            assert time.monotonic() < until, f"without faults, and still {outcome}"
            if outcome == "conflict":
                assert pending is not None, "a conflict without another writer"
                assert pending.entries == list(proxied.read_entries(maker.size))
                maker.accept(pending)
                pending = None
            time.sleep(0.01)

    def accept(self, maker: BatchMaker, attempt: tuple[SignedBatch, Outcome]) -> None:
        """Take for committed what was."""
        batch, outcome = attempt
        assert "committed" == outcome
        maker.accept(batch)

    def check(self, store: Any, maker: BatchMaker) -> None:
        """The log holds what the maker knows and nothing else."""
        assert maker.lines == list(store.read_entries(0))
        assert BatchMaker.leaves(maker.lines) == store.read_hashes(0, 0, len(maker.lines) + 9)
        with store.transaction() as txn:
            head = txn.head()
        assert (maker.note, maker.lines[-1]) == (head.note, head.last)


def _spread(total: int, count: int) -> list[int]:
    """Return about `count` numbers of `[0, total]`: both ends, what is next to them, and others at equal distances."""
    ends = {0, 1, total - 1, total}
    return sorted(at for at in ends | {total * n // max(1, count) for n in range(count)} if 0 <= at <= total)
