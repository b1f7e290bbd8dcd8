"""Reading events from hostile lines: only Malformed may escape, and nothing of the line with it."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from klingai_audit.errors import Malformed
from klingai_audit.event.record import Event, canonical_body, decode_event, encode_event, event_body

LINE = (
    b'{"schema":1,"event_id":"01a1fb67-1418-702a-821e-d18ef9931cd6","timestamp":"2026-11-20T23:59:59.500000Z",'
    b'"event_type":"x_test","actor_id":"p_7Q3kZr0bT9yVw2mXc4NdLg","actor_type":"user","outcome":"success",'
    b'"metadata":{"a":[1,null,{"b":"c"}]},"seq":41,"logged_at":"2026-11-21T19:28:23.124001Z","prev_hash":"'
    + b"a" * 64
    + b'","seal":"'
    + b"S" * 43
    + b'"}'
)


def check(line: bytes) -> None:
    """Decode a line; what is accepted and is canonical must pass the encoder too, byte for byte."""
    try:
        event = decode_event(line)
    except Malformed:
        return
    assert isinstance(event, Event)
    body = event_body(line)
    if canonical_body(event) == body and event.event_type == "x_test" and event.actor_id and event.actor_type:
        assert body == encode_event(event).body


@given(st.binary(max_size=300))
def test_any_bytes(line: bytes) -> None:
    """Any bytes are either an event or Malformed."""
    check(line)


@given(st.integers(0, len(LINE) - 1), st.binary(max_size=4), st.integers(0, 8))
def test_changed_lines(place: int, put: bytes, taken: int) -> None:
    """A real line with some bytes replaced is either an event or Malformed."""
    check(LINE[:place] + put + LINE[place + taken :])


@given(st.integers(0, len(LINE) - 1), st.integers(0, 7))
def test_every_changed_bit_shows(place: int, bit: int) -> None:
    """One flipped bit in the event's bytes changes what is read or is refused."""
    changed = bytearray(LINE)
    changed[place] ^= 1 << bit
    try:
        event = decode_event(bytes(changed))
    except Malformed:
        return
    assert canonical_body(event) != event_body(LINE) or event_body(bytes(changed)) == event_body(LINE)


@given(st.integers(1, 2000), st.sampled_from([b"[", b'{"a":']))
def test_deep_nesting(levels: int, opening: bytes) -> None:
    """Nesting of any depth is either an event or Malformed, never a crash."""
    check(LINE[:-1] + b',"x":' + opening * levels)
    check(opening * levels)
