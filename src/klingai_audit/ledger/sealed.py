"""Sealed days: day files that were packed for good, read as if they were not (docs/format.md, section 1).

A sealed day is `audit-YYYY-MM-DD.jsonl.gz`: one gzip member without a time. It holds the lines of that day's file, and
in the place of a purged entry the line of section 2.3. Unpacked copies live in unnamed temporary files.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import tempfile
import threading
import zlib
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import BinaryIO, Final

from klingai_audit.durable import open_regular
from klingai_audit.ledger.line import PURGED_PREFIX

__all__ = ["PURGED_PREFIX", "SEALED_SUFFIX", "first_bytes", "is_sealed", "open_day", "pack", "unpacked_size"]

SEALED_SUFFIX: Final = ".gz"
"""What the name of a sealed day ends with."""

_LEVEL: Final = 6
_CHUNK: Final = 1 << 20
_KEPT: Final = 8
_COPIES: OrderedDict[tuple[int, ...], BinaryIO] = OrderedDict()
_MUTEX = threading.Lock()


def is_sealed(path: Path | str) -> bool:
    """Tell by its name whether a file is a sealed day."""
    return str(path).endswith(SEALED_SUFFIX)


class _Copy(io.RawIOBase):
    """An unpacked copy with a position of its own; `fileno` is for reads at offsets and for mapping."""

    def __init__(self, copy: BinaryIO) -> None:
        self._fd = os.dup(copy.fileno())
        self._at = 0

    def fileno(self) -> int:
        return self._fd

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]  # what io passes in
        data = os.pread(self._fd, len(buffer), self._at)
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: os.fstat(self._fd).st_size}[whence]
        self._at = base + offset
        return self._at

    def close(self) -> None:
        if not self.closed:
            os.close(self._fd)
        super().close()


def open_day(path: Path, *, follow: bool = False) -> io.RawIOBase:
    """Open a day file for reading, unbuffered; of a sealed one what is packed in it.

    The descriptor may be read at offsets and mapped. The last few unpacked copies are kept by this process.
    Raises: OSError, also (EINVAL) for what is no regular file or does not unpack.
    """
    file, sealed = _found(path, follow=follow)
    if not sealed:
        return file
    with file:
        info = os.fstat(file.fileno())
        key = (info.st_dev, info.st_ino, info.st_size, info.st_mtime_ns, info.st_ctime_ns)
        with _MUTEX:
            copy = _COPIES.pop(key, None)
            if copy is None:
                copy = _unpack(file, path)
            _COPIES[key] = copy
            while len(_COPIES) > _KEPT:
                _COPIES.popitem(last=False)[1].close()
            return _Copy(copy)


def _found(path: Path, *, follow: bool) -> tuple[io.FileIO, bool]:
    """Open the file, or the sealed one that took its place since it was listed; tell whether it is sealed."""
    if is_sealed(path):
        return open_regular(path, follow=follow), True
    try:
        return open_regular(path, follow=follow), False
    except FileNotFoundError:
        sealed = path.with_name(path.name + SEALED_SUFFIX)
        if not sealed.exists():
            raise
        return open_regular(sealed, follow=follow), True


def _unpack(file: io.FileIO, path: Path) -> BinaryIO:
    copy = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115  # kept in _COPIES
    try:
        for chunk in _unpacked(file, path):
            copy.write(chunk)
    except BaseException:
        copy.close()
        raise
    return copy


def _unpacked(file: io.FileIO, path: Path, most: int = _CHUNK) -> Iterator[bytes]:
    """Yield what is packed in a sealed day, at most `most` bytes at a time, however much little may unpack to.

    Raises: OSError (EINVAL) if it is not one whole gzip member.
    """
    unpacker = zlib.decompressobj(wbits=31)
    try:
        while not unpacker.eof and (chunk := unpacker.unconsumed_tail or file.read(min(most, _CHUNK))):
            yield unpacker.decompress(chunk, most)
    except zlib.error as exc:
        raise _damaged(path) from exc
    if not unpacker.eof or unpacker.unused_data or file.read(1):
        raise _damaged(path)


def _damaged(path: Path) -> OSError:
    return OSError(22, "it does not unpack: it is not one whole gzip member", str(path))


def first_bytes(path: Path, count: int) -> bytes:
    """Return the first `count` bytes of a day file, fewer if it has no more; a sealed one is unpacked only so far.

    Raises: OSError.
    """
    file, sealed = _found(path, follow=False)
    with file:
        if not sealed:
            return os.pread(file.fileno(), count, 0)
        found = b""
        for chunk in _unpacked(file, path, min(count, _CHUNK)):
            found += chunk[: count - len(found)]
            if len(found) == count:
                break
        return found


def unpacked_size(path: Path, *, follow: bool = False) -> int:
    """Return how many bytes of lines a day file holds. Raises: OSError."""
    with open_day(path, follow=follow) as file:
        return os.fstat(file.fileno()).st_size


def pack(lines: Iterable[bytes], write: Callable[[bytes], object]) -> str:
    """Hand `lines` (an LF after each), packed, to `write`; return the SHA-256 of what was written, in hex."""
    digest = hashlib.sha256()
    packer = _Told(write, digest)
    with gzip.GzipFile(filename="", mode="wb", compresslevel=_LEVEL, fileobj=packer, mtime=0) as packed:
        batch = bytearray()
        for line in lines:
            batch += line + b"\n"
            if len(batch) >= _CHUNK:
                packed.write(batch)
                batch.clear()
        packed.write(batch)
    return digest.hexdigest()


class _Told(io.RawIOBase):
    """Passes bytes on and digests them."""

    def __init__(self, write: Callable[[bytes], object], digest: hashlib._Hash) -> None:
        self._write = write
        self._digest = digest

    def writable(self) -> bool:
        return True

    def write(self, data: bytes) -> int:  # type: ignore[override]  # what gzip passes in
        self._digest.update(data)
        self._write(bytes(data))
        return len(data)


def _after_fork() -> None:
    """The child reads the same copies: they are read at offsets only, so nothing is shared but the bytes."""
    global _MUTEX  # noqa: PLW0603
    _MUTEX = threading.Lock()  # a thread of the parent may have held it


os.register_at_fork(after_in_child=_after_fork)
