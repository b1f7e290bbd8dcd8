"""Files that a command line names: read up to a limit, written whole or not at all, with errors that say which."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from klingai_audit.cli.session import escaped
from klingai_audit.errors import UsageError

__all__ = ["MAX_PROOF_BYTES", "read_file", "write_file"]

MAX_PROOF_BYTES: Final = 8 << 20
"""No file with a proof, a checkpoint or an entry is longer."""


def read_file(path: Path, limit: int = MAX_PROOF_BYTES, what: str = "proof") -> bytes:
    """Return the bytes of a file, of which no good one has more than `limit`; `what` says what it would be.

    Raises: UsageError.
    """
    try:
        with path.open("rb") as stream:
            data = stream.read(limit + 1)
    except (OSError, ValueError) as exc:
        reason = getattr(exc, "strerror", None) or "not a path"
        raise UsageError(f"The file {escaped(str(path))!r} cannot be read: {reason}.") from exc
    if len(data) > limit:
        raise UsageError(f"The file {escaped(str(path))!r} is longer than any {what}.")
    return data


def write_file(path: Path, data: bytes) -> None:
    """Write a file, durable on return; one that is there is replaced. Raises: UsageError."""
    from klingai_audit.durable import OPS

    try:
        OPS.replace(path, data)
    except OSError as exc:
        raise UsageError(f"The file {escaped(str(path))!r} cannot be written: {exc.strerror}.") from exc
