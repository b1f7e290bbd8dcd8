"""Real servers for tests: ports of their own, a folder of their own, and an end whatever happens to the tests.

Used by `tests.support.postgres` and `tests.support.objects`.
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

PATIENCE = 90.0
"""Seconds that a server has for coming up; a loaded machine is no failure."""


class NotStarted(Exception):
    """A server ended, or stayed silent, before it answered; the end of what it said is in the message."""


def free_ports(count: int) -> list[int]:
    """Return free TCP ports of 127.0.0.1, below those that the kernel gives to clients.

    A server that is killed comes back at the same port. Were that one of the kernel's own, then of thousands of
    clients that try again meanwhile one would get it as its own port, be connected to itself, and block the server.
    """
    try:
        text = Path("/proc/sys/net/ipv4/ip_local_port_range").read_text(encoding="ascii")
        below = int(text.split()[0])
    except OSError:
        below = 32768
    ports: list[int] = []
    with contextlib.ExitStack() as held:
        while len(ports) < count:
            port = random.SystemRandom().randrange(10_000, below)
            probe = held.enter_context(socket.socket())
            with contextlib.suppress(OSError):
                probe.bind(("127.0.0.1", port))
                ports.append(port)
    return ports


def children_of(pid: int) -> list[int]:
    """Return the processes whose parent is `pid`."""
    found: list[int] = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            if int(stat.read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()[1]) == pid:
                found.append(int(stat.parent.name))
    return found


def gone(pid: int) -> bool:
    """Tell whether a process has ended, reaped or not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()[0]
    except OSError:
        return True
    return state in ("Z", "X")


class Served:
    """One server process in a folder of its own, which dies with the tests, even if those are killed.

    `command` and `ready` belong to the subclass: how it is started, and whether it answers (errors mean not yet).
    """

    def __init__(self, name: str, user: int | None = None) -> None:
        self.name = name
        self.folder = Path(tempfile.mkdtemp(prefix=f"audit-tests-{name}-"))
        self.user = user
        if user is not None:
            os.chown(self.folder, user, user)
        self._process: subprocess.Popen[bytes] | None = None
        self._guard: subprocess.Popen[bytes] | None = None

    def command(self) -> Sequence[str]:
        """Return the command that starts the server in the foreground."""
        raise AssertionError("a subclass says so")

    def environment(self) -> Mapping[str, str]:
        """Return what the server's environment holds besides the path."""
        return {}

    def ready(self) -> bool:
        """Tell whether the server answers."""
        raise AssertionError("a subclass says so")

    def leftovers(self) -> Sequence[str]:
        """Return files outside of the folder that go with the server."""
        return ()

    @property
    def pid(self) -> int:
        """The server's first process."""
        assert self._process is not None, f"{self.name} does not run"
        return self._process.pid

    @property
    def said(self) -> str:
        """The end of what the server wrote to its output."""
        with contextlib.suppress(OSError):
            return (self.folder / "output").read_bytes()[-3000:].decode(errors="replace")
        return ""

    def launch(self) -> None:
        """Start the server where it was, and return once it answers. Raises: NotStarted."""
        assert self._process is None, f"{self.name} runs already"
        environment = {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C", "HOME": str(self.folder)}
        drop = {} if self.user is None else {"user": self.user, "group": self.user, "extra_groups": []}
        with (self.folder / "output").open("ab") as output:
            self._process = subprocess.Popen(
                self.command(),
                cwd=self.folder,
                env={**environment, **self.environment()},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
                **drop,
            )
        # The guard's input ends when the last process of the tests does: then the server goes, and its folder.
        script = 'cat >/dev/null; kill -s KILL -- "-$1"; shift; sleep 1; rm -rf -- "$@"'
        self._guard = subprocess.Popen(
            ["/bin/sh", "-c", script, "guard", str(self._process.pid), str(self.folder), *self.leftovers()],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        self._await()

    def _await(self) -> None:
        assert self._process is not None
        until = time.monotonic() + PATIENCE
        while not self._answers():
            code = self._process.poll()
            if code is not None or time.monotonic() > until:
                self.kill()
                raise NotStarted(f"{self.name} (exit {code}):\n{self.said}")
            time.sleep(0.02)

    def _answers(self) -> bool:
        try:
            return self.ready()
        except Exception:  # noqa: BLE001
            return False

    def kill(self) -> None:
        """End the server and its children by SIGKILL, all at once; nothing of them is left on return."""
        if self._process is None:
            return
        pid = self._process.pid
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGSTOP)  # so that it has no further child while they are counted
        family = [pid, *children_of(pid)]
        for one in family:
            with contextlib.suppress(ProcessLookupError):
                os.kill(one, signal.SIGKILL)
        self._process.wait()
        self._process = None
        until = time.monotonic() + PATIENCE
        while not all(gone(one) for one in family):
            assert time.monotonic() < until, f"{self.name} outlives SIGKILL"
            time.sleep(0.005)
        self._dismiss()

    def _dismiss(self) -> None:
        if self._guard is not None and self._guard.stdin is not None:
            self._guard.kill()
            self._guard.wait()
            self._guard.stdin.close()
        self._guard = None

    def restart(self) -> None:
        """Start the killed server again, at the same ports, with what it had stored. Raises: NotStarted."""
        self.launch()

    def close(self) -> None:
        """End the server and remove all it stored."""
        self.kill()
        for name in self.leftovers():
            Path(name).unlink(missing_ok=True)
        shutil.rmtree(self.folder, ignore_errors=True)


def started(make: Callable[[], Served]) -> Served:
    """Return a server that runs; somebody else may have taken one of its ports, then it is made anew."""
    for attempt in range(5):
        server = make()
        try:
            server.launch()
        except NotStarted:
            server.close()
            if attempt == 4:
                raise
        except BaseException:
            server.close()
            raise
        else:
            return server
    raise AssertionError("unreachable")
