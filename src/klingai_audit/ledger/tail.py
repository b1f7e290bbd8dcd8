"""The end of a log as others write it: what was appended since the last look. Never writes, never locks."""

from __future__ import annotations

import datetime as dt
from collections import deque
from typing import Final

from klingai_audit.ledger.batches import takes_batches
from klingai_audit.ledger.mirror import end_of, stated_size
from klingai_audit.ledger.sealed import is_sealed
from klingai_audit.ledger.store import Store

__all__ = ["MAX_LINES", "MAX_LOOK", "Tail"]

MAX_LOOK: Final = 4 << 20
"""Bytes of one file that a look reads at most, the newest ones."""

MAX_LINES: Final = 1 << 14
"""Lines that a look gives at most where a log has no files, the newest ones."""

_MAX_TORN: Final = 1 << 17
_NAME: Final = "audit-{}.jsonl"
_MEMORY: Final = "memory:"


def _is_far(store: Store) -> bool:
    """Tell whether a view of a file would have to be put together."""
    return store.url == _MEMORY or takes_batches(store)


class Tail:
    """Follows a log from the moment it is made. Used by one thread at a time.

    A look reads what is new in the newest file of entries, whatever the size of the log: complete lines, sealed or
    not, signed or not. What it gives is for finding things, never for trust; after a crash a line may be missing.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._name, self._offset = "", 0
        self._seq = end_of(store, stated_size(store.read_checkpoint())) if _is_far(store) else None
        if self._seq is None:
            self._start()

    def _start(self) -> None:
        for name in self._names(""):
            self._name, self._offset = name, 0
        if self._name:
            with self._store.view(self._name) as view:
                begin = max(0, len(view) - _MAX_TORN)
                self._offset = begin + bytes(view[begin:]).rfind(b"\n") + 1

    def look(self) -> list[bytes]:
        """Return the lines that were appended since the last look, without LF. Raises: OSError."""
        if self._seq is not None:  # a view of a store without files would be put together each time
            newest: deque[bytes] = deque(maxlen=MAX_LINES)
            for line in self._store.read_entries(self._seq):
                newest.append(line)
                self._seq += 1
            return list(newest)
        lines: list[bytes] = []
        for name in self._names(self._name):
            if name != self._name:
                self._name, self._offset = name, 0
            with self._store.view(name) as view:
                if len(view) <= self._offset:
                    self._offset = len(view)
                    continue
                begin = max(self._offset, len(view) - MAX_LOOK)
                new = bytes(view[begin:])
            whole = new[: new.rfind(b"\n") + 1]
            self._offset = begin + len(whole)
            lines += whole.split(b"\n")[:-1]
        return lines

    def _names(self, known: str) -> list[str]:
        """The file that is known and those of later days; a look at the folder is spared while the day lasts."""
        if known and known >= _NAME.format(dt.datetime.now(dt.UTC).date().isoformat()):
            return [known]
        names = (file.name for file in self._store.inspect() if file.kind == "entries")
        return [name for name in names if name >= known and not is_sealed(name)]
