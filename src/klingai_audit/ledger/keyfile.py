"""A signing key alone in a file: of an approver, a witness, or a log whose key lies on another host."""

from __future__ import annotations

from pathlib import Path

from klingai_audit.durable import OPS, PRIVATE_MODE, is_private, read_optional
from klingai_audit.errors import StorageError, UnsafePermissions, UsageError
from klingai_audit.tlog.keys import ED25519, SignerKey

__all__ = ["make_key_file", "read_key_file", "read_private"]


def make_key_file(path: Path, name: str, *, taken: str, algorithm: int = ED25519) -> SignerKey:
    """Make a key of a type of C2SP signed-note in a new file that only its owner can read; durable on return.

    `taken` says what to do if the file is there. Raises: UsageError, StorageError, Malformed (no name of a signer).
    """
    try:
        if path.exists():
            raise UsageError(f"{path} is there already.", do=taken)
        signer = SignerKey.generate(name, algorithm)
        OPS.make_folder(path.parent, 0o700)
        OPS.replace(path, f"{signer.format()}\n".encode(), mode=PRIVATE_MODE)
    except OSError as exc:
        raise StorageError(f"{path} cannot be written: {exc.strerror}.") from exc
    return signer


def read_key_file(path: Path, *, make: str) -> SignerKey:
    """Read a key, whatever its type; `make` says how to come by one if there is none.

    Raises: UsageError (no such file), StorageError, UnsafePermissions, Malformed (it holds no key).
    """
    try:
        data = read_private(path)
    except OSError as exc:
        raise StorageError(f"{path} cannot be read: {exc.strerror}.") from exc
    if data is None:
        raise UsageError(f"There is no key at {path}.", do=make)
    return SignerKey.parse(data.decode("utf-8", "replace").strip())


def read_private(path: Path) -> bytes | None:
    """Return the bytes of a private file, None if there is none. Raises: OSError, UnsafePermissions."""
    data = read_optional(path)
    if data is not None and not is_private(path):
        raise UnsafePermissions(f"The private file {path} is open to others.", do=f"Run: chmod 600 {path}")
    return data
