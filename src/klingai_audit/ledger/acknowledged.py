"""How far entries were acknowledged, signed or not: a small record in the state folder, rewritten with every batch.

Between acknowledgement and signature (some 10 ms, or until the next open after a crash) nothing else outside the log
tells that its last entries were there. The record is not synced: after a power loss it may be older, never ahead.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
from pathlib import Path
from typing import Final, NamedTuple

from klingai_audit.durable import OPS, PRIVATE_MODE, FileOps, read_optional
from klingai_audit.errors import LogDamaged

__all__ = ["Acknowledged", "AcknowledgedRecord"]

_RECORD: Final = re.compile(rb"([0-9]{20}) ([0-9a-f]{64}) ([0-9a-f]{16})\n")


class AcknowledgedRecord(NamedTuple):
    """`size` entries were acknowledged; `leaf` is the 32-byte hash of the last of them."""

    size: int
    leaf: bytes


class Acknowledged:
    """The record of one log. Written under the writer lock only."""

    def __init__(self, path: Path, ops: FileOps = OPS) -> None:
        self._path = path
        self._ops = ops

    def note(self, size: int, leaf: bytes) -> None:
        """Replace the record; `leaf` is the hash of the last of `size` entries.

        A folder that cannot be written is not told: the entries are durable, the record only guards their end.
        """
        body = b"%020d %b" % (size, leaf.hex().encode())
        with contextlib.suppress(OSError):
            fd = self._ops.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW, PRIVATE_MODE)
            try:
                self._ops.write_at(fd, b"%b %b\n" % (body, _check(body)), 0)
            finally:
                self._ops.close(fd)

    def read(self) -> AcknowledgedRecord | None:
        """Return the record; None if there is none, it was torn, or it cannot be read."""
        try:
            data = read_optional(self._path, limit=1 << 12)
        except OSError:
            return None
        match = None if data is None else _RECORD.fullmatch(data)
        if match is None or _check(match[1] + b" " + match[2]) != match[3]:
            return None
        return AcknowledgedRecord(int(match[1]), bytes.fromhex(match[2].decode()))

    def check(self, size: int, leaf: bytes, where: str) -> None:
        """Compare with the `size` entries taken up by a writer, the last with hash `leaf`. Raises: LogDamaged."""
        self.compare(self.read(), size, leaf, where)

    @staticmethod
    def compare(record: AcknowledgedRecord | None, size: int, leaf: bytes, where: str) -> None:
        """Compare a record that was read before the log was, where others may write meanwhile. Raises: LogDamaged."""
        if record is not None and record.size > size:
            raise LogDamaged(
                f"{record.size} entries of {where} were acknowledged, of which {size} are there.",
                kind_of_damage="tail_cut",
            )
        if record is not None and record.size == size and record.leaf != leaf:
            raise LogDamaged(
                f"Entry {size - 1} of {where} is not the one that was acknowledged.", kind_of_damage="entry_changed"
            )


def _check(body: bytes) -> bytes:
    return hashlib.sha256(body).hexdigest()[:16].encode()
