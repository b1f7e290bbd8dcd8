"""A lock that is a folder: `flock` on the folder that stands at a path at this moment."""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from pathlib import Path
from typing import Final

from klingai_audit.durable import NO_FORK, FileOps
from klingai_audit.errors import AuditUnavailable

__all__ = ["PATIENCE_S", "FolderLock"]

PATIENCE_S: Final = 60.0
"""How long a writer waits for the lock, in seconds; batches take milliseconds."""

_FIRST_PAUSE_S: Final = 0.0001
_LAST_PAUSE_S: Final = 0.002


class FolderLock:
    """Excludes other processes, and other descriptors of this one. Not for two threads at once.

    The kernel keeps such a lock until every copy of the descriptor is closed: forked children call `drop`.
    """

    def __init__(self, path: Path, ops: FileOps) -> None:
        self._path = path
        self._ops = ops
        self._fd: int | None = None
        self._held = (0, 0)

    def acquire(self) -> bool:
        """Lock the folder; False if it is not the one locked before. Raises: AuditUnavailable."""
        known = self._fd is not None
        for _ in range(3):
            try:
                if self._locked():
                    return known
            except OSError as exc:
                self.drop()
                raise AuditUnavailable(
                    f"The log folder {self._path} is not there as a folder: {exc.strerror}.",
                    do="Nothing was recorded. Put the folder back (or restore it) and open the log again.",
                ) from exc
            self.drop()
            known = False
        raise AuditUnavailable(f"The log folder {self._path} keeps being replaced.", do="Find out what replaces it.")

    def _locked(self) -> bool:
        if self._fd is None:
            with NO_FORK:
                self._fd = self._ops.open(self._path, os.O_RDONLY | os.O_DIRECTORY)
            held = os.fstat(self._fd)
            self._held = held.st_dev, held.st_ino
        self._wait()
        named = self._path.stat()
        return (named.st_dev, named.st_ino) == self._held

    def _wait(self) -> None:
        """Take the lock as soon as it is free. Raises: AuditUnavailable after a minute."""
        deadline, pause = time.monotonic() + PATIENCE_S, _FIRST_PAUSE_S
        while True:
            try:
                fcntl.flock(self._fd or 0, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise AuditUnavailable(
                        f"Something has held the lock on {self._path} for over {PATIENCE_S:.0f} s.",
                        do="Nothing was recorded. Find out who holds it (fuser, lsof) and end that process.",
                    ) from None
                time.sleep(pause)
                pause = min(2 * pause, _LAST_PAUSE_S)
            else:
                return

    def release(self) -> None:
        """Let others in; the descriptor stays for the next time."""
        if self._fd is not None:
            with contextlib.suppress(OSError):
                fcntl.flock(self._fd, fcntl.LOCK_UN)

    def drop(self) -> None:
        """Close the descriptor, which also unlocks unless another process inherited it."""
        if self._fd is not None:
            with contextlib.suppress(OSError):
                os.close(self._fd)
        self._fd = None
