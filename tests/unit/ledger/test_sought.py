"""Events that the log may hold already are found where they may stand, and nowhere else."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from klingai_audit.ledger.sought import Sought
from klingai_audit.tlog.merkle import leaf_hash
from tests.support.batches import BatchMemory
from tests.support.faulty import QuickOps
from tests.support.ledgers import Ledger, event


class Lines:
    """A store that counts what is read."""

    def __init__(self) -> None:
        self.lines: list[bytes] = []
        self.read: list[tuple[int, int | None]] = []

    def read_entries(self, begin: int, end: int | None = None):
        self.read.append((begin, end))
        return iter(self.lines[begin:end])


def test_each_entry_is_read_once() -> None:
    """However many events are sought, and however often: what was read is not read again."""
    store = Lines()
    events = [event() for _ in range(20)]
    store.lines = [one.body for one in events]
    sought = Sought(store)  # type: ignore[arg-type]
    assert sought.find(events[0].event_id, 20) is None
    assert [] == store.read
    sought.seek({one.event_id: 5 for one in events})
    assert (sought.active, events[3].event_id in sought, event().event_id in sought) == (True, True, False)
    assert sought.find(events[3].event_id, 10) is None
    place = sought.find(events[7].event_id, 10)
    assert place is not None
    assert (7, leaf_hash(events[7].body), b"") == place
    assert sought.find(events[12].event_id, 10) is None
    assert 12 == sought.find(events[12].event_id, 20).seq  # type: ignore[union-attr]
    assert [(5, 10), (10, 20)] == store.read
    sought.seek({events[1].event_id: 0})
    assert sought.find(events[1].event_id, 20) is None  # it was sought from 5 on before
    sought.forget(one.event_id for one in events)
    assert (False, None) == (sought.active, sought.find(events[7].event_id, 20))


def test_what_is_sought_later_is_looked_for_behind(tmp_path: Path) -> None:
    """Something that may stand before what was read already makes that be read again."""
    store = Lines()
    events = [event() for _ in range(6)]
    store.lines = [one.body for one in events]
    sought = Sought(store)  # type: ignore[arg-type]
    sought.seek({events[5].event_id: 4})
    assert 5 == sought.find(events[5].event_id, 6).seq  # type: ignore[union-attr]
    sought.seek({events[1].event_id: 0})
    assert 1 == sought.find(events[1].event_id, 6).seq  # type: ignore[union-attr]
    assert 5 == sought.find(events[5].event_id, 6).seq  # type: ignore[union-attr]


def test_a_writer_does_not_append_what_is_sought_and_there(tmp_path: Path) -> None:
    """With a real log: in it, twice in one batch, put there by another writer meanwhile; and what is not sought is."""
    with Ledger(tmp_path, ops=QuickOps()) as ledger, Ledger(tmp_path, ops=QuickOps()) as other:
        there, foreign, new = event(), event(), event()
        first = ledger.appender.append(there).wait()
        since = ledger.head.size
        late = other.appender.append(foreign).wait()
        ledger.head.sought.seek({there.event_id: 0, foreign.event_id: since, new.event_id: since})
        receipts = ledger.appender.append_batch([(one, False) for one in (there, foreign, new, new)])
        found = [receipt.wait().seq for receipt in receipts]
        assert [first.seq, late.seq, found[2], found[2]] == found
        assert receipts[1].leaf_hash == late.leaf_hash
        ledger.head.sought.forget([new.event_id])
        assert new.event_id == ledger.appender.append(new).wait().event_id
        assert 2 == sum(new.event_id.encode() in line for line in ledger.lines())


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("store", [None, BatchMemory()], ids=["sealed", "batches"])
def test_a_child_seeks_while_a_thread_of_its_parent_looks(tmp_path: Path, store: BatchMemory | None) -> None:
    """The parent's lock and what it sought are not the child's."""
    with Ledger(tmp_path, ops=QuickOps(), store=store) as ledger:
        sought = ledger.head.sought
        sought.seek({event().event_id: 0})
        with sought._lock:  # as a thread of the parent would have it while it reads
            child = os.fork()
            if child == 0:
                os._exit(0 if not sought.active and sought._lock.acquire(timeout=10) else 1)
        assert 0 == os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        assert sought.active
