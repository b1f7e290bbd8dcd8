"""The contract of `klingai_audit.ledger.store` as tests: who writes a store subclasses them and says how to open it.

    class TestMyStore(BatchStoreContract):
        @pytest.fixture
        def open_store(self):
            place = new_empty_place()
            return lambda: MyStore(place)

`open_store()` returns a new store object for one place, empty at the beginning of each test. Choose by kind:

- `SealedStoreContract`: batches are sealed, checkpoints follow (a folder, memory);
- `BatchStoreContract`: each batch carries its signed checkpoint (a database, a bucket);
- `FileFaultsContract`, beside the first, for stores that write files through `durable.FileOps`: every operation
  fails, without being done, after being done, or half done;
- `ServerFaultsContract`, beside the second, for stores before a server: the connection is cut at many bytes of a
  commit, delayed, refused, and requests are handled twice.

Needs pytest. See docs/how-to/write-a-store.md.
"""

from __future__ import annotations

from klingai_audit.testing.store_contract.common import OpenStore, StoreContract
from klingai_audit.testing.store_contract.files import FileFaultsContract
from klingai_audit.testing.store_contract.sealed import SealedStoreContract
from klingai_audit.testing.store_contract.served import ServerFaultsContract
from klingai_audit.testing.store_contract.signed import BatchStoreContract

__all__ = [
    "BatchStoreContract",
    "FileFaultsContract",
    "OpenStore",
    "SealedStoreContract",
    "ServerFaultsContract",
    "StoreContract",
]
