"""The spec sheet's tree as a log: entry i is the 8-byte big-endian integer i, at any size, with its known roots."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

from klingai_audit.durable import FileOps
from klingai_audit.ledger.reader import LogReader
from klingai_audit.tlog.merkle import leaf_hash, root_at
from klingai_audit.tlog.note import SignerKey, sign_note
from klingai_audit.tlog.strict import format_base64
from klingai_audit.tlog.tile import node_reader

KNOWN = json.loads((Path(__file__).parent.parent / "vectors" / "tlog" / "known" / "integers.json").read_text())
"""Roots by size and digests of files, computed by other people's programs."""

ROOTS = {
    0: hashlib.sha256(b"").hexdigest(),
    1: hashlib.sha256(bytes(9)).hexdigest(),  # 0x00, the mark of a leaf, and the integer 0
    **{int(size): root for size, root in KNOWN["roots"].items()},
}
SIZES = (0, 1, 255, 256, 257, 65_535, 65_536, 65_537, 70_000)
SIGNER = SignerKey.generate("integers.example")


class Hasty(FileOps):
    """What a test writes need not outlive the machine."""

    def sync(self, fd: int) -> None:
        pass


class Integers:
    """A store of the sheet's tree. Only what a reader asks for."""

    url = "integers"

    def __init__(self, size: int) -> None:
        self.size = size
        self._levels = [b"".join(leaf_hash(i.to_bytes(8, "big")) for i in range(size))]
        while len(self._levels[-1]) >= 8192:
            below = self._levels[-1]
            self._levels.append(b"".join(fold(below[at : at + 8192]) for at in range(0, len(below) - 8191, 8192)))

    def read_checkpoint(self) -> bytes:
        root = root_at(self.size, node_reader(self.read_hashes))
        assert root.hex() == ROOTS.get(self.size, root.hex())
        return sign_note(f"integers.example\n{self.size}\n{format_base64(root)}\n", SIGNER)

    def read_entries(self, begin: int, end: int | None = None) -> Iterator[bytes]:
        return (self.line(i) for i in range(begin, min(self.size, self.size if end is None else end)))

    def line(self, index: int) -> bytes:
        """Return what stands in the place of an entry; tests let it be something else."""
        return index.to_bytes(8, "big")

    def read_hashes(self, level: int, begin: int, end: int) -> bytes:
        return self._levels[level][begin * 32 : end * 32] if level < len(self._levels) else b""


def fold(hashes: bytes) -> bytes:
    while len(hashes) > 32:
        hashes = b"".join(hashlib.sha256(b"\x01" + hashes[at : at + 64]).digest() for at in range(0, len(hashes), 64))
    return hashes


def integers(size: int) -> LogReader:
    return LogReader(Integers(size))  # type: ignore[arg-type]
