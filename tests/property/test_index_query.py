"""The index and the scan give the same entries: on random logs, for random filters, in random steps."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from klingai_audit.index import Index, build, index
from klingai_audit.ledger.reader import LogReader
from klingai_audit.stores.memory import MemoryStore
from klingai_audit.views import indexed
from klingai_audit.views.indexed import Indexed
from klingai_audit.views.query import Filter, query
from tests.unit.views.lines import NOW, PEOPLE
from tests.unit.views.test_query import FILTERS, logs

MORE = st.fixed_dictionaries(
    {},
    optional={
        "model": st.sampled_from(["a", "lake"]),
        "key": st.sampled_from(["a", "831", ("b", "x/831")]),
        "duplicates": st.booleans(),
        "cost": st.sampled_from([">0", "<=5"]),
    },
)


@pytest.fixture
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let logs of a few entries have full segments, merges and windows."""
    monkeypatch.setattr(indexed, "WORTH_AN_INDEX", 1)
    monkeypatch.setattr(build, "SEGMENT_ENTRIES", 4)
    monkeypatch.setattr(index, "SEGMENT_ENTRIES", 4)
    monkeypatch.setattr(index, "_WINDOWS", (1, 3))


@pytest.mark.slow
@pytest.mark.usefixtures("_small")
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(log=logs(), wanted=st.lists(st.tuples(FILTERS, MORE), min_size=4, max_size=4), steps=st.integers(1, 8))
def test_the_index_finds_what_the_scan_finds(tmp_path_factory, log, wanted, steps):
    """Whatever the log, the filter, and in how many steps the index followed: the same entries in the same order."""
    store = MemoryStore()
    folder: Path = tmp_path_factory.mktemp("index")
    reader = LogReader(store)
    with Index.open(reader, folder) as made:
        for batch in _batched(log, steps):
            store.entries += batch
            assert len(store.entries) == made.refresh()
        for one, more in wanted:
            question = Filter(**_in_order(one), **more)
            scanned = list(query(iter(log), question, PEOPLE, now=NOW))
            asked = Indexed(reader, lambda: made, len(log))
            assert scanned == list(query(asked, question, PEOPLE, now=NOW))


def _batched(items: list[bytes], count: int) -> list[list[bytes]]:
    return [items[at : at + count] for at in range(0, len(items), count)]


def _in_order(wanted: dict[str, object]) -> dict[str, object]:
    since, until = wanted.get("since"), wanted.get("until")
    if isinstance(since, dt.datetime) and isinstance(until, dt.datetime) and since > until:
        return {**wanted, "since": until, "until": since}
    return wanted
