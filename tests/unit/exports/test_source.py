"""What is read for an export: published entries, each checked against the tree."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import pytest

from klingai_audit.errors import LogDamaged, LogNotFound
from klingai_audit.exports.record import BATCH_ENTRIES, Batch, Position, Source, TreeHead
from klingai_audit.ledger.reader import LogReader
from klingai_audit.tlog.merkle import leaf_hash
from tests.support.faulty import QuickOps
from tests.support.ledgers import Ledger, event


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    """A closed log of 1,203 entries."""
    with Ledger(tmp_path, ops=QuickOps()) as open_ledger:
        for number in range(1_200):
            open_ledger.appender.append(event(metadata={"n": number}))
    return open_ledger


def lines(batches: list[Batch]) -> list[bytes]:
    return [record.entry.raw for batch in batches for record in batch.records]


def test_batches_are_the_log_with_hashes_and_head(ledger: Ledger) -> None:
    """Everything once and in order, each record with its leaf hash and the published head."""
    source = Source(ledger.reader)
    head = source.head()
    batches = list(source.batches(0, head))
    assert ledger.lines() == lines(batches)
    assert [len(batch.records) for batch in batches] == [BATCH_ENTRIES, BATCH_ENTRIES, head.size - 2 * BATCH_ENTRIES]
    records = [record for batch in batches for record in batch.records]
    assert all(record.leaf == leaf_hash(record.entry.raw) and record.head is head for record in records)
    assert Position(head.size, records[-1].leaf) == batches[-1].position
    assert (ledger.reader.checkpoint().root, ledger.reader.checkpoint_note()) == (head.root, head.note)


@pytest.mark.parametrize("begin", [0, 1, 499, 500, 501, 1202, 1203])
def test_any_beginning(ledger: Ledger, begin: int) -> None:
    """Reading may begin at any entry, and a position names the entry before."""
    source = Source(ledger.reader)
    head = source.head()
    assert ledger.lines()[begin:] == lines(list(source.batches(begin, head)))
    assert Position(begin, leaf_hash(ledger.lines()[begin - 1]) if begin else None) == source.position(begin)


def test_large_entries_end_a_batch_early(tmp_path: Path) -> None:
    """A batch is bounded in bytes, so that a slow receiver never means much memory."""
    with Ledger(tmp_path, ops=QuickOps()) as ledger:
        for _ in range(60):
            ledger.appender.append(event(metadata={"x": "y" * 60_000}))
    source = Source(ledger.reader)
    batches = list(source.batches(0, source.head()))
    assert [2 + 18, 18, 18] == [len(batch.records) for batch in batches[:3]]
    assert ledger.lines() == lines(batches)


def test_entries_out_of_range_are_passed_over(tmp_path: Path) -> None:
    """Times bound what leaves, not how far the export comes."""
    with Ledger(tmp_path, ops=QuickOps()) as ledger:
        ledger.appender.append(event())  # noon of 2026-11-21
    noon = dt.datetime(2026, 11, 21, 12, tzinfo=dt.UTC)
    second = dt.timedelta(seconds=1)
    for since, until, count in [(noon, noon + second, 1), (noon + second, noon + second, 0), (noon, noon, 0)]:
        source = Source(ledger.reader, since=since, until=until)
        head = source.head()
        batches = list(source.batches(0, head))
        assert (count, head.size) == (len(lines(batches)), batches[-1].position.seq)


def test_changed_entry_is_not_exported(ledger: Ledger) -> None:
    """What the tree does not hold does not leave, nor anything after it."""
    (day,) = ledger.log.glob("audit-*.jsonl")
    data = day.read_bytes()
    day.write_bytes(data.replace(b'"n":700}', b'"n":701}'))
    source = Source(ledger.reader)
    seen = []
    with pytest.raises(LogDamaged) as caught:
        seen.extend(source.batches(0, source.head()))
    assert "Entry 702 " in caught.value.message
    assert ledger.lines()[:BATCH_ENTRIES] == lines(seen)


def test_cut_log_is_not_exported_as_whole(ledger: Ledger) -> None:
    """Fewer lines than the checkpoint covers are damage, not an end."""
    (day,) = ledger.log.glob("audit-*.jsonl")
    kept = day.read_bytes().splitlines(keepends=True)[:-3]
    day.write_bytes(b"".join(kept))
    source = Source(LogReader(Ledger(ledger.base, ops=QuickOps()).store))
    with pytest.raises(LogDamaged) as caught:
        list(source.batches(0, source.head()))
    assert "tail_cut" == caught.value.kind_of_damage


def test_changed_or_short_tree_is_not_believed(ledger: Ledger) -> None:
    """The head that records name is that of the stored tree, or there is no export."""
    tree = ledger.log / "tree" / "0"
    whole = tree.read_bytes()
    tree.write_bytes(whole[:-32] + bytes(32))
    with pytest.raises(LogDamaged):
        Source(ledger.reader).head()
    tree.write_bytes(whole[:-32])
    with pytest.raises(LogDamaged):
        Source(ledger.reader).head()
    with pytest.raises(LogDamaged):
        Source(ledger.reader).position(ledger.reader.size)


def test_lines_after_the_checkpoint_are_counted_not_exported(ledger: Ledger) -> None:
    """An unsigned tail may be anything: it is told by number only."""
    head = TreeHead.read(ledger.reader)
    (day,) = ledger.log.glob("audit-*.jsonl")
    day.write_bytes(day.read_bytes() + b'{"forged":1}\n{"forged":2}\n')
    source = Source(ledger.reader)
    assert head == source.head()
    assert head.size == len(lines(list(source.batches(0, head))))
    assert 2 == source.unsigned_tail(head)


def test_no_log(tmp_path: Path) -> None:
    """Without a checkpoint there is nothing to export."""
    with pytest.raises(LogNotFound):
        Source(Ledger(tmp_path, ops=QuickOps()).reader).head()
