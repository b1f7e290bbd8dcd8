"""The vault: content sealed beside the log, for those who hold the unseal key and the subject's key.

One file per content, `<2 hex>/<pseudonym>/<commitment>.sealed`: found from the entry, and all of a person's together.
A random key encrypts the content (AES-256-GCM); that key is sealed to the unseal key (HPKE), so that writers can seal
and cannot open; and the result is sealed once more under the subject's key, so that erasure kills it. Every layer is
bound to origin, event id, JSON pointer and commitment. Source of the bytes: docs/format.md, "The vault".
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import secrets
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from klingai_audit.durable import OPS, TEMPORARY_SUFFIX, FileOps, read_optional
from klingai_audit.errors import AuditUnavailable, LogNotFound, Malformed, StorageError, UsageError, VerificationError
from klingai_audit.privacy import hpke
from klingai_audit.privacy.commitment import Sealing, check_opening, is_commitment, opening
from klingai_audit.privacy.subjects import RESERVED, Subject, is_pseudonym
from klingai_audit.privacy.unseal_key import UnsealKey, UnsealPublic
from klingai_audit.privacy.vault_policy import MAX_SEALED_BYTES

__all__ = ["SEALED_SUFFIX", "Vault", "VaultUsage"]

SEALED_SUFFIX: Final = ".sealed"
"""End of the name of a file in the vault."""

_DOMAIN: Final = b"klingai-audit/vault/v1"
_MAGIC: Final = _DOMAIN + b"\n"
_KEY: Final = 32
_SALT: Final = 32
_TAG: Final = 16
_ID: Final = 8
_BOX: Final = _KEY + hpke.OVERHEAD + _TAG
_HEAD: Final = len(_MAGIC) + _ID + _SALT + _BOX
_MAX_FILE: Final = MAX_SEALED_BYTES + _HEAD + _TAG
# Each key encrypts one text only, so that the nonce may be the same for all.
_NONCE: Final = bytes(12)
_NEW_FILE: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL
_FILE_MODE: Final = 0o640
_FOLDER_MODE: Final = 0o750
_KNOWN_FOLDERS: Final = 4096
_COMMITMENT: Final = re.compile(r"[A-Za-z0-9_-]{43}").fullmatch
_CHANGED: Final = "Preserve the file as it is, and restore the vault from a backup."


class VaultUsage(NamedTuple):
    """What a vault holds: contents, their bytes on the disk, and subjects that have any."""

    contents: int
    bytes: int
    subjects: int


class Vault:
    """The vault at `path` of the log `origin`; may be shared by threads and processes. Nothing is created until sealed.

    `public` is the unseal key's public half; without it nothing can be sealed.
    """

    def __init__(self, path: Path, origin: str, public: UnsealPublic | None = None, *, ops: FileOps = OPS) -> None:
        self.path = Path(path)
        self._origin = origin
        self._public = public
        self._ops = ops
        self._made: set[Path] = set()

    def __repr__(self) -> str:
        return f"Vault({str(self.path)!r})"

    # --- sealing ----------------------------------------------------------------------------------

    def seal(self, subject: Subject, event_id: str, contents: Sequence[Sealing]) -> None:
        """Seal contents of one event; durable on return. A file that a crash leaves half-written has another name.

        Raises: AuditUnavailable: the vault cannot be written, so the act must not happen.
        """
        if self._public is None:
            raise AuditUnavailable("Nothing can be sealed: there is no unseal.pub.", do=_MAKE_KEY)
        folder = self._folder(subject.pseudonym)
        files = [
            (folder / _name(content.commitment), self._sealed(self._public, subject.key, event_id, content))
            for content in contents
        ]
        try:
            try:
                self._write(folder, files)
            except FileNotFoundError:  # another process erased what this subject had
                self._made.discard(folder)
                self._write(folder, files)
        except OSError as exc:
            raise AuditUnavailable(
                f"The vault at {self.path} cannot be written: {exc.strerror}.",
                do="Make it writable, or free space; content that policy wants sealed is not recorded without it.",
            ) from exc

    def _write(self, folder: Path, files: Sequence[tuple[Path, bytes]]) -> None:
        ops = self._ops
        if folder not in self._made:
            ops.make_folder(self.path, _FOLDER_MODE)
            ops.make_folder(folder.parent, _FOLDER_MODE)
            ops.make_folder(folder, _FOLDER_MODE)
            if len(self._made) >= _KNOWN_FOLDERS:
                self._made.clear()
            self._made.add(folder)
        written: list[tuple[Path, Path]] = []
        try:
            for path, data in files:
                temporary = path.with_name(f"{path.name}.{secrets.token_hex(8)}{TEMPORARY_SUFFIX}")
                fd = ops.open(temporary, _NEW_FILE, _FILE_MODE)
                written.append((temporary, path))
                try:
                    ops.write_all(fd, data)
                    ops.sync(fd)
                finally:
                    ops.close(fd)
            for temporary, path in written:
                ops.rename(temporary, path)
        except OSError:
            for temporary, _path in written:
                with contextlib.suppress(OSError):
                    ops.unlink(temporary)
            raise
        ops.sync_folder(folder)

    def _sealed(self, public: UnsealPublic, subject_key: bytes, event_id: str, content: Sealing) -> bytes:
        bound = self._bound(event_id, content.pointer, content.commitment)
        key, salt = secrets.token_bytes(_KEY), secrets.token_bytes(_SALT)
        box = hpke.seal_base(public.raw, bound, key)
        outer = AESGCM(_outer_key(subject_key, salt)).encrypt(_NONCE, box, bound)
        return b"".join((_MAGIC, public.id, salt, outer, AESGCM(key).encrypt(_NONCE, content.value, bound)))

    def _bound(self, event_id: str, pointer: str, commitment: str) -> bytes:
        """Return what every layer is bound to."""
        parts = (_DOMAIN, self._origin.encode(), event_id.encode(), pointer.encode(), commitment.encode())
        return b"\0".join(parts)

    # --- opening ----------------------------------------------------------------------------------

    def has(self, pseudonym: str, commitment: str) -> bool:
        """Tell whether something is sealed under this commitment. Raises: UsageError, StorageError."""
        try:
            return self.file(pseudonym, commitment).is_file()
        except OSError as exc:
            raise self._unreadable(exc) from exc

    def open(self, subject: Subject, event_id: str, pointer: str, stored: Mapping[str, Any], key: UnsealKey) -> bytes:
        """Return the content behind the commitment `stored` at `pointer` of event `event_id`.

        What is returned is what was committed to: the commitment is computed again. Raises: LogNotFound (nothing is
        sealed here), UsageError (sealed to another unseal key), VerificationError (changed, or swapped), Malformed,
        StorageError.
        """
        if not is_commitment(stored):
            raise UsageError(f"At {pointer} there is no commitment.")
        commitment = str(stored["commitment"])
        path = self.file(subject.pseudonym, commitment)
        try:
            data = read_optional(path, limit=_MAX_FILE, follow=False)
        except OSError as exc:
            raise self._unreadable(exc) from exc
        if data is None:
            raise LogNotFound(f"Nothing is sealed for {pointer} in the vault at {self.path}.")
        if not data.startswith(_MAGIC) or len(data) < _HEAD + _TAG:
            raise Malformed(f"{path} is no file of a vault.", do=_CHANGED)
        at = len(_MAGIC)
        named, salt, outer = data[at : at + _ID], data[at + _ID : at + _ID + _SALT], data[at + _ID + _SALT : _HEAD]
        bound = self._bound(event_id, pointer, commitment)
        box = _decrypt(_outer_key(subject.key, salt), outer, bound)
        if box is None:
            raise VerificationError(
                f"{path} does not open under its subject's key: it was changed, or belongs to another entry or person.",
                do=_CHANGED,
            )
        if named != key.public.id:
            raise UsageError(
                f"{path} is sealed to unseal key {named.hex()}, the one given is {key.public.id.hex()}.",
                do="Name the file with the right one: --unseal-key FILE",
            )
        inner = hpke.open_base(key.raw, bound, box)
        value = None if inner is None or len(inner) != _KEY else _decrypt(inner, data[_HEAD:], bound)
        if value is None:
            raise VerificationError(f"{path} does not open: it was changed.", do=_CHANGED)
        if not check_opening(stored, opening(subject.key, event_id, pointer), value):
            raise VerificationError(f"{path} holds other content than the entry commits to.", do=_CHANGED)
        return value

    # --- the files --------------------------------------------------------------------------------

    def file(self, pseudonym: str, commitment: str) -> Path:
        """Return where the content behind a commitment of a subject lies, if anywhere. Raises: UsageError."""
        if _COMMITMENT(commitment) is None:
            raise UsageError("A file of the vault is named by a commitment.")
        return self._folder(pseudonym) / _name(commitment)

    def subjects(self) -> Iterator[str]:
        """Yield the pseudonyms of whom there is a folder, in no order. Raises: StorageError."""
        try:
            for outer in self._listed(self.path):
                yield from (path.name for path in self._listed(outer) if _is_subject(path.name))
        except OSError as exc:
            raise self._unreadable(exc) from exc

    def count(self, pseudonym: str) -> int:
        """Return how many contents of a subject there are. Raises: UsageError, StorageError."""
        try:
            return sum(path.suffix == SEALED_SUFFIX for path in self._listed(self._folder(pseudonym)))
        except OSError as exc:
            raise self._unreadable(exc) from exc

    def usage(self) -> VaultUsage:
        """Count what the vault holds; every file is looked at, none is opened. Raises: StorageError."""
        contents = size = subjects = 0
        try:
            for pseudonym in self.subjects():
                files = [path for path in self._listed(self._folder(pseudonym)) if path.suffix == SEALED_SUFFIX]
                subjects += bool(files)
                contents += len(files)
                size += sum(path.stat().st_size for path in files)
        except OSError as exc:
            raise self._unreadable(exc) from exc
        return VaultUsage(contents, size, subjects)

    def erase(self, pseudonym: str) -> int:
        """Remove all content of a subject and return how many files that were; durable on return.

        Without the subject's key they open for nobody; that key is the subject table's to destroy. Running it again
        completes what a crash cut off. Raises: UsageError for what is no pseudonym, StorageError.
        """
        folder = self._folder(pseudonym)
        removed = 0
        try:
            while True:  # a writer that does not know of the erasure yet may add one more
                files = list(self._listed(folder))
                for path in files:
                    self._ops.unlink(path)
                removed += sum(path.suffix == SEALED_SUFFIX for path in files)
                try:
                    self._ops.rmdir(folder)
                except FileNotFoundError:
                    break
                except OSError:
                    if not any(self._listed(folder)):
                        raise
            self._made.discard(folder)
            if folder.parent.is_dir():
                self._ops.sync_folder(folder.parent)
        except OSError as exc:
            raise StorageError(
                f"The vault at {self.path} still holds content of {pseudonym}: {exc.strerror}.",
                do="Make it writable and repeat it.",
            ) from exc
        return removed

    def discard(self, pseudonym: str, commitments: Iterable[str]) -> int:
        """Remove single contents of a subject, as for entries that are purged; returns how many, durable on return.

        Raises: UsageError, StorageError.
        """
        removed = 0
        try:
            for commitment in commitments:
                with contextlib.suppress(FileNotFoundError):
                    self._ops.unlink(self.file(pseudonym, commitment))
                    removed += 1
            if removed:
                self._ops.sync_folder(self._folder(pseudonym))
        except OSError as exc:
            raise StorageError(f"The vault at {self.path} cannot be changed: {exc.strerror}.") from exc
        return removed

    def _folder(self, pseudonym: str) -> Path:
        if not _is_subject(pseudonym):
            raise UsageError("A folder of the vault is named by a pseudonym.")
        return self.path / hashlib.sha256(pseudonym.encode()).hexdigest()[:2] / pseudonym

    def _listed(self, folder: Path) -> Iterator[Path]:
        """Yield what is in a folder; of none that is not there, or is no folder."""
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            yield from folder.iterdir()

    def _unreadable(self, exc: OSError) -> StorageError:
        return StorageError(f"The vault at {self.path} cannot be read: {exc.strerror}.")


_MAKE_KEY: Final = "Run: klingai-audit keys unseal-init"


def _is_subject(name: str) -> bool:
    return is_pseudonym(name) or name in RESERVED


def _name(commitment: str) -> str:
    return commitment + SEALED_SUFFIX


def _outer_key(subject_key: bytes, salt: bytes) -> bytes:
    return HKDF(SHA256(), _KEY, salt, _DOMAIN + b"\0subject").derive(subject_key)


def _decrypt(key: bytes, sealed: bytes, bound: bytes) -> bytes | None:
    try:
        return AESGCM(key).decrypt(_NONCE, sealed, bound)
    except InvalidTag:
        return None
