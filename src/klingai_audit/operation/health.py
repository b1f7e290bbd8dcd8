"""Whether a log can be written or read now, told in words that hold no content."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Final

from klingai_audit.ledger.appender import MAX_QUEUE
from klingai_audit.ledger.counters import writers_of
from klingai_audit.operation.board import Board, Check

if TYPE_CHECKING:
    from klingai_audit.ledger.reader import LogReader
    from klingai_audit.log import AuditLog

__all__ = ["ROOM_BYTES", "can_read", "can_record", "has_room", "observe"]

ROOM_BYTES: Final = 64 << 20
"""Bytes that have to be free on a file system for a log on it to be called ready."""


def observe(board: Board, audit: AuditLog) -> None:
    """Let a board tell whether `audit` can record: its writer, its queue, its store, room on the disks.

    While the log cannot be reached and entries go to the spool, it can: the spool's numbers tell how many wait.
    """
    spool, places = audit.spool, audit.places
    for name, check in (("writer", can_record(audit.origin)), ("log", can_read(audit.reader))):
        board.check(name, lambda check=check: None if spool.down else check())  # type: ignore[misc]
    board.look("spool_entries", lambda: {(audit.origin,): float(spool.waiting)})
    board.look("spool_bytes", lambda: {(audit.origin,): float(_bytes_below(spool.folder))})
    if places.log != "memory:":
        if places.folder is not None and places.folder.is_dir():
            board.check("log_disk", has_room(places.folder))
        board.check("state_disk", has_room(places.state))


def _bytes_below(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def can_record(origin: str) -> Check:
    """Return a check of what writes the log `origin` in this process: it is open, goes on, and its queue has room."""

    def check() -> str | None:
        writers = writers_of(origin)
        if not writers:
            return "this process does not have the log open for writing"
        for one in writers:
            if one.stopped:
                return f"this process writes no more: {one.stopped}"
        if any(len(one.queue) >= MAX_QUEUE for one in writers):
            return "the queue is full"
        return None

    return check


def can_read(reader: LogReader) -> Check:
    """Return a check that the log's published checkpoint can be read."""

    def check() -> str | None:
        reader.checkpoint_note()
        return None

    return check


def has_room(folder: Path, least: int = ROOM_BYTES) -> Check:
    """Return a check that `folder` can be written and that at least `least` bytes are free for this user there."""

    def check() -> str | None:
        if not os.access(folder, os.W_OK | os.X_OK):
            return "the folder cannot be written"
        found = os.statvfs(folder)
        free = found.f_bavail * found.f_frsize
        return None if free >= least else f"only {free >> 20} MiB are free"

    return check
