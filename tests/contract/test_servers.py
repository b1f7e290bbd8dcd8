"""One contract, every store: PostgreSQL and a bucket, real servers both, and a proxy before them."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from klingai_audit.testing.proxy import FaultProxy
from klingai_audit.testing.store_contract import BatchStoreContract, OpenStore, ServerFaultsContract
from tests.support.postgres import PostgresServer

pytestmark = pytest.mark.slow


class PostgresPlace:
    """Opens one database, past the proxy and through it."""

    @pytest.fixture
    def proxy(self, postgres: PostgresServer) -> Iterator[FaultProxy]:
        with FaultProxy("127.0.0.1", postgres.port) as proxy:
            yield proxy

    @pytest.fixture
    def open_store(self, postgres_url: str) -> OpenStore:
        from klingai_audit.stores.postgres import PostgresStore

        return lambda: PostgresStore(postgres_url)

    @pytest.fixture
    def open_proxied(self, postgres: PostgresServer, postgres_url: str, proxy: FaultProxy) -> OpenStore:
        from klingai_audit.stores.postgres import PostgresStore

        return lambda: PostgresStore(postgres_url.replace(f":{postgres.port}/", f":{proxy.port}/"))


class TestPostgres(PostgresPlace, BatchStoreContract):
    """The contract."""


class TestPostgresWithFaults(PostgresPlace, ServerFaultsContract):
    """The contract where connections fail."""
