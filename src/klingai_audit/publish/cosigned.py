"""The checkpoint for clients that expect cosignatures on it: the newest that enough witnesses signed.

A log keeps cosignatures in entries, so the checkpoint that they are on is always a little older than the newest one.
Source: C2SP tlog-cosignature; docs/decisions/0010.
"""

from __future__ import annotations

import threading
from typing import Final

from klingai_audit.errors import InvalidSignature, Malformed, UsageError
from klingai_audit.ledger.reader import LogReader
from klingai_audit.tlog.keys import VerifierKey
from klingai_audit.tlog.merkle import root_at
from klingai_audit.tlog.note import format_note
from klingai_audit.tlog.policy import WitnessPolicy
from klingai_audit.tlog.tile import node_reader
from klingai_audit.trust.epochs import read_metadata
from klingai_audit.trust.witnessed import find_witnessed, read_witnessed

__all__ = ["CosignedHead"]

_PIECE: Final = 65_536


class CosignedHead:
    """Finds a log's newest checkpoint with the cosignatures that `policy` asks for. Thread-safe.

    `key` is the log's. What an entry says counts only if all its known lines verify and the log has its root.
    """

    def __init__(self, reader: LogReader, key: VerifierKey, policy: WitnessPolicy) -> None:
        self._reader = reader
        self._key = key
        self._policy = policy
        self._lock = threading.Lock()
        self._seen = 0
        self._found: tuple[int, bytes] | None = None

    def __call__(self) -> bytes:
        """Return the note, lines of the log and of witnesses as the entry has them; none older than the last time.

        Raises: UsageError if there is none.
        """
        with self._lock:
            size = self._reader.size
            newer = self._newest(self._seen, size)
            self._seen = max(self._seen, size)
            if newer is not None and (self._found is None or newer[0] > self._found[0]):
                self._found = newer
            if self._found is None:
                asked = self._policy.describe() or "anybody"
                raise UsageError(
                    f"No checkpoint of this log is cosigned by {asked}.", do="Ask them: klingai-audit witness submit"
                )
            return self._found[1]

    def _newest(self, begin: int, end: int) -> tuple[int, bytes] | None:
        """Look through entries `[begin, end)` from the end."""
        while end > begin:
            start = max(begin, end - _PIECE)
            for line in reversed(list(find_witnessed(self._reader.entries(start, end)))):
                if (found := self._read(line)) is not None:
                    return found
            end = start
        return None

    def _read(self, line: bytes) -> tuple[int, bytes] | None:
        """Return what an entry keeps as (size, note), None if it is not enough or not of this log."""
        try:
            found = read_witnessed(read_metadata(line), self._key, self._policy.keys)
            root = root_at(found.checkpoint.size, node_reader(self._reader.store.read_hashes))
        except (Malformed, InvalidSignature):
            return None
        if root != found.checkpoint.root or not found.times or not self._policy.is_satisfied(found.times.keys()):
            return None
        return found.checkpoint.size, format_note(found.note)
