"""What a test does after the disaster: take the log up again, as an operator would, and have it judged."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from unittest import mock

from klingai_audit.durable import FileOps
from klingai_audit.ledger.clock import SYSTEM_CLOCK, Clock
from klingai_audit.ledger.store import SyncFailed
from klingai_audit.trust import evidence
from klingai_audit.trust.verify import verify
from klingai_audit.upkeep.recover import mend
from tests.support.faulty import QuickOps
from tests.support.judge import Judged, judge
from tests.support.ledgers import Ledger


def reopen(base: Path, clock: Clock = SYSTEM_CLOCK, ops: FileOps | None = None) -> Ledger:
    """Open the log below `base`; if a failed sync stands in the way, recover first."""
    ops = ops or QuickOps()
    try:
        return Ledger(base, clock=clock, ops=ops).open()
    except SyncFailed:
        ledger = Ledger(base, clock=clock, ops=ops)
        mend(ledger.store, ledger.state, ledger.keys)
        return ledger.open()


def settle(
    base: Path,
    acknowledged: Mapping[str, int],
    notes: Iterable[bytes] = (),
    *,
    clock: Clock = SYSTEM_CLOCK,
    kept_every: int = 4096,
) -> Judged:
    """Reopen, close and judge: everything acknowledged is there once, everything published is still a prefix."""
    ledger = reopen(base, clock)
    ledger.close()
    judged = judge(ledger.log, ledger.vkey, kept_every=kept_every)
    judged.check_acknowledged(acknowledged)
    for note in notes:
        judged.check_prefix(note)
    check_verdict(ledger, kept_every)
    return judged


def check_verdict(ledger: Ledger, kept_every: int = 4096) -> None:
    """The product's own verification says the same as the judge: nothing is broken."""
    with mock.patch.object(evidence, "KEPT_INTERVAL", kept_every):
        verdict = verify(ledger.store, key=ledger.vkey, remembered=ledger.state.read_head(), processes=1, patience=0)
    assert [] == [finding for finding in verdict.findings if finding.severity == "broken"]
