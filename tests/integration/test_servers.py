"""The servers that other tests rely on: they keep what they acknowledged, come back after SIGKILL, and do not stay."""

from __future__ import annotations

import datetime as dt
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support.objects import ObjectServer
from tests.support.postgres import PostgresServer
from tests.support.served import gone

pytestmark = pytest.mark.slow

ORPHAN = """
import sys
from tests.support.postgres import PostgresServer
with PostgresServer.running() as server:
    print(server.pid, server.folder, flush=True)
    sys.stdin.read()
"""


def test_postgres_gives_each_test_a_database(postgres: PostgresServer, postgres_url: str) -> None:
    """What one database holds another does not, and the password is asked for."""
    with postgres.connect(postgres_url) as connection:
        connection.execute("create table one (a int)")
        assert (18,) <= (connection.info.server_version // 10000,)
    with postgres.connect(postgres.database()) as connection:
        assert [] == connection.execute("select 1 from pg_tables where tablename = 'one'").fetchall()
    import psycopg

    with pytest.raises(psycopg.OperationalError):
        postgres.connect(postgres_url.replace(postgres.password, "another"))


def test_a_killed_postgres_comes_back_with_what_it_acknowledged() -> None:
    """SIGKILL ends every backend, nothing answers meanwhile, and the same URL works again afterwards."""
    import psycopg

    with PostgresServer.running() as server:
        url = server.database()
        connection = server.connect(url)
        connection.execute("create table t (a int)")
        for number in range(100):
            connection.execute("insert into t values (%s)", (number,))
        server.kill()
        with pytest.raises(psycopg.OperationalError):
            connection.execute("insert into t values (100)")
        with pytest.raises(psycopg.OperationalError):
            server.connect(url)
        server.restart()
        with server.connect(url) as again:
            assert [(100,)] == again.execute("select count(*) from t").fetchall()


def test_servers_go_with_the_tests(repository: Path) -> None:
    """If the tests themselves are killed, their server goes too, and its folder."""
    with subprocess.Popen(
        [sys.executable, "-c", ORPHAN], cwd=repository, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as tests:
        assert tests.stdout is not None
        pid, folder = tests.stdout.readline().split()
        assert not gone(int(pid))
        os.kill(tests.pid, signal.SIGKILL)
    until = time.monotonic() + 60
    while not gone(int(pid)) or Path(folder).exists():
        assert time.monotonic() < until
        time.sleep(0.05)


def test_objects_are_put_on_a_condition(objects: ObjectServer) -> None:
    """The server has what a head needs: create-only, and compare-and-swap by ETag."""
    path = f"/{objects.bucket()}/head"
    assert 200 == objects.request("PUT", path, headers={"if-none-match": "*"}, body=b"one").status
    assert 412 == objects.request("PUT", path, headers={"if-none-match": "*"}, body=b"two").status
    seen = objects.request("GET", path).headers["etag"]
    assert 200 == objects.request("PUT", path, headers={"if-match": seen}, body=b"two").status
    assert 412 == objects.request("PUT", path, headers={"if-match": seen}, body=b"three").status
    assert b"two" == objects.request("GET", path).body


def test_objects_under_lock_stay(objects: ObjectServer) -> None:
    """A version under compliance lock cannot be deleted before its date; a delete without version hides it only."""
    path = f"/{objects.bucket(lock=True)}/day"
    until = (dt.datetime.now(dt.UTC) + dt.timedelta(days=1)).strftime("%Y-%m-%dT%H:%M:%SZ")
    lock = {"x-amz-object-lock-mode": "COMPLIANCE", "x-amz-object-lock-retain-until-date": until}
    version = objects.request("PUT", path, headers=lock, body=b"kept").headers["x-amz-version-id"]
    assert 403 == objects.request("DELETE", path, query={"versionId": version}).status
    assert b"kept" == objects.request("GET", path, query={"versionId": version}).body


def test_a_killed_object_server_comes_back_with_what_it_acknowledged() -> None:
    """Every acknowledged object is there after SIGKILL, at the same address."""
    with ObjectServer.running() as server:
        bucket = server.bucket()
        for number in range(100):
            assert 200 == server.request("PUT", f"/{bucket}/{number}", body=str(number).encode()).status
        server.kill()
        with pytest.raises(OSError):
            server.request("GET", f"/{bucket}/0")
        server.restart()
        for number in range(100):
            assert str(number).encode() == server.request("GET", f"/{bucket}/{number}").body
