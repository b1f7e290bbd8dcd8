"""Where an index lies: its folder, the lock of its builder, the manifest that this user vouches for."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import secrets
import shutil
import tempfile
import time
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Final, TypeVar

import msgspec

from klingai_audit.durable import NO_FORK, TEMPORARY_SUFFIX, FileOps
from klingai_audit.errors import StorageError
from klingai_audit.index.columns import SCHEMA
from klingai_audit.index.manifest import (
    MANIFEST,
    Manifest,
    Part,
    Segment,
    digest_file,
    identity_of,
    read_manifest,
    user_key,
    write_manifest,
)
from klingai_audit.index.places import PLACES_SUFFIX

__all__ = ["IndexFolder"]

_PartT = TypeVar("_PartT", bound=Part)

_MODE: Final = 0o700
_PATIENCE_S: Final = 600.0
_PAUSE_S: Final = 0.02
_GRACE_S: Final = 60.0


class IndexFolder:
    """One user's index in `base`: in a folder named after the user's key, so that users do not undo each other's work.

    Where `base` cannot be written or no key can be kept, it is a temporary folder that goes with this object.
    """

    def __init__(self, base: Path, ops: FileOps, *, temporary: bool = True) -> None:
        self.ops = ops
        key = user_key(ops)
        self.temporary = key is None or not self._prepare(base, key)
        if self.temporary and not temporary:
            raise StorageError(
                f"There is no place for an index at {base}.", do="Give a writable folder with --state, and a home."
            )
        if self.temporary:
            self._key = secrets.token_bytes(32)
            self.path = Path(tempfile.mkdtemp(prefix="klingai-audit-index-"))
            owner = os.getpid()
            self._remove = weakref.finalize(self, _remove_own, self.path, owner)

    def _prepare(self, base: Path, key: bytes) -> bool:
        self._key = key
        self.path = base / hashlib.sha256(key).hexdigest()[:16]
        try:
            self.ops.make_folder(self.path, _MODE)
        except OSError:
            return False
        return os.access(self.path, os.W_OK | os.X_OK)

    def close(self) -> None:
        """Remove the folder if it is a temporary one."""
        if self.temporary:
            self._remove()

    def load(self) -> Manifest | None:
        """Return the manifest with the segments that are what it says, from the first on; None if there is none.

        A segment that was changed, and all after it, are left out.
        """
        manifest = None
        with contextlib.suppress(OSError):  # what cannot be read counts as none
            manifest = read_manifest(self.path, self._key)
        if manifest is None or manifest.schema != SCHEMA:
            return None
        repeats = None if manifest.repeats is None else self._checked(manifest.repeats)
        if (repeats is None) != (manifest.repeats is None):
            return None
        sound: list[Segment] = []
        for segment in manifest.segments:
            known = self._checked(segment)
            if known is None:
                break
            sound.append(known)
        note = manifest.checkpoint if len(sound) == len(manifest.segments) else ""
        return msgspec.structs.replace(manifest, checkpoint=note, segments=tuple(sound), repeats=repeats)

    def _checked(self, part: _PartT) -> _PartT | None:
        """Return the part as the file system knows it now, or None if its bytes are not those it was made with."""
        path = self.path / part.name
        try:
            identity = identity_of(path)
            if identity == part.identity:
                return part
            if path.is_symlink() or digest_file(path) != part.sha256:
                return None
        except OSError:
            return None
        return msgspec.structs.replace(part, identity=identity)

    def store(self, manifest: Manifest) -> None:
        """Put a manifest in place and remove what nobody needs any more; under the lock. Raises: StorageError."""
        try:
            write_manifest(self.path, self._key, manifest, self.ops)
        except OSError as exc:
            raise self._unwritable(exc) from exc
        self.sweep(manifest)

    def discard(self) -> None:
        """Remove the manifest, so that everything is made anew; under the lock. Raises: StorageError."""
        try:
            with contextlib.suppress(FileNotFoundError):
                self.ops.unlink(self.path / MANIFEST)
        except OSError as exc:
            raise self._unwritable(exc) from exc

    def sweep(self, manifest: Manifest | None) -> None:
        """Remove files of dead builders, and segments that were replaced a minute ago; under the lock."""
        parts = () if manifest is None else (*manifest.segments, manifest.repeats)
        named = {Path(part.name).stem for part in parts if part is not None}
        with contextlib.suppress(OSError):
            for path in self.path.iterdir():
                if path.suffix == TEMPORARY_SUFFIX or (
                    path.suffix in (".parquet", PLACES_SUFFIX)
                    and path.stem not in named
                    and time.time() - path.lstat().st_mtime > _GRACE_S
                ):
                    self.ops.unlink(path)

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Exclude every other builder; waits for one that is at work. Raises: StorageError."""
        try:
            with NO_FORK:
                fd = self.ops.open(self.path, os.O_RDONLY | os.O_DIRECTORY)
        except OSError as exc:
            raise self._unwritable(exc) from exc
        try:
            deadline = time.monotonic() + _PATIENCE_S
            while True:
                try:
                    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() > deadline:
                        raise StorageError(
                            f"Another process has been building the index in {self.path} for over 10 minutes.",
                            do="Find it (fuser, lsof) and end it; the index is derived and may be deleted.",
                        ) from None
                    time.sleep(_PAUSE_S)
            yield
            fcntl.flock(fd, fcntl.LOCK_UN)
        finally:
            self.ops.close(fd)

    def _unwritable(self, exc: OSError) -> StorageError:
        return StorageError(
            f"The index in {self.path} cannot be written: {exc.strerror}.",
            do="Free space or give a writable folder with --state; the index is derived and may be deleted.",
        )


def _remove_own(path: Path, owner: int) -> None:
    if os.getpid() == owner:
        shutil.rmtree(path, ignore_errors=True)
