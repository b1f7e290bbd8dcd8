"""The bytes of an entry: how the ledger's members are spliced in and read back (docs/format.md).

An entry is the event's JSON object with the ledger's members appended, always last and in this order:
`seq`, `logged_at`, `prev_hash` and, on the last entry of a batch, `seal`. Nothing here parses JSON.
In the place of a purged entry stands a line with its leaf hash and the `seq` of the entry that authorised it.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
from dataclasses import dataclass
from typing import Final

__all__ = [
    "KEPT_INTERVAL",
    "MIGRATED",
    "PURGED_PREFIX",
    "ROTATED",
    "SEAL_BYTES",
    "LedgerMembers",
    "compute_seal",
    "event_type_of",
    "has_valid_seal",
    "is_migration",
    "is_rotation",
    "names_checkpoint",
    "parse_members",
    "seq_of",
    "splice",
]

KEPT_INTERVAL: Final = 4096
"""A checkpoint is kept at every exact multiple of this many entries (docs/format.md)."""

SEAL_BYTES: Final = 54
"""Length of `,"seal":"<43 base64url>"}`, the end of a sealed entry."""

ROTATED: Final = "signing_key_rotated"
"""The type of the entry that ends an epoch."""

MIGRATED: Final = "log_migrated"
"""The type of the entries that end a log in one store and take it up in another."""

PURGED_PREFIX: Final = b'{"purged":"'
"""How the line in the place of a purged entry begins; no entry begins so."""

_SEAL_CONTEXT: Final = b"klingai-audit/seal/v1\0"
_EVENT_TYPE_AT: Final = 118
_TAIL: Final = re.compile(
    rb',"seq":(0|[1-9][0-9]{0,15}),"logged_at":"([0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9:]{8}\.[0-9]{6}Z)"'
    rb',"prev_hash":"([0-9a-f]{64})"(?:,"seal":"([A-Za-z0-9_-]{43})")?\}\Z'
)
_TAIL_MAX: Final = 197 + 12
_ROTATION: Final = ROTATED.encode() + b'"'
_MIGRATION: Final = MIGRATED.encode() + b'"'
_NAMED: Final = (_ROTATION, b'log_closed"', _MIGRATION)


@dataclass(frozen=True, slots=True)
class LedgerMembers:
    """The ledger's members of one entry.

    `logged_at` is the 27-character text, `prev_hash` 32 bytes, `seal` 43 base64url characters or None.
    """

    seq: int
    logged_at: str
    prev_hash: bytes
    seal: bytes | None


def splice(body: bytes, seq: int, logged_at: bytes, prev_hash: bytes) -> bytes:
    """Return the unsealed entry for event bytes `body`; `logged_at` is 27 bytes, `prev_hash` 32."""
    return b'%b,"seq":%d,"logged_at":"%b","prev_hash":"%b"}' % (body[:-1], seq, logged_at, prev_hash.hex().encode())


def compute_seal(tail_key: bytes, origin: str, unsealed: bytes) -> bytes:
    """Return the sealed entry for the unsealed one (which ends with `}`).

    The seal is HMAC-SHA-256 under the 32-byte tail key over `klingai-audit/seal/v1` ‖ 0 ‖ origin ‖ 0 ‖ the
    bytes before `,"seal"`.
    """
    covered = unsealed[:-1]
    return b'%b,"seal":"%b"}' % (covered, _mac(tail_key, origin, covered))


def has_valid_seal(tail_key: bytes, origin: str, entry: bytes) -> bool:
    """Tell whether the entry ends with a seal that the tail key made."""
    if entry[-SEAL_BYTES:-45] != b',"seal":"' or entry[-2:] != b'"}':
        return False
    return hmac.compare_digest(entry[-45:-2], _mac(tail_key, origin, entry[:-SEAL_BYTES]))


def parse_members(entry: bytes) -> LedgerMembers | None:
    """Read the ledger's members from the end of an entry; None if they are not there in their one form."""
    match = _TAIL.search(entry, max(0, len(entry) - _TAIL_MAX))
    if match is None:
        return None
    seq, logged_at, prev_hash, seal = match.groups()
    return LedgerMembers(int(seq), logged_at.decode(), bytes.fromhex(prev_hash.decode()), seal)


def seq_of(entry: bytes) -> int | None:
    """Return the entry's claimed index, or None."""
    members = parse_members(entry)
    return None if members is None else members.seq


def event_type_of(entry: bytes) -> str:
    """Return the event type, read at its fixed place (byte 118); empty if it is not there."""
    end = entry.find(b'"', _EVENT_TYPE_AT, _EVENT_TYPE_AT + 128)
    return entry[_EVENT_TYPE_AT:end].decode("utf-8", "replace") if end > 0 else ""


def names_checkpoint(entry: bytes) -> bool:
    """Tell whether the checkpoint that ends with this entry is kept: a handover, a closing or a migration."""
    return entry.startswith(_NAMED, _EVENT_TYPE_AT)


def is_rotation(entry: bytes) -> bool:
    """Tell whether this entry ends an epoch."""
    return entry.startswith(_ROTATION, _EVENT_TYPE_AT)


def is_migration(entry: bytes) -> bool:
    """Tell whether this entry says that the log goes on in another store, or that it came from one."""
    return entry.startswith(_MIGRATION, _EVENT_TYPE_AT)


def _mac(tail_key: bytes, origin: str, covered: bytes) -> bytes:
    digest = hmac.digest(tail_key, _SEAL_CONTEXT + origin.encode() + b"\0" + covered, hashlib.sha256)
    return base64.urlsafe_b64encode(digest)[:-1]
