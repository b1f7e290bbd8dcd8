"""Which lines that no checkpoint covers were acknowledged: those up to the last valid seal.

What follows is put aside. A valid seal behind a line that does not fit is damage: somebody changed what was
acknowledged. A copy of an earlier entry is no such line: it is a forgery like others. One exception: a page that
never reached the disk when power was lost reads as zero bytes, and the rest of that last batch, its seal included,
may stand behind it. Nobody was told of that batch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from klingai_audit.errors import LogDamaged
from klingai_audit.ledger.keys import KeyFolder
from klingai_audit.ledger.line import has_valid_seal, is_rotation, parse_members
from klingai_audit.tlog.merkle import leaf_hash

__all__ = ["aside", "count_acknowledged", "joined"]


def count_acknowledged(lines: Sequence[bytes], size: int, prev: bytes, keys: KeyFolder, where: str) -> int:
    """Return how many of these unsigned lines, the first of which should be entry `size`, were acknowledged.

    `prev` is the 32-byte leaf hash of the entry before. Raises: LogDamaged; what reading keys raises.
    """
    origin, tail = keys.origin, keys.current.tail
    seq, accepted = size, 0
    for index, line in enumerate(lines):
        members = parse_members(line)
        if members is None or members.seq != seq or members.prev_hash != prev:
            break
        if members.seal is not None and has_valid_seal(tail, origin, line):
            accepted = index + 1
            if accepted < len(lines) and is_rotation(line):
                keys.resume()
                tail = keys.current.tail
        seq, prev = seq + 1, leaf_hash(line)
    sealed = [
        index
        for index in range(accepted, len(lines))
        if has_valid_seal(tail, origin, lines[index]) and not _is_replay(lines[index], size + accepted)
    ]
    if sealed and not _lost_with_power(lines[accepted:], sealed[0] - accepted):
        raise LogDamaged(
            f"Acknowledged entries of {where} after the first {size + accepted} were changed.",
            kind_of_damage="entry_changed",
        )
    return accepted


def _is_replay(line: bytes, acknowledged: int) -> bool:
    """Tell whether a sealed line is a copy of one that stands before; anybody can append such a copy."""
    members = parse_members(line)
    return members is not None and members.seq < acknowledged


def _lost_with_power(lines: Sequence[bytes], first_sealed: int) -> bool:
    """Tell whether these lines are one batch with zero bytes in it, its sealed end intact."""
    return first_sealed == len(lines) - 1 and any(b"\0" in line for line in lines)


def aside(name: str, length: int) -> dict[str, Any]:
    """Return what `log_recovered` says of bytes put aside: their SHA-256 in hex and how many they are."""
    return {"set_aside": {"sha256": name, "bytes": length}}


def joined(found: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the metadata of as few `log_recovered` entries as what was found fits into."""
    entries: list[dict[str, Any]] = []
    for one in found:
        if entries and not entries[-1].keys() & one.keys():
            entries[-1] |= one
        else:
            entries.append(dict(one))
    return [{name: one[name] for name in ("entries", "set_aside", "state_missing") if name in one} for one in entries]
