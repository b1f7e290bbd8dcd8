"""The line in the place of a purged entry, and the leaf hash that any line stands for (docs/format.md, section 2.3)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from klingai_audit.ledger.line import PURGED_PREFIX
from klingai_audit.tlog.merkle import leaf_hash

__all__ = ["Purged", "line_hash", "parse_purged", "purged_line"]

_PURGED: Final = re.compile(rb'\{"purged":"([0-9a-f]{64})","by":(0|[1-9][0-9]{0,15})\}').fullmatch


@dataclass(frozen=True, slots=True)
class Purged:
    """What stands in the place of a purged entry: its 32-byte leaf hash, and the entry that authorised the purge."""

    leaf: bytes
    by: int


def purged_line(leaf: bytes, by: int) -> bytes:
    """Return the line that takes the place of an entry with this 32-byte leaf hash (docs/format.md, section 2.3)."""
    return b'{"purged":"%b","by":%d}' % (leaf.hex().encode(), by)


def parse_purged(line: bytes) -> Purged | None:
    """Read the line in the place of a purged entry; None for every other line."""
    match = _PURGED(line)
    return None if match is None else Purged(bytes.fromhex(match[1].decode()), int(match[2]))


def line_hash(line: bytes) -> bytes:
    """Return the 32-byte leaf hash that a line stands for: of the entry, or the one that a purged line states."""
    purged = parse_purged(line) if line.startswith(PURGED_PREFIX) else None
    return leaf_hash(line) if purged is None else purged.leaf
