"""The state folder: what a log's writers remember outside the log (docs/format.md, "Places").

`heads/`, `failed-sync`, `aside/` are evidence: a log opened without them says so in `log_recovered`. A file in
`aside/` is named by the SHA-256 of its bytes, with `.new` appended until an entry of the log names it.
`ends.sqlite` and whatever views keep here may be deleted at will. `OriginMemory` is this machine's
memory of which key belongs to which origin; only `init` and `open` write it.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import secrets
import time
from pathlib import Path
from typing import Final

from klingai_audit.durable import OPS, PRIVATE_MODE, FileOps, SyncError, open_regular, read_optional
from klingai_audit.errors import AuditUnavailable
from klingai_audit.ledger.acknowledged import Acknowledged
from klingai_audit.ledger.store import SyncFailed

__all__ = ["FAILED_SYNC", "OriginMemory", "StateFolder", "state_home"]

FAILED_SYNC: Final = "failed-sync"
"""Name of the mark that a failed sync leaves in the state folder."""

_FOLDER_MODE: Final = 0o750
_NEW: Final = ".new"
_ABANDONED_NS: Final = 3_600 * 10**9
_UNRECORDED: Final = re.compile(r"([0-9a-f]{64})\.new")
_OWN_HEAD: Final = re.compile(r"head\.[0-9a-f]{16}(\.tmp)?").fullmatch


def state_home() -> Path:
    """Return `$XDG_STATE_HOME/klingai-audit` (`~/.local/state/…`). Raises: RuntimeError where there is no home."""
    base = os.environ.get("XDG_STATE_HOME")
    return (Path(base) if base else Path("~/.local/state").expanduser()) / "klingai-audit"


class StateFolder:
    """The writers' memory of one log. `restored` tells that it vanished and was made anew while in use."""

    def __init__(self, path: Path, ops: FileOps = OPS) -> None:
        self.path = path
        self.restored = False
        self._ops = ops
        self._head = path / "heads" / "head"

    @property
    def acknowledged(self) -> Acknowledged:
        """How far entries were acknowledged, signed or not."""
        return Acknowledged(self.path / "acknowledged", self._ops)

    @property
    def ends(self) -> Path:
        """Where the table of end events stands (derived; may be deleted)."""
        return self.path / "ends.sqlite"

    def discard_ends(self) -> None:
        """Remove the table of end events, if it can be removed."""
        for path in (self.ends, self.ends.with_name(self.ends.name + "-journal")):
            with contextlib.suppress(OSError):
                self._ops.unlink(path)

    @property
    def failed_sync(self) -> bool:
        """Tell whether a failed sync is on record. Raises: AuditUnavailable."""
        try:
            return (self.path / FAILED_SYNC).exists()
        except OSError as exc:
            raise self._unavailable("cannot be read", exc) from exc

    def clear_failed_sync(self) -> None:
        """Remove that record; durable on return. Raises: AuditUnavailable."""
        try:
            if self.failed_sync:
                self._ops.unlink(self.path / FAILED_SYNC)
                self._ops.sync_folder(self.path)
        except OSError as exc:
            raise self._unavailable("cannot be changed", exc) from exc

    @property
    def remembers(self) -> bool:
        """Tell whether a signed head was ever remembered here."""
        try:
            return self._head.exists()
        except OSError as exc:
            raise self._unavailable("cannot be read", exc) from exc

    def create(self) -> None:
        """Create the folders; durable on return. Raises: AuditUnavailable."""
        try:
            for folder in (self.path, self.path / "heads", self.path / "aside"):
                self._ops.make_folder(folder, _FOLDER_MODE)
            self._remove_old()
        except SyncError as exc:
            raise self._failed_sync(".", exc) from exc
        except OSError as exc:
            raise AuditUnavailable(
                f"The state folder {self.path} cannot be created: {exc.strerror}.",
                do="Give a writable folder with --state or KLINGAI_AUDIT_STATE.",
            ) from exc

    def _remove_old(self) -> None:
        """Remove heads that processes did not live to put in place, of those that each give them a name of its own."""
        with contextlib.suppress(OSError):
            for path in self._head.parent.iterdir():
                if _OWN_HEAD(path.name) and path.stat().st_mtime_ns < time.time_ns() - _ABANDONED_NS:
                    self._ops.unlink(path)

    def read_head(self) -> bytes | None:
        """Return the last signed checkpoint that this log's writers remembered, or None. Raises: AuditUnavailable."""
        try:
            return read_optional(self._head)
        except OSError as exc:
            raise self._unavailable("cannot be read", exc) from exc

    def write_head(self, note: bytes, *, alone: bool = True) -> None:
        """Remember a signed checkpoint; durable on return. Raises: AuditUnavailable, SyncFailed.

        Unless the caller is `alone`, under a lock of the log, others may do the same at the same time: the last wins.
        Their log lies on a server; what this disk does is no reason to stop it.
        """
        if not self._head.parent.is_dir():
            self.create()
            self.restored = True
        try:
            if alone:
                self._ops.replace(self._head, note, mode=PRIVATE_MODE)
            else:
                own = self._head.with_name(f"{self._head.name}.{secrets.token_hex(8)}")
                self._ops.replace(own, note, mode=PRIVATE_MODE)
                self._ops.rename(own, self._head)
                self._ops.sync_folder(self._head.parent)
        except OSError as exc:
            if alone and isinstance(exc, SyncError):
                raise self._failed_sync("heads", exc) from exc
            raise self._unavailable("cannot remember the signed head", exc) from exc

    # --- what was put aside -----------------------------------------------------------------------

    def put_aside(self, data: bytes) -> str:
        """Keep bytes that no writer acknowledged; returns their SHA-256 in hex; durable on return.

        Raises: AuditUnavailable (nothing was changed in the log), SyncFailed.
        """
        name = hashlib.sha256(data).hexdigest()
        try:
            self._ops.replace(self.path / "aside" / (name + _NEW), data, mode=PRIVATE_MODE)
        except SyncError as exc:
            raise self._failed_sync("aside", exc) from exc
        except OSError as exc:
            raise self._unavailable("cannot keep unacknowledged bytes from the end of the log", exc) from exc
        return name

    def unrecorded(self) -> list[tuple[str, int]]:
        """List what was put aside and is named by no entry yet: (SHA-256 in hex, bytes). Raises: AuditUnavailable."""
        try:
            found = [(match[1], size) for path, match in self._new_files() if (size := _size_if_true(path, match[1]))]
        except FileNotFoundError:
            return []
        except OSError as exc:
            raise self._unavailable("cannot be read", exc) from exc
        return sorted(found)

    def _new_files(self) -> list[tuple[Path, re.Match[str]]]:
        matches = [(path, _UNRECORDED.fullmatch(path.name)) for path in (self.path / "aside").iterdir()]
        return [(path, match) for path, match in matches if match is not None]

    def set_aside(self) -> tuple[str, ...]:
        """Return the SHA-256 digests (hex) of all that was ever put aside. Raises: AuditUnavailable."""
        try:
            names = {path.name.removesuffix(_NEW) for path in (self.path / "aside").iterdir()}
        except FileNotFoundError:
            return ()
        except OSError as exc:
            raise self._unavailable("cannot be read", exc) from exc
        return tuple(sorted(name for name in names if len(name) == 64))

    def recorded(self, name: str) -> None:
        """Note that an entry of the log names these bytes; if the note is lost, another entry will name them again."""
        path = self.path / "aside" / name
        with contextlib.suppress(OSError):
            self._ops.rename(path.with_name(name + _NEW), path)

    # --- errors -----------------------------------------------------------------------------------

    def _failed_sync(self, what: str, exc: OSError) -> SyncFailed:
        self._ops.leave_mark(self.path / FAILED_SYNC, f"{what}: {exc.strerror}\n".encode())
        return SyncFailed(f"Syncing {self.path / what} failed: {exc.strerror}.", do=_RECOVER)

    def _unavailable(self, what: str, exc: OSError) -> AuditUnavailable:
        return AuditUnavailable(
            f"The state folder {self.path} {what}: {exc.strerror}.",
            do="Check that it is there, writable, and has room.",
        )


def _size_if_true(path: Path, name: str) -> int | None:
    """The length in bytes of a file that has the SHA-256 it is named after; None for any other."""
    with contextlib.suppress(OSError), open_regular(path, follow=False) as file:
        digest = hashlib.file_digest(file, "sha256")
        if digest.hexdigest() == name:
            return os.fstat(file.fileno()).st_size
    return None


_MLDSA: Final = ".mldsa"
_RECOVER: Final = "Every writer of this log is stopped. Run: klingai-audit recover"


class OriginMemory:
    """Which log key this machine saw first for an origin (`$XDG_STATE_HOME/klingai-audit/origins/`)."""

    def __init__(self, folder: Path | None = None, ops: FileOps = OPS) -> None:
        if folder is None:
            folder = state_home() / "origins"
        self.folder = folder
        self._ops = ops

    def recall(self, origin: str) -> str | None:
        """Return the remembered vkey, or None; an unreadable memory counts as none."""
        return self._recall(self._path(origin))

    def recall_mldsa(self, origin: str) -> str | None:
        """Return the remembered vkey of the log's ML-DSA-44 key, or None."""
        return self._recall(self._path(origin).with_suffix(_MLDSA))

    @staticmethod
    def _recall(path: Path) -> str | None:
        try:
            data = read_optional(path)
        except OSError:
            return None
        return None if data is None else data.decode("utf-8", "replace").rstrip("\n")

    def remember(self, origin: str, vkey: str, mldsa: str | None = None) -> bool:
        """Remember the keys unless some are remembered; False if this machine's memory cannot be written."""
        path = self._path(origin)
        try:
            for file, key in ((path, vkey), (path.with_suffix(_MLDSA), mldsa)):
                if key is not None and not file.exists():
                    self._ops.make_folder(self.folder, 0o700)
                    self._ops.replace(file, f"{key}\n".encode(), mode=PRIVATE_MODE)
        except OSError:
            return False
        return True

    def _path(self, origin: str) -> Path:
        return self.folder / hashlib.sha256(origin.encode()).hexdigest()
