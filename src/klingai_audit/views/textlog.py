"""A plain line per entry, for people who tail a file: a view, not evidence."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from klingai_audit.durable import OPS, FileOps
from klingai_audit.errors import Malformed
from klingai_audit.event.record import decode_event
from klingai_audit.privacy.subjects import SubjectTable, is_pseudonym, mask_id
from klingai_audit.views.inert import inert

__all__ = ["TextLog"]

_LEVELS: Final = {"success": "INFO", "failure": "ERROR", "blocked": "WARNING", "unknown": "WARNING"}
_MODE: Final = 0o640


class TextLog:
    """Appends `time | level | type | actor | action | outcome` to a file; people appear as masks.

    A bar inside a field is written as an escape, so that every line has six columns.
    """

    def __init__(self, path: Path, subjects: SubjectTable, ops: FileOps = OPS) -> None:
        self._path = path
        self._subjects = subjects
        self._ops = ops

    def write(self, entries: Sequence[bytes]) -> None:
        """Append one line per entry. Raises: OSError."""
        text = "".join(self._line(entry) for entry in entries)
        fd = self._ops.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, _MODE)
        try:
            self._ops.write_all(fd, text.encode())
        finally:
            self._ops.close(fd)

    def observe(self, entries: Sequence[bytes]) -> None:
        """Append one line per entry; a file that cannot be written is a warning, never a failure of the log."""
        try:
            self.write(entries)
        except OSError as exc:
            warnings.warn(f"The plain text log {self._path} cannot be written: {exc.strerror}.", stacklevel=3)

    def _line(self, entry: bytes) -> str:
        try:
            event = decode_event(entry)
        except Malformed:
            return "- | ERROR | unreadable entry | - | - | -\n"
        raw = self._subjects.reveal(event.actor_id) if is_pseudonym(event.actor_id) else None
        actor = event.actor_id if raw is None else mask_id(raw)
        level = _LEVELS.get(event.outcome, "INFO")
        fields = (event.timestamp, level, event.event_type, actor, event.get("action") or "-", event.outcome)
        return " | ".join(inert(field).replace("|", "\\x7c") for field in fields) + "\n"
