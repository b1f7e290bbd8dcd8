"""Logs at a URL whose server is this process: what the product opens there is the reference batch store."""

from __future__ import annotations

from typing import Any

import pytest

from klingai_audit import config, log
from klingai_audit.config import Places
from klingai_audit.durable import OPS, FileOps
from klingai_audit.ledger.store import Store
from klingai_audit.upkeep import backup
from tests.support.batches import BatchMemory

__all__ = ["URL", "Served", "serve"]

URL = "s3://bucket/team-a"


class Served(BatchMemory):
    """The reference store under a URL; closing it does nothing, so that a log outlives whoever opened it."""

    url = URL


def serve(monkeypatch: pytest.MonkeyPatch, **options: Any) -> Served:
    """Let `URL` be served by one store in this process."""
    store, real = Served(**options), config.open_store

    def open_store(places: Places, ops: FileOps = OPS) -> Store:
        return store if places.remote is not None else real(places, ops)

    for module in (config, log, backup):
        monkeypatch.setattr(module, "open_store", open_store)
    return store
