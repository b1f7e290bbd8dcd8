"""The state folder: what a log's writers remember outside the log (docs/format.md, "Places").

`heads/`, `failed-sync`, `aside/` are evidence: a log opened without them says so in `log_recovered`.
`ends.sqlite` and whatever views keep here may be deleted at will. `OriginMemory` is this machine's
memory of which key belongs to which origin; only `init` and `open` write it.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Final

from klingai_audit.durable import OPS, PRIVATE_MODE, FileOps, SyncError, read_optional
from klingai_audit.errors import AuditUnavailable
from klingai_audit.ledger.store import SyncFailed

__all__ = ["FAILED_SYNC", "OriginMemory", "StateFolder"]

FAILED_SYNC: Final = "failed-sync"
"""Name of the mark that a failed sync leaves in the state folder."""

_FOLDER_MODE: Final = 0o750


class StateFolder:
    """The writers' memory of one log."""

    def __init__(self, path: Path, ops: FileOps = OPS) -> None:
        self.path = path
        self._ops = ops

    @property
    def ends(self) -> Path:
        """Where the table of end events stands (derived; may be deleted)."""
        return self.path / "ends.sqlite"

    @property
    def remembers(self) -> bool:
        """Tell whether a signed head was ever remembered here."""
        return (self.path / "heads" / "head").exists()

    def create(self) -> None:
        """Create the folders; durable on return. Raises: AuditUnavailable."""
        try:
            for folder in (self.path, self.path / "heads", self.path / "aside"):
                self._ops.make_folder(folder, _FOLDER_MODE)
        except OSError as exc:
            raise AuditUnavailable(
                f"The state folder {self.path} cannot be created: {exc.strerror}.",
                do="Give a writable folder with --state or KLINGAI_AUDIT_STATE.",
            ) from exc

    def read_head(self) -> bytes | None:
        """Return the last signed checkpoint that this log's writers remembered, or None."""
        return read_optional(self.path / "heads" / "head")

    def write_head(self, note: bytes) -> None:
        """Remember a signed checkpoint; durable on return. Raises: AuditUnavailable, SyncFailed."""
        try:
            self._ops.replace(self.path / "heads" / "head", note, mode=PRIVATE_MODE)
        except SyncError as exc:
            raise SyncFailed(f"Syncing {self.path / 'heads'} failed: {exc.strerror}.", do=_RECOVER) from exc
        except OSError as exc:
            raise AuditUnavailable(f"The signed head cannot be remembered in {self.path}: {exc.strerror}.") from exc

    def put_aside(self, data: bytes) -> str:
        """Keep bytes that no writer acknowledged; returns their file name; durable on return."""
        name = hashlib.sha256(data).hexdigest()
        try:
            self._ops.replace(self.path / "aside" / name, data, mode=PRIVATE_MODE)
        except OSError as exc:
            raise AuditUnavailable(
                f"Unacknowledged bytes at the end of the log cannot be put aside in {self.path}: {exc.strerror}.",
                do="Make room in the state folder; nothing was changed in the log.",
            ) from exc
        return name


_RECOVER: Final = "Every writer of this log is stopped. Run: klingai-audit recover"


class OriginMemory:
    """Which log key this machine saw first for an origin (`$XDG_STATE_HOME/klingai-audit/origins/`)."""

    def __init__(self, folder: Path | None = None, ops: FileOps = OPS) -> None:
        if folder is None:
            base = os.environ.get("XDG_STATE_HOME")
            home = Path(base) if base else Path("~/.local/state").expanduser()
            folder = home / "klingai-audit" / "origins"
        self.folder = folder
        self._ops = ops

    def recall(self, origin: str) -> str | None:
        """Return the remembered vkey, or None; an unreadable memory counts as none."""
        try:
            data = read_optional(self._path(origin))
        except OSError:
            return None
        return None if data is None else data.decode("utf-8", "replace").rstrip("\n")

    def remember(self, origin: str, vkey: str) -> bool:
        """Remember the key unless one is remembered; False if this machine's memory cannot be written."""
        path = self._path(origin)
        try:
            if not path.exists():
                self._ops.make_folder(self.folder, 0o700)
                self._ops.replace(path, f"{vkey}\n".encode(), mode=PRIVATE_MODE)
        except OSError:
            return False
        return True

    def _path(self, origin: str) -> Path:
        return self.folder / hashlib.sha256(origin.encode()).hexdigest()
