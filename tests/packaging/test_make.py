"""The front door: make's targets, and what a newcomer with the wrong Python is told."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.runner import make_targets
from tools import make_venv

PROMISED = {"demo", "test", "test-all", "check", "fmt", "bench", "docs", "release-page", "lock", "clean"}


def test_promised_targets_exist_and_are_explained(repository: Path) -> None:
    """Every promised target is declared, and the head of the Makefile says what it does."""
    head = (repository / "Makefile").read_text(encoding="utf-8").split("\n\n")[0]
    assert PROMISED <= make_targets(repository)
    assert PROMISED - {"test-all"} <= set(re.findall(r"make ([a-z-]+) ", head)) | {"test-all"}


@pytest.mark.parametrize("target", sorted(PROMISED))
def test_target_can_be_planned(repository: Path, tmp_path: Path, target: str) -> None:
    """`make -n` knows how to reach each target from nothing, also with two jobs."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
    done = subprocess.run(
        ["make", "-n", "-j2", target, f"VENV={tmp_path / 'venv'}", f"PYTHON={sys.executable}"],
        cwd=repository,
        env=clean,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (0, "") == (done.returncode, done.stderr)
    assert target == "clean" or "make_venv.py" in done.stdout


@pytest.mark.parametrize("place", ["absolute", "relative"])
def test_lock_finds_its_own_uv(repository: Path, tmp_path: Path, place: str) -> None:
    """The folder of the pinned uv is first on PATH and a path from the root, wherever VENV points."""
    venv = str(tmp_path / "venv") if place == "absolute" else "some-venv"
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
    planned = subprocess.run(
        ["make", "-n", "lock", f"VENV={venv}", f"PYTHON={sys.executable}"],
        cwd=repository,
        env=clean,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    first = re.findall(r'PATH="([^:"]*):', planned)
    assert [str(repository / venv / "lock" / "bin")] == first


def test_ci_runs_everything(repository: Path) -> None:
    """The script of CI is strict and runs the whole of `test-all`."""
    script = repository / ".ci" / "run"
    text = script.read_text(encoding="utf-8")
    assert os.access(script, os.X_OK)
    assert "set -euo pipefail" in text
    assert "export CI=true" in text
    assert text.rstrip().endswith("make test-all")


def test_old_python_is_told_in_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Too old a Python gets one sentence with the way out, and nothing is created."""
    monkeypatch.setattr(sys, "version_info", (3, 9, 2, "final", 0))
    message = make_venv.main(str(tmp_path / "venv"))
    assert message == "Python 3.11 or later is needed and this is 3.9.2; try: make PYTHON=python3.12"
    assert [] == list(tmp_path.iterdir())


def test_old_python_can_read_the_script(repository: Path) -> None:
    """The script that says so is written in words that Python 2 and early 3 parse."""
    text = (repository / "tools" / "make_venv.py").read_text(encoding="utf-8")
    assert text.isascii()
    assert [] == re.findall(r"\bf[\"']|:=|from __future__|->|\bprint\b|: str\b", text)


def test_missing_ensurepip_names_the_package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Without ensurepip, as on Debian, one line names the package to install."""
    monkeypatch.setitem(sys.modules, "ensurepip", None)
    message = make_venv.main(str(tmp_path / "venv"))
    assert message is not None
    assert message.endswith(f"install the package python3.{sys.version_info[1]}-venv")
    assert "\n" not in message
    assert [] == list(tmp_path.iterdir())


def test_environment_is_made_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A fitting environment is left alone; one of another Python or place is made anew."""
    calls: list[list[str]] = []

    def venv(command: list[str]) -> int:
        calls.append(command)
        (Path(command[-1]) / "bin").mkdir(parents=True, exist_ok=True)
        (Path(command[-1]) / "bin" / "python").touch()
        return 0

    monkeypatch.setattr(subprocess, "call", venv)
    folder = tmp_path / "venv"
    assert [make_venv.main(str(folder)), make_venv.main(str(folder))] == [None, None]
    assert len(calls) == 1
    folder.rename(tmp_path / "moved")
    assert make_venv.main(str(tmp_path / "moved")) is None
    monkeypatch.setattr(sys, "version_info", (3, 99, 0, "final", 0))
    assert make_venv.main(str(tmp_path / "moved")) is None
    assert len(calls) == 3
