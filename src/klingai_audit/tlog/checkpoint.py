"""Signed checkpoints: the way in for a log's head from outside. Source: C2SP tlog-checkpoint."""

from __future__ import annotations

from collections.abc import Sequence

from klingai_audit.errors import InvalidSignature
from klingai_audit.tlog.checkpoint_text import Checkpoint, parse_checkpoint
from klingai_audit.tlog.keys import ED25519, VerifierKey
from klingai_audit.tlog.note import Note, open_note

__all__ = ["Checkpoint", "open_checkpoint", "parse_checkpoint"]


def open_checkpoint(
    data: bytes, origin: str, keys: Sequence[VerifierKey]
) -> tuple[Checkpoint, Note, tuple[VerifierKey, ...]]:
    """Parse and verify the signed checkpoint of `origin`; return it, its note and the keys that signed it.

    `keys` may hold log and cosigner keys. At least one signature must be the log's own, not only a cosigner's: of
    type 0x01, or under the name `origin`. Callers that demand certain lines check the returned keys and note.
    Raises: Malformed; InvalidSignature, also for a checkpoint of another origin; UsageError as `open_note`.
    """
    note, verified = open_note(data, keys)
    checkpoint = parse_checkpoint(note.text)
    if checkpoint.origin != origin:
        raise InvalidSignature("The checkpoint is of another origin than the one expected.")
    if not any(key.algorithm == ED25519 or key.name == origin for key in verified):
        raise InvalidSignature("The checkpoint carries no signature by the log itself, only cosignatures.")
    return checkpoint, note, verified
