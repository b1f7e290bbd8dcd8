"""The spool on disk: encoded events that wait for a log that cannot be reached (docs/format.md, "The spool").

One file for each writer and outage, `spool/<32 hex digits>.jsonl` in the state folder: one record a line, each with a
MAC of its own under a key derived from the look-up key. Records are numbered from 0, so that one that is missing, or
stands elsewhere, is noticed. A file belongs to whoever holds its lock; one that nobody holds was left by a process
that ended, and belongs to the next writer. It is removed when all it holds is in the log, never before.
"""

from __future__ import annotations

import base64
import contextlib
import fcntl
import hmac
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

import msgspec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from klingai_audit.durable import NO_FORK, PRIVATE_MODE, FileOps, open_regular
from klingai_audit.errors import InvalidEvent, Malformed
from klingai_audit.event.record import MAX_EVENT_BYTES, EncodedEvent, decode_event, encode_event

__all__ = [
    "MAX_RECORD_BYTES",
    "Contents",
    "Entry",
    "Look",
    "Record",
    "SpoolFile",
    "count_records",
    "look_at",
    "spool_files",
    "spool_key",
]

MAX_RECORD_BYTES: Final = MAX_EVENT_BYTES + 256
"""Longest record in bytes, without LF; a longer line is none."""

_DOMAIN: Final = b"klingai-audit/spool/v1\0"
_NAME: Final = re.compile(r"[0-9a-f]{32}\.jsonl", re.ASCII)
_TAIL: Final = re.compile(
    rb',"spool":"([0-9a-f]{32})","index":(0|[1-9][0-9]{0,8}),"since":(0|[1-9][0-9]{0,17}),"class":"([a-z_]{1,32})"'
    rb',"once":(true|false),"mac":"([A-Za-z0-9_-]{43})"\}\Z'
)
_MAC_BYTES: Final = len(b',"mac":""}') + 43
_FOLDER_MODE: Final = 0o750
_CHUNK_BYTES: Final = 1 << 18


def spool_key(lookup_key: bytes, origin: str) -> bytes:
    """Return the 32-byte key of a log's spool records: HKDF-SHA-256 of the look-up key, without salt."""
    return HKDF(algorithm=SHA256(), length=32, salt=None, info=_DOMAIN + origin.encode()).derive(lookup_key)


@dataclass(frozen=True, slots=True)
class Record:
    """One event as it goes to the spool.

    `since` is the index of the first entry of the log where the event may stand already; `cls` its class in the
    failure policy; with `once` the log is to hold one of this event id only.
    """

    event: EncodedEvent
    since: int
    cls: str
    once: bool = False


class Entry(NamedTuple):
    """Where a genuine record stands in its file: `length` bytes from `offset` on, without LF; see `Record`."""

    number: int
    event_id: str
    since: int
    cls: str
    once: bool
    offset: int
    length: int


@dataclass(frozen=True, slots=True)
class Contents:
    """What a file holds: genuine records by number, byte ranges `(offset, length)` that are none, and what is missing.

    `missing` counts the numbers that no record has, below the highest one or as many as were written; `begun` is the
    time of the first record, `end` the offset behind the last line that was read.
    """

    entries: Sequence[Entry]
    refused: Sequence[tuple[int, int]]
    missing: int
    begun: str | None
    end: int


class Look(NamedTuple):
    """What waits in a spool folder, as far as that can be told without the key.

    `size` is in bytes, `oldest` the `timestamp` of the first event of the oldest file.
    """

    files: int
    records: int
    size: int
    oldest: str | None


def spool_files(folder: Path) -> list[Path]:
    """Return the files of a spool folder, the oldest first; none if there is no such folder. Raises: OSError."""
    try:
        return sorted(path for path in folder.iterdir() if _NAME.fullmatch(path.name))
    except FileNotFoundError:
        return []


def count_records(path: Path) -> int:
    """Return how many lines a spool file has; 0 if it is gone. Raises: OSError."""
    try:
        with open_regular(path, follow=False) as file:
            return sum(chunk.count(b"\n") for chunk in iter(lambda: file.read(_CHUNK_BYTES), b""))
    except FileNotFoundError:
        return 0


def look_at(folder: Path) -> Look:
    """Count what waits in a spool folder; needs no key and takes no lock. Raises: OSError."""
    files = records = size = 0
    oldest: str | None = None
    for path in spool_files(folder):
        try:
            with open_regular(path, follow=False) as file:
                head = file.read(MAX_RECORD_BYTES)
                length, count = len(head), head.count(b"\n")
                while chunk := file.read(1 << 20):
                    length, count = length + len(chunk), count + chunk.count(b"\n")
        except FileNotFoundError:
            continue
        if length:
            files, records, size = files + 1, records + count, size + length
            with contextlib.suppress(Malformed):
                began = decode_event(_event_of(head.partition(b"\n")[0])).timestamp
                oldest = began if oldest is None else min(oldest, began)
    return Look(files, records, size, oldest)


class SpoolFile:
    """One file, held by this process. Not thread-safe. Every method may raise OSError.

    `count` and `size` are the records and bytes that are durable, as far as this process wrote them.
    """

    def __init__(self, path: Path, fd: int, key: bytes, origin: str, ops: FileOps) -> None:
        self.path = path
        self.count = 0
        self.size = 0
        self._fd = fd
        self._key = key
        self._origin = origin
        self._ops = ops

    @property
    def name(self) -> str:
        """The 32 hex digits of the file's name."""
        return self.path.stem

    @classmethod
    def create(cls, folder: Path, name: str, key: bytes, origin: str, ops: FileOps) -> SpoolFile:
        """Create the file `name` (32 hex digits) and hold it; its name is durable on return."""
        ops.make_folder(folder, _FOLDER_MODE)
        path = folder / f"{name}.jsonl"
        fd = _open(ops, path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_APPEND)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)  # another writer may look whether somebody left it
            ops.sync_folder(folder)
            if not _is_named(fd, path):
                raise FileNotFoundError(2, "the new spool file was removed", str(path))
        except BaseException:
            os.close(fd)
            raise
        return cls(path, fd, key, origin, ops)

    @classmethod
    def take_over(cls, path: Path, key: bytes, origin: str, ops: FileOps) -> SpoolFile | None:
        """Hold a file that nobody holds; None if somebody does, or if it is gone."""
        try:
            fd = _open(ops, path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        except FileNotFoundError:
            return None
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)
            return None
        except BaseException:
            os.close(fd)
            raise
        if not _is_named(fd, path):
            os.close(fd)
            return None
        found = cls(path, fd, key, origin, ops)
        found.size = os.fstat(fd).st_size
        return found

    def append(self, records: Sequence[Record]) -> None:
        """Write records behind those that are there; durable on return.

        After an error nothing of them counts, what may have been written is cut off again if that is possible, and
        the file takes no more.
        """
        lines = b"".join(self._line(record, self.count + number) + b"\n" for number, record in enumerate(records))
        try:
            self._ops.write_all(self._fd, lines)
            self._ops.sync(self._fd)
        except OSError:
            with contextlib.suppress(OSError):
                self._ops.truncate(self._fd, self.size)
                self._ops.sync(self._fd)
            raise
        self.count += len(records)
        self.size += len(lines)

    def _line(self, record: Record, number: int) -> bytes:
        line = b'%b,"spool":"%b","index":%d,"since":%d,"class":"%b","once":%b' % (
            record.event.body[:-1], self.name.encode(), number, record.since, record.cls.encode(),
            b"true" if record.once else b"false",
        )  # fmt: skip
        return b'%b,"mac":"%b"}' % (line, _mac(self._key, self._origin, line))

    def contents(self, known: Contents | None = None) -> Contents:
        """Read what is durable, or what is new since `known`, and tell genuine records from what is none."""
        found = {} if known is None else {entry.number: entry for entry in known.entries}
        refused = [] if known is None else list(known.refused)
        begun = None if known is None else known.begun
        end = 0 if known is None else known.end
        first = min(found, default=None)
        for offset, raw in self._lines(end):
            line = raw.removesuffix(b"\n")
            entry = self._parse(offset, line)
            if entry is None:
                refused.append((offset, len(raw)))
            elif entry.number not in found:
                if first is None or entry.number < first:
                    first, begun = entry.number, _encoded_again(_event_of(line)).timestamp
                found[entry.number] = entry
            end = offset + len(raw)
        entries = [found[number] for number in sorted(found)]
        missing = max(entries[-1].number + 1 if entries else 0, self.count) - len(entries)
        return Contents(entries, refused, missing, begun, end)

    def event(self, entry: Entry) -> EncodedEvent:
        """Decode the event of a record and encode it again. Raises: Malformed if the record was changed meanwhile."""
        line = os.pread(self._fd, entry.length, entry.offset)
        if self._parse(entry.offset, line) != entry:
            raise Malformed(f"A record of {self.path} was changed while it was read.")
        return _encoded_again(_event_of(line))

    def read(self, ranges: Sequence[tuple[int, int]]) -> bytes:
        """Return the bytes of ranges `(offset, length)`, one after the other."""
        return b"".join(os.pread(self._fd, length, offset) for offset, length in ranges)

    def close(self) -> None:
        """Let go of the file, which stays."""
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            self._ops.close(fd)

    def remove(self) -> None:
        """Remove the file, whose records are all in the log, and let go of it; durable on return."""
        try:
            self._ops.unlink(self.path)
            self._ops.sync_folder(self.path.parent)
        finally:
            self.close()

    def abandon(self) -> None:
        """In a forked child: the file is the parent's."""
        with contextlib.suppress(OSError):
            os.close(self._fd)
        self._fd = -1

    def _lines(self, begin: int) -> Iterator[tuple[int, bytes]]:
        """Offset and bytes of each line from `begin` on, its LF included; longer ones than a record come in pieces."""
        at, rest, size = begin, b"", self.size
        while at < size:
            read = at + len(rest)
            chunk = os.pread(self._fd, min(_CHUNK_BYTES, size - read), read)
            block, begin = rest + chunk, 0
            while begin < len(block):
                end = block.find(b"\n", begin, begin + MAX_RECORD_BYTES + 1) + 1
                if not end and chunk and len(block) - begin <= MAX_RECORD_BYTES:
                    break
                end = end or min(len(block), begin + MAX_RECORD_BYTES)
                yield at, block[begin:end]
                at, begin = at + end - begin, end
            rest = block[begin:]
            if not chunk:
                break

    def _parse(self, offset: int, line: bytes) -> Entry | None:
        tail = _TAIL.search(line, max(0, len(line) - 256))
        if tail is None or tail[1].decode() != self.name:
            return None
        if not hmac.compare_digest(tail[6], _mac(self._key, self._origin, line[:-_MAC_BYTES])):
            return None
        try:
            event = _encoded_again(line[: tail.start()] + b"}")
        except Malformed:
            return None
        return Entry(
            int(tail[2]), event.event_id, int(tail[3]), tail[4].decode(), tail[5] == b"true", offset, len(line)
        )


def _open(ops: FileOps, path: Path, flags: int) -> int:
    with NO_FORK:
        return ops.open(path, flags, PRIVATE_MODE)


def _is_named(fd: int, path: Path) -> bool:
    try:
        there = path.lstat()
    except FileNotFoundError:
        return False
    return os.path.samestat(there, os.fstat(fd))


def _event_of(line: bytes) -> bytes:
    """The event's own bytes of a record; of anything else the line itself."""
    tail = _TAIL.search(line, max(0, len(line) - 256))
    return line if tail is None else line[: tail.start()] + b"}"


def _encoded_again(body: bytes) -> EncodedEvent:
    try:
        event = encode_event(decode_event(body))
    except (InvalidEvent, msgspec.MsgspecError) as exc:
        raise Malformed("A record holds no event.") from exc
    if event.body != body:
        raise Malformed("A record holds an event in another form.")
    return event


def _mac(key: bytes, origin: str, line: bytes) -> bytes:
    digest = hmac.digest(key, _DOMAIN + origin.encode() + b"\0" + line, "sha256")
    return base64.urlsafe_b64encode(digest)[:43]
