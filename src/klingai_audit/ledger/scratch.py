"""Scratch folders: private, one a user, gone afterwards; what a killed process left goes when the next one comes."""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from klingai_audit.durable import OPS, FileOps
from klingai_audit.errors import AuditUnavailable

__all__ = ["need_room", "scratch_beside", "scratch_folder"]

_MODE: Final = 0o700
_TRIES: Final = 100


def scratch_beside(state: Path) -> Path:
    """Return where scratch folders of a log lie: beside its state folder."""
    return state.with_name(f"{state.name}.scratch")


@contextlib.contextmanager
def scratch_folder(base: Path | None, ops: FileOps = OPS) -> Iterator[Path]:
    """Give an empty folder below `base`, of nobody else's; it is removed on exit.

    Where `base` is None or cannot be written, one below the system's temporary folder. Folders that dead processes
    left there are removed: a living one holds a lock on its own. Raises: AuditUnavailable.
    """
    shared = Path(tempfile.gettempdir()) / f"klingai-audit-{os.getuid()}.scratch"
    faults: list[OSError] = []
    for place in [shared] if base is None else [base, shared]:
        try:
            folder, held = _make(place, ops)
        except OSError as exc:
            faults.append(exc)
            continue
        break
    else:
        raise AuditUnavailable(
            f"There is no place for a scratch folder: {faults[-1].strerror}.", do="Set TMPDIR to a folder with room."
        ) from faults[-1]
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        ops.close(held)
        with contextlib.suppress(OSError), _gate(folder.parent, ops, fcntl.LOCK_EX | fcntl.LOCK_NB):
            ops.rmdir(folder.parent)  # only if it is empty


def _make(base: Path, ops: FileOps) -> tuple[Path, int]:
    """Return a new folder below `base` and the descriptor that holds its lock. Raises: OSError."""
    tries = 0
    while True:
        try:
            ops.make_folder(base, _MODE)
            info = base.lstat()
            if info.st_uid != os.getuid() or info.st_mode & 0o077:
                raise PermissionError(1, "it belongs to others or is open to them", str(base))
            with _gate(base, ops, fcntl.LOCK_EX):
                _sweep(base, ops)
                folder = base / secrets.token_hex(8)
                ops.mkdir(folder, _MODE)
                return folder, _lock(folder, ops, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (FileNotFoundError, NotADirectoryError):  # another process removed it as empty
            tries += 1
            if tries == _TRIES:
                raise


@contextlib.contextmanager
def _gate(base: Path, ops: FileOps, how: int) -> Iterator[None]:
    """Let one process at a time make, sweep and remove below `base`. Raises: OSError; FileNotFoundError if it went."""
    gate = _lock(base, ops, how)
    try:
        yield
    finally:
        fcntl.flock(gate, fcntl.LOCK_UN)  # a child that was forked meanwhile has the descriptor, too
        ops.close(gate)


def _lock(folder: Path, ops: FileOps, how: int) -> int:
    held = ops.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(held, how)
        if not os.path.samestat(os.fstat(held), folder.lstat()):
            raise FileNotFoundError(2, "another folder has its name now", str(folder))
    except OSError:
        ops.close(held)
        raise
    return held


def _sweep(base: Path, ops: FileOps) -> None:
    """Remove folders that no living process has locked."""
    for left in base.iterdir():
        try:
            held = _lock(left, ops, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            continue
        shutil.rmtree(left, ignore_errors=True)
        ops.close(held)


def need_room(folder: Path, size: int, what: str) -> None:
    """Raises: AuditUnavailable if fewer than `size` bytes are free where `folder` lies."""
    free = shutil.disk_usage(folder).free
    if free < size:
        raise AuditUnavailable(
            f"{what} needs {size:,} bytes in {folder}, where {free:,} are free.",
            do="Make room, or name another place: --state FOLDER",
        )
