"""Verifying a log that lies on a server: a copy in the form of a folder is what is read, and the server is named.

A copy of everything for a whole verification; for a quick one the new entries alone, everything else as it is asked.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from klingai_audit.ledger.batches import takes_batches
from klingai_audit.ledger.mirror import Mirrored, Progress, copy_log
from klingai_audit.ledger.scratch import scratch_folder
from klingai_audit.ledger.store import LogFile, Store
from klingai_audit.trust.verdict import Finding, Verdict

__all__ = ["Mirror", "at_hand", "faults_of", "told_of"]

_HASH: Final = 32


class Mirror:
    """What `copy_log` copied, as a store for reading; frozen at its checkpoint."""

    def __init__(self, store: Store, copied: Mirrored) -> None:
        self.url = store.url
        self.copied = copied
        self._store = store
        self._files = {file.name: file for file in self._listed()}

    def _listed(self) -> Iterator[LogFile]:
        copied = self.copied
        kinds = {file.name: file for file in copied.extent.before}
        for path in sorted(path for path in copied.folder.rglob("*") if path.is_file()):
            name = path.relative_to(copied.folder).as_posix()
            folder = name.partition("/")[0]
            kind = {"tree": "tree", "checkpoint": "checkpoint"}.get(folder, "entries")
            if folder == "checkpoints":
                kind = "token" if name.endswith(".tsr") else "kept"
            yield LogFile(name, kind, path.stat().st_size, path, (0,))  # type: ignore[arg-type]
        if copied.begin:
            yield from (file for file in kinds.values() if file.kind in ("kept", "token"))
            levels = range(copied.end.bit_length() // 8 + 1)
            sizes = {f"tree/{level}": (copied.end >> 8 * level) * _HASH for level in levels}
            yield from (LogFile(name, "tree", size, None, (0,)) for name, size in sizes.items() if size)
        yield from (dataclasses.replace(file, path=None) for file in copied.strays)

    def inspect(self) -> tuple[LogFile, ...]:
        return tuple(sorted(self._files.values(), key=lambda file: (file.kind != "entries", file.name)))

    def read_checkpoint(self) -> bytes | None:
        return self.copied.extent.note

    def read_entries(self, begin: int, end: int | None = None) -> Iterator[bytes]:
        most = self.copied.end if end is None else min(end, self.copied.end)
        return self._store.read_entries(begin, most) if begin < most else iter(())

    def read_range(self, name: str, begin: int, end: int) -> bytes:
        """Return bytes `[begin, end)` of a file that was not copied."""
        file = self._files[name]
        if file.kind == "tree":
            level, first = int(name.removeprefix("tree/")), begin // _HASH
            last = min(end, file.size) // _HASH
            hashes = self._store.read_hashes(level, first, last) if first < last else b""
            return hashes[begin - first * _HASH : end - first * _HASH]
        size = int(name.removeprefix("checkpoints/").removesuffix(".tsr")) if file.kind in ("kept", "token") else 0
        found = None
        if size:
            found = self._store.read_kept(size) if file.kind == "kept" else self._store.read_token(size)
        return (found or b"")[begin:end]

    @contextlib.contextmanager
    def view(self, name: str) -> Iterator[memoryview]:
        yield memoryview(self.read_range(name, 0, self._files[name].size))

    def place_of(self, finding: Finding) -> str:
        """Return where on the server a finding is to be looked for, empty if it is not known."""
        tell = getattr(self._store, "place_of", None)
        if tell is None or finding.file is None:
            return ""
        return str(tell(finding.file, finding.seq))


@contextlib.contextmanager
def at_hand(
    store: Store, *, begin: int, scratch: Path | None, patience: float, progress: Progress | None
) -> Iterator[Store]:
    """Give a store whose files lie on this machine: the log itself, or a copy of it while the block runs.

    Of a log on a server entries from `begin` on are copied, below `scratch` (default: the temporary folder).
    Raises: AuditUnavailable, StorageError.
    """
    if not takes_batches(store):
        yield store
        return
    with scratch_folder(scratch) as folder:
        yield Mirror(store, copy_log(store, folder / "audit", begin=begin, patience=patience, progress=progress))  # type: ignore[misc]


def faults_of(store: Store) -> tuple[Finding, ...]:
    """Return a finding for everything that could not be copied because it cannot be read."""
    faults = store.copied.faults if isinstance(store, Mirror) else ()
    return tuple(Finding("file_unreadable", fault) for fault in faults)


def told_of(store: Store, verdict: Verdict) -> Verdict:
    """Return the verdict with the places of findings on the server."""
    if not isinstance(store, Mirror):
        return verdict
    findings = [
        dataclasses.replace(finding, message=f"{finding.message} On the server: {place}.") if place else finding
        for finding in verdict.findings
        for place in [store.place_of(finding)]
    ]
    return dataclasses.replace(verdict, findings=tuple(findings))
