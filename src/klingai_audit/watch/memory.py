"""What a watch remembers between its runs: when each check was made, what is open, what was told, what is undelivered.

`watch.json` in the state folder; it may be deleted at any time, and then everything is due and told anew. One watch of
a log at a time holds it.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import msgspec

from klingai_audit.durable import OPS, PRIVATE_MODE, FileOps, read_optional
from klingai_audit.errors import StorageError, UsageError
from klingai_audit.watch.problems import Alert, Problem

__all__ = ["Memory", "Message", "load_memory", "only_watch", "save_memory"]

MEMORY_FILE: Final = "watch.json"
LOCK_FILE: Final = "watch.lock"
MAX_ONCE: Final = 20_000
"""Findings of which it is remembered that they were told; older ones are forgotten first."""

MAX_WAITING: Final = 100
"""Messages that wait for one receiver; when there are more the oldest are dropped, and that is told."""


class Message(msgspec.Struct, kw_only=True):
    """What one run has to tell; `id` stays the same however often it is sent. `time` is in seconds since 1970 UTC."""

    id: str
    time: int
    alerts: list[Alert]


class Memory(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """See the module. `done` and `again` are times (seconds since 1970 UTC) by check: made last, to be tried again.

    `open` are the problems that are there, `closed` the keys of those that were and are gone; `once` are keys of
    findings that were told. `waiting` are messages by receiver, `lost` how many of them were dropped.
    """

    origin: str = ""
    done: dict[str, float] = {}
    again: dict[str, float] = {}
    open: dict[str, Problem] = {}
    closed: list[str] = []
    once: list[str] = []
    waiting: dict[str, list[Message]] = {}
    lost: dict[str, int] = {}
    shaky: bool = False
    """The last quick verification found something broken."""
    recorded: list[str] = []
    """Keys of the broken problems that the last `verification_failed` of this watch was about."""
    threats: dict[str, str] = {}
    """States of the threats by the last whole verification."""
    kept_partial: float = 0.0
    """When a checkpoint with too few cosignatures was kept last."""


def load_memory(folder: Path | None, origin: str) -> Memory:
    """Return what is remembered of the log `origin`; nothing if nothing readable is, or it is of another log.

    With an empty `origin`, because the log is gone, what is remembered of any is taken.
    """
    memory = None
    if folder is not None:
        with contextlib.suppress(OSError, msgspec.MsgspecError, UnicodeDecodeError):
            data = read_optional(folder / MEMORY_FILE)
            memory = None if data is None else msgspec.json.decode(data, type=Memory)
    if memory is None or (origin and memory.origin not in ("", origin)):
        memory = Memory()
    memory.origin = origin or memory.origin
    return memory


def save_memory(folder: Path | None, memory: Memory, ops: FileOps = OPS) -> None:
    """Remember `memory`; durable on return. Without a folder nothing is. Raises: StorageError."""
    if folder is None:
        return
    memory.once = memory.once[-MAX_ONCE:]
    memory.closed = memory.closed[-MAX_ONCE:]
    try:
        ops.make_folder(folder, 0o700)
        ops.replace(folder / MEMORY_FILE, msgspec.json.encode(memory), mode=PRIVATE_MODE)
    except OSError as exc:
        raise StorageError(
            f"{folder / MEMORY_FILE} cannot be written: {exc.strerror}.", do="Make the state folder writable."
        ) from exc


@contextlib.contextmanager
def only_watch(folder: Path | None, ops: FileOps = OPS) -> Iterator[None]:
    """Hold the right to watch with this state folder. Raises: UsageError: another process does; StorageError."""
    if folder is None:
        yield
        return
    path = folder / LOCK_FILE
    try:
        ops.make_folder(folder, 0o700)
        handle = ops.open(path, os.O_WRONLY | os.O_CREAT, PRIVATE_MODE)
    except OSError as exc:
        raise StorageError(f"{path} cannot be opened: {exc.strerror}.", do="Make the state folder writable.") from exc
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as exc:
            raise UsageError("This log is being watched already.", do="One watch of a log is enough.") from exc
        yield
    finally:
        ops.close(handle)
