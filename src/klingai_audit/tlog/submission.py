"""What a log sends to a witness: the size it believes the witness holds, a consistency proof, the checkpoint.

Source: C2SP tlog-witness, `add-checkpoint`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from klingai_audit.errors import Malformed
from klingai_audit.tlog.checkpoint import Checkpoint, parse_checkpoint
from klingai_audit.tlog.note import MAX_NOTE_BYTES, Note, parse_note
from klingai_audit.tlog.strict import format_base64, parse_decimal, parse_hash

__all__ = ["MAX_REQUEST_BYTES", "SIZE_TYPE", "AddCheckpoint"]

SIZE_TYPE: Final = "text/x.tlog.size"
"""Content type of the body of a 409 answer: a decimal size and LF."""

MAX_REQUEST_BYTES: Final = MAX_NOTE_BYTES + 4096
_MAX_HASHES: Final = 63
_OLD: Final = "old "


@dataclass(frozen=True, slots=True)
class AddCheckpoint:
    """One request; nothing of it verified. `data` is the signed note's bytes, `note` and `checkpoint` what it says."""

    old: int
    proof: tuple[bytes, ...]
    data: bytes
    note: Note
    checkpoint: Checkpoint

    @classmethod
    def of(cls, old: int, proof: tuple[bytes, ...], data: bytes) -> AddCheckpoint:
        """Make a request of a signed checkpoint. Raises: Malformed."""
        note = parse_note(data)
        return cls(old, proof, data, note, parse_checkpoint(note.text))

    @classmethod
    def parse(cls, body: bytes) -> AddCheckpoint:
        """Read a request's body. Raises: Malformed."""
        head, separator, data = body.partition(b"\n\n")
        if not separator or not head.isascii():
            raise Malformed("A request is ASCII lines, an empty line and a checkpoint; this is not.")
        first, *lines = head.decode("ascii").split("\n")
        if not first.startswith(_OLD):
            raise Malformed("A request begins with `old` and a size; this does not.")
        if len(lines) > _MAX_HASHES:
            raise Malformed(f"A request has at most {_MAX_HASHES} hashes, not {len(lines)}.")
        old = parse_decimal(first.removeprefix(_OLD), "The old size")
        return cls.of(old, tuple(parse_hash(line, "A hash of the proof") for line in lines), data)

    def format(self) -> bytes:
        """Return the request's body."""
        return "\n".join((f"{_OLD}{self.old}", *map(format_base64, self.proof), "", "")).encode() + self.data
