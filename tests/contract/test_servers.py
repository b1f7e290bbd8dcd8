"""One contract, every store: PostgreSQL and a bucket, real servers both, and a proxy before them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any
from unittest import mock

import pytest

from klingai_audit.testing.proxy import FaultProxy
from klingai_audit.testing.store_contract import BatchStoreContract, OpenStore, ServerFaultsContract
from tests.support.objects import ObjectServer
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


class BucketPlace:
    """Opens one prefix of a bucket, past the proxy and through it."""

    @pytest.fixture
    def proxy(self, objects: ObjectServer) -> Iterator[FaultProxy]:
        with FaultProxy("127.0.0.1", objects.port) as proxy:
            yield proxy

    @pytest.fixture
    def open_store(self, bucket_url: str) -> OpenStore:
        from klingai_audit.stores.objects import ObjectStore

        return lambda: ObjectStore(bucket_url)

    @pytest.fixture
    def open_proxied(self, objects: ObjectServer, bucket_url: str, proxy: FaultProxy) -> OpenStore:
        from klingai_audit.stores.objects import ObjectStore
        from klingai_audit.stores.objects_driver import Driver, open_bucket

        def through_proxy(driver: Driver) -> Any:
            with mock.patch.dict(os.environ, objects.variables(port=proxy.port)):
                return open_bucket(driver, bucket_url)

        return lambda: ObjectStore(bucket_url, through_proxy)


class TestBucket(BucketPlace, BatchStoreContract):
    """The contract."""


class TestBucketWithFaults(BucketPlace, ServerFaultsContract):
    """The contract where connections fail."""

    repeatable = True
