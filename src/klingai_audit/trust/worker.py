"""A worker process of verification: reads tasks from standard input, writes reports to standard output.

Messages are msgpack, each after its length as 4 bytes big-endian. Started by `pool` as a fresh interpreter, not
forked and not by `multiprocessing`, so that the caller's main module is never imported again.
"""

from __future__ import annotations

import contextlib
import gc
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Final

import msgspec

from klingai_audit.ledger.sealed import open_day
from klingai_audit.trust.chunk import Read, Report, Task
from klingai_audit.trust.scan import scan

__all__ = ["file_reader", "main", "read_message", "run_task", "write_message"]

_LENGTH_BYTES: Final = 4
_encode: Final = msgspec.msgpack.Encoder().encode


def read_message(stream: BinaryIO) -> bytes | None:
    """Read one message; None at the end of the stream."""
    head = stream.read(_LENGTH_BYTES)
    if len(head) < _LENGTH_BYTES:
        return None
    length = int.from_bytes(head)
    body = stream.read(length)
    return body if len(body) == length else None


def write_message(stream: BinaryIO, message: Task | Report) -> None:
    """Write one message and flush."""
    body = _encode(message)
    stream.write(len(body).to_bytes(_LENGTH_BYTES) + body)
    stream.flush()


def file_reader(path: str | None, *, follow: bool = False) -> Read:
    """Return a reader of the file at `path`, of nothing for None. It raises OSError when it reads.

    Anything but a regular file is refused, without `follow` a symbolic link too.

    The file is opened for each read and never mapped: a file that is cut meanwhile gives fewer bytes, no signal.
    """

    def read(begin: int, end: int) -> bytes:
        with _opened(path, follow=follow) as reader:
            return reader(begin, end)

    return read


def _nothing(_begin: int, _end: int) -> bytes:
    return b""


@contextlib.contextmanager
def _opened(path: str | None, *, follow: bool = False) -> Iterator[Read]:
    """Open the file for several reads. Raises: OSError."""
    if path is None:
        yield _nothing
        return
    file = open_day(Path(path), follow=follow)
    fd = file.fileno()

    def read(begin: int, end: int) -> bytes:
        parts = []
        while begin < end and (part := os.pread(fd, end - begin, begin)):
            parts.append(part)
            begin += len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    with file:
        yield read


@contextlib.contextmanager
def _hashes(path: str | None) -> Iterator[Read]:
    """Open stored hashes; what cannot be opened has none (who asked names the file)."""
    with contextlib.ExitStack() as stack:
        try:
            read = stack.enter_context(_opened(path))
        except OSError:
            read = _nothing
        yield read


def run_task(task: Task, read: Read | None = None, read_hashes: Read | None = None) -> Report:
    """Scan one range, by its paths or the given readers; a file that cannot be read gives a report with `error`."""
    try:
        if read is not None and read_hashes is not None:
            return scan(task, read, read_hashes)
        with _opened(task.path) as entries, _hashes(task.hashes) as hashes:
            return scan(task, entries, hashes)
    except OSError as exc:
        return Report(task.number, task.begin, task.end, 0, error=exc.strerror or "it cannot be read")


def main() -> None:
    """Serve tasks until standard input ends."""
    gc.disable()  # nothing here makes cycles, and collections would cost a tenth
    decode = msgspec.msgpack.Decoder(Task).decode
    while (message := read_message(sys.stdin.buffer)) is not None:
        write_message(sys.stdout.buffer, run_task(decode(message)))
