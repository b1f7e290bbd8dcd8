"""A run that stamps the log is stopped at every step: what it leaves is never broken for good, and nothing is lost."""

from __future__ import annotations

import datetime as dt
import errno
import random
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from klingai_audit.errors import AuditUnavailable
from klingai_audit.event.own import own_event
from klingai_audit.ledger.clock import SYSTEM_CLOCK
from klingai_audit.stamp.client import TimeAuthority
from klingai_audit.stamp.run import Stamper, Stamping
from klingai_audit.trust.token import Token, parse_token
from klingai_audit.trust.verify import verify
from tests.support.faulty import FaultyOps, How, QuickOps
from tests.support.judge import judge
from tests.support.ledgers import Ledger, event
from tests.support.powerloss import JournalOps, Name, after_power_loss
from tests.support.settle import reopen
from tests.support.tsa import Tsa


class Near(TimeAuthority):
    """An authority that needs no network."""

    def __init__(self, tsa: Tsa) -> None:
        super().__init__("http://tsa.example/")
        self._tsa = tsa

    def stamp(self, data: bytes) -> tuple[bytes, Token]:
        reply = self._tsa.stamp(data)
        return reply, parse_token(reply)


@pytest.fixture(scope="module")
def near(tmp_path_factory: pytest.TempPathFactory) -> Near:
    return Near(Tsa(tmp_path_factory.mktemp("tsa")))


def begun(base: Path) -> None:
    with Ledger(base, ops=QuickOps()) as ledger:
        ledger.appender.append(event()).wait("published")


def stamp(ledger: Ledger, near: Near) -> Stamping:
    def append(event_type: str, metadata: Mapping[str, Any]) -> int:
        receipt = ledger.appender.append(own_event(event_type, metadata, SYSTEM_CLOCK.now_ns())).wait("published")
        assert receipt.seq is not None
        return receipt.seq

    stamper = Stamper(
        ledger.store,
        near,
        vkey=ledger.vkey,
        publish=lambda: ledger.appender.flush(publish=True),
        append=append,
        now=lambda: dt.datetime.now(dt.UTC),
    )
    return stamper.run()


def kinds(ledger: Ledger) -> list[str]:
    found = verify(ledger.store, key=ledger.vkey, remembered=ledger.state.read_head(), processes=1, patience=0)
    return [finding.kind for finding in found.findings if finding.kind not in ("heartbeat_gap", "lines_set_aside")]


def settled(base: Path, near: Near) -> list[str]:
    """Take the log up, look, stamp again, close, judge; returns what was found before the next stamp."""
    ledger = reopen(base)
    ledger.close()
    before = kinds(ledger)
    ledger = reopen(base)
    ledger.appender.append(event()).wait("published")
    assert "stamped" == stamp(ledger, near).why
    ledger.close()
    judge(ledger.log, ledger.vkey)
    assert [] == kinds(ledger)
    return before


def faults(folder: Path, near: Near, how: How) -> Iterator[tuple[Path, str]]:
    """Stamp again and again, each time with another operation failing, then with the process dead."""
    index = 0
    while True:
        base = folder / f"at-{index}"
        shutil.copytree(folder / "begun", base)
        ops = FaultyOps()
        ledger = Ledger(base, ops=ops).open()
        ops.fail_at, ops.how, ops.code = len(ops.calls) + index, how, errno.EIO
        try:
            stamp(ledger, near)
        except AuditUnavailable as error:
            print(index, error.message)
        ops.fails = lambda _call: True
        ledger.die()
        if not ops.calls[ops.fail_at :]:
            return
        yield base, str(ops.calls[ops.fail_at])
        shutil.rmtree(base)
        index += 1


@pytest.mark.slow
@pytest.mark.parametrize("how", ["lost", "done"])
def test_a_fault_at_every_step(ram: Path, near: Near, how: How) -> None:
    """At worst a checkpoint lies there without its stamp, or a stamp without its entry; the next run finishes it."""
    begun(ram / "begun")
    seen: set[str] = set()
    count = 0
    for base, call in faults(ram, near, how):
        found = settled(base, near)
        print(count, call, found)
        assert found in ([], ["kept_unexpected"], ["stamp_unfinished"]), call
        seen.update(found)
        count += 1
    assert {"kept_unexpected", "stamp_unfinished"} == seen
    assert count > 20


@pytest.mark.parametrize("step", ["kept", "token"])
def test_the_next_run_finishes(tmp_path: Path, near: Near, step: str) -> None:
    """A run was stopped after the checkpoint was kept, or after its stamp: that stamp comes first, then the next."""
    begun(tmp_path)
    with Ledger(tmp_path, ops=QuickOps()) as ledger:
        ledger.appender.append(event()).wait("published")
        size, note = ledger.reader.size, ledger.reader.checkpoint_note()
        with ledger.store.publication() as publication:
            publication.put_kept(size, note)
            if step == "token":
                publication.put_token(size, near.stamp(note)[0])
        assert [{"kept": "kept_unexpected", "token": "stamp_unfinished"}[step]] == kinds(ledger)
        ledger.appender.append(event()).wait("published")
        done = stamp(ledger, near)
        assert [size, size + 2] == [made.size for made in done.stamps]
    judge(ledger.log, ledger.vkey)
    assert [] == kinds(ledger)


def test_only_one_stamp_may_be_unfinished(tmp_path: Path, near: Near) -> None:
    """Whoever puts more of them there is no writer that was stopped."""
    begun(tmp_path)
    with Ledger(tmp_path, ops=QuickOps()) as ledger:
        for _ in range(2):
            ledger.appender.append(event()).wait("published")
            size, note = ledger.reader.size, ledger.reader.checkpoint_note()
            with ledger.store.publication() as publication:
                publication.put_kept(size, note)
                publication.put_token(size, near.stamp(note)[0])
        assert ["kept_unexpected", "stamp_unexpected", "stamp_unfinished"] == sorted(kinds(ledger))
        stamp(ledger, near)
        assert [] == kinds(ledger)


def lose_power(place: Path, near: Near, seeds: range) -> set[str]:
    """Stamp twice, lose power at some moment, and look at what is left; returns all that was found then."""
    source = place / "source"
    source.mkdir()
    ops = JournalOps(source)
    with Ledger(source, ops=ops) as ledger:
        for _ in range(2):
            ledger.appender.append(event()).wait("published")
            stamp(ledger, near)
    seen: set[str] = set()
    begin = next(at for at, what in enumerate(ops.events) if isinstance(what, Name) and what.name.startswith("0000"))
    for seed in seeds:
        moment = random.Random(f"stamping {seed}").randint(begin, len(ops.events))
        base = place / str(seed)
        base.mkdir()
        after_power_loss(ops.events, moment, base, seed)
        found = settled(base, near)
        assert found in ([], ["kept_unexpected"], ["stamp_unfinished"]), (seed, moment)
        seen.update(found)
        shutil.rmtree(base)
    return seen


def test_power_goes(ram: Path, near: Near) -> None:
    """Whatever is left of what was not synced: an entry never names a stamp that is not there."""
    lose_power(ram, near, range(12))


@pytest.mark.slow
def test_power_goes_often(ram: Path, near: Near) -> None:
    """The same for many moments and fates."""
    assert {"kept_unexpected", "stamp_unfinished"} == lose_power(ram, near, range(1_000, 1_200))
