"""Claims that a producer may not make, as entries: who tried, which members, how often; at most one a minute each."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Collection
from typing import Final

from klingai_audit.errors import KlingAuditError
from klingai_audit.event.record import Draft
from klingai_audit.event.types import EventType
from klingai_audit.ingest.producers import Producer
from klingai_audit.log import AuditLog

__all__ = ["PAUSE_S", "Denials"]

PAUSE_S: Final = 60.0
"""Seconds for which further refusals of one producer are counted only."""


class Denials:
    """Records refused claims of one log; any thread may call it. `clock` returns seconds of any origin."""

    def __init__(self, audit: AuditLog, clock: Callable[[], float] = time.monotonic) -> None:
        self._audit = audit
        self._clock = clock
        self._lock = threading.Lock()
        self._last: dict[str, float] = {}
        self._since: dict[str, int] = {}

    def note(self, producer: Producer, members: Collection[str]) -> None:
        """Record that a request was refused because of claims in `members`; what cannot be recorded is not."""
        name, now = producer.name, self._clock()
        with self._lock:
            if now - self._last.get(name, -PAUSE_S) < PAUSE_S:
                self._since[name] = self._since.get(name, 0) + 1
                return
            self._last[name], since = now, self._since.pop(name, 0)
        told = {"producer": name, "why": "claim_not_allowed", "members": sorted(set(members)), "since_last": since}
        draft = Draft(
            event_type=EventType.ACCESS_DENIED.value,
            actor_id=producer.actor or f"producer {name}",
            actor_type="service",
            resource_type="log",
            resource_id=self._audit.origin,
            action="ingest",
            outcome="blocked",
            metadata=told,
        )
        with contextlib.suppress(KlingAuditError):
            self._audit.record(draft)
