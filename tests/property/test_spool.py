"""Drained exactly once, in order: writers, outages, lost answers and deaths in any order, against a plain list."""

from __future__ import annotations

import functools
import tempfile
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from klingai_audit.capture.desk import Item
from klingai_audit.errors import AuditUnavailable
from tests.support.ledgers import event
from tests.support.spooled import SharedLog, Writer

FATES = ("ok", "away", "lost", "slow")
STEPS = st.lists(
    st.tuples(
        st.sampled_from(["act", "act", "act", "outcome", "handed", "drain", "overdue", "die", "foreign"]),
        st.integers(0, 1),
        st.lists(st.sampled_from(FATES), max_size=4),
    ),
    max_size=30,
)


class Reference:
    """What every process was told: in which order its acts were accepted. Nothing else is believed.

    `maybe` may be lost with a process that died: nobody was told that they are durable.
    """

    def __init__(self) -> None:
        self.accepted: list[list[str]] = []
        self.maybe: set[str] = set()

    def check(self, ids: list[str]) -> None:
        """Everything accepted is in the log once, what one process did in its order."""
        count = Counter(ids)
        assert {} == {one: times for one, times in count.items() if times > 1}
        place = {one: number for number, one in enumerate(ids)}
        for process in self.accepted:
            assert set() == set(process) - set(place) - self.maybe
            there = [one for one in process if one in place]
            assert sorted(there, key=place.__getitem__) == there


def play(state: Path, steps: list[tuple[str, int, list[str]]]) -> None:
    shared, reference = SharedLog(), Reference()
    writers: list[tuple[Writer, list[str]]] = []

    def born() -> tuple[Writer, list[str]]:
        writer, accepted = Writer(shared, state), []
        reference.accepted.append(accepted)
        writer.spool.take_up()
        return writer, accepted

    writers = [born(), born()]
    for kind, number, fates in steps:
        writer, accepted = writers[number]
        writer.fate = functools.partial(next, iter(fates), fates[-1] if fates else "ok")
        if kind == "act":
            try:
                accepted.append(writer.act())
            except AuditUnavailable:
                pytest.fail("the spool takes it")
        elif kind == "outcome":
            one = event()
            writer.desk.write([Item(one, None, kind="paid_create")])
            assert 0 == writer.desk.late
            accepted.append(one.event_id)
        elif kind == "handed":
            one = event()
            writer.desk.hand_over([Item(one, None, kind="paid_create")])
            accepted.append(one.event_id)
            reference.maybe.add(one.event_id)
        elif kind == "drain":
            writer.spool.drain()
        elif kind == "overdue":
            writer.desk.overdue()
        elif kind == "foreign":
            shared.lines.append(event().body)
        else:
            writer.die()
            writers[number] = born()
    for writer, accepted in writers:
        writer.fate = lambda: "ok"
        writer.flush()
        writer.desk.settle()
        reference.maybe -= set(accepted)
        writer.spool.take_up()
        assert writer.spool.drain()
        assert not writer.spool.down
    reference.check(shared.ids())
    opened = [facts["spool"] for kind, facts in shared.gaps() if kind == "gap_opened"]
    closed = [facts["spool"] for kind, facts in shared.gaps() if kind == "gap_closed"]
    assert sorted(opened) == sorted(closed)
    assert len(set(opened)) == len(opened)
    assert [0] * len(closed) == [facts["lost"] for kind, facts in shared.gaps() if kind == "gap_closed"]
    assert [] == list((state / "spool").glob("*"))


@settings(max_examples=40, suppress_health_check=[HealthCheck.too_slow])
@given(STEPS)
def test_each_entry_once_and_in_order(steps: list[tuple[str, int, list[str]]]) -> None:
    """Whatever happens to the log's answers and to its writers, the log has what was accepted, once, in order."""
    with tempfile.TemporaryDirectory() as folder:
        play(Path(folder), steps)


@pytest.mark.slow
@settings(max_examples=1_000, suppress_health_check=[HealthCheck.too_slow])
@given(STEPS)
def test_each_entry_once_and_in_order_long(steps: list[tuple[str, int, list[str]]]) -> None:
    """The same for very many stories."""
    with tempfile.TemporaryDirectory() as folder:
        play(Path(folder), steps)
