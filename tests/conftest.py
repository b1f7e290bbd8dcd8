"""What holds for every test: no home folder, no settings of the person who runs it, and in CI no skips."""

from __future__ import annotations

import logging
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

# A busy machine is no failure. In CI hypothesis loads its own profile, which also repeats the same examples.
settings.register_profile("house", deadline=None)
if "CI" not in os.environ:
    settings.load_profile("house")

# Logs that tests leave broken and open are closed after the summary: what is said of that goes nowhere.
logging.getLogger("klingai_audit").addHandler(logging.NullHandler())

ELSEWHERE = re.compile(r"only on (macOS|Python)\b")
"""A skip in CI must say on which other system the test runs: `reason="only on macOS: …"`."""


@pytest.fixture(scope="session", autouse=True)
def _neutral_environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Take home, user state, own variables and the terminal's size (which `pytest -n` sets) from tests and their
    children; put clocks in an odd time zone.
    """
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
