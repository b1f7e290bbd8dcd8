"""One contract, every store: what `klingai_audit.ledger.store` promises, over directory and memory."""

from __future__ import annotations

from pathlib import Path

import pytest

from klingai_audit.durable import FileOps
from klingai_audit.stores.directory import DirectoryStore
from klingai_audit.stores.memory import MemoryStore
from klingai_audit.testing.store_contract import FileFaultsContract, OpenStore, SealedStoreContract
from klingai_audit.testing.store_contract.files import OpenWith


class TestDirectory(SealedStoreContract):
    @pytest.fixture
    def open_store(self, tmp_path: Path) -> OpenStore:
        return lambda: DirectoryStore(tmp_path / "audit", tmp_path / "mark")


class TestDirectoryWithFaults(FileFaultsContract):
    @pytest.fixture
    def open_with(self, tmp_path: Path) -> OpenWith:
        def open_with(ops: FileOps) -> DirectoryStore:
            return DirectoryStore(tmp_path / "audit", tmp_path / "mark", ops)

        return open_with


class TestMemory(SealedStoreContract):
    @pytest.fixture
    def open_store(self) -> OpenStore:
        store = MemoryStore()
        return lambda: store
