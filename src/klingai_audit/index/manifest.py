"""The manifest: which segments make the index up, which log and checkpoint they are of, and proof that we wrote it.

Two lines: the manifest as JSON, and its HMAC-SHA-256 in hex under a key that only this user has. Segments are named
with their SHA-256; one whose bytes changed is never read.
"""

from __future__ import annotations

import fcntl
import hashlib
import hmac
import os
import secrets
from pathlib import Path
from typing import Final

import msgspec

from klingai_audit.durable import NO_FORK, PRIVATE_MODE, FileOps, read_optional

__all__ = [
    "MANIFEST",
    "Manifest",
    "Part",
    "Segment",
    "digest_file",
    "identity_of",
    "read_manifest",
    "user_key",
    "write_manifest",
]

MANIFEST: Final = "manifest"
"""The manifest's file name in the index folder."""

_CONTEXT: Final = b"klingai-audit/index/v1\0"
_KEY_BYTES: Final = 32
_MAX_BYTES: Final = 64 << 20
_CHUNK: Final = 1 << 20


class Part(msgspec.Struct, frozen=True, kw_only=True):
    """One Parquet file: its SHA-256 in hex and what the file system says of it (see `identity_of`)."""

    name: str
    sha256: str
    identity: tuple[int, ...]


class Segment(Part, frozen=True, kw_only=True):
    """One Parquet file with entries `[begin, end)`.

    `places` are the positions of the first byte of entry `begin` and of entry `end` in the log, counted over all
    entries with their LF; `leaf` is the leaf hash of entry `end - 1` in hex.
    """

    begin: int
    end: int
    places: tuple[int, int]
    leaf: str


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """The whole index.

    `checkpoint` is the published checkpoint that covered the log when it was written, or empty. `repeats` lists the
    entries whose event id stands in an earlier one; None if there are none. `sealed` are the sealed days that the log
    had, by name and what the file system said of them: entries in them may have been purged since.
    """

    schema: str
    origin: str
    checkpoint: str
    segments: tuple[Segment, ...] = ()
    repeats: Part | None = None
    sealed: dict[str, tuple[int, ...]] = {}

    @property
    def size(self) -> int:
        """Entries covered."""
        return self.segments[-1].end if self.segments else 0


_DECODER: Final = msgspec.json.Decoder(Manifest)
_ENCODE: Final = msgspec.json.Encoder().encode


def read_manifest(folder: Path, key: bytes) -> Manifest | None:
    """Return the manifest if there is one that the key vouches for; None for anything else. Raises: OSError."""
    data = read_optional(folder / MANIFEST, limit=_MAX_BYTES, follow=False)
    if data is None:
        return None
    body, _, mac = data.partition(b"\n")
    if not hmac.compare_digest(mac, _mac(key, body)):
        return None
    try:
        manifest = _DECODER.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
    ends = (0, *(segment.end for segment in manifest.segments))
    sound = all(begin == part.begin < part.end for begin, part in zip(ends, manifest.segments, strict=False))
    return manifest if sound else None


def write_manifest(folder: Path, key: bytes, manifest: Manifest, ops: FileOps) -> None:
    """Put the manifest in place; durable on return. Raises: OSError."""
    body = _ENCODE(manifest)
    ops.replace(folder / MANIFEST, body + b"\n" + _mac(key, body), mode=PRIVATE_MODE)


def _mac(key: bytes, body: bytes) -> bytes:
    return hmac.digest(key, _CONTEXT + body, "sha256").hex().encode() + b"\n"


def user_key(ops: FileOps) -> bytes | None:
    """Return this user's key for indexes, 32 bytes, made on first use; None where none can be kept.

    It stands in `$XDG_STATE_HOME/klingai-audit/index.key` (default `~/.local/state`).
    """
    base = os.environ.get("XDG_STATE_HOME")
    try:
        path = (Path(base) if base else Path("~/.local/state").expanduser()) / "klingai-audit" / "index.key"
        key = _read_key(path)
        if key is None:
            ops.make_folder(path.parent, 0o700)
            key = _make_key(path, ops)
    except (OSError, RuntimeError):  # RuntimeError: nobody's home
        return None
    return key


def _read_key(path: Path) -> bytes | None:
    key = read_optional(path, limit=_KEY_BYTES, follow=False)
    return key if key is not None and len(key) == _KEY_BYTES else None


def _make_key(path: Path, ops: FileOps) -> bytes:
    """Make the key, unless another process was quicker."""
    with NO_FORK:
        fd = ops.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            key = _read_key(path)
            if key is None:
                key = secrets.token_bytes(_KEY_BYTES)
                ops.replace(path, key, mode=PRIVATE_MODE)
            return key
        finally:
            ops.close(fd)


def identity_of(path: Path) -> tuple[int, ...]:
    """Return what changes whenever the file's bytes do: device, inode, size, times of content and of state, in ns."""
    info = path.lstat()
    return (info.st_dev, info.st_ino, info.st_size, info.st_mtime_ns, info.st_ctime_ns)


def digest_file(path: Path) -> str:
    """Return the SHA-256 of a file, in hex. Raises: OSError."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()
