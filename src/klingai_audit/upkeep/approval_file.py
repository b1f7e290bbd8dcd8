"""The file of an approval: what one person signs so that another one's act may happen. And the keys that sign it.

An approval is a C2SP signed note of two lines, a heading and one JSON object: act, what exactly it is done to, log, why
and when. It is made with nothing but the approver's key and what the log shows to a reader.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import re
import secrets
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Final

import msgspec

from klingai_audit.errors import Malformed, UsageError
from klingai_audit.event.clock import format_time, is_time
from klingai_audit.ledger.keyfile import make_key_file, read_key_file
from klingai_audit.ledger.reader import LogReader
from klingai_audit.privacy.access_policy import ACTS
from klingai_audit.tlog.keys import ED25519, SignerKey, VerifierKey
from klingai_audit.tlog.note import parse_note, sign_note
from klingai_audit.views.entry import EntryView

__all__ = [
    "MAX_BYTES",
    "MAX_REASON",
    "Approval",
    "current_epoch",
    "erase_target",
    "make_approver_key",
    "parse_approval",
    "purge_target",
    "purge_target_of",
    "rotate_target",
    "sign_approval",
    "unseal_target",
]

MAX_BYTES: Final = 16_384
"""Longest file of an approval, or of an approver's key, in bytes."""

MAX_REASON: Final = 1000
"""Longest reason of an approver, in characters."""

_HEAD: Final = "klingai-audit/approval/v1"
_ROTATED: Final = b'signing_key_rotated"'
_TYPE_AT: Final = 118
_DIGEST: Final = re.compile(r"[0-9a-f]{64}", re.ASCII)


class Approval(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What an approver signs: `act` on `target` in the log named `log`, why, and when (UTC); `nonce` is 32 hex digits.

    `target` is what `unseal_target`, `erase_target`, `purge_target` or `rotate_target` returns.
    """

    act: str
    target: str
    log: str
    reason: str
    made: str
    nonce: str

    @property
    def text(self) -> str:
        """The text of the note: what the signature covers."""
        return f"{_HEAD}\n{msgspec.json.encode(self).decode()}\n"

    @property
    def digest(self) -> str:
        """SHA-256 of `text` as 64 hex digits: the name by which entries call this approval."""
        return hashlib.sha256(self.text.encode()).hexdigest()


_DECODER: Final = msgspec.json.Decoder(Approval)


def unseal_target(seq: int, pointer: str) -> str:
    """Name one content of one entry, such as `entry 17 /metadata/prompt`."""
    return f"entry {seq} {pointer}"


def erase_target(pseudonym: str) -> str:
    """Name a person by pseudonym."""
    return f"person {pseudonym}"


def purge_target(due: Iterable[int]) -> str:
    """Name the entries that are due, by the SHA-256 over their ascending `seq`, each as decimal digits and LF."""
    digest = hashlib.sha256()
    for seq in due:
        digest.update(b"%d\n" % seq)
    return purge_target_of(digest.hexdigest())


def purge_target_of(digest: str) -> str:
    """Name the entries that are due by the digest that `retention plan` shows. Raises: UsageError."""
    if _DIGEST.fullmatch(digest) is None:
        raise UsageError("This is no digest of a plan.", do="Its 64 hex digits: klingai-audit retention plan")
    return f"entries {digest}"


def rotate_target(epoch: int) -> str:
    """Name the epoch that ends."""
    return f"epoch {epoch}"


def current_epoch(reader: LogReader) -> int:
    """Return the number of the epoch that began last, by the log's entries; needs no keys. Raises: StorageError."""
    begun = [line for line in reader.entries(0, reader.size) if line.startswith(_ROTATED, _TYPE_AT)]
    return int(EntryView(begun[-1]).metadata["epoch"]) if begun else 0


def make_approver_key(path: Path) -> VerifierKey:
    """Make an approver's key in a file that only its owner can read. Raises: UsageError, StorageError."""
    taken = "Name a new file, or go on with the key that is there."
    return make_key_file(path, f"approver-{secrets.token_hex(8)}", taken=taken).verifier


def sign_approval(
    key: Path, *, log: str, act: str, target: str, reason: str, now: dt.datetime | None = None
) -> tuple[Approval, bytes]:
    """Approve `act` on `target` in the log of origin `log`; return the approval and the bytes of its file.

    Raises: UsageError (no such act, no reason, no such key file), UnsafePermissions, Malformed, StorageError.
    """
    if act not in ACTS:
        raise UsageError(f"{act!r} is no act that needs an approval.", do=f"One of: {', '.join(ACTS)}.")
    why = reason.strip()
    if not why or len(why) > MAX_REASON or not why.isprintable():
        raise UsageError(f"A reason of 1 to {MAX_REASON:,} characters, in one line, is part of what is signed.")
    signer = _read_key(key)
    made = format_time(time.time_ns() if now is None else int(now.timestamp() * 1_000_000) * 1000)
    approval = Approval(act=act, target=target, log=log, reason=why, made=made, nonce=secrets.token_hex(16))
    return approval, sign_note(approval.text, signer)


def _read_key(path: Path) -> SignerKey:
    signer = read_key_file(path, make="Make it: klingai-audit users approver-keygen -o FILE")
    if signer.algorithm != ED25519 or not signer.name.startswith("approver-"):
        raise Malformed(f"{path} is no approver's key.", do="Make one: klingai-audit users approver-keygen -o FILE")
    return signer


def parse_approval(data: bytes) -> Approval:
    """Read an approval's content, nothing verified. Raises: Malformed."""
    text = parse_note(data).text
    head, _, line = text.partition("\n")
    try:
        approval = _DECODER.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError) as exc:
        raise Malformed("It is not the content of an approval.") from exc
    if head != _HEAD or approval.text != text or not is_time(approval.made):
        raise Malformed("It is not written as an approval is.")
    return approval
