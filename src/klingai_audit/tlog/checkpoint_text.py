"""The text of a checkpoint: origin, tree size, root hash, extension lines. Source: C2SP tlog-checkpoint.

Unsigned text proves nothing; `checkpoint.open_checkpoint` is the way in for bytes from outside.
"""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha256

from klingai_audit.errors import Malformed
from klingai_audit.tlog.strict import MAX_SIZE, check_hash, check_printable, format_base64, parse_decimal, parse_hash

__all__ = ["Checkpoint", "parse_checkpoint"]

_EMPTY_ROOT = sha256(b"").digest()


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A log's statement: `origin` holds `size` entries (below 2**63) under the 32-byte `root`.

    `extensions` are non-empty lines without LF. Raises on creation: Malformed, also for size 0 with a root other
    than the empty one.
    """

    origin: str
    size: int
    root: bytes
    extensions: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for line in (self.origin, *self.extensions):
            if not line:
                raise Malformed("A checkpoint has no empty line.")
            check_printable(line, "A line of the checkpoint")
        if not 0 <= self.size <= MAX_SIZE:
            raise Malformed("The tree size of the checkpoint is not in [0, 2**63).")
        check_hash(self.root, "The root hash of the checkpoint")
        if self.size == 0 and self.root != _EMPTY_ROOT:
            raise Malformed("The checkpoint is for 0 entries but its root is not that of the empty tree.")

    def text(self) -> str:
        """Return the note text, every line ended by LF: exactly what is signed."""
        return "\n".join((self.origin, str(self.size), format_base64(self.root), *self.extensions, ""))


def parse_checkpoint(text: str) -> Checkpoint:
    """Read a note text as a checkpoint; `parse_checkpoint(text).text() == text` for all that is accepted.

    Raises: Malformed.
    """
    lines = text.split("\n")
    if len(lines) < 4 or lines.pop():
        raise Malformed("A checkpoint has three or more lines, each ended by a line feed; this has not.")
    origin, size, root, *extensions = lines
    return Checkpoint(
        origin,
        parse_decimal(size, "The tree size of the checkpoint"),
        parse_hash(root, "The root hash of the checkpoint"),
        tuple(extensions),
    )
