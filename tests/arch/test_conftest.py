"""The rules that tests/conftest.py sets for all tests."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

SUITE = """
import pytest

@pytest.mark.skip(reason="{reason}")
def test_skipped(): ...

def test_run(): ...
"""


def exit_code(repository: Path, folder: Path, reason: str, *, ci: bool) -> int:
    """Run a made-up suite with one skip under our conftest and return how pytest exits."""
    shutil.copy(repository / "tests" / "conftest.py", folder)
    (folder / "test_made_up.py").write_text(SUITE.format(reason=reason))
    environment = {name: value for name, value in os.environ.items() if name != "CI"} | ({"CI": "true"} if ci else {})
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", folder, folder]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, check=False).returncode


@pytest.mark.slow
@pytest.mark.parametrize(
    "reason,ci,code",
    [("no time today", True, 1), ("no time today", False, 0), ("only on macOS: no F_FULLFSYNC here", True, 0)],
)
def test_skips_fail_in_ci(repository: Path, tmp_path: Path, reason: str, ci: bool, code: int) -> None:
    """In CI a skip fails the run unless the test belongs to another system."""
    assert code == exit_code(repository, tmp_path, reason, ci=ci)


def test_environment_is_neutral(tmp_path_factory: pytest.TempPathFactory) -> None:
    """No test sees the home folder, the settings or the time zone of the person who runs it."""
    inside = Path(tmp_path_factory.getbasetemp())
    assert Path.home().is_relative_to(inside)
    assert Path(os.environ["XDG_STATE_HOME"]).is_relative_to(inside)
    assert [] == [name for name in os.environ if name.startswith("KLINGAI_")]
    assert time.timezone == -(5 * 3600 + 45 * 60)
