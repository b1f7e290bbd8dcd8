"""A sink that keeps drafts and fails on demand, and small helpers for recorders."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Generator
from typing import Any

from klingai_audit.capture.facts import Operation
from klingai_audit.capture.recorder import Recorder
from klingai_audit.errors import AuditUnavailable
from klingai_audit.event.context import resolve
from klingai_audit.event.record import Draft, EncodedEvent, decode_event
from klingai_audit.kling.catalogue import Match, Row
from klingai_audit.kling.meaning import PROVIDER
from klingai_audit.privacy.policy import Policy

ORIGIN = "log.example/test"


class Receipt:
    """Durable at once, or failing with `error`."""

    def __init__(self, error: BaseException | None = None) -> None:
        self.error = error

    def wait(self, state: str = "durable", timeout: float | None = None) -> Receipt:
        if self.error is not None:
            raise self.error
        return self

    async def reached(self, state: str = "durable", timeout: float | None = None) -> Receipt:
        return self.wait(state)

    def when_done(self, callback: Callable[[], object]) -> None:
        callback()

    def __await__(self) -> Generator[Any, Any, Receipt]:
        yield from ()
        return self.wait()


class MemorySink:
    """Implements `Sink`: `drafts` in order, `own` for the log's own entries.

    `fail` is asked with each draft; an exception it returns is raised by the receipt (or by `record`, with `at_once`).
    """

    origin = ORIGIN
    spool = None

    def __init__(self, policy: str = "") -> None:
        self.policy = Policy.parse(policy.encode()) if policy else Policy.default()
        self.drafts: list[Draft] = []
        self.own: list[tuple[str, dict[str, Any]]] = []
        self.fail: Callable[[Draft | EncodedEvent], BaseException | None] = lambda entry: None
        self.at_once = False
        self._ends: set[str] = set()
        self._lock = threading.Lock()

    def record(self, draft: Draft, *, once: bool = False) -> Receipt:
        resolved = resolve(draft)
        error = self.fail(draft)
        if error is not None:
            if self.at_once:
                raise error
            return Receipt(error)
        with self._lock:
            if once and draft.event_id in self._ends:
                return Receipt()
            if once:
                self._ends.add(str(draft.event_id))
            self.drafts.append(resolved)
        return Receipt()

    def append(self, event: EncodedEvent, *, once: bool = False) -> Receipt:
        error = self.fail(event)
        if error is not None:
            return Receipt(error)
        decoded = decode_event(event.body)
        self.own.append((decoded.event_type, decoded.details))
        return Receipt()

    def fingerprint(self, credential: str) -> str:
        return hashlib.sha256(credential.encode()).hexdigest()[:16]

    @property
    def story(self) -> list[tuple[str, str]]:
        """Event types and outcomes, in order."""
        return [(str(draft.event_type), draft.outcome) for draft in self.drafts]

    @property
    def types(self) -> list[str]:
        """Event types, in order."""
        return [str(draft.event_type) for draft in self.drafts]

    def break_down(self) -> None:
        """Fail everything from now on, as a full disk does."""
        self.fail = lambda entry: AuditUnavailable("no space left", do="Free space.")

    def repair(self) -> None:
        """Work again."""
        self.fail = lambda entry: None


def make_recorder(policy: str = "") -> tuple[Recorder, MemorySink]:
    """Return a recorder for Kling over a fresh sink."""
    sink = MemorySink(policy)
    return Recorder(sink, PROVIDER), sink


def operation_for(row: Row, **more: Any) -> Operation:
    """Return the operation of a catalogue row."""
    return Operation(name=row.action, kind=row.kind, row=Match(row, row.action), **more)
