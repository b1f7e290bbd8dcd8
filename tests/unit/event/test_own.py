"""Events of the log itself."""

from __future__ import annotations

from klingai_audit.event.own import own_event
from klingai_audit.event.record import decode_event

NS = 1_795_289_303_123_456_789


def test_own_events_are_of_the_log() -> None:
    """An own event has the log as actor, the given moment as time and in its id, and exactly the given metadata."""
    encoded = own_event("log_created", {"origin": "log@example.com/x", "log_key": "k+1+A="}, NS)
    event = decode_event(encoded.body)
    assert ("klingai-audit", "system", "success") == (event.actor_id, event.actor_type, event.outcome)
    assert "2026-11-21T19:28:23.123456Z" == event.timestamp
    assert f"{NS // 1_000_000:012x}" == event.event_id.replace("-", "")[:12]
    assert {"origin": "log@example.com/x", "log_key": "k+1+A="} == event.details


def test_own_events_without_metadata_have_none() -> None:
    """Empty metadata is left out."""
    assert b"metadata" not in own_event("log_heartbeat", {}, NS).body
