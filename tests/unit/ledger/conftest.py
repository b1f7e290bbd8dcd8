"""Ledgers for the tests of this room: quick ones, which do not wait for the disk, and the clock they go by."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.faulty import QuickOps
from tests.support.ledgers import HandClock, Ledger


@pytest.fixture
def clock() -> HandClock:
    """A clock under the test's control."""
    return HandClock()


@pytest.fixture
def ledger(tmp_path: Path, clock: HandClock) -> Iterator[Ledger]:
    """An open log."""
    opened = Ledger(tmp_path, ops=QuickOps(), clock=clock).open()
    yield opened
    opened.close()
