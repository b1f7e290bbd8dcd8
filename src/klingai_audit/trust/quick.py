"""Where a quick verification begins: after the entries that this verifier verified before.

Their stored hashes must still have the root that was verified; the entries themselves are not read again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from klingai_audit.errors import Malformed
from klingai_audit.ledger.line import seq_of
from klingai_audit.tlog.keys import VerifierKey
from klingai_audit.tlog.tile import HASH_BYTES, MAX_ENTRY_BYTES
from klingai_audit.trust.anchors import read_anchor, read_key
from klingai_audit.trust.chunk import Read
from klingai_audit.trust.epochs import Epochs
from klingai_audit.trust.forest import Forest
from klingai_audit.trust.place import DayFile
from klingai_audit.trust.remember import Memory

__all__ = ["Start", "find_start"]

_PIECE: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Start:
    """Entries `[0, size)` count as verified: their tree, the leaf hash of the last one, and where the next begins.

    `skipped` are the files wholly before; the next one is read from byte `offset` on, where line `line` begins.
    """

    size: int
    leaf: bytes
    forest: Forest
    memory: Memory
    skipped: tuple[DayFile, ...]
    offset: int
    line: int

    def epochs(self, origin: str) -> Epochs:
        """Return the chain of epochs as it was verified."""
        epochs = Epochs(origin, read_key(self.memory.epoch_keys[0]))
        epochs.keys += [read_key(vkey) for vkey in self.memory.epoch_keys[1:]]
        epochs.ends += self.memory.epoch_ends
        return epochs


def find_start(
    memory: Memory, trusted: VerifierKey | None, files: Sequence[DayFile], reader: Callable[[str], Read]
) -> Start | None:
    """Return where to begin, or None if the log no longer begins with what is remembered. Raises: OSError."""
    if trusted is None or memory.log_key != trusted.format() or len(memory.epoch_keys) != len(memory.epoch_ends) + 1:
        return None
    anchor, _ = read_anchor("the remembered checkpoint", memory.checkpoint.encode(), trusted, None, memory.size)
    if anchor is None:
        return None

    def read(level: int, begin: int, end: int) -> bytes:
        return reader(f"tree/{level}")(begin * HASH_BYTES, end * HASH_BYTES)

    try:
        forest = Forest.resume(anchor.size, read, lambda begin, end: read(0, begin, end))
        if forest.root(anchor.size) != anchor.root:
            return None
    except Malformed:
        return None
    leaf = read(0, anchor.size - 1, anchor.size)
    return _place(anchor.size, leaf, forest, memory, files)


def _place(size: int, leaf: bytes, forest: Forest, memory: Memory, files: Sequence[DayFile]) -> Start | None:
    """Find the byte at which entry `size` begins, by counting lines in the one file that holds entry `size - 1`."""
    for number in range(len(files) - 1, -1, -1):
        file = files[number]
        head = file.read(0, MAX_ENTRY_BYTES + 1)
        first = seq_of(head[: max(0, head.find(b"\n"))])
        if first is None:
            return None
        if first < size:
            offset = _offset_of_line(file, size - first)
            if offset is None:
                return None
            return Start(size, leaf, forest, memory, tuple(files[:number]), offset, size - first + 1)
    return None


def _offset_of_line(file: DayFile, lines: int) -> int | None:
    """Return the byte after `lines` lines, None if there are fewer."""
    for begin in range(0, file.length, _PIECE):
        piece = file.read(begin, min(begin + _PIECE, file.length))
        count = piece.count(b"\n")
        if count < lines:
            lines -= count
            continue
        at = -1
        for _ in range(lines):
            at = piece.find(b"\n", at + 1)
        return begin + at + 1
    return None
