"""Where records go: what every destination promises, and files.

A destination takes records in order. It tells up to which position it is certain to have them; only so far the cursor
moves. What it loses track of raises `SinkLost`, and is sent again.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import BinaryIO, Final, Protocol

from klingai_audit.durable import OPS, TEMPORARY_SUFFIX, FileOps
from klingai_audit.errors import StorageError
from klingai_audit.exports.record import Position, Record, TreeHead

__all__ = ["AppendSink", "FileSink", "NewFile", "Sink", "SinkLost", "StreamSink", "cannot_write", "write_checkpoint"]

_Encode = Callable[[Record], bytes]

_COPY_BYTES: Final = 1 << 16


class SinkLost(StorageError):
    """The destination cannot be reached just now, or its connection broke: what is not settled has to be sent again."""


class Sink(Protocol):
    """One destination, used by one thread.

    `settled` is how far it is certain that the destination has everything; it can be asked after a break too.
    """

    settled: Position

    def open(self, position: Position) -> bool:
        """Connect, or create; records from `position` on will follow.

        Tells whether the destination was reached by that. Raises: SinkLost, StorageError.
        """
        ...

    def send(self, records: Sequence[Record], position: Position) -> None:
        """Hand over records (perhaps none) that lead to `position`; blocks as long as the destination does.

        Raises: SinkLost, StorageError.
        """
        ...

    def check(self, head: TreeHead) -> None:
        """Between batches: notice a break, and bring `settled` up to date; `head` covers what was sent.

        Raises: SinkLost, StorageError.
        """
        ...

    def finish(self, head: TreeHead) -> None:
        """Make certain that everything arrived, and let go of the destination. Raises: as `send`."""
        ...

    def abandon(self) -> None:
        """Let go of the connection or the unfinished file; never raises."""
        ...


class StreamSink:
    """An open binary stream, such as standard output. What it took counts as arrived."""

    def __init__(self, stream: BinaryIO, encode: _Encode, *, head: bytes = b"", end: bytes = b"\n") -> None:
        self._stream = stream
        self._encode = encode
        self._head = head
        self._end = end
        self.settled = Position(0, None)

    def open(self, position: Position) -> bool:
        self.settled = position
        self._stream.write(self._head)
        return True

    def send(self, records: Sequence[Record], position: Position) -> None:
        self._stream.write(b"".join(self._encode(record) + self._end for record in records))
        self._stream.flush()
        self.settled = position

    def check(self, head: TreeHead) -> None:
        """Nothing can have happened to an open stream that the next write does not tell."""

    def finish(self, head: TreeHead) -> None:
        self._stream.flush()

    def abandon(self) -> None:
        """Leave the stream to whoever opened it."""


class NewFile:
    """A file that is written under a temporary name, `temporary`, and takes its own when it is complete."""

    def __init__(self, path: Path, ops: FileOps = OPS) -> None:
        self.temporary = path.with_name(path.name + TEMPORARY_SUFFIX)
        self._path = path
        self._ops = ops
        self._unfinished = False

    def begin(self) -> None:
        """Note that the temporary file is this export's from now on."""
        self._unfinished = True

    def complete(self, head: TreeHead) -> None:
        """Give the file, which is on the disk, its name, and put the checkpoint beside it. Raises: OSError."""
        self._ops.rename(self.temporary, self._path)
        self._unfinished = False
        self._ops.sync_folder(self._path.parent)
        write_checkpoint(self._path, head, self._ops)

    def discard(self) -> None:
        """Remove what has begun and is not complete; never raises."""
        if self._unfinished:
            with contextlib.suppress(OSError):
                self._ops.unlink(self.temporary)


class FileSink:
    """A new file, which takes its name when it is complete: nobody ever sees half an export."""

    def __init__(
        self, path: Path, encode: _Encode, *, head: bytes = b"", end: bytes = b"\n", ops: FileOps = OPS
    ) -> None:
        self._path = path
        self._new = NewFile(path, ops)
        self._encode = encode
        self._head = head
        self._end = end
        self._ops = ops
        self._fd: int | None = None
        self.settled = Position(0, None)

    def open(self, position: Position) -> bool:
        try:
            with contextlib.suppress(FileNotFoundError):
                self._ops.unlink(self._new.temporary)
            self._fd = self._ops.open(self._new.temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
            self._new.begin()
            self._ops.write_all(self._fd, self._head)
        except OSError as exc:
            self.abandon()
            raise cannot_write(self._path, exc) from exc
        self.settled = position
        return True

    def send(self, records: Sequence[Record], position: Position) -> None:
        data = b"".join(self._encode(record) + self._end for record in records)
        try:
            self._ops.write_all(self._fd or 0, data)
        except OSError as exc:
            raise cannot_write(self._path, exc) from exc
        self.settled = position

    def check(self, head: TreeHead) -> None:
        """A file that is being made goes nowhere."""

    def finish(self, head: TreeHead) -> None:
        try:
            self._ops.sync(self._fd or 0)
            self._close()
            self._new.complete(head)
        except OSError as exc:
            raise cannot_write(self._path, exc) from exc

    def abandon(self) -> None:
        self._close()
        self._new.discard()

    def _close(self) -> None:
        if self._fd is not None:
            self._ops.close(self._fd)
            self._fd = None


class AppendSink:
    """A file that grows: every batch is synced before it counts as arrived.

    A last line that a crash left unfinished is cut off first; whole lines are never touched. A file that was renamed
    or removed meanwhile (log rotation) is made anew.
    """

    def __init__(
        self, path: Path, encode: _Encode, *, head: bytes = b"", end: bytes = b"\n", ops: FileOps = OPS
    ) -> None:
        self._path = path
        self._encode = encode
        self._head = head
        self._end = end
        self._ops = ops
        self._fd: int | None = None
        self._noted = b""
        self.settled = Position(0, None)

    def open(self, position: Position) -> bool:
        try:
            self._reopen()
        except OSError as exc:
            raise cannot_write(self._path, exc) from exc
        self.settled = position
        return True

    def send(self, records: Sequence[Record], position: Position) -> None:
        try:
            if records:
                self._append(b"".join(self._encode(record) + self._end for record in records))
        except OSError as exc:
            raise cannot_write(self._path, exc) from exc
        self.settled = position

    def check(self, head: TreeHead) -> None:
        if head.note != self._noted:
            self.finish(head)

    def finish(self, head: TreeHead) -> None:
        try:
            write_checkpoint(self._path, head, self._ops)
        except OSError as exc:
            raise cannot_write(self._path, exc) from exc
        self._noted = head.note

    def abandon(self) -> None:
        if self._fd is not None:
            with contextlib.suppress(OSError):
                self._ops.close(self._fd)
            self._fd = None

    def _append(self, data: bytes) -> None:
        fd = self._fd
        if fd is None or not self._is_ours(fd):
            fd = self._reopen()
        length = os.fstat(fd).st_size
        try:
            self._ops.write_all(fd, data)
            self._ops.sync(fd)
        except OSError:
            with contextlib.suppress(OSError):
                self._ops.truncate(fd, length)
            raise

    def _is_ours(self, fd: int) -> bool:
        try:
            named = self._path.stat()
        except FileNotFoundError:
            return False
        opened = os.fstat(fd)
        return (named.st_dev, named.st_ino) == (opened.st_dev, opened.st_ino)

    def _reopen(self) -> int:
        self.abandon()
        fd = self._fd = self._ops.open(self._path, os.O_RDWR | os.O_APPEND | os.O_CREAT)
        length = _whole_lines(fd)
        if length < os.fstat(fd).st_size:
            self._ops.truncate(fd, length)
        if length == 0 and self._head:
            self._ops.write_all(fd, self._head)
        self._ops.sync_folder(self._path.parent)
        return fd


def _whole_lines(fd: int) -> int:
    """Return the length of a file up to its last LF."""
    end = os.fstat(fd).st_size
    while end > 0:
        begin = max(0, end - _COPY_BYTES)
        found = os.pread(fd, end - begin, begin).rfind(b"\n")
        if found >= 0:
            return begin + found + 1
        end = begin
    return 0


def write_checkpoint(path: Path, head: TreeHead, ops: FileOps = OPS) -> None:
    """Put the signed checkpoint that covers an exported file beside it, as `<file>.checkpoint`. Raises: OSError."""
    ops.replace(path.with_name(path.name + ".checkpoint"), head.note)


def cannot_write(path: Path, exc: OSError) -> StorageError:
    """Return the error for an output file that cannot be written."""
    return StorageError(f"{path} cannot be written: {exc.strerror or type(exc).__name__}.")
