"""Batch-signed logs whose log key is elsewhere: committed under the epoch key, published under both."""

from __future__ import annotations

from pathlib import Path

import pytest

from klingai_audit.errors import AuditUnavailable, SignerUnavailable
from klingai_audit.ledger.keys import KeyFolder
from klingai_audit.tlog.note import parse_note
from tests.support.batches import BatchMemory
from tests.support.ledgers import ORIGIN, HandClock, Ledger, event
from tests.support.signers import Signer


@pytest.fixture
def signer(tmp_path: Path) -> Signer:
    return Signer(tmp_path / "signer")


@pytest.fixture
def host(tmp_path: Path, signer: Signer) -> Ledger:
    keys = KeyFolder(tmp_path / "host" / "audit.keys")
    with keys.locked():
        keys.plan_external(signer.key.verifier, signer.settings)
    return Ledger(tmp_path / "host", store=BatchMemory(), clock=HandClock()).open()


def lines(note: bytes | None) -> list[str]:
    assert note is not None
    return [line.name for line in parse_note(note).signatures]


def test_heads_between_publications(host):
    """A commit carries the epoch line alone; what is published has both lines, and reopening takes up either."""
    host.appender.append(event()).wait()
    assert lines(host.store.note) == [f"{ORIGIN}/epoch-0"]
    host.appender.append(event()).wait("published", timeout=60)
    assert lines(host.store.checkpoint) == [ORIGIN, f"{ORIGIN}/epoch-0"]
    host.close()
    again = Ledger(host.base, store=host.store, clock=host.clock).open()
    again.close()
    assert lines(host.store.checkpoint) == [ORIGIN, f"{ORIGIN}/epoch-0"]
    assert len(host.store.entries) == 7


def test_a_handover_has_all_lines(host):
    """The checkpoint that ends an epoch is kept, so the signer is asked before it is committed."""
    host.appender.rotate()
    (kept,) = [note for size, note in host.store.kept.items() if size == len(host.store.entries)]
    assert lines(kept) == [ORIGIN, f"{ORIGIN}/epoch-0"]
    host.close()


def test_nobody_signs(host, signer):
    """Entries go on; a rotation at midnight is put off; what waits for a publication is told why."""
    signer.mode = "exit"
    host.clock.advance(86_400)
    receipt = host.appender.append(event())
    assert receipt.wait().seq == 2
    with pytest.raises(AuditUnavailable):
        receipt.wait("published", timeout=20)
    with pytest.raises(SignerUnavailable):
        host.close()
    assert host.keys.current.epoch == 0
