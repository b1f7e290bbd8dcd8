"""Tests of your own programs: what they record, and that nothing leaves unrecorded.

`capture_events()` gives a log in memory and the events that it received, `refuse_unaudited()` stops requests to Kling
that no log records, `memory_log()` and `HandClock` are what both are made of. pytest has them as the fixture
`audited_kling`. Everything is loaded on first use. See docs/how-to/test-that-every-call-is-audited.md.

For authors of stores: `testing.store_contract`, `testing.batches`, `testing.faulty` and `testing.proxy`
(docs/how-to/write-a-store.md).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from klingai_audit.testing.clock import HandClock
    from klingai_audit.testing.events import CapturedEvents, capture_events, memory_log
    from klingai_audit.testing.guard import UnauditedRequest, refuse_unaudited

__all__ = ["CapturedEvents", "HandClock", "UnauditedRequest", "capture_events", "memory_log", "refuse_unaudited"]

_HOMES = {
    "CapturedEvents": "events",
    "HandClock": "clock",
    "UnauditedRequest": "guard",
    "capture_events": "events",
    "memory_log": "events",
    "refuse_unaudited": "guard",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
