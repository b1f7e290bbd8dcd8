"""The verifier's own memory for `--quick`: the last checkpoint that it verified from the first entry on.

It is no evidence for anyone else, and lies in the state folder or a temporary one, never in the log.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import msgspec

from klingai_audit.durable import OPS, PRIVATE_MODE, FileOps, read_optional
from klingai_audit.trust.stamps import Stamp

__all__ = ["Memory", "recall", "remember"]

_NAME: Final = "verified.json"


class Memory(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What was verified up to the size of `checkpoint` (the note as text).

    `log_key` is the vkey that was trusted. `epoch_keys` are the vkeys of epochs 0, 1, …, `epoch_ends` the sizes
    of the handovers among them. `named` are the kept sizes that entries ask for,
    `stamps` what entries say of time stamps. `size` repeats the checkpoint's. `mldsa_key` is the vkey that entry 0
    names, empty if none.
    """

    log_key: str
    checkpoint: str
    size: int
    epoch_keys: tuple[str, ...]
    epoch_ends: tuple[int, ...]
    named: tuple[int, ...]
    stamps: tuple[Stamp, ...] = ()
    mldsa_key: str = ""


def recall(folder: Path) -> Memory | None:
    """Return what is remembered in `folder`, None if nothing or nothing readable is."""
    try:
        data = read_optional(folder / _NAME)
        return None if data is None else msgspec.json.decode(data, type=Memory)
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError):
        return None


def remember(folder: Path, memory: Memory | None, ops: FileOps = OPS) -> bool:
    """Remember `memory` (`Verdict.memory`) in `folder`; False if there is nothing to remember or no place for it."""
    if memory is None:
        return False
    try:
        ops.make_folder(folder, 0o700)
        ops.replace(folder / _NAME, msgspec.json.encode(memory), mode=PRIVATE_MODE)
    except OSError:
        return False
    return True
