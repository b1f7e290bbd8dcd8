"""Event bytes against a slow reference written from docs/format.md, and ids and times for any input."""

from __future__ import annotations

import datetime as dt
import decimal
import json
import uuid
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from klingai_audit.event.clock import format_time, is_event_id, is_time, new_event_id, parse_time
from klingai_audit.event.context import normalise_id
from klingai_audit.event.record import (
    MAX_EVENT_BYTES,
    MEMBERS,
    Event,
    canonical_body,
    decode_event,
    encode_event,
    event_body,
)

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
NUMBERS = st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False)
VALUES = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=12,
)
OPTIONAL = [name for name in MEMBERS[6:18] if name != "outcome"]
TIMES = st.datetimes(min_value=dt.datetime(1, 1, 2), max_value=dt.datetime(9999, 12, 30)).map(  # noqa: DTZ001
    lambda moment: moment.replace(tzinfo=dt.UTC)
)


@st.composite
def events(draw: st.DrawFn) -> Event:
    """Draw any valid event."""
    fields: dict[str, Any] = {
        "event_id": str(uuid.UUID(int=draw(st.integers(0, 2**128 - 1)), version=draw(st.sampled_from([1, 4, 5])))),
        "timestamp": format_time(draw(TIMES)),
        "event_type": draw(st.sampled_from(["x_test", "video_downloaded", "log_created"])),
        "actor_id": draw(TEXT.filter(bool)),
        "actor_type": draw(TEXT.filter(bool)),
        "outcome": draw(st.sampled_from(["success", "failure", "blocked", "unknown"])),
    }
    fields.update(draw(st.dictionaries(st.sampled_from(OPTIONAL), TEXT)))
    if draw(st.booleans()):
        fields["metadata"] = draw(st.dictionaries(TEXT, VALUES, max_size=5))
    return Event(**fields)


# --- the reference ------------------------------------------------------------------------------------


def ref_number(value: float) -> str:
    """Write a double by the rule of docs/format.md section 2, digit by digit."""
    sign, digits, exponent = decimal.Decimal(repr(value)).as_tuple()
    assert isinstance(exponent, int)
    minus = "-" if sign else ""
    text = "".join(map(str, digits)).rstrip("0")
    exponent += len(digits) - len(text)
    text = text.lstrip("0")
    if not text:
        return minus + "0.0"
    first = exponent + len(text) - 1
    if not -5 <= first <= 15:
        rest = f".{text[1:]}" if len(text) > 1 else ""
        return f"{minus}{text[0]}{rest}e{first}"
    if first < 0:
        return f"{minus}0.{'0' * (-first - 1)}{text}"
    whole = text[: first + 1].ljust(first + 1, "0")
    return f"{minus}{whole}.{text[first + 1 :] or '0'}"


def ref_json(value: Any) -> str:
    """Write JSON by the rules of docs/format.md section 2."""
    if isinstance(value, float):
        return ref_number(value)
    if isinstance(value, dict):
        return "{" + ",".join(f"{ref_json(key)}:{ref_json(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(ref_json, value)) + "]"
    return json.dumps(value, ensure_ascii=False)


def ref_body(event: Event) -> bytes:
    """Write an event's bytes member by member."""
    members = [(name, getattr(event, name)) for name in MEMBERS]
    return ref_json({name: value for name, value in members if isinstance(value, str | int | dict)}).encode()


# --- properties ---------------------------------------------------------------------------------------


@given(events())
def test_bytes_are_those_of_the_reference(event: Event) -> None:
    """Every event has the bytes that the format page gives it, decodes to itself, and encodes to them again."""
    body = encode_event(event).body
    assert ref_body(event) == body
    assert event == decode_event(body)
    assert body == canonical_body(decode_event(body))


@given(events())
def test_bytes_have_the_promised_form(event: Event) -> None:
    """The body begins and ends as promised, has its head in place, no control byte, and one line."""
    encoded = encode_event(event)
    body = encoded.body
    assert body.startswith(b'{"schema":1,"event_id":"')
    assert body.endswith(b"}")
    assert min(body) >= 0x20
    assert len(body) <= MAX_EVENT_BYTES
    assert (event.event_id, event.timestamp, event.event_type) == (
        body[24:60].decode(),
        body[75:102].decode(),
        encoded.event_type,
    )


@given(events(), st.integers(0, 10**18), st.booleans())
def test_ledger_members_come_off_again(event: Event, seq: int, sealed: bool) -> None:
    """Whatever the event holds, splicing the ledger's members in and taking them off gives the event's bytes."""
    body = encode_event(event).body
    tail = f',"seq":{seq},"logged_at":"{event.timestamp}","prev_hash":"{"0" * 64}"'
    if sealed:
        tail += f',"seal":"{"A" * 43}"'
    assert body == event_body(body[:-1] + tail.encode() + b"}")
    assert body == event_body(body)


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_doubles_are_written_one_way(value: float) -> None:
    """Any double is written by the rule and read back as the same double."""
    event = Event(
        event_id=new_event_id(0), timestamp=format_time(0), event_type="x_test", actor_id="a", actor_type="user",
        outcome="success", metadata={"d": value},
    )  # fmt: skip
    body = encode_event(event).body
    assert body.endswith(f'"metadata":{{"d":{ref_number(value)}}}}}'.encode())
    assert repr(value) == repr(decode_event(body).details["d"])


@given(st.integers(-62_135_596_800 * 10**9, 253_402_300_799 * 10**9))
def test_nanoseconds_and_datetimes_agree(nanoseconds: int) -> None:
    """Formatting nanoseconds gives what formatting the same moment as a datetime gives."""
    moment = dt.datetime(1970, 1, 1, tzinfo=dt.UTC) + dt.timedelta(microseconds=nanoseconds // 1000)
    assert format_time(moment) == format_time(nanoseconds)


@given(TIMES)
def test_times_survive(moment: dt.datetime) -> None:
    """Any moment formats to a time that parses to it."""
    assert moment == parse_time(format_time(moment))


@given(st.text(alphabet="0123456789-T:.Z", max_size=30) | st.text(max_size=30))
def test_parsed_times_format_to_themselves(text: str) -> None:
    """Whatever text is accepted as time is written the same again."""
    if is_time(text):
        assert text == format_time(parse_time(text))


@given(st.integers(0, 2**66))
def test_any_clock_gives_an_id(nanoseconds: int) -> None:
    """Whatever the clock says, the id is a UUIDv7."""
    text = new_event_id(nanoseconds)
    assert is_event_id(text)
    assert 7 == uuid.UUID(text).version


@given(st.text(max_size=60))
def test_normalising_ids_is_idempotent(text: str) -> None:
    """A normalised id normalises to itself."""
    assert normalise_id(text) == normalise_id(normalise_id(text))
