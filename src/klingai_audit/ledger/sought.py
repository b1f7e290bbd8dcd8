"""Events that the log may hold already: they were handed to it once, and nobody learned what became of them."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping
from typing import Final

from klingai_audit.ledger.places import Appended
from klingai_audit.ledger.store import Store
from klingai_audit.tlog.merkle import leaf_hash

__all__ = ["Sought"]

_EVENT_ID: Final = slice(24, 60)
"""Where an entry has its event id (docs/format.md, section 2.1)."""


class Sought:
    """Finds events by id in what the log holds from some entry on. Thread-safe.

    `find` is asked under the writer lock, with the entries that are then acknowledged: what it answers is true until
    something is appended. Each entry is read once, however many events are sought.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self.after_fork()

    def after_fork(self) -> None:
        """In a forked child: what is sought is the parent's, whose threads may have held the lock."""
        self._lock = threading.Lock()
        self._since: dict[str, int] = {}
        self._found: dict[str, Appended] = {}
        self._read_to: int | None = None

    def seek(self, since: Mapping[str, int]) -> None:
        """From now on look for these event ids, each from the entry of that index on."""
        with self._lock:
            new = {event_id: begin for event_id, begin in since.items() if event_id not in self._since}
            self._since |= new
            if new and self._read_to is not None:
                self._read_to = min(self._read_to, *new.values())

    @property
    def active(self) -> bool:
        """Whether anything is sought."""
        return bool(self._since)

    def __contains__(self, event_id: str) -> bool:
        return event_id in self._since

    def forget(self, event_ids: Iterable[str]) -> None:
        """Look for these no longer."""
        with self._lock:
            for event_id in event_ids:
                self._since.pop(event_id, None)
                self._found.pop(event_id, None)
            if not self._since:
                self._read_to = None

    def find(self, event_id: str, size: int) -> Appended | None:
        """Return where an event that is sought stands among the first `size` entries; None if it does not."""
        with self._lock:
            if event_id not in self._since:
                return None
            begin = min(self._since.values()) if self._read_to is None else self._read_to
            if begin < size:
                for seq, line in enumerate(self._store.read_entries(begin, size), begin):
                    found = line[_EVENT_ID].decode("ascii", "replace")
                    if found in self._since and found not in self._found:
                        self._found[found] = Appended(seq, leaf_hash(line), b"")
                self._read_to = size
            return self._found.get(event_id)
