"""The registry: which users, budgets and keys were declared last. A small file beside the keys.

`registry.json` holds people as pseudonyms and keys as fingerprints. It is what `users list` shows and what a
gateway will enforce; the log holds how it came about. Writers exclude each other by `registry.lock`.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import msgspec

from klingai_audit.durable import NO_FORK, OPS, PRIVATE_MODE, FileOps, is_private, read_optional
from klingai_audit.errors import StorageError, UnsafePermissions

__all__ = ["DeclaredBudget", "DeclaredKey", "DeclaredUser", "Registry", "RegistryFile"]

VERSION: Final = 1
"""Version of the file; another one is refused."""


class DeclaredUser(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Someone who was given access: in which role, in which team, since when (the entry's `timestamp`).

    `approver_key` is the vkey with which they approve what others do (docs/how-to/two-people.md).
    """

    role: str
    team: str | None = None
    approver_key: str | None = None
    since: str


class DeclaredBudget(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A budget: a decimal `amount` of `unit` for each `period`, since when (the entry's `timestamp`)."""

    amount: str
    unit: str
    period: str
    since: str


class DeclaredKey(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A credential by its fingerprint (16 hex digits), since when (the entry's `timestamp`)."""

    fingerprint: str
    since: str


class Registry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All declarations: users by pseudonym, budgets by scope, keys by name."""

    version: int = VERSION
    users: dict[str, DeclaredUser] = {}
    budgets: dict[str, DeclaredBudget] = {}
    api_keys: dict[str, DeclaredKey] = {}


_DECODER: Final = msgspec.json.Decoder(Registry)


class RegistryFile:
    """The registry of the log whose keys are in `keys`."""

    def __init__(self, keys: Path, ops: FileOps = OPS) -> None:
        self.path = keys / "registry.json"
        self._ops = ops

    def read(self) -> Registry:
        """Return what is declared; an empty registry if nothing ever was. Raises: StorageError, UnsafePermissions."""
        try:
            data = read_optional(self.path)
            private = data is None or is_private(self.path)
        except OSError as exc:
            raise StorageError(f"{self.path} cannot be read: {exc.strerror}.") from exc
        if data is None:
            return Registry()
        if not private:
            raise UnsafePermissions(
                f"The private file {self.path} is open to others.", do=f"Run: chmod 600 {self.path}"
            )
        try:
            registry = _DECODER.decode(data)
        except (msgspec.DecodeError, UnicodeDecodeError):
            registry = None
        if registry is None or registry.version != VERSION:
            raise StorageError(
                f"{self.path} is not a registry of version {VERSION}.",
                do="Restore it from your backup. The log still holds every declaration: klingai-audit query",
            )
        return registry

    def write(self, registry: Registry) -> None:
        """Replace the file; durable on return. Requires `locked()`. Raises: StorageError."""
        data = msgspec.json.format(msgspec.json.encode(registry), indent=2) + b"\n"
        try:
            self._ops.replace(self.path, data, mode=PRIVATE_MODE)
        except OSError as exc:
            raise StorageError(f"{self.path} cannot be written: {exc.strerror}.") from exc

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Exclude other processes and threads that declare something. Raises: StorageError."""
        path = self.path.with_name("registry.lock")
        try:
            with NO_FORK:
                fd = self._ops.open(path, os.O_RDWR | os.O_CREAT, PRIVATE_MODE)
        except OSError as exc:
            raise StorageError(
                f"{path} cannot be opened for writing: {exc.strerror}.",
                do="Declarations need the keys folder writable; nothing was recorded.",
            ) from exc
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            yield
        finally:
            self._ops.close(fd)
