"""What holds for every test: no home folder, no settings of the person who runs it, and in CI no skips."""

from __future__ import annotations

import logging
import os
import re
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings

if TYPE_CHECKING:
    from tests.support.objects import ObjectServer
    from tests.support.postgres import PostgresServer

# pytest does this by itself where the package is installed from a wheel.
pytest.register_assert_rewrite("klingai_audit.testing.store_contract")

# A busy machine is no failure. In CI hypothesis loads its own profile, which also repeats the same examples.
settings.register_profile("house", deadline=None, suppress_health_check=[HealthCheck.too_slow])
if "CI" not in os.environ:
    settings.load_profile("house")

# Logs that tests leave broken and open are closed after the summary: what is said of that goes nowhere.
logging.getLogger("klingai_audit").addHandler(logging.NullHandler())

ELSEWHERE = re.compile(r"only on (macOS|Python)\b")
"""A skip in CI must say on which other system the test runs: `reason="only on macOS: …"`."""


TURNS = ((3_600, 10, 40), (86_400, 20, 120))
"""Seconds of an hour and of a day, and how long before their end no fast and no slow test begins."""


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Let a test begin after the full hour or midnight (UTC) rather than right before: at them a log writes more.

    Midnight ends a day's file and an epoch, and the use of a key is told once an hour. Tests of that set the clock.
    """
    slow = item.get_closest_marker("slow") is not None
    for length, fast_s, slow_s in TURNS:
        left = length - time.time() % length
        if left < (slow_s if slow else fast_s):
            time.sleep(left + 0.01)


@pytest.fixture(scope="session", autouse=True)
def _neutral_environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Take home, user state, own variables and the terminal's size (which `pytest -n` sets) from tests and their
    children; put clocks in an odd time zone. Ctrl-C ends children, also of tests that run in the background.
    """
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, signal.default_int_handler)
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith(("KLINGAI_", "XDG_", "COLUMNS", "LINES"))]:
            patch.delenv(name)
        home = tmp_path_factory.mktemp("home")
        patch.setenv("HOME", str(home))
        patch.setenv("XDG_STATE_HOME", str(home / "state"))
        patch.setenv("TZ", "ODD-05:45")
        time.tzset()
        mask = os.umask(0o022)
        yield
        os.umask(mask)
    time.tzset()


@pytest.fixture(scope="session")
def repository() -> Path:
    """Return the root of the source tree."""
    return Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def postgres(_neutral_environment: None) -> Iterator[PostgresServer]:
    """A real PostgreSQL server that all tests of this process share; nobody kills it. See tests/support/postgres.py."""
    from tests.support.postgres import PostgresServer

    with PostgresServer.running() as server:
        yield server


@pytest.fixture
def postgres_url(postgres: PostgresServer) -> str:
    """The URL of an empty database."""
    return postgres.database()


@pytest.fixture(scope="session")
def objects(_neutral_environment: None) -> Iterator[ObjectServer]:
    """A real S3 server that all tests of this process share; nobody kills it. See tests/support/objects.py."""
    from tests.support.objects import ObjectServer

    with ObjectServer.running() as server:
        yield server


@pytest.fixture
def bucket_url(objects: ObjectServer, monkeypatch: pytest.MonkeyPatch) -> str:
    """The URL of an empty prefix, `s3://bucket/prefix`; clients find the server by the environment."""
    from tests.support.objects import use

    use(objects, monkeypatch)
    return objects.prefix()


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fail a run in CI that skipped something it could have run."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if "CI" not in os.environ or reporter is None:
        return
    for report in reporter.stats.get("skipped", []):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        if not ELSEWHERE.search(reason):
            reporter.write_line(f"\nskipped in CI: {report.nodeid}: {reason}", red=True)
            session.exitstatus = pytest.ExitCode.TESTS_FAILED
