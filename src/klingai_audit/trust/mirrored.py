"""Verifying a log that lies on a server: a copy in the form of a folder is what is read, and the server is named.

A copy of everything for a whole verification; for a quick one the new entries alone, everything else as it is asked.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, cast

from klingai_audit.ledger.batches import takes_batches
from klingai_audit.ledger.mirror import Mirrored, Progress, copy_log
from klingai_audit.ledger.scratch import scratch_folder
from klingai_audit.ledger.store import LogFile, Store
from klingai_audit.tlog.tile import TILE_WIDTH, tile_path
from klingai_audit.trust.verdict import Finding, Verdict

__all__ = ["Mirror", "at_hand", "faults_of", "told_of"]

_HASH: Final = 32
_BUCKETS: Final = ("s3", "gs", "az")


class Mirror:
    """What `copy_log` copied, as a store for reading; frozen at its checkpoint."""

    def __init__(self, store: Store, copied: Mirrored) -> None:
        self.url = store.url
        self.copied = copied
        public: Callable[[], Store] | None = getattr(store, "public", None)
        self._store = store if public is None else public()
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


@contextlib.contextmanager
def at_hand(
    store: Store,
    *,
    begin: int,
    scratch: Path | None,
    patience: float,
    progress: Progress | None,
    copied: Callable[[Mirrored], None] | None = None,
) -> Iterator[Store]:
    """Give a store whose files lie on this machine: the log itself, or a copy of it while the block runs.

    Of a log on a server entries from `begin` on are copied, below `scratch` (default: the temporary folder); `copied`
    is told of it. Raises: AuditUnavailable, StorageError.
    """
    if not takes_batches(store):
        yield store
        return
    with scratch_folder(scratch) as folder:
        made = copy_log(store, folder / "audit", begin=begin, patience=patience, progress=progress)
        if copied is not None:
            copied(made)
        yield cast("Store", Mirror(store, made))


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
        for place in [_place_of(store.url, finding)]
    ]
    return dataclasses.replace(verdict, findings=tuple(findings))


def _place_of(url: str, finding: Finding) -> str:
    """Return where on a server a finding about an entry or a hash is to be looked for, empty if that is not known."""
    scheme, name, seq = url.partition("://")[0], finding.file or "", finding.seq
    if seq is None or not name.startswith(("audit-", "tree/")):
        return ""
    level = 0 if name.startswith("audit-") else int(name.removeprefix("tree/"))
    place = seq >> 8 * level
    if scheme in _BUCKETS:
        path = tile_path("entries" if name.startswith("audit-") else level, place // TILE_WIDTH)
        return f"{path}, or its part ({path}.p/), number {place % TILE_WIDTH} in it"
    if scheme == "postgresql":
        return f"table entries, seq {seq}" if level == 0 else f"table hashes, level {level}, place {place}"
    return ""
