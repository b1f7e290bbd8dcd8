"""The contract of stores that take the checkpoint with each batch: over the simplest such store, and broken ones.

A suite that lets a wrong store pass is worth nothing: each of the broken ones fails at least one of its tests.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import pytest

from klingai_audit.errors import AuditUnavailable, HeadConflict
from klingai_audit.ledger.batches import CommitUnknown, SignedBatch, StoredHead
from klingai_audit.ledger.store import StoredDay
from klingai_audit.testing.batches import BatchMaker
from klingai_audit.testing.proxy import Cut, FaultProxy
from klingai_audit.testing.store_contract import BatchStoreContract, OpenStore, ServerFaultsContract
from klingai_audit.testing.store_contract.common import DAYS, PER_DAY
from tests.support.batches import BatchMemory, BatchMemoryTransaction


class TestReference(BatchStoreContract):
    @pytest.fixture(params=[True, False])
    def open_store(self, request: pytest.FixtureRequest) -> OpenStore:
        store = BatchMemory(publishes=request.param)
        return lambda: store


class Forgetful(BatchMemory):
    """Commits whatever comes, on whatever head."""

    @contextlib.contextmanager
    def transaction(self) -> Iterator[BatchMemoryTransaction]:
        with super().transaction() as txn:
            txn.append = self.accept  # type: ignore[method-assign]
            yield txn

    def accept(self, batch: SignedBatch) -> None:
        self.entries += batch.entries
        self.days += [batch.day] * len(batch.entries)
        self.note = batch.note


class Shifting(BatchMemory):
    """Looks at the head anew whenever it is asked."""

    @contextlib.contextmanager
    def transaction(self) -> Iterator[BatchMemoryTransaction]:
        with super().transaction() as txn:
            txn.head = lambda: StoredHead(self.note or b"", (self.entries or [b""])[-1])  # type: ignore[method-assign]
            yield txn


class Hashless(BatchMemory):
    """Has the leaves but no hashes above them."""

    def read_hashes(self, level: int, begin: int, end: int) -> bytes:
        return super().read_hashes(level, begin, end) if level == 0 else b""


class Guessing(BatchMemory):
    """Tells a place for ends that it never saw."""

    def find_end(self, event_id: str) -> int | None:
        return super().find_end(event_id) or 0


class Splitting(BatchMemory):
    """Takes what ends lines in Python for the end of a line."""

    def read_entries(self, begin: int, end: int | None = None) -> Iterator[bytes]:
        text = b"\n".join(super().read_entries(0)).decode()
        return iter([line.encode() for line in text.splitlines()][begin:end])


class Early(BatchMemory):
    """Shows the newest day to those who seal days."""

    def old_days(self) -> list[StoredDay]:
        days = super().old_days()
        last = days[-1].end if days else 0
        return [*days, StoredDay(self.days[-1], last, len(self.entries), "", sealed=True)] if self.days else []


BROKEN = [
    (Forgetful, "test_a_batch_is_committed_once"),
    (Forgetful, "test_a_batch_on_an_old_head_is_refused"),
    (Forgetful, "test_a_batch_behind_a_gap_is_refused"),
    (Forgetful, "test_one_of_two_wins"),
    (Shifting, "test_the_head_is_that_of_the_last_commit"),
    (Hashless, "test_hashes_are_read_by_range"),
    (Guessing, "test_ends_are_found_or_not_told"),
    (Splitting, "test_any_text_comes_back_as_it_went_in"),
    (Early, "test_days_but_the_newest"),
]


@pytest.mark.parametrize(("broken", "test"), BROKEN)
def test_a_broken_store_fails(broken: type[BatchMemory], test: str, tmp_path: Path) -> None:
    """The test that is about the promise that a store breaks fails, and passes for the reference."""
    play(BatchMemory(), test, tmp_path)
    with pytest.raises((AssertionError, pytest.fail.Exception, ValueError)):
        play(broken(), test, tmp_path)


def play(store: BatchMemory, test: str, tmp_path: Path) -> None:
    """Run one test of the suite over a store, outside of pytest's own run."""
    suite, maker = BatchStoreContract(), BatchMaker()
    given = {"store": store, "maker": maker, "opened": lambda: store, "tmp_path": tmp_path}
    act = getattr(suite, test)
    wanted = inspect.signature(act).parameters
    if "four_days" in wanted:
        for day in DAYS:
            maker.put(store, PER_DAY, day)
        given["four_days"] = maker.lines
    act(**{name: given[name] for name in wanted})


class Lying(BatchMemory):
    """Commits and says that it did not."""

    refusal: Exception = AuditUnavailable("gone")

    @contextlib.contextmanager
    def transaction(self) -> Iterator[BatchMemoryTransaction]:
        with super().transaction() as txn:
            yield txn
        raise self.refusal


class Conflicting(Lying):
    """Takes its own commit for another writer's."""

    refusal = HeadConflict("another writer")


class Hopeful(BatchMemory):
    """Says that it committed what it did not."""

    @contextlib.contextmanager
    def transaction(self) -> Iterator[BatchMemoryTransaction]:
        with super().transaction() as txn:
            txn.append = lambda batch: None  # type: ignore[method-assign]
            yield txn


class Half(BatchMemory):
    """Loses the connection in the middle of its entries."""

    @contextlib.contextmanager
    def transaction(self) -> Iterator[BatchMemoryTransaction]:
        with super().transaction() as txn:
            txn.append = self.tear  # type: ignore[method-assign]
            yield txn

    def tear(self, batch: SignedBatch) -> None:
        self.entries += batch.entries[:1]
        raise CommitUnknown("gone")


class Stuck(BatchMemory):
    """Is of no use any more after the first error."""

    broken = False

    @contextlib.contextmanager
    def transaction(self) -> Iterator[BatchMemoryTransaction]:
        if self.broken:
            raise AuditUnavailable("still gone")
        self.broken = True
        yield BatchMemoryTransaction(self)


@pytest.mark.parametrize("broken", [Lying, Conflicting, Hopeful, Half, Stuck])
def test_an_untrue_answer_is_noticed(broken: type[BatchMemory]) -> None:
    """What a store says of a commit is held against what is there, and the next commit has to succeed."""
    suite, maker, proxy = ServerFaultsContract(), BatchMaker(), mock.create_autospec(FaultProxy, instance=True)
    suite.patience = 0.05
    honest = BatchMemory()
    suite.try_commit(honest, honest, proxy, maker, Cut("up", 1))
    suite.check(honest, maker)
    store = broken()
    with pytest.raises(AssertionError):
        suite.try_commit(store, store, proxy, BatchMaker(), Cut("up", 1))
