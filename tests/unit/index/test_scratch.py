"""Lines on their way into the engine: with and without files in memory."""

from __future__ import annotations

import os

import pytest

from klingai_audit.durable import OPS
from klingai_audit.index import Index, scratch
from klingai_audit.index.scratch import Scratch
from klingai_audit.ledger.reader import LogReader
from klingai_audit.stores.memory import MemoryStore
from tests.unit.views.lines import event_id, line


@pytest.mark.parametrize("memory", [True, False])
def test_an_index_is_built_either_way(tmp_path, monkeypatch, memory):
    """Where the system has no files in memory, a temporary one in the index folder does, and goes again."""
    if not memory:
        monkeypatch.setattr(scratch, "_MEMORY_FILE", None)
    store = MemoryStore()
    store.entries = [line(seq) for seq in range(5)]
    with Index.open(LogReader(store), tmp_path) as made:
        assert [(event_id(seq),) for seq in range(5)] == made.rows("SELECT event_id FROM events ORDER BY seq")
        assert [] == list(tmp_path.rglob("*.tmp"))


@pytest.mark.parametrize("memory", [True, False])
def test_what_was_written_can_be_read_until_it_is_let_go(tmp_path, monkeypatch, memory):
    """The path is good for readers of this process; afterwards nothing is left, and a second time does nothing."""
    if not memory:
        monkeypatch.setattr(scratch, "_MEMORY_FILE", None)
    lines = Scratch(tmp_path, "lines", OPS)
    lines.write(b"a\n")
    lines.write(b"b\n")
    assert b"a\nb\n" == lines.path.read_bytes()
    lines.discard()
    lines.discard()
    assert [] == list(tmp_path.iterdir())


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_forked_child_does_not_hold_the_memory(tmp_path):
    """The parent's lines are not kept alive by a child."""
    lines = Scratch(tmp_path, "lines", OPS)
    lines.write(b"a\n")
    child = os.fork()
    if child == 0:
        os._exit(0 if lines._fd == -1 else 1)
    assert 0 == os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert b"a\n" == lines.path.read_bytes()
    lines.discard()
