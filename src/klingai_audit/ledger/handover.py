"""The handover note: the outgoing epoch key names its successor (docs/format.md, "Epochs")."""

from __future__ import annotations

import base64
from typing import Final

from klingai_audit.ledger.keys import EpochKeys
from klingai_audit.tlog.note import SignerKey, sign_note

__all__ = ["HANDOVER_HEADER", "handover_note", "handover_text"]

HANDOVER_HEADER: Final = "klingai-audit/handover/v1"


def handover_text(origin: str, epoch: int, size: int, root: bytes, vkey: str) -> str:
    """Return the note's text: header, origin, the new epoch's number, size, root, the new epoch's vkey; one a line.

    `size` (decimal) and `root` (base64) are those of the tree before the entry that carries the note.
    """
    encoded = base64.b64encode(root).decode()
    return f"{HANDOVER_HEADER}\n{origin}\n{epoch}\n{size}\n{encoded}\n{vkey}\n"


def handover_note(outgoing: SignerKey, origin: str, size: int, root: bytes, successor: EpochKeys) -> str:
    """Return the signed note as text, for the metadata of `signing_key_rotated`."""
    text = handover_text(origin, successor.epoch, size, root, successor.signer.verifier.format())
    return sign_note(text, outgoing).decode()
