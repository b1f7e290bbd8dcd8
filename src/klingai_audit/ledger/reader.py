"""Reading a log: entries, checkpoints and proofs from stored hashes. Never writes, never locks."""

from __future__ import annotations

import datetime as dt
import re
from bisect import bisect_left
from collections.abc import Iterator
from typing import Final

from klingai_audit.errors import LogNotFound, UsageError
from klingai_audit.ledger.line import PURGED_PREFIX, parse_members
from klingai_audit.ledger.purged import parse_purged
from klingai_audit.ledger.store import Store
from klingai_audit.tlog.checkpoint import Checkpoint, parse_checkpoint
from klingai_audit.tlog.merkle import build_consistency, build_inclusion
from klingai_audit.tlog.note import parse_note
from klingai_audit.tlog.proof import TlogProof
from klingai_audit.tlog.tile import MAX_ENTRY_BYTES, node_reader

__all__ = ["LogReader"]

_SEQ: Final = re.compile(rb',"seq":(0|[1-9][0-9]{0,15}),"logged_at":"')
_LEDGER_BYTES: Final = 256
"""More than the ledger's own members take at the end of an entry."""


class LogReader:
    """A log's entries and proofs; needs no key. What it reads is believed only after verification."""

    def __init__(self, store: Store) -> None:
        self.store = store

    def checkpoint_note(self) -> bytes:
        """Return the published checkpoint with its signatures. Raises: LogNotFound."""
        note = self.store.read_checkpoint()
        if note is None:
            raise LogNotFound(
                f"There is no log at {self.store.url}.", do="Name one with --log, or create it: klingai-audit init"
            )
        return note

    def checkpoint(self) -> Checkpoint:
        """Return the published checkpoint, its signatures unchecked. Raises: LogNotFound, Malformed."""
        return parse_checkpoint(parse_note(self.checkpoint_note()).text)

    @property
    def size(self) -> int:
        """Entries under the published checkpoint."""
        return self.checkpoint().size

    @property
    def origin(self) -> str:
        return self.checkpoint().origin

    def entries(self, begin: int = 0, end: int | None = None) -> Iterator[bytes]:
        """Yield the stored bytes of entries `[begin, end)`, without LF, in order; purged ones are left out."""
        return (line for line in self.store.read_entries(begin, end) if not line.startswith(PURGED_PREFIX))

    def lines(self, begin: int = 0, end: int | None = None) -> Iterator[bytes]:
        """Yield the stored lines `[begin, end)`, one for each entry: of a purged one what stands in its place."""
        return self.store.read_entries(begin, end)

    def entry(self, seq: int) -> bytes:
        """Return the stored bytes of one entry. Raises: UsageError if there is none, or if it was purged."""
        for line in self.store.read_entries(seq, seq + 1):
            purged = parse_purged(line)
            if purged is None:
                return line
            raise UsageError(
                f"Entry {seq} was purged; entry {purged.by} authorised it.",
                do=f"What is left is its leaf hash, which proofs still hold for: {purged.leaf.hex()}",
            )
        raise UsageError(f"The log has no entry {seq}.", do=f"Its published size is {self.size}.")

    def first_since(self, day: dt.date) -> int:
        """Return the first entry of the first file of entries of `day` (UTC) or later; the size if there is none.

        Little is read: names and one line, or of a store without files a line for each halving. 0 where the files do
        not tell. What it tells is not checked: for finding what to read, never for trust.
        """
        files = [file for file in self.store.inspect() if file.kind == "entries"]
        later = [file.name for file in files if file.name > f"audit-{day.isoformat()}"]
        if not files or not later:
            return self.size if files else 0
        if any(file.path is None for file in files):
            return bisect_left(range(self.size), day.isoformat(), key=self._day_of)
        with self.store.view(min(later)) as view:
            line = bytes(view[: MAX_ENTRY_BYTES + 1]).partition(b"\n")[0]
        found = _SEQ.search(line, max(0, len(line) - _LEDGER_BYTES))
        return int(found[1]) if found else 0

    def _day_of(self, seq: int) -> str:
        """Return the day on which entry `seq` was logged, or if it is purged, the next one that is not."""
        for line in self.store.read_entries(seq):
            members = parse_members(line)
            if members is not None:
                return members.logged_at[:10]
        return "9999-12-31"

    def inclusion(self, seq: int, size: int) -> tuple[bytes, ...]:
        """Return the inclusion proof of entry `seq` in the tree of `size`; O(log n) stored hashes are read."""
        return build_inclusion(seq, size, node_reader(self.store.read_hashes))

    def consistency(self, old: int, new: int) -> tuple[bytes, ...]:
        """Return the consistency proof from the tree of `old` entries to that of `new`."""
        return build_consistency(old, new, node_reader(self.store.read_hashes))

    def prove(self, seq: int, note: bytes | None = None) -> TlogProof:
        """Return the C2SP proof of entry `seq` under the published checkpoint or `note`. Raises: UsageError."""
        note = self.checkpoint_note() if note is None else note
        checkpoint = parse_checkpoint(parse_note(note).text)
        if not 0 <= seq < checkpoint.size:
            raise UsageError(f"Entry {seq} is not under the checkpoint of size {checkpoint.size}.")
        return TlogProof(seq, self.inclusion(seq, checkpoint.size), note)
