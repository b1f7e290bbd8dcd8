"""The unseal key: its public half (`unseal.pub`) lets writers seal, its private half (`unseal.key`) opens.

Both are one line of text in the keys folder; `unseal.key` may be kept elsewhere, and should be. Source: docs/format.md,
"The vault".
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Self

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from klingai_audit.durable import OPS, PRIVATE_MODE, FileOps, is_private, read_optional
from klingai_audit.errors import LogNotFound, Malformed, StorageError, UnsafePermissions, UsageError

__all__ = [
    "PRIVATE_FILE",
    "PUBLIC_FILE",
    "UnsealKey",
    "UnsealPublic",
    "create_unseal_keys",
    "read_unseal_key",
    "read_unseal_public",
]

PUBLIC_FILE: Final = "unseal.pub"
"""Name of the public half in the keys folder."""

PRIVATE_FILE: Final = "unseal.key"
"""Name of the private half, unless it is kept elsewhere."""

_PUBLIC_PREFIX: Final = "klingai-audit-unseal-public:"
_PRIVATE_PREFIX: Final = "klingai-audit-unseal-private:"
_ID_DOMAIN: Final = b"klingai-audit/unseal-key/v1\0"
_KEY_BYTES: Final = 32
_ID_BYTES: Final = 8
_MAX_FILE: Final = 4096
_MAKE: Final = "Run: klingai-audit keys unseal-init"


@dataclass(frozen=True, slots=True)
class UnsealPublic:
    """The public half: 32 bytes of an X25519 key."""

    raw: bytes

    @property
    def id(self) -> bytes:
        """The 8 bytes by which a sealed file names the key that opens it."""
        return hashlib.sha256(_ID_DOMAIN + self.raw).digest()[:_ID_BYTES]

    def format(self) -> str:
        """Return the line of `unseal.pub`, without LF."""
        return _PUBLIC_PREFIX + _encoded(self.raw)


@dataclass(frozen=True, slots=True)
class UnsealKey:
    """The private half: 32 bytes of an X25519 key, never shown."""

    raw: bytes = field(repr=False)

    @classmethod
    def generate(cls) -> Self:
        """Return a new key."""
        return cls(X25519PrivateKey.generate().private_bytes_raw())

    @property
    def public(self) -> UnsealPublic:
        """The public half."""
        return UnsealPublic(X25519PrivateKey.from_private_bytes(self.raw).public_key().public_bytes_raw())

    def format(self) -> str:
        """Return the line of `unseal.key`, without LF: it is the secret."""
        return _PRIVATE_PREFIX + _encoded(self.raw)


def create_unseal_keys(folder: Path, private: Path | None = None, ops: FileOps = OPS) -> UnsealPublic:
    """Make `unseal.key` (mode 0600) and `unseal.pub` in a keys folder; durable on return.

    `private` is another file for the private half. What a cut-off run began is completed: a private half that is there
    is taken. Raises: UsageError if the folder has an unseal key, StorageError; UnsafePermissions, Malformed for what is
    there.
    """
    if (folder / PUBLIC_FILE).exists():
        raise UsageError(
            f"{folder} has an unseal key already.",
            do="To begin with another, move unseal.pub and unseal.key away first; they still open the old files.",
        )
    private = private or folder / PRIVATE_FILE
    try:
        if private.exists():
            key = read_unseal_key(private)
        else:
            key = UnsealKey.generate()
            ops.replace(private, f"{key.format()}\n".encode(), mode=PRIVATE_MODE)
        ops.replace(folder / PUBLIC_FILE, f"{key.public.format()}\n".encode())
    except OSError as exc:
        raise StorageError(f"The unseal key cannot be written to {exc.filename or folder}: {exc.strerror}.") from exc
    return key.public


def read_unseal_public(folder: Path) -> UnsealPublic:
    """Read `unseal.pub` of a keys folder. Raises: LogNotFound, Malformed, StorageError."""
    return UnsealPublic(_read(folder / PUBLIC_FILE, _PUBLIC_PREFIX, _MAKE))


def read_unseal_key(path: Path) -> UnsealKey:
    """Read the private half from a file that only its owner and group can read.

    Raises: LogNotFound, UnsafePermissions, Malformed, StorageError.
    """
    raw = _read(path, _PRIVATE_PREFIX, "Name the file that holds it: --unseal-key FILE")
    if not is_private(path):
        raise UnsafePermissions(f"The private file {path} is open to others.", do=f"Run: chmod 600 {path}")
    return UnsealKey(raw)


def _read(path: Path, prefix: str, do: str) -> bytes:
    try:
        data = read_optional(path, limit=_MAX_FILE)
    except OSError as exc:
        raise StorageError(f"{path} cannot be read: {exc.strerror}.", do=do) from exc
    if data is None:
        raise LogNotFound(f"There is no key at {path}.", do=do)
    text = data.decode("ascii", "replace")
    try:
        raw = base64.b64decode(text.removesuffix("\n").removeprefix(prefix) + "=", b"-_", validate=True)
    except (binascii.Error, ValueError):
        raw = b""
    if len(raw) != _KEY_BYTES or text != f"{prefix}{_encoded(raw)}\n":
        raise Malformed(f"{path} is not a line of {prefix.removesuffix(':')}.", do=do)
    return raw


def _encoded(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw)[:43].decode("ascii")
