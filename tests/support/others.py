"""Kling clients of others: where `make test-slow` installs them, and a simulator that stands in for Kling."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from klingai_audit import AuditLog
from klingai_audit.kling.simulator import RealClock, Simulator, SimulatorServer, serve

PLACE = Path(sys.prefix) / "thirdparty"
PACKAGES = PLACE / "python"
COMMAND = PLACE / "node" / "node_modules" / ".bin" / "kling"

FILMS = "films.example"
"""Host of the results, none of Kling's own."""

ACCESS_KEY = "AccessNumbat6617Numbat"
SECRET_KEY = "SecretEchidna3349Echidna3349Echidna3349"
PROMPT = "Wombat-7731 at a serene mountain lake"
SECONDS = 120


@dataclass
class Stage:
    """A simulator that clients reach under Kling's own names, and the folder of a log."""

    sim: Simulator
    server: SimulatorServer
    folder: Path

    @property
    def log(self) -> Path:
        """Where scripts put their log."""
        return self.folder / "audit"

    @property
    def environment(self) -> dict[str, str]:
        """All that clients are told: a proxy, whom to trust, and their keys under the names that they know."""
        authority = self.server.ca_file
        return {
            "PATH": os.environ["PATH"],
            "HOME": str(self.folder),
            "HTTPS_PROXY": self.server.proxy_url,
            "SSL_CERT_FILE": authority,
            "REQUESTS_CA_BUNDLE": authority,
            "NODE_EXTRA_CA_CERTS": authority,
            "PYTHONPATH": str(PACKAGES),
            "PROMPT": PROMPT,
            "ACCESS_TOKEN": ACCESS_KEY,
            "SECRET_TOKEN": SECRET_KEY,
            "KLING_ACCESS_KEY": ACCESS_KEY,
            "KLING_SECRET_KEY": SECRET_KEY,
        }

    def python(self, script: str, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
        """Run a script that uses a Python client; its first argument is the log's folder, `more` is environment."""
        return self._run([sys.executable, "-W", "error", "-c", script, str(self.log), *arguments], more)

    def kling(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run the command of the npm package."""
        return self._run([str(COMMAND), "--output-dir", str(self.folder / "out"), *arguments], {})

    def _run(self, command: list[str], more: dict[str, str]) -> subprocess.CompletedProcess[str]:
        environment = {**self.environment, **more}
        return subprocess.run(
            command, env=environment, cwd=self.folder, capture_output=True, text=True, check=False, timeout=SECONDS
        )

    def entries(self) -> list[dict[str, Any]]:
        """Return what is in the log, without its own entries."""
        with AuditLog.open(self.log, create=False) as audit:
            found = [json.loads(line) for line in audit.entries()]
        return [entry for entry in found if not entry["event_type"].startswith(("log_", "gap_"))]

    def asked(self) -> list[str]:
        """Return what reached the simulator: method and path."""
        return [f"{request.method} {request.route}" for request in self.sim.requests]

    def leaks(self) -> list[str]:
        """Return the secrets, parts of tokens and words of prompts that stand in the files of the log."""
        files = [path.read_bytes() for path in self.folder.glob("audit/**/*") if path.is_file()]
        tokens = {request.headers.get("authorization", "").removeprefix("Bearer ") for request in self.sim.requests}
        words = (ACCESS_KEY, SECRET_KEY, "Wombat", *(part for token in tokens for part in token.split(".") if part))
        return [word for word in words if any(word.encode() in data for data in files)]


def seen(story: list[tuple[str, str]], wanted: list[tuple[str, str]]) -> bool:
    """Whether a story is the wanted one, also where the machine slept through a rendering: no change was seen then."""
    return story in (wanted, [step for step in wanted if step[0] != "task_status_changed"])


def told(entries: list[dict[str, Any]]) -> list[tuple[str, str]]:
    """Event types and outcomes, without the uses of keys."""
    return [(entry["event_type"], entry["outcome"]) for entry in entries if entry["event_type"] != "api_key_used"]


@contextlib.contextmanager
def make_stage(folder: Path, *, speed: float) -> Iterator[Stage]:
    """Run a simulator whose tasks are being rendered at once, for 28 s / `speed`."""
    sim = Simulator(RealClock(speed=speed))
    sim.credentials.access_keys = {ACCESS_KEY: SECRET_KEY}
    sim.queue_seconds = 0
    sim.media_origin = f"https://{FILMS}"
    with serve(sim, stand_in=True, names=[FILMS]) as server:
        yield Stage(sim, server, folder)


def need_python() -> None:
    """Skip where the Python clients are not installed."""
    if not (PACKAGES / "api.py").is_file():
        pytest.skip("make test-slow installs the Kling clients of others")


def need_node() -> None:
    """Skip where the npm client is not installed."""
    if shutil.which("node") is None or not COMMAND.exists():
        pytest.skip("make test-slow installs the Kling clients of others, this one if npm is there")
