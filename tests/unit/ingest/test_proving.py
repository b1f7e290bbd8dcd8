"""Proofs of many entries at once are those of each alone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from klingai_audit.errors import UsageError
from klingai_audit.ingest.proving import prove_all
from klingai_audit.ledger.purged import purged_line
from klingai_audit.ledger.reader import LogReader
from klingai_audit.log import AuditLog
from klingai_audit.testing.faulty import QuickOps
from klingai_audit.trust.proofs import prove_entry
from tests.support.integers import integers


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LogReader]:
    """A log of more than one tile."""
    with AuditLog.open(tmp_path_factory.mktemp("proving") / "audit", ops=QuickOps()) as audit:
        for number in range(300):
            audit.log("x_a", "render-1", metadata={"number": number})
        audit.flush("published")
        yield audit.reader


@pytest.mark.parametrize("seqs", [[0], [300], [299, 3, 3, 4, 255, 256, 257], list(range(302))])
def test_they_are_the_same(reader: LogReader, seqs: list[int]) -> None:
    """In any order, also twice, around the edges of tiles."""
    note = reader.checkpoint_note()
    assert [prove_entry(reader, seq, note) for seq in seqs] == prove_all(reader, seqs, note)


def test_a_checkpoint_that_does_not_cover_them(reader: LogReader) -> None:
    """There is no proof then of any."""
    assert prove_all(reader, [3, reader.size], reader.checkpoint_note()) is None


def test_a_purged_entry_is_told(tmp_path: Path) -> None:
    """It has no bytes to prove."""
    log = integers(20)
    real = log.store.line
    log.store.line = lambda i: purged_line(bytes(32), 15) if i == 7 else real(i)
    with pytest.raises(UsageError, match="was purged"):
        prove_all(log, [6, 7], log.checkpoint_note())
