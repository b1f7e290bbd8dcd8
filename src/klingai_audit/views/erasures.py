"""Who was erased, as the log's own entries tell, and the care that it stays so.

`subject_erased` entries name the pseudonym, never a person. Whoever opens the log for writing destroys again what
they name, so that a subject table or vault put back from a backup does not bring anybody back. To be quick, the state
folder remembers up to which size the entries were read: `erased.json`, derived, may be deleted at will.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from pathlib import Path
from typing import Final

import msgspec

from klingai_audit.durable import OPS, PRIVATE_MODE, FileOps, read_optional
from klingai_audit.ledger.purged import line_hash
from klingai_audit.ledger.reader import LogReader
from klingai_audit.privacy.subjects import Erased, SubjectTable, is_pseudonym
from klingai_audit.privacy.vault import Vault
from klingai_audit.views.entry import EntryView

__all__ = ["ErasureMemory", "erasures_in", "redo_erasures"]

_TYPE_AT: Final = 118
_TYPE: Final = b'subject_erased"'
_REMEMBER_EVERY: Final = 10_000
_WORTH_A_FILE: Final = 1_000


class _Remembered(msgspec.Struct, frozen=True, kw_only=True):
    """Erasures among the first `size` entries; `last` is the leaf hash of the last of these, in hex."""

    origin: str
    size: int
    last: str
    erased: list[Erased]


_DECODER: Final = msgspec.json.Decoder(_Remembered)


def erasures_in(lines: Iterable[bytes]) -> list[Erased]:
    """Return the erasures that these entries tell of, in order; other entries are passed over."""
    found = []
    for line in lines:
        if not line.startswith(_TYPE, _TYPE_AT):
            continue
        entry = EntryView(line)
        told, stored = entry.metadata, entry.resource_id or ""
        whole = isinstance(told.get("checkpoint"), dict) and isinstance(told.get("basis"), str)
        if whole and entry.outcome == "success" and is_pseudonym(stored):
            found.append(Erased(stored, entry.seq, f"{entry.timestamp:%Y-%m-%dT%H:%M:%S.%fZ}", told["basis"]))
    return found


class ErasureMemory:
    """The erasures of a log, found by reading what was appended since the last look."""

    def __init__(self, reader: LogReader, state: Path, ops: FileOps = OPS) -> None:
        self._reader = reader
        self._path = state / "erased.json"
        self._ops = ops

    def look(self, *, remember: bool = True) -> list[Erased]:
        """Return all erasures under the published checkpoint, in order; a reader writes nothing (`remember` False).

        Raises: Malformed, StorageError.
        """
        size, known = self._reader.size, self._recall()
        begin = 0 if known is None else known.size
        erased = [] if known is None else known.erased
        more = erasures_in(self._reader.entries(begin, size)) if begin < size else []
        if remember and (size - begin >= _REMEMBER_EVERY or (more and size >= _WORTH_A_FILE)):
            self._remember(size, [*erased, *more])
        return [*erased, *more]

    def _recall(self) -> _Remembered | None:
        """Return what is remembered, None if nothing is or if it is of another log."""
        try:
            found = _DECODER.decode(read_optional(self._path) or b"")
        except (OSError, msgspec.DecodeError, UnicodeDecodeError):
            return None
        same = found.origin == self._reader.origin and 0 < found.size <= self._reader.size
        return found if same and found.last == self._last(found.size) else None

    def _remember(self, size: int, erased: list[Erased]) -> None:
        told = _Remembered(origin=self._reader.origin, size=size, last=self._last(size), erased=erased)
        with contextlib.suppress(OSError):
            self._ops.replace(self._path, msgspec.json.encode(told) + b"\n", mode=PRIVATE_MODE)

    def _last(self, size: int) -> str:
        return "".join(line_hash(line).hex() for line in self._reader.lines(size - 1, size))


def redo_erasures(reader: LogReader, subjects: SubjectTable, vault: Vault, state: Path, ops: FileOps = OPS) -> int:
    """Destroy again whom the log's entries name as erased; returns of how many anything was left.

    Raises: AuditUnavailable: somebody is still there and cannot be destroyed. Malformed, StorageError.
    """
    erased = ErasureMemory(reader, state, ops).look()
    if not erased:
        return 0
    if vault.path.is_dir():
        for pseudonym in dict.fromkeys(one.pseudonym for one in erased):
            vault.erase(pseudonym)
    return subjects.destroy_all(erased)
