"""Commands that run on and on, in processes of their own, with their numbers."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.support.receivers import wait_until

__all__ = ["Running", "running"]

COMMAND = [sys.executable, "-m", "klingai_audit.cli"]


class Running:
    """A process with `--json`, `--metrics` and JSON diagnostics; `told` are the lines of its standard error so far."""

    def __init__(self, *argv: str, cwd: Path, **environment: str) -> None:
        self.told: list[dict[str, Any]] = []
        self.said: list[str] = []
        self.process = subprocess.Popen(
            [*COMMAND, "--json", "--log-format", "json", "--log-level", "debug", *argv, "--metrics", "127.0.0.1:0"],
            cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, **environment},
        )  # fmt: skip
        self._threads = [
            threading.Thread(target=self._read_diagnostics, daemon=True),
            threading.Thread(target=self._read_output, daemon=True),
        ]
        for thread in self._threads:
            thread.start()

    def _read_diagnostics(self) -> None:
        assert self.process.stderr is not None
        self.told += (json.loads(line) for line in self.process.stderr)

    def _read_output(self) -> None:
        assert self.process.stdout is not None
        self.said += self.process.stdout

    @property
    def url(self) -> str:
        """Where its numbers are, without the last path."""
        wait_until(lambda: any("metrics" in line for line in self.told) or self.process.poll() is not None, 60)
        [url] = [str(line["metrics"]) for line in self.told if "metrics" in line]
        return url.removesuffix("/metrics")

    def ask(self, path: str) -> tuple[int, str]:
        """Return status and body of one path."""
        try:
            with urllib.request.urlopen(f"{self.url}{path}", timeout=60) as reply:
                return reply.status, reply.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()

    def number(self, name: str, **labels: str) -> float | None:
        """Return one number, of the samples that have these labels the first; None if there is none."""
        from prometheus_client.parser import text_string_to_metric_families

        for family in text_string_to_metric_families(self.ask("/metrics")[1]):
            for sample in family.samples:
                if sample.name == f"klingai_audit_{name}" and labels.items() <= sample.labels.items():
                    return float(sample.value)
        return None

    def end(self, number: int = signal.SIGTERM, timeout: float = 60) -> int:
        """Send a signal and wait; returns the exit code."""
        self.process.send_signal(number)
        return self.wait(timeout)

    def wait(self, timeout: float = 60) -> int:
        """Wait for its end; returns the exit code."""
        code = self.process.wait(timeout)
        for thread in self._threads:
            thread.join(60)
        return code


@contextlib.contextmanager
def running(*argv: str, cwd: Path, **environment: str) -> Iterator[Running]:
    """Run a command for the length of a block; killed at its end if it still runs."""
    made = Running(*argv, cwd=cwd, **environment)
    try:
        yield made
    finally:
        if made.process.poll() is None:
            made.process.kill()
        made.wait()
        for stream in (made.process.stdout, made.process.stderr):
            if stream is not None:
                stream.close()
