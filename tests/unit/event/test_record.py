"""The event, its bytes, and that nothing else becomes an EncodedEvent."""

from __future__ import annotations

import copy
import datetime as dt
import decimal
import enum
import json
import pickle
import uuid
from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec import UNSET

from klingai_audit.errors import EventTooLarge, InvalidEvent, Malformed
from klingai_audit.event.record import (
    LEDGER_MEMBERS,
    MAX_EVENT_BYTES,
    MEMBERS,
    Draft,
    EncodedEvent,
    Event,
    canonical_body,
    decode_event,
    encode_event,
    event_body,
)

ID = "01a1fb67-1418-702a-821e-d18ef9931cd6"
TIME = "2026-11-20T23:59:59.500000Z"
TAIL = b',"seq":41,"logged_at":"2026-11-21T19:28:23.124001Z","prev_hash":"' + b"a" * 64 + b'"'
SEAL = b',"seal":"' + b"S" * 43 + b'"'


def make(**changes: Any) -> Event:
    """Return a small valid event with changes."""
    fields = {
        "event_id": ID, "timestamp": TIME, "event_type": "x_test", "actor_id": "p_7Q3kZr0bT9yVw2mXc4NdLg",
        "actor_type": "user", "outcome": "success",
    }  # fmt: skip
    return Event(**{**fields, **changes})


def vectors(repository: Path, name: str) -> list[dict[str, Any]]:
    """Read one file of tests/vectors/event."""
    found: list[dict[str, Any]] = json.loads((repository / "tests/vectors/event" / name).read_text(encoding="utf-8"))
    return found


def test_vectors_have_exactly_these_bytes(repository: Path) -> None:
    """Each accepted vector encodes to the bytes written beside it, and decodes to the same event again."""
    for vector in vectors(repository, "accepted.json"):
        event = Event(**vector["event"])
        assert vector["body"].encode() == encode_event(event).body, vector["name"]
        assert event == decode_event(vector["body"].encode()), vector["name"]


def test_vectors_of_foreign_lines(repository: Path) -> None:
    """Each refused vector either is malformed or does not encode back to its own bytes."""
    for vector in vectors(repository, "refused.json"):
        line = vector["line"].encode()
        if vector["want"] == "malformed":
            with pytest.raises(Malformed):
                decode_event(line)
        else:
            assert canonical_body(decode_event(line)) != event_body(line), vector["name"]


def test_member_order_is_the_documented_one() -> None:
    """The bytes hold the members in the order of docs/format.md, all of them, and no member of the ledger."""
    every = make(**{name: f"v_{name}" for name in MEMBERS[6:18] if name != "outcome"}, metadata={"a": 1})
    assert list(MEMBERS) == list(json.loads(encode_event(every).body))
    expected = (
        "schema event_id timestamp event_type actor_id actor_type on_behalf_of team project resource_type resource_id "
        "action outcome ip_address ip_ref user_agent correlation_id request_id metadata"
    )
    assert expected.split() == list(MEMBERS)
    assert not set(LEDGER_MEMBERS) & set(MEMBERS)


def test_head_is_positional() -> None:
    """Id, time and type are where the documentation says, without a parser."""
    encoded = encode_event(make())
    assert ID.encode() == encoded.body[24:60]
    assert TIME.encode() == encoded.body[75:102]
    assert b'x_test"' == encoded.body[118:125]
    assert (ID, TIME, "x_test", len(encoded.body)) == (
        encoded.event_id,
        encoded.timestamp,
        encoded.event_type,
        len(encoded),
    )


def test_absent_null_and_withheld_stay_three_facts() -> None:
    """An absent member has no bytes, null is null, and what is withheld is text or a commitment."""
    body = encode_event(make(metadata={"null": None, "withheld": "[removed]"})).body
    assert b'"metadata":{"null":null,"withheld":"[removed]"}}' in body
    assert b"absent" not in body
    assert b"team" not in body
    event = decode_event(body)
    assert (UNSET, None, {"null": None, "withheld": "[removed]"}) == (event.team, event.get("team"), event.details)
    assert {} == make().details


def test_control_characters_are_escaped() -> None:
    """No byte below 0x20 stands in the body whatever the text holds, keys included."""
    every = "".join(map(chr, range(0x20))) + "\x7f\u2028\U0001f600"
    body = encode_event(make(team=every, metadata={every: [every]})).body
    assert min(body) >= 0x20
    assert every == json.loads(body)["team"]


@pytest.mark.parametrize(
    "value, kind",
    [
        (b"x", "bytes"),
        (bytearray(b"x"), "bytearray"),
        ({1, 2}, "set"),
        ((1, 2), "tuple"),
        (dt.datetime(2026, 1, 1, tzinfo=dt.UTC), "datetime"),
        (decimal.Decimal("1.5"), "Decimal"),
        (uuid.UUID(ID), "UUID"),
        (Path("x"), "PosixPath"),
        (enum.IntEnum("Number", "ONE").ONE, "Number"),  # type: ignore[attr-defined]
        (msgspec.Raw(b"1"), "Raw"),
        (make(), "Event"),
        (object(), "object"),
        (1 + 2j, "complex"),
        (UNSET, "UnsetType"),
    ],
)
def test_what_is_not_json_is_refused_by_place_and_type(value: object, kind: str) -> None:
    """Values that an encoder would turn into JSON on its own are refused; the error names pointer and type."""
    with pytest.raises(InvalidEvent) as caught:
        encode_event(make(metadata={"a/b": [{"c~d": value}]}))
    assert f"/metadata/a~1b/0/c~0d: a value of type {kind} is not JSON" == caught.value.message


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_no_infinite_numbers(value: float) -> None:
    """NaN and infinities, which an encoder may write as null, are refused."""
    with pytest.raises(InvalidEvent, match=r"^/metadata/a/0: a float that is NaN or infinite"):
        encode_event(make(metadata={"a": [value]}))


def test_integers_lie_within_two_to_the_53() -> None:
    """The limits themselves are fine, one more is refused without showing the number."""
    for value in (2**53, -(2**53)):
        assert value == decode_event(encode_event(make(metadata={"n": value})).body).details["n"]
    for value in (2**53 + 1, -(2**53) - 1, 10**30):
        with pytest.raises(InvalidEvent) as caught:
            encode_event(make(metadata={"n": value}))
        assert caught.value.message.startswith("/metadata/n: an int beyond 2**53")
        assert str(value) not in str(caught.value)


@pytest.mark.parametrize("key", [1, None, 1.5, True, b"k", ("a",)])
def test_keys_are_text(key: object) -> None:
    """A key that an encoder would turn into text, which could then repeat another, is refused."""
    with pytest.raises(InvalidEvent, match=f"^/metadata/a: a key of type {type(key).__name__}, keys are str"):
        encode_event(make(metadata={"a": {key: 1}}))


def test_key_of_a_subclass_of_text_is_refused() -> None:
    """A key whose equality is its own could stand twice: exact text only."""

    class Odd(str):
        __slots__ = ()
        __hash__ = object.__hash__

        def __eq__(self, other: object) -> bool:
            return self is other

    with pytest.raises(InvalidEvent, match="key of type Odd"):
        encode_event(make(metadata={Odd("a"): 1, Odd("a"): 2}))


def nested(levels: int, leaf: object = 1) -> Any:
    """Return `levels` objects and arrays in turn around a leaf."""
    for level in range(levels):
        leaf = {"k": leaf} if level % 2 else [leaf]
    return leaf


def test_sixteen_levels_and_no_more() -> None:
    """Metadata is level 1: 15 containers inside are fine, 16 are refused; a cycle is refused the same way."""
    assert encode_event(make(metadata={"k": nested(15)}))
    with pytest.raises(InvalidEvent, match="nested deeper than 16 levels"):
        encode_event(make(metadata={"k": nested(16)}))
    cycle: dict[str, Any] = {}
    cycle["self"] = cycle
    with pytest.raises(InvalidEvent, match="nested deeper than 16 levels"):
        encode_event(make(metadata=cycle))


def test_long_keys_are_cut_in_errors() -> None:
    """An error does not carry a whole long key."""
    with pytest.raises(InvalidEvent) as caught:
        encode_event(make(metadata={"k" * 1000: b""}))
    assert len(caught.value.message) < 200


@pytest.mark.parametrize(
    "member, value",
    [
        ("schema", 2),
        ("schema", True),
        ("schema", 1.0),
        ("event_id", "x"),
        ("event_id", ID.upper()),
        ("event_id", uuid.UUID(ID)),
        ("event_id", UNSET),
        ("timestamp", "2026-11-20"),
        ("timestamp", "2026-02-30T23:59:59.500000Z"),
        ("timestamp", dt.datetime(2026, 1, 1, tzinfo=dt.UTC)),
        ("event_type", "nonsense"),
        ("event_type", "generation_started"),
        ("event_type", 'x_a","actor_id":"'),
        ("actor_id", ""),
        ("actor_id", None),
        ("actor_id", UNSET),
        ("actor_id", b"x"),
        ("actor_type", ""),
        ("actor_type", UNSET),
        ("outcome", "ok"),
        ("outcome", UNSET),
        ("outcome", ["success"]),
        ("team", None),
        ("team", 5),
        ("ip_ref", b"x"),
        ("request_id", dt.date(2026, 1, 1)),
        ("metadata", None),
        ("metadata", []),
        ("metadata", "x"),
    ],
)
def test_members_are_checked(member: str, value: object) -> None:
    """A member of another kind or form is refused by name, without its value."""
    with pytest.raises(InvalidEvent) as caught:
        encode_event(make(**{member: value}))
    assert f"/{member}" in caught.value.message
    assert "nonsense" not in str(caught.value)


def test_a_foreign_object_is_no_event() -> None:
    """Neither a dict nor a subclass of Event is encoded."""

    class More(Event, frozen=True, kw_only=True):
        seq: int = 5

    with pytest.raises(InvalidEvent, match="type dict is not an Event"):
        encode_event({})  # type: ignore[arg-type]
    with pytest.raises(InvalidEvent, match="type More is not an Event"):
        encode_event(More(**msgspec.structs.asdict(make())))


@pytest.mark.parametrize(
    "changes, where",
    [
        ({"team": "secret \ud800"}, "/team"),
        ({"metadata": {"a": ["secret", {"b": "secret \udfff"}]}}, "/metadata/a/1/b"),
        ({"metadata": {"a": {"secret \ud800": 1}}}, "/metadata/a"),
    ],
)
def test_lone_surrogates_are_refused_without_their_text(changes: dict[str, Any], where: str) -> None:
    """Text that UTF-8 cannot carry is refused by place; neither the error nor its causes carry the text."""
    with pytest.raises(InvalidEvent) as caught:
        encode_event(make(**changes))
    assert caught.value.message.startswith(f"{where}: ")
    assert (None, None) == (caught.value.__cause__, caught.value.__context__)
    assert "secret" not in repr(caught.value)


def test_size_limit_is_exact() -> None:
    """A body of 65,338 bytes passes, one more is refused with size and limit only."""
    room = MAX_EVENT_BYTES - len(encode_event(make(metadata={"a": ""})).body)
    assert MAX_EVENT_BYTES == len(encode_event(make(metadata={"a": "x" * room})).body)
    with pytest.raises(EventTooLarge) as caught:
        encode_event(make(metadata={"a": "x" * (room + 1)}))
    assert "the event has 65,339 bytes, the limit is 65,338" == caught.value.message
    assert caught.value.do
    assert 65_535 - 197 == MAX_EVENT_BYTES


def test_nothing_else_makes_an_encoded_event() -> None:
    """There is no constructor, no change, no copy by pickling."""
    encoded = encode_event(make())
    with pytest.raises(TypeError):
        EncodedEvent()
    with pytest.raises(TypeError):
        EncodedEvent(b"{}")  # type: ignore[call-arg]
    with pytest.raises(AttributeError):
        encoded.body = b"{}"
    with pytest.raises(AttributeError):
        del encoded.body
    for attempt in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError):
            attempt(encoded)


def test_ledger_members_are_split_off_by_position() -> None:
    """What the ledger added at the end is taken off, with and without a seal; the rest is the event's bytes."""
    body = encode_event(make(metadata={"a": 1})).body
    assert body == event_body(body[:-1] + TAIL + b"}")
    assert body == event_body(body[:-1] + TAIL + SEAL + b"}")
    assert body == event_body(body)
    assert decode_event(body) == decode_event(body[:-1] + TAIL + SEAL + b"}")


def test_ledger_names_in_metadata_are_the_events_own() -> None:
    """Ledger names inside metadata stay there: only the very last members are the ledger's."""
    smuggled = {"x": 1, "seq": 41, "logged_at": "2026-11-21T19:28:23.124001Z", "prev_hash": "a" * 64, "seal": "S" * 43}
    body = encode_event(make(metadata=smuggled)).body
    assert body == event_body(body)
    assert smuggled == decode_event(body[:-1] + TAIL + SEAL + b"}").details
    text = encode_event(make(metadata={"t": (TAIL + b"}").decode()})).body
    assert text == event_body(text)


def test_ledger_members_are_no_event_members() -> None:
    """An event that brings a ledger member of its own is refused when read."""
    body = encode_event(make()).body
    for name in LEDGER_MEMBERS:
        with pytest.raises(Malformed):
            decode_event(body[:-1] + f',"{name}":1}}'.encode())


def test_malformed_lines_are_not_quoted() -> None:
    """The error for a foreign line shows no part of it."""
    with pytest.raises(Malformed) as caught:
        decode_event(b'{"schema":1,"planted secret":1}')
    assert "planted" not in repr(caught.value)
    assert (None, None) == (caught.value.__cause__, caught.value.__context__)


def test_reprs_show_no_values() -> None:
    """Draft, Event and EncodedEvent print names and identity only, also for rich."""
    draft = Draft(event_type="x_test", actor_id="user@example.com", metadata={"prompt": "a lake"})
    event = make(team="user@example.com", metadata={"prompt": "a lake"})
    shown = repr((draft, draft.__rich_repr__(), event, event.__rich_repr__(), encode_event(event)))
    assert "example.com" not in shown
    assert "lake" not in shown
    assert "Draft(<event_type, actor_id, outcome, metadata>)" == repr(draft)
    assert f"EncodedEvent(event_id='{ID}', event_type='x_test'" in shown


def test_drafts_are_changed_by_copy() -> None:
    """`replace` and `with_metadata` give new drafts; the first one stays."""
    draft = Draft(event_type="x_test", metadata={"a": 1, "b": 2})
    changed = draft.replace(team="studio-a").with_metadata(b=3, c=4)
    assert ({"a": 1, "b": 3, "c": 4}, "studio-a") == (changed.metadata, changed.team)
    assert ({"a": 1, "b": 2}, None) == (draft.metadata, draft.team)
    with pytest.raises(AttributeError):
        draft.team = "x"  # type: ignore[misc]
