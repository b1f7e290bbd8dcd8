"""Bodies into drafts: what is read, what is refused, and what a refusal says of it."""

from __future__ import annotations

import contextlib
import datetime as dt
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from klingai_audit.ingest.reading import Given, media_type_of, read_events
from klingai_audit.ingest.wire import CLOUDEVENT, CLOUDEVENTS, JSON, JSON_LINES, Refused
from tests.support.ingesting import IDS, lines

PLANTED = "wombat-7731"


def read(body: bytes, kind: str = JSON_LINES, limit: int = 5) -> list[Given]:
    return read_events(body, kind, limit)


def refusal(body: bytes, kind: str = JSON_LINES, limit: int = 5) -> Refused:
    with pytest.raises(Refused) as caught:
        read(body, kind, limit)
    return caught.value


def test_all_members_are_read() -> None:
    """Each has its place in the draft; null and the empty text are no value; the time keeps its zone."""
    texts = {
        name: f"a {name}"
        for name in ("actor_type", "on_behalf_of", "team", "project", "resource_type", "resource_id", "action",
                     "user_agent", "correlation_id", "request_id")
    }  # fmt: skip
    event = {
        "event_type": "x_a",
        "event_id": IDS[0],
        "actor_id": "user@example.com",
        "ip_address": "192.0.2.1",
        **texts,
    }
    event |= {
        "outcome": "blocked",
        "timestamp": "2026-11-21T20:28:23.5+01:00",
        "metadata": {"a": [1, None, {"b": 1.5}]},
    }
    (found,) = read(json.dumps(event).encode(), JSON)
    moment = dt.datetime(2026, 11, 21, 19, 28, 23, 500_000, dt.UTC)
    told = {name: getattr(found.draft, name) for name in found.draft.__struct_fields__}
    assert {**event, "timestamp": moment} == told
    assert (0, None, True) == (found.at, found.line, found.timed)
    empty = dict.fromkeys([*texts, "event_id", "actor_id", "ip_address", "timestamp", "metadata"])
    (bare,) = read(json.dumps({"event_type": "x_a", **empty}).encode(), JSON)
    (blank,) = read(json.dumps({"event_type": "x_a", **dict.fromkeys([*texts, "actor_id"], "")}).encode(), JSON)
    (least,) = read(b'{"event_type":"x_a"}', JSON)
    assert least == bare == blank
    assert not least.timed


def test_lines_keep_their_numbers() -> None:
    """Empty lines, CR and a missing last LF are no events and no faults."""
    found = read(b'\n{"event_type":"x_a"}\r\n  \t\n {"event_type":"x_b"}')
    assert [(0, 2, "x_a"), (1, 4, "x_b")] == [(one.at, one.line, one.draft.event_type) for one in found]


def test_every_fault_is_told_with_its_place() -> None:
    """All lines at fault are listed, and nothing that stood in them."""
    secret = f'"{PLANTED}"'.encode()
    body = b"\n".join(
        [
            b'{"event_type":"x_a"}',
            b'{"event_type":"x_a","outcome":%b}' % secret,
            b'{"event_type":"x_a","event_id":%b}' % secret,
            b'{"event_type":"x_a","timestamp":%b}' % secret,
            b'{"event_type":"x_a","metadata":%b}' % secret,
        ]
    )
    found = refusal(body)
    assert (422, "invalid_event", 4) == (found.status, found.kind_of, len(found.faults))
    assert [(1, 2), (2, 3), (3, 4), (4, 5)] == [(one.at, one.line) for one in found.faults]
    assert ["/outcome", "/event_id", "/timestamp", "/metadata"] == [
        one.message.partition(":")[0] for one in found.faults
    ]
    assert PLANTED not in repr(found.problem("")) + str(found)
    assert found.message.startswith("4 events are at fault, so nothing was recorded. Event 1 (line 2): /outcome: ")


def test_of_names_that_stand_twice_the_last_counts() -> None:
    """As docs/ingest.md says: what is checked and what is recorded is one and the same."""
    (found,) = read(b'{"event_type":"x_a","event_type":"x_b","metadata":{"a":1,"a":2}}')
    assert ("x_b", {"a": 2}) == (found.draft.event_type, found.draft.metadata)


def test_names_of_members_are_left_out_of_places() -> None:
    """Below metadata any text may be a name: an ellipsis stands for it."""
    found = refusal(b'{"event_type":"x_a","metadata":{"%s":[{"b":1e999}]}}' % PLANTED.encode(), JSON)
    assert ["/metadata/…/0/…: number out of range"] == [one.message for one in found.faults]


@pytest.mark.parametrize(
    ("event", "message"),
    [
        ({}, "/event_type: missing"),
        ({"event_type": "x_a", "colour": 1}, "/colour: there is no such member"),
        ({"event_type": 7}, "/event_type: expected `str`, got `int`"),
        ({"event_type": "x_a", "timestamp": "2026-11-21T19:28:23"}, "/timestamp: expected `datetime` with a timezone"),
        ({"event_type": "x_a", "event_id": IDS[0].replace("-7", "-8")}, "/event_id: not of its form"),
        ({"event_type": "x_a", "metadata": {"producer": "boss"}}, "/metadata/producer: this name is kept"),
        ({"event_type": "x_a", "metadata": {"cloudevent": {}}}, "/metadata/cloudevent: this name is kept"),
        ({"event_type": "x_a", "seq": 1}, "/seq: there is no such member"),
        ([], "/: expected `object`, got `array`"),
    ],
)
def test_what_does_not_fit_is_named(event: Any, message: str) -> None:
    """By its JSON pointer, the same for one object and for a line."""
    for kind in (JSON, JSON_LINES):
        found = refusal(json.dumps(event).encode(), kind)
        assert 422 == found.status
        assert found.faults[0].message.startswith(message), found.faults[0].message


def test_limits() -> None:
    """As many as allowed, not one more; nothing is no request."""
    event: dict[str, Any] = {"event_type": "x_a"}
    assert 5 == len(read(lines(*[event] * 5)))
    assert (413, "too_many_events") == (refusal(lines(*[event] * 6)).status, refusal(lines(*[event] * 6)).kind_of)
    assert 413 == refusal(b"\n" * 1000).status
    cloudevent = {"specversion": "1.0", "id": "1", "source": "/a", "type": "klingai-audit.x_a"}
    assert 5 == len(read(json.dumps([cloudevent] * 5).encode(), CLOUDEVENTS))
    assert 413 == refusal(json.dumps([cloudevent] * 6).encode(), CLOUDEVENTS).status
    for body, kind in ((b"", JSON_LINES), (b" \n\n", JSON_LINES), (b"[]", CLOUDEVENTS)):
        assert (422, "The body holds no event.") == (refusal(body, kind).status, refusal(body, kind).message)


@pytest.mark.parametrize("kind", [JSON, CLOUDEVENT, CLOUDEVENTS])
@pytest.mark.parametrize("body", [b"", b"{", b'{"event_type":"\xff"}', b"[" * 100_000, b"\xef\xbb\xbf{}"])
def test_what_is_no_json_is_400(body: bytes, kind: str) -> None:
    """Whatever is wrong with it, the stack included."""
    found = refusal(body, kind)
    assert found.status in (400, 422)
    assert found.kind_of in ("malformed", "invalid_event")


@pytest.mark.parametrize("kind", [JSON_LINES, JSON, CLOUDEVENT, CLOUDEVENTS])
@given(
    body=st.binary(max_size=300)
    | st.recursive(st.none() | st.text(max_size=5) | st.floats(allow_nan=False), lambda some: st.lists(some, max_size=3)
                   | st.dictionaries(st.sampled_from(["event_type", "id", "data", "metadata", "type", "source"]), some),
                   max_leaves=8).map(lambda value: json.dumps(value).encode())
)  # fmt: skip
def test_nothing_but_refusals_escapes(kind: str, body: bytes) -> None:
    """Whatever the bytes are."""
    with contextlib.suppress(Refused):
        assert 0 < len(read(body, kind)) <= 5


@pytest.mark.parametrize(
    ("header", "kind"),
    [
        ("application/x-ndjson", JSON_LINES),
        (" Application/JSON ; charset=UTF-8", JSON),
        ('application/cloudevents+json; charset="utf-8"', CLOUDEVENT),
        ("application/cloudevents-batch+json;", CLOUDEVENTS),
        (None, None),
        ("", None),
        ("text/plain", None),
        ("application/json; charset=latin-1", None),
        ("application/json; profile=x", None),
        ("application/jsonl", None),
    ],
)
def test_media_types(header: str | None, kind: str | None) -> None:
    """Four kinds, in UTF-8; another is 415 and is told which there are."""
    if kind is not None:
        assert kind == media_type_of(header, binary=False)
        return
    with pytest.raises(Refused) as caught:
        media_type_of(header, binary=False)
    assert 415 == caught.value.status
    assert "Accept-Post" in dict(caught.value.headers)


def test_binary_cloudevents_are_not_taken_for_events() -> None:
    """Their attributes stand in headers: reading the body alone would lose them."""
    with pytest.raises(Refused, match="binary mode"):
        media_type_of("application/json", binary=True)
