"""Which file systems can keep a log's promises: local ones with working locks, renames and syncs."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Final

from klingai_audit.errors import UnsupportedStorage

__all__ = ["check_file_system", "is_regular"]

_REMOTE: Final = ("nfs", "nfs4", "cifs", "smb2", "smb3", "smbfs", "9p.remote", "afs", "ceph", "glusterfs", "lustre")
_MOUNTS: Final = Path("/proc/self/mountinfo")


def check_file_system(path: Path) -> None:
    """Refuse platforms and file systems that cannot keep a log. `path` need not exist yet.

    Raises: UnsupportedStorage for Windows, NFS, SMB and FUSE.
    """
    if sys.platform == "win32":
        raise UnsupportedStorage(
            "The directory store needs Linux or macOS.", do="Use WSL, or run the log on another host."
        )
    existing = path.absolute()
    while not existing.exists():
        existing = existing.parent
    kind = _kind(existing.stat().st_dev)
    if kind in _REMOTE or kind.startswith("fuse"):
        raise UnsupportedStorage(
            f"{path} lies on a {kind} file system, whose locks and syncs cannot be relied on.",
            do="Put the log on a local file system (ext4, xfs, btrfs, zfs, apfs).",
        )


def _kind(device: int) -> str:
    """File system type of the mount with this device number, empty if it cannot be told."""
    wanted = f"{os.major(device)}:{os.minor(device)}"
    try:
        lines = _MOUNTS.read_text("utf-8", "replace").split("\n")
    except OSError:
        return ""
    for line in reversed(lines):
        fields = line.split(" ")
        if len(fields) > 6 and fields[2] == wanted and "-" in fields:
            return fields[fields.index("-") + 1]
    return ""


def is_regular(path: Path) -> bool:
    """Tell whether a regular file lies there, and no link to one."""
    return path.is_file() and not path.is_symlink()
