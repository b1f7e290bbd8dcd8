"""The end of a log as others write it: what was appended since the last look. Never writes, never locks."""

from __future__ import annotations

import datetime as dt
from typing import Final

from klingai_audit.ledger.sealed import is_sealed
from klingai_audit.ledger.store import Store

__all__ = ["MAX_LOOK", "Tail"]

MAX_LOOK: Final = 4 << 20
"""Bytes of one file that a look reads at most, the newest ones."""

_MAX_TORN: Final = 1 << 17
_NAME: Final = "audit-{}.jsonl"
_MEMORY: Final = "memory:"


class Tail:
    """Follows a log from the moment it is made. Used by one thread at a time.

    A look reads what is new in the newest file of entries, whatever the size of the log: complete lines, sealed or
    not, signed or not. What it gives is for finding things, never for trust; after a crash a line may be missing.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._name, self._offset = "", 0
        self._seq = sum(1 for _ in store.read_entries(0)) if store.url == _MEMORY else None
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
            lines = list(self._store.read_entries(self._seq))
            self._seq += len(lines)
            return lines
        lines = []
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
