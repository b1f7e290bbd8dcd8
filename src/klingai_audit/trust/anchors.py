"""Signed checkpoints as evidence: their form, their first signature, and later their root and epoch line.

Format: docs/format.md, sections 6 to 8.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from klingai_audit.errors import InvalidSignature, Malformed
from klingai_audit.ledger.countersign import is_countersignature
from klingai_audit.tlog.checkpoint_text import Checkpoint, parse_checkpoint
from klingai_audit.tlog.keys import ED25519, ML_DSA_44, VerifierKey
from klingai_audit.tlog.note import Note, SignatureLine, parse_note
from klingai_audit.trust.verdict import Finding

__all__ = [
    "KEPT_INTERVAL",
    "NOTE_LIMIT",
    "Anchor",
    "kept_size",
    "read_anchor",
    "read_key",
    "read_mldsa_key",
    "signed_by",
]

KEPT_INTERVAL: Final = 4096
"""A checkpoint is kept at every multiple of this many entries."""

NOTE_LIMIT: Final = 1_000_000
"""Bytes from which on nothing is a checkpoint, and no more is read of it."""

_KEPT_NAME: Final = re.compile(r"checkpoints/([0-9]{20})").fullmatch
_LOG_LINE: Final = 5


@dataclass(frozen=True, slots=True)
class Anchor:
    """A checkpoint of the right form whose first signature verified.

    `file` is where it was found. `trusted` tells whether that signature is by the key that the caller trusts, and
    not only by the one that the log itself names.
    """

    file: str
    data: bytes
    checkpoint: Checkpoint
    note: Note
    trusted: bool

    @property
    def size(self) -> int:
        """Tree size."""
        return self.checkpoint.size

    @property
    def root(self) -> bytes:
        """The signed root, 32 bytes."""
        return self.checkpoint.root

    @property
    def epoch_line(self) -> SignatureLine:
        """The second signature."""
        return self.note.signatures[1]

    @property
    def countersignature(self) -> SignatureLine | None:
        """The third line, of the form of one by ML-DSA-44; None if there is none."""
        return self.note.signatures[2] if len(self.note.signatures) > 2 else None


def kept_size(name: str) -> int | None:
    """Return the tree size that a kept checkpoint's file name states, or None for other names."""
    match = _KEPT_NAME(name)
    return None if match is None else int(match[1])


def signed_by(note: Note, line: SignatureLine, key: VerifierKey) -> bool:
    """Tell whether the line's signature is by `key`, whatever name and key id the line states."""
    try:
        key.verify(note.text.encode(), line.blob)
    except InvalidSignature:
        return False
    return True


def read_anchor(
    file: str, data: bytes, trusted: VerifierKey | None, claimed: VerifierKey | None, size: int | None = None
) -> tuple[Anchor | None, list[Finding]]:
    """Read a checkpoint file; `size` is what its name states.

    `trusted` is the log key that the caller trusts, `claimed` the one that the log names. Returns None with the
    findings if it is no evidence. The root and the epoch's line are not looked at.
    """
    key = trusted or claimed
    try:
        if len(data) > NOTE_LIMIT:
            raise Malformed(f"It has more than {NOTE_LIMIT} bytes.")
        note = parse_note(data)
        checkpoint = parse_checkpoint(note.text)
        _check_form(note, checkpoint, size)
    except Malformed as exc:
        return None, [Finding("checkpoint_malformed", f"{file} is not a checkpoint of this log: {exc}", file=file)]
    line = note.signatures[0]
    if key is None:
        message = f"{file} cannot be checked: no log key was given and the log's first entry names none."
        return None, [Finding("checkpoint_signature", message, file=file, line=_LOG_LINE)]
    if checkpoint.origin == key.name and signed_by(note, line, key):
        if line.key_id != key.key_id:
            message = f"The signature line of {file} states the key id {line.key_id.hex()}, not {key.key_id.hex()}."
            return None, [Finding("checkpoint_signature", message, file=file, line=_LOG_LINE)]
        return Anchor(file, data, checkpoint, note, trusted is not None), []
    if (checkpoint.origin, line.key_id) != (key.name, key.key_id):
        message = f"{file} is signed by {line.name}+{line.key_id.hex()}, not by {key.name}+{key.key_id.hex()}."
        found = [Finding("foreign_key", message, file=file, line=_LOG_LINE)]
        own = claimed is not None and claimed.key_id == line.key_id and signed_by(note, line, claimed)
        return (Anchor(file, data, checkpoint, note, trusted=False) if own else None), found
    message = f"The log key's signature on {file} does not verify: its text or signature was changed."
    return None, [Finding("checkpoint_signature", message, file=file, line=_LOG_LINE)]


def _check_form(note: Note, checkpoint: Checkpoint, size: int | None) -> None:
    """Raises: Malformed for anything but the six or seven lines of docs/format.md, section 7."""
    if checkpoint.extensions or len(note.signatures) not in (2, 3):
        raise Malformed("It has not exactly three lines of text and two or three signatures.")
    names = [line.name for line in note.signatures]
    head, slash, number = names[1].rpartition("/epoch-")
    if names[0] != checkpoint.origin or head != checkpoint.origin or not slash or str(_number(number)) != number:
        raise Malformed("Its signatures are not named after the origin and an epoch.")
    if any(len(line.blob) != 64 for line in note.signatures[:2]):
        raise Malformed("A signature has not 64 bytes.")
    if any(not is_countersignature(line, checkpoint.origin) for line in note.signatures[2:]):
        raise Malformed("Its third signature is not one by an ML-DSA-44 key of the log.")
    if checkpoint.size < 1 or (size is not None and checkpoint.size != size):
        raise Malformed(f"It states the size {checkpoint.size}.")


def _number(text: str) -> int:
    return int(text) if text.isascii() and text.isdigit() and len(text) < 16 else -1


def read_key(vkey: object) -> VerifierKey | None:
    """Return the Ed25519 key that a vkey states, or None if it states none."""
    return _read_key(vkey, ED25519)


def read_mldsa_key(vkey: object) -> VerifierKey | None:
    """Return the ML-DSA-44 key that a vkey states, or None if it states none."""
    return _read_key(vkey, ML_DSA_44)


def _read_key(vkey: object, algorithm: int) -> VerifierKey | None:
    if not isinstance(vkey, str):
        return None
    try:
        key = VerifierKey.parse(vkey)
    except Malformed:
        return None
    return key if key.algorithm == algorithm else None
