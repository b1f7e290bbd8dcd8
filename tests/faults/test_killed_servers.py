"""Processes on several hosts append to one log while its server is killed and comes back, again and again.

What was acknowledged is there once and in order, what was refused is not there, and the log verifies.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from tests.support.objects import ObjectServer
from tests.support.postgres import PostgresServer
from tests.support.served import Served

pytestmark = pytest.mark.slow

PATIENCE = 120.0
HOURS = (0, 1, 0, -1)
"""How wrong the clocks of the processes are, in turn: half of them by an hour."""


class Host:
    """A machine of its own: a home with keys and state, and the environment by which it reaches the log."""

    def __init__(self, home: Path, environ: dict[str, str]) -> None:
        home.mkdir()
        self.home = home
        self.environ = {
            **os.environ,
            **environ,
            "HOME": str(home),
            "XDG_STATE_HOME": str(home),
            "PASS": "correct horse battery",
        }

    def run(self, *arguments: str) -> str:
        """Run a command, which has to succeed."""
        command = [sys.executable, "-m", "klingai_audit.cli", *arguments]
        done = subprocess.run(command, env=self.environ, capture_output=True, text=True, check=False, timeout=300)
        assert 0 == done.returncode, done.stdout + done.stderr
        return done.stdout


class Writer:
    """One process of `tests.support.appending`; `acknowledged` are (seconds, thread, event id, seq)."""

    def __init__(self, host: Host, name: str, hours: float, pause: float, repository: Path) -> None:
        self.name = name
        self.acknowledged: list[tuple[float, int, str, int]] = []
        self.refused: list[str] = []
        self.unknown: list[str] = []
        self.words: list[str] = []
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.appending", name, str(hours), str(pause)],
            cwd=repository,
            env=host.environ,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._errors: list[str] = []
        self._threads = [threading.Thread(target=act, daemon=True) for act in (self._read, self._read_errors)]
        for thread in self._threads:
            thread.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as said:
            for line in said:
                first, *rest = line.split()
                if len(rest) == 2:
                    self.acknowledged.append((time.monotonic(), int(first), rest[0], int(rest[1])))
                elif first in ("refused", "unknown"):
                    (self.refused if first == "refused" else self.unknown).append(rest[0])
                else:
                    self.words.append(first)

    def _read_errors(self) -> None:
        assert self._process.stderr is not None
        with self._process.stderr as said:
            self._errors += list(said)

    def since(self, begun: float) -> int:
        """How many entries were acknowledged to it since a moment."""
        return sum(1 for told in self.acknowledged if told[0] >= begun)

    def check(self) -> None:
        """It has not ended by itself."""
        assert self._process.poll() is None, "".join(self._errors)[-3000:]

    def finish(self) -> None:
        """Let it close the log, and end."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        code = self._process.wait(PATIENCE)
        for thread in self._threads:
            thread.join(PATIENCE)
        assert (0, "closed") == (code, self.words[-1]), "".join(self._errors)[-3000:]

    def kill(self) -> None:
        """End it at once, if it is there."""
        self._process.kill()
        self._process.wait()
        for thread in self._threads:
            thread.join(PATIENCE)
        if self._process.stdin is not None:
            with contextlib.suppress(OSError):
                self._process.stdin.close()


@pytest.fixture(params=["postgres", "bucket"])
def server(request: pytest.FixtureRequest) -> Iterator[Served]:
    """A server that the test may kill."""
    kind = PostgresServer if request.param == "postgres" else ObjectServer
    with kind.running() as server:
        yield server


def environ_of(server: Served) -> dict[str, str]:
    """How hosts reach a new log; the people of one in PostgreSQL are there too."""
    if isinstance(server, PostgresServer):
        url = server.database()
        return {"KLINGAI_AUDIT_LOG": url, "KLINGAI_AUDIT_SUBJECTS": url}
    assert isinstance(server, ObjectServer)
    return {"KLINGAI_AUDIT_LOG": server.prefix(), **server.variables()}


def join(hosts: list[Host]) -> None:
    """Make the log on the first host and let the others become its writers."""
    first, *others = hosts
    first.run("init")
    for number, host in enumerate(others):
        file = first.home / f"writer-{number}"
        first.run("keys", "export-writer", "-o", str(file), "--passphrase-env", "PASS")
        host.run("keys", "import-writer", str(file), "--passphrase-env", "PASS")


def await_all(writers: list[Writer], what: str, begun: float) -> None:
    """Wait until each writer got an acknowledgement since `begun`."""
    until = time.monotonic() + PATIENCE
    while not all(writer.since(begun) for writer in writers):
        for writer in writers:
            writer.check()
        silent = [writer.name for writer in writers if not writer.since(begun)]
        assert time.monotonic() < until, f"{what}: nothing was acknowledged to {silent}"
        time.sleep(0.05)


def judge(lines: list[bytes], writers: list[Writer]) -> None:
    """Every acknowledged entry once and where it was said, nothing twice, in order, linked."""
    entries = [json.loads(line) for line in lines]
    assert list(range(len(lines))) == [entry["seq"] for entry in entries]
    leaves = [hashlib.sha256(b"\0" + line).hexdigest() for line in lines]
    assert [hashlib.sha256().hexdigest(), *leaves[:-1]] == [entry["prev_hash"] for entry in entries]
    times = [entry["logged_at"] for entry in entries]
    assert sorted(times) == times
    counted = Counter(entry["event_id"] for entry in entries)
    assert [] == [event_id for event_id, count in counted.items() if count > 1], "an event stands twice"
    for writer in writers:
        for _moment, _thread, event_id, seq in writer.acknowledged:
            assert event_id == entries[seq]["event_id"], f"{event_id} was acknowledged as entry {seq}"
        for number in {told[1] for told in writer.acknowledged}:
            seqs = [told[3] for told in writer.acknowledged if told[1] == number]
            assert all(before < after for before, after in pairwise(seqs)), "a thread's entries changed their order"
    said = {told[2] for writer in writers for told in writer.acknowledged}
    refused = {event_id for writer in writers for event_id in writer.refused}
    unknown = {event_id for writer in writers for event_id in writer.unknown}
    own = {entry["event_id"] for entry in entries if entry["event_type"] == "x_appended"}
    assert said <= own
    assert set() == own & refused, "refused, and it is there"
    assert own <= said | unknown, "an entry of nobody"


def play(server: Served, hosts: list[Host], repository: Path, *, writers: int, kills: int, seconds: float) -> None:
    """Let `writers` processes on all hosts append; kill the server each time after `seconds` of writing."""
    join(hosts)
    at_work: list[Writer] = []
    try:
        for number in range(writers):
            hours = HOURS[number % len(HOURS)]
            host = hosts[number * len(hosts) // writers]
            at_work.append(Writer(host, f"writer-{number}", hours, 0.01 * writers, repository))
        begun = 0.0
        for kill in range(kills):
            await_all(at_work, f"before kill {kill + 1}", begun)
            begun = time.monotonic()
            while time.monotonic() < begun + seconds:
                time.sleep(0.2)
                for writer in at_work:
                    writer.check()
            await_all(at_work, f"in the {seconds} s before kill {kill + 1}", begun)
            server.kill()
            time.sleep(0.5)
            server.restart()
            begun = time.monotonic()
        await_all(at_work, "at the end", begun)
        for writer in at_work:
            writer.finish()
    finally:
        for writer in at_work:
            writer.kill()
    hosts[-1].run("verify")
    lines = _entries(hosts[0])
    judge(lines, at_work)
    counts = {
        answer: sum(len(getattr(w, answer)) for w in at_work) for answer in ("acknowledged", "refused", "unknown")
    }
    print(counts, len(lines), "entries")


def _entries(host: Host) -> list[bytes]:
    """Read the log as a program on that host does."""
    script = (
        "import sys\n"
        "from klingai_audit.config import Places, open_store\n"
        "for line in open_store(Places.resolve()).read_entries(0):\n"
        "    sys.stdout.buffer.write(line + b'\\n')"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], env=host.environ, capture_output=True, check=True, timeout=300
    )
    return done.stdout.split(b"\n")[:-1]


def test_a_server_is_killed(server: Served, repository: Path, tmp_path: Path) -> None:
    """Three processes of one host, one kill: what can be seen in seconds."""
    play(server, [Host(tmp_path / "host", environ_of(server))], repository, writers=3, kills=1, seconds=2)


def test_a_server_is_killed_three_times(server: Served, repository: Path, tmp_path: Path) -> None:
    """Eight processes, half of them with a clock an hour off, and 20 seconds of writing before each of three kills."""
    environ = environ_of(server)
    hosts = [Host(tmp_path / f"host-{number}", environ) for number in range(4)]
    play(server, hosts, repository, writers=8, kills=3, seconds=20)
