"""Forked processes that tell their parent what they saw, one line at a time, until they end or are killed."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import traceback
from collections.abc import Callable
from pathlib import Path

Tell = Callable[[str], None]


class Child:
    """A forked process that runs `act(tell)`; what it tells is in `lines` once `wait` or `kill` returned.

    It leaves by `os._exit`, unless `act` leaves in another way; what it raises is told as a line with `!`.
    """

    def __init__(self, act: Callable[[Tell], None]) -> None:
        self.lines: list[str] = []
        receive, send = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            _run(act, receive, send)
        os.close(send)
        self._reader = threading.Thread(target=self._read, args=(receive,), daemon=True)
        self._reader.start()

    def _read(self, receive: int) -> None:
        with open(receive, encoding="utf-8") as pipe:
            for line in pipe:
                if line.endswith("\n"):
                    self.lines.append(line.removesuffix("\n"))

    def kill(self) -> None:
        """End it without a chance to do anything."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        self.wait()

    def wait(self) -> int:
        """Wait for its end; returns the exit code (negative: the signal)."""
        _, status = os.waitpid(self.pid, 0)
        self._reader.join(10)
        for line in self.lines:
            assert not line.startswith("!"), line.replace("\\n", "\n")
        return os.waitstatus_to_exitcode(status)


def open_below(folder: Path) -> list[str]:
    """Return the files below a folder that this process has open, sorted: none of what other tests left open."""
    places = []
    for descriptor in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # as the one that looks
            places.append(descriptor.readlink())
    return sorted(str(place) for place in places if place.is_relative_to(folder))


def _run(act: Callable[[Tell], None], receive: int, send: int) -> None:
    os.close(receive)

    def tell(line: str) -> None:
        os.write(send, f"{line}\n".encode())

    code = 1
    try:
        act(tell)
        code = 0
    except BaseException:  # noqa: BLE001
        tell("!" + traceback.format_exc().replace("\n", "\\n"))
    finally:
        os._exit(code)
