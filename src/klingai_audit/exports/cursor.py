"""How far an export has come, kept in the state folder: `exports/<name>.json`.

A cursor belongs to one log (origin, and the hash of the last entry that went out) and to one destination. It moves only
after the destination took what lies before it, so what is not certain is sent again: at least once, never lost.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
from pathlib import Path
from typing import Annotated, Final, Self

import msgspec

from klingai_audit.durable import OPS, PRIVATE_MODE, FileOps, read_optional
from klingai_audit.errors import StorageError, UsageError
from klingai_audit.exports.record import Position, Source, TreeHead

__all__ = ["Cursor", "CursorFile"]

FOLDER: Final = "exports"
"""Name of the cursors' folder inside the state folder."""

_NAME: Final = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
_FOLDER_MODE: Final = 0o750


class Cursor(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The bytes of a cursor file. `leaf` is the hex hash of entry `next - 1`, empty at the beginning of the log."""

    version: int
    origin: str
    format: str
    to: str
    next: Annotated[int, msgspec.Meta(ge=0)]
    leaf: Annotated[str, msgspec.Meta(pattern=r"^(?:[0-9a-f]{64})?\Z")]

    @property
    def position(self) -> Position:
        """Where the export goes on."""
        return Position(self.next, bytes.fromhex(self.leaf) or None)


class CursorFile:
    """One cursor, locked for this process from `open` to `close`; as a context manager it is closed at the end."""

    def __init__(self, path: Path, fd: int, ops: FileOps) -> None:
        self.path = path
        self._fd = fd
        self._ops = ops
        self._saved: Cursor | None = None

    @classmethod
    def open(cls, state: Path, name: str, ops: FileOps = OPS) -> Self:
        """Take the cursor `name` of a log's state folder, which is made if it is missing.

        Raises: UsageError (not a name; another process uses this cursor), StorageError.
        """
        if _NAME.fullmatch(name) is None:
            raise UsageError(
                f"{name!r} is not a name for a cursor.", do="Use a to z, 0 to 9, '.', '_' and '-', up to 64 characters."
            )
        path = state / FOLDER / f"{name}.json"
        try:
            ops.make_folder(path.parent, _FOLDER_MODE)
            fd = ops.open(path.with_suffix(".lock"), os.O_RDWR | os.O_CREAT, PRIVATE_MODE)
        except OSError as exc:
            raise _unusable(path, exc) from exc
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as exc:
            ops.close(fd)
            raise UsageError(
                f"Another export uses the cursor {name!r}.", do="End it first, or choose another --cursor."
            ) from exc
        return cls(path, fd, ops)

    def load(self, source: Source, head: TreeHead, format: str, to: str) -> Position | None:
        """Return the position at which the cursor stands in this log, None for a new cursor.

        Raises: UsageError (another log's, another format's or destination's), LogDamaged (the log no longer holds what
        was exported), StorageError.
        """
        try:
            data = read_optional(self.path, follow=False)
            cursor = None if data is None else msgspec.json.decode(data, type=Cursor)
        except OSError as exc:
            raise _unusable(self.path, exc) from exc
        except (msgspec.DecodeError, UnicodeDecodeError) as exc:
            raise StorageError(
                f"The cursor {self.path} cannot be understood.",
                do="Remove the file and say where to go on: --from-seq. What was sent before is sent again.",
            ) from exc
        if cursor is None:
            return None
        if cursor.origin != head.origin:
            raise UsageError(
                f"The cursor {self.path} belongs to another log, {cursor.origin}.", do="Choose another --cursor."
            )
        if (cursor.format, cursor.to) != (format, to):
            raise UsageError(
                f"The cursor {self.path} belongs to the export of {cursor.format} to {cursor.to}.",
                do="Choose another --cursor for another format or destination.",
            )
        position = cursor.position
        source.check(position, head, str(self.path))
        self._saved = cursor
        return position

    def save(self, position: Position, head: TreeHead, format: str, to: str) -> None:
        """Move the cursor; durable on return. Raises: StorageError."""
        leaf = (position.leaf or b"").hex()
        cursor = Cursor(version=1, origin=head.origin, format=format, to=to, next=position.seq, leaf=leaf)
        if cursor == self._saved:
            return
        try:
            self._ops.replace(self.path, msgspec.json.encode(cursor) + b"\n", mode=PRIVATE_MODE)
        except OSError as exc:
            raise _unusable(self.path, exc) from exc
        self._saved = cursor

    def close(self) -> None:
        """Let other exports have the cursor."""
        with contextlib.suppress(OSError):
            self._ops.close(self._fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _unusable(path: Path, exc: OSError) -> StorageError:
    return StorageError(
        f"The cursor {path} cannot be read or written: {exc.strerror}.",
        do="An export that goes on later needs a writable state folder: --state.",
    )
