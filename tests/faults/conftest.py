"""Fault tests publish without pauses, so that each step is its own and the order of operations is always the same."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from klingai_audit.ledger import publisher

MEMORY = Path("/dev/shm")


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Publish at once, and try again at once."""
    monkeypatch.setattr(publisher, "PUBLISH_INTERVAL_S", 0.0)
    monkeypatch.setattr(publisher, "PUBLISH_DELAY_S", 0.0)
    monkeypatch.setattr(publisher, "_RETRY_S", 0.002)


@pytest.fixture
def ram(tmp_path: Path) -> Iterator[Path]:
    """A folder in memory where there is one: thousands of small logs are made and thrown away."""
    if not (MEMORY.is_dir() and os.access(MEMORY, os.W_OK)):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(prefix="klingai-audit-", dir=MEMORY) as folder:
        yield Path(folder)
