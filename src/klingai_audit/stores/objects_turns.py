"""Taking turns: who wins the head again and again leaves room for others, who would never win it otherwise.

A compare-and-swap favours whoever is quickest. A writer that keeps losing says so in the object `waiting`; one that
keeps winning looks there twice a second. Whoever knows of others lets some time pass after each commit of its own:
its entries gather meanwhile, and go with the next. Nothing but speed depends on any of this.
"""

from __future__ import annotations

import contextlib
import secrets
import time
from typing import TYPE_CHECKING, Final

from klingai_audit.errors import AuditUnavailable
from klingai_audit.stores.objects_client import Refused, Unsure
from klingai_audit.stores.objects_format import WAITING

if TYPE_CHECKING:
    from klingai_audit.stores.objects_client import Bucket

__all__ = ["Turns"]

_LOOK_S: Final = 0.5
_CROWDED_S: Final = 3.0
_ROOM: Final = 3.0
_MOST_S: Final = 1.0
_LOSSES: Final = 2


class Turns:
    """What one writer knows of others; used by one thread at a time."""

    def __init__(self, bucket: Bucket) -> None:
        self._bucket = bucket
        self._mine = b""
        self._crowded_until = 0.0
        self._free_at = 0.0
        self._begun = 0.0
        self._looked = 0.0
        self._said = 0.0
        self._heard: bytes | None = None
        self._own: bytes = b""
        self._losses = 0

    def begin(self) -> None:
        """Wait for the end of the room that is left to others."""
        left = self._free_at - time.monotonic()
        if left > 0:
            time.sleep(left)
        self._begun = time.monotonic()

    def saw(self, note: bytes) -> None:
        """A head was read; it may be another writer's."""
        if note != self._mine and self._mine:
            self._crowd()

    def won(self, note: bytes) -> None:
        """A commit succeeded."""
        now = time.monotonic()
        self._mine, self._losses = note, 0
        if now - self._looked > _LOOK_S:
            with contextlib.suppress(AuditUnavailable):
                self._look(busy=now - self._looked < 2 * _LOOK_S)
        if self._crowded_until > now:
            self._free_at = now + min(_MOST_S, _ROOM * (now - self._begun))

    def lost(self) -> None:
        """Another writer was faster."""
        now = time.monotonic()
        self._free_at, self._losses = 0.0, self._losses + 1
        if self._losses >= _LOSSES and now - self._said > _LOOK_S:
            self._said, self._own = now, secrets.token_hex(16).encode()
            with contextlib.suppress(AuditUnavailable, Refused, Unsure):
                self._bucket.put(WAITING, self._own)

    def _look(self, *, busy: bool) -> None:
        self._looked = time.monotonic()
        found = self._bucket.get(WAITING)
        heard = b"" if found is None else found.data
        if busy and self._heard is not None and heard not in (self._heard, self._own):
            self._crowd()
        self._heard = heard

    def _crowd(self) -> None:
        self._crowded_until = time.monotonic() + _CROWDED_S
