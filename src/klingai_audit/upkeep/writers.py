"""What a further host needs to write to a log on a server: its keys, in one file under a passphrase.

The file: a line `klingai-audit/writer/v1`, a line `scrypt <log2 of N> <r> <p> <salt>`, then base64 of a 12-byte nonce
and the sealed content. The content, one JSON object, is sealed by AES-256-GCM under the key that scrypt (RFC 7914)
makes of the passphrase; both lines are the additional data. Whoever has file and passphrase can sign in the log's name
from this epoch on, so the file is to be destroyed once it was taken over.
"""

from __future__ import annotations

import base64
import binascii
import os
import re
import secrets
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from klingai_audit.config import Places, open_reader
from klingai_audit.durable import OPS, PRIVATE_MODE, FileOps
from klingai_audit.errors import AuditUnavailable, Malformed, StorageError, UsageError, VerificationError
from klingai_audit.ledger.batches import takes_batches
from klingai_audit.ledger.external import SIGNER_FILE
from klingai_audit.ledger.keys import KeyFolder, read_public_key
from klingai_audit.ledger.state import OriginMemory, StateFolder
from klingai_audit.log import AuditLog
from klingai_audit.privacy.unseal_key import PRIVATE_FILE
from klingai_audit.tlog.checkpoint import open_checkpoint
from klingai_audit.tlog.keys import VerifierKey
from klingai_audit.upkeep.approvals import require_approval

__all__ = ["COST", "MAX_FILE_BYTES", "MIN_PASSPHRASE", "Handed", "export_writer", "import_writer"]

MIN_PASSPHRASE: Final = 12
"""Characters that a passphrase has at least."""

COST: Final = 17
"""Logarithm of scrypt's N for new files: 128 MiB and about half a second for each guess."""

MAX_FILE_BYTES: Final = 8 << 20
"""No file of a writer is longer."""

_HEAD: Final = "klingai-audit/writer/v1"
_KDF: Final = re.compile(r"scrypt (1[0-9]|20) 8 1 ([A-Za-z0-9_-]{22})", re.ASCII).fullmatch
_R: Final = 8
_P: Final = 1
_SALT: Final = 16
_NONCE: Final = 12
_WIDTH: Final = 76
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}").fullmatch
_IDENTITY: Final = ("log.key", SIGNER_FILE)
_PUBLIC: Final = (".pub", ".policy", ".toml")
_LEFT_OUT: Final = re.compile(rf"subjects\.sqlite.*|{re.escape(PRIVATE_FILE)}|.*\.(?:tmp|part|pending)").fullmatch
"""Of a keys folder: people have a table that all hosts share, and what opens sealed content is no writer's."""


class _Content(msgspec.Struct, forbid_unknown_fields=True):
    """`files` are those of the keys folder by name, `head` is a signed checkpoint that the log must not fall behind."""

    origin: str
    epoch: int
    head: bytes
    files: dict[str, bytes]


@dataclass(frozen=True, slots=True)
class Handed:
    """What a writer's file is about: the log, the epoch it begins with, and 16 hex digits that name the file.

    `data` are the file's bytes where it was made; `joined` tells that keys were put in place where it was taken over.
    """

    origin: str
    epoch: int
    id: str
    data: bytes = field(default=b"", repr=False)
    joined: bool = False


def export_writer(audit: AuditLog, passphrase: str, *, approval: list[Path] | None = None, cost: int = COST) -> Handed:
    """Return the file by which a further host becomes a writer of this log; the act is an entry, published before.

    Raises: UsageError: the log lies in a folder, or the passphrase is short; AccessDenied; AuditUnavailable.
    """
    if not takes_batches(audit.reader.store):
        raise UsageError(
            "A log in a folder is written by the processes of one host, which share its keys folder.",
            do="For several hosts: klingai-audit migrate FROM postgresql://… (docs/how-to/ten-writers.md)",
        )
    if len(passphrase) < MIN_PASSPHRASE:
        raise UsageError(f"The passphrase has fewer than {MIN_PASSPHRASE} characters.", do="Take a longer one.")
    salt = secrets.token_bytes(_SALT)
    name = salt[:8].hex()
    told = require_approval(audit, "govern", "export writer keys", approval)
    _record(audit, "export-writer", name, told)
    folder = KeyFolder(audit.places.keys)
    with folder.locked():
        epoch = folder.reload().epoch
        try:
            files = {path.name: path.read_bytes() for path in folder.path.iterdir() if _goes(path)}
        except OSError as exc:
            raise AuditUnavailable(f"The keys folder {folder.path} cannot be read: {exc.strerror}.") from exc
    content = _Content(audit.origin, epoch, audit.reader.checkpoint_note(), files)
    return Handed(audit.origin, epoch, name, _seal(msgspec.json.encode(content), passphrase, salt, cost))


def _goes(path: Path) -> bool:
    return path.is_file() and _NAME(path.name) is not None and _LEFT_OUT(path.name) is None


def _record(audit: AuditLog, action: str, name: str, more: dict[str, object] | None = None) -> None:
    audit.log(
        "settings_changed", resource_type="keys", action=action, metadata={"writer_file": name, **(more or {})}
    ).wait("published")


def import_writer(data: bytes, passphrase: str, places: Places, *, ops: FileOps = OPS) -> Handed:
    """Put the keys of a writer's file into the keys folder of `places`; durable on return. The caller records it.

    Nothing is changed where the same keys are already. Raises: UsageError (another passphrase, another log's keys or
    log are there), Malformed (it is no such file), LogNotFound, StorageError, VerificationError (the log is not the
    one that the file is of, or was set back since).
    """
    content, name = _open(data, passphrase)
    verifier = VerifierKey.parse(content.files["log.pub"].decode().removesuffix("\n"))
    handed = Handed(content.origin, content.epoch, name)
    folder = KeyFolder(places.keys, ops)
    if folder.exists():
        if folder.pending or read_public_key(places.keys / "log.pub") != verifier:
            raise UsageError(
                f"The keys folder {places.keys} holds another log's keys.", do="Name another one with --keys."
            )
        return handed
    _check_log(places, verifier, content.head)
    with folder.locked():
        try:
            for file in sorted(content.files, key=lambda file: (file in _IDENTITY, file)):
                mode = 0o644 if file.endswith(_PUBLIC) else PRIVATE_MODE
                ops.replace(places.keys / file, content.files[file], mode=mode)
        except OSError as exc:
            raise StorageError(f"Keys cannot be written to {places.keys}: {exc.strerror}.") from exc
    state = StateFolder(places.state, ops)
    state.create()
    if not state.remembers:
        state.write_head(content.head)
    OriginMemory(ops=ops).remember(content.origin, verifier.format())
    return Handed(content.origin, content.epoch, name, joined=True)


def _check_log(places: Places, verifier: VerifierKey, head: bytes) -> None:
    """See that the log at `places` is the one that the keys are of. Raises: UsageError, LogNotFound, Malformed."""
    reader = open_reader(places)
    try:
        if not takes_batches(reader.store):
            raise UsageError("The log lies in a folder: its host has the keys.", do="Name the URL with --log.")
        if reader.origin != verifier.name:
            raise UsageError(f"The log at {places.log} is another one than the file is of.", do="Name it with --log.")
        now, known = (open_checkpoint(note, verifier.name, [verifier])[0] for note in (reader.checkpoint_note(), head))
        if now.size < known.size:
            raise VerificationError(
                f"The log at {places.log} has {now.size} entries; it had {known.size} when the file was made.",
                do="It was set back. Preserve it as it is and run: klingai-audit verify",
            )
    finally:
        reader.store.close()


# --- the file ----------------------------------------------------------------------------------------------


def _seal(content: bytes, passphrase: str, salt: bytes, cost: int) -> bytes:
    head = f"{_HEAD}\nscrypt {cost} {_R} {_P} {base64.urlsafe_b64encode(salt).decode()[:22]}\n"
    nonce = os.urandom(_NONCE)
    sealed = nonce + AESGCM(_key(passphrase, salt, cost)).encrypt(nonce, content, head.encode())
    text = base64.b64encode(sealed).decode()
    return "".join([head, *(text[at : at + _WIDTH] + "\n" for at in range(0, len(text), _WIDTH))]).encode()


def _open(data: bytes, passphrase: str) -> tuple[_Content, str]:
    try:
        first, kdf, text = data.decode("ascii").split("\n", 2)
        match = _KDF(kdf) if first == _HEAD and len(data) <= MAX_FILE_BYTES else None
        if match is None:
            raise Malformed("It does not begin like one.")
        salt = base64.urlsafe_b64decode(match[2] + "==")
        sealed = base64.b64decode(text.replace("\n", ""), validate=True)
    except (ValueError, binascii.Error) as exc:
        raise Malformed("This is not a file that `keys export-writer` made.") from exc
    head = f"{first}\n{kdf}\n".encode()
    try:
        opened = AESGCM(_key(passphrase, salt, int(match[1]))).decrypt(sealed[:_NONCE], sealed[_NONCE:], head)
    except (InvalidTag, ValueError) as exc:
        raise UsageError("The passphrase is another one, or the file was changed.") from exc
    try:
        content = msgspec.json.decode(opened, type=_Content)
    except msgspec.MsgspecError as exc:
        raise Malformed("What is in the file is of another version.") from exc
    if not all(map(_NAME, content.files)) or "log.pub" not in content.files or any(map(_LEFT_OUT, content.files)):
        raise Malformed("The file holds what no writer's file does.")
    return content, salt[:8].hex()


def _key(passphrase: str, salt: bytes, cost: int) -> bytes:
    return Scrypt(salt=salt, length=32, n=1 << cost, r=_R, p=_P).derive(passphrase.encode("utf-8", "surrogateescape"))
