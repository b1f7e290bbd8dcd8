"""Tests of the filters, against a slow obvious reference and by example."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from klingai_audit.errors import Malformed, UsageError
from klingai_audit.event.types import category_of
from klingai_audit.views.query import Filter, query
from tests.unit.views.lines import NOW, PEOPLE, event_id, line, pseudonym

MASKS = {pseudonym(1): "us***@example.com", pseudonym(2): "us***@example.com", pseudonym(3): "bo***@example.org"}
RAW = {"user@example.com": pseudonym(1), "usher@example.com": pseudonym(2), "boss@example.org": pseudonym(3)}


def found(lines: Iterable[bytes], **wanted: Any) -> list[int]:
    return [entry.seq for entry in query(lines, Filter(**wanted), PEOPLE, now=NOW)]


# --- the reference: parse everything, test everything -------------------------------------------------


def ref_texts(value: Any) -> list[str]:
    if isinstance(value, dict):
        return [text for key, item in value.items() for text in (key, *ref_texts(item))]
    if isinstance(value, list):
        return [text for item in value for text in ref_texts(item)]
    return [value if isinstance(value, str) else json.dumps(value)]


def ref_matches(entry: dict[str, Any], wanted: dict[str, Any]) -> bool:
    metadata = entry.get("metadata", {})
    resource, task = wanted.get("resource"), wanted.get("task")
    kind, _, name = (resource or "").partition("/")
    unsearched = ("schema", "timestamp", "seq", "logged_at", "prev_hash", "seal", "metadata")
    words = [str(value) for member, value in entry.items() if member not in unsearched] + ref_texts(metadata)
    actor = entry["actor_id"]
    moment = dt.datetime.fromisoformat(entry["timestamp"])
    return all(
        [
            wanted.get("actor") in (None, actor, MASKS.get(actor)) or RAW.get(wanted["actor"]) == actor,
            wanted.get("team") in (None, entry.get("team")),
            wanted.get("project") in (None, entry.get("project")),
            wanted.get("correlation") in (None, entry.get("correlation_id")),
            wanted.get("outcome") in (None, entry["outcome"]),
            wanted.get("event_type") in (None, entry["event_type"]),
            wanted.get("category") in (None, category_of(entry["event_type"])),
            resource in (None, entry.get("resource_id"), entry.get("resource_type"))
            or (entry.get("resource_type"), entry.get("resource_id")) == (kind, name)
            or (entry.get("resource_type") == "user" and RAW.get(resource) == entry.get("resource_id")),
            task in (None, entry.get("resource_id"), entry["event_id"], metadata.get("task_id")),
            not wanted.get("text") or any(wanted["text"].lower() in word.lower() for word in words),
            wanted.get("since") is None or wanted["since"] <= moment,
            wanted.get("until") is None or moment < wanted["until"],
        ]
    )


def ref_query(lines: list[bytes], wanted: dict[str, Any]) -> list[int]:
    """Fold ends over the whole log, other ids among what matches, then order and limit."""
    hits, ends, ids = [], set(), set()
    for entry in map(json.loads, lines):
        is_end = entry["event_id"][14] == "8"
        first = entry["event_id"] not in ends
        if is_end:
            ends.add(entry["event_id"])
        if first and entry["event_id"] not in ids and ref_matches(entry, wanted):
            ids.add(entry["event_id"])
            hits.append(entry["seq"])
    if wanted.get("reverse"):
        hits.reverse()
    return hits[: wanted.get("limit")]


ACTORS = st.sampled_from([*map(pseudonym, (1, 2, 3, 4)), "unknown", "klingai-audit"])
TYPES = st.sampled_from(["prompt_submitted", "video_generation_completed", "video_downloaded", "x_own", "log_opened"])
NAMES = st.sampled_from(["a", "b", 'q"uo\\te', "Zoë", "831", "video", "x/831", "user@example.com"])
WORDS = st.sampled_from(["a", "lake", "LAKE", "Straße", "\u212a", "k", 'q"u', "\\", "\x1b[0m", "0.5", "true"])
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.just(0.5) | WORDS | NAMES,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(WORDS | NAMES, inner, max_size=2),
    max_leaves=4,
)
MOMENTS = st.integers(0, 6).map(lambda hours: NOW - dt.timedelta(hours=hours))


@st.composite
def logs(draw) -> list[bytes]:
    lines = []
    for seq in range(draw(st.integers(0, 7))):
        maybe = {
            name: draw(st.none() | NAMES)
            for name in ("team", "project", "resource_type", "resource_id", "correlation_id", "action")
        }
        if draw(st.booleans()):
            maybe |= {"resource_type": "user", "resource_id": draw(ACTORS)}
        metadata = draw(st.dictionaries(st.just("task_id") | WORDS, VALUES, max_size=2)) or None
        identity = event_id(draw(st.integers(0, 9)), version=draw(st.sampled_from([7, 8])))
        lines.append(
            line(
                seq,
                sealed=draw(st.booleans()),
                when=draw(MOMENTS),
                event_id=identity,
                event_type=draw(TYPES),
                actor_id=draw(ACTORS),
                outcome=draw(st.sampled_from(["success", "failure", "blocked", "unknown"])),
                metadata=metadata,
                **maybe,
            )
        )
    return lines


FILTERS = st.fixed_dictionaries(
    {},
    optional={
        "actor": ACTORS | st.sampled_from([*MASKS.values(), *RAW, "nobody@example.com"]),
        "team": NAMES,
        "project": NAMES,
        "correlation": NAMES,
        "event_type": TYPES,
        "category": st.sampled_from(["operations", "user", "log", "custom"]),
        "outcome": st.sampled_from(["success", "failure", "blocked", "unknown"]),
        "resource": NAMES | st.sampled_from(["video/831", "user", "usher@example.com"]),
        "task": NAMES | st.integers(0, 9).map(event_id),
        "text": WORDS | NAMES,
        "since": MOMENTS,
        "until": MOMENTS,
        "limit": st.integers(1, 3),
        "reverse": st.booleans(),
    },
)


@given(logs(), FILTERS)
def test_filters_agree_with_the_reference(lines, wanted):
    """Whatever the log and the filter, the scan finds what parsing and testing everything finds."""
    if "since" in wanted and "until" in wanted and wanted["since"] > wanted["until"]:
        wanted["since"], wanted["until"] = wanted["until"], wanted["since"]
    assert ref_query(lines, wanted) == found(lines, **wanted)


# --- by example ---------------------------------------------------------------------------------------


def test_bytes_come_back_unchanged():
    """`.raw` is exactly the stored line, whatever spelling its JSON has."""
    odd = line(0, metadata={"word": "x"}).replace(b'"x"', b'"\\u0078"')
    assert [odd] == [entry.raw for entry in query([odd], Filter(category="user"), PEOPLE)]


def test_one_person_by_id_mask_and_pseudonym():
    """A raw id and a pseudonym find one person, a mask everyone who has it."""
    lines = [line(n, actor_id=pseudonym(n + 1)) for n in range(3)]
    asked = ("user@example.com", pseudonym(1), "us***@example.com", "US***@EXAMPLE.COM", "nobody@example.com")
    assert [[0], [0], [0, 1], [0, 1], []] == [found(lines, actor=actor) for actor in asked]


def test_a_person_without_subject_table_is_refused_and_a_pseudonym_is_not():
    """Without the table an id cannot be looked up, and no answer would look like an empty one."""
    with pytest.raises(UsageError):
        query([], Filter(actor="user@example.com"), None)
    assert [0] == [entry.seq for entry in query([line(0)], Filter(actor=pseudonym(1)), None)]
    assert [] == [entry.seq for entry in query([line(0)], Filter(actor="unknown"), None)]


def test_opaque_ids_are_found_as_they_are():
    """Where policy keeps ids as they are, the id itself is the stored actor."""
    assert [0] == found([line(0, actor_id="render-service")], actor="render-service")


def test_several_types_and_aliases():
    """Several names mean any of them; published aliases stand for the stored type."""
    types = ("video_generation_completed", "image_generation_completed", "prompt_submitted")
    lines = [line(n, event_type=name) for n, name in enumerate(types)]
    assert [0] == found(lines, event_type="generation_completed")
    assert [0, 2] == found(lines, event_type=("generation_completed", "prompt_submitted"))
    assert [0, 1] == found(lines, category=("operations", "admin"))


def test_an_end_seen_twice_is_the_first_one_whoever_asks():
    """The second sight of an end belongs to nobody, even to a filter that the first does not match."""
    end = event_id(9, version=8)
    lines = [line(0, event_id=end, actor_id=pseudonym(1)), line(1, event_id=end, actor_id=pseudonym(3))]
    assert [] == found(lines, actor=pseudonym(3))
    assert [1] == found(lines, actor=pseudonym(3), duplicates=True)
    assert [0] == found(lines)


def test_times_are_half_open_and_relative_ones_count_from_now():
    """since <= timestamp < until, to the microsecond."""
    tick = dt.timedelta(microseconds=1)
    edge = NOW - dt.timedelta(hours=1)
    lines = [line(n, when=moment) for n, moment in enumerate([edge - tick, edge, NOW - tick, NOW])]
    assert [1, 2] == found(lines, since="-1h", until="now")


@pytest.mark.parametrize(
    "wanted",
    [
        {"event_type": "video_generaton_started"},
        {"category": "nonsense"},
        {"outcome": ("success", "fine")},
        {"since": "soon"},
        {"until": "2026-99-99"},
        {"since": "now", "until": "-1d"},
        {"limit": 0},
    ],
)
def test_wrong_filters_are_refused_before_the_scan(wanted):
    """A filter that means nothing is a usage error with advice, raised by the call and not by the iteration."""
    with pytest.raises(UsageError) as caught:
        query([], Filter(**wanted), PEOPLE)
    assert caught.value.do != ""


@pytest.mark.parametrize("bad", [b"", b"no json", b"[]", b'{"seq":1}', b"\xff", line(0)[:-2]])
def test_a_line_that_is_no_entry_is_damage(bad):
    """What cannot be an entry stops the answer instead of being passed over."""
    with pytest.raises(Malformed):
        list(query([bad], Filter(), PEOPLE))


def test_a_person_is_looked_up_once():
    """Masks are compared entry by entry, but each pseudonym is revealed once."""
    PEOPLE.revealed.clear()
    found([line(n, actor_id=pseudonym(n % 2)) for n in range(50)], actor="us***@example.com")
    assert [pseudonym(0), pseudonym(1)] == sorted(PEOPLE.revealed)


def test_resolved_json_adds_one_last_member():
    """`_actor` is the raw id where it can be resolved, a literal as it is, and null where nobody knows."""
    actors = (pseudonym(1), "unknown", pseudonym(9))
    lines = [line(n, actor_id=actor) for n, actor in enumerate(actors)]
    resolved = [entry.resolved_json() for entry in query(lines, Filter(), PEOPLE)]
    assert [raw[:-1] for raw in lines] == [text[: len(raw) - 1] for raw, text in zip(lines, resolved, strict=True)]
    assert ["user@example.com", "unknown", None] == [json.loads(text)["_actor"] for text in resolved]
    assert ["_actor"] * 3 == [list(json.loads(text))[-1] for text in resolved]


def test_numbers_are_found_as_the_log_writes_them():
    """Text search sees a number in the one spelling that docs/format.md gives it."""
    stored = line(0, metadata={"much": 1e20}).replace(b"1e+20", b"1e20")
    assert [[0], []] == [found([stored], text=text) for text in ("1e20", "1e+20")]


# --- model, credential, cost --------------------------------------------------------------------------


def ended(seq: int, *charges: dict[str, str], **more: Any) -> bytes:
    return line(seq, event_type="video_generation_completed", metadata={"charge": list(charges), **more})


UNITS = {"charge_type": "unit", "amount": "5", "package_type": "video"}
CASH = {"charge_type": "cash", "amount": "0.42", "currency": "USD"}


@pytest.mark.parametrize(
    "cost, expected",
    [
        (">=5", [0, 1]), ("5", [0, 1]), ("< 1", [1, 2]), (">5", []), ("=0.42 usd", [1]), ("<=5 video units", [0, 1]),
        ("<9 image units", [2]), ("=0", [2]),
    ],
)  # fmt: skip
def test_cost_compares_each_amount_for_itself(cost: str, expected: list[int]) -> None:
    """Amounts are never added, and an end that states no charge fulfils no condition."""
    free = {"charge_type": "unit", "amount": "0", "package_type": "image"}
    lines = [ended(0, UNITS), ended(1, UNITS, CASH), ended(2, free), ended(3), line(4)]
    assert expected == found(lines, cost=cost)


@pytest.mark.parametrize("cost", ["", "five", ">", ">>5", "-1", "1e3", "5,5"])
def test_a_cost_that_is_no_condition_is_refused(cost: str) -> None:
    """The message shows the forms."""
    with pytest.raises(UsageError, match="is no condition"):
        found([], cost=cost)


def test_model_is_compared_whole() -> None:
    """`kling-3.0` is not `kling-3.0-turbo`."""
    lines = [line(seq, metadata={"model": model}) for seq, model in enumerate(["kling-3.0", "kling-3.0-turbo"])]
    assert [0] == found([*lines, line(2, metadata={"note": '"model":"kling-3.0"'})], model="kling-3.0")


def test_a_credential_is_found_by_fingerprint_and_by_name() -> None:
    """Calls made with it, its declarations, and nothing that merely mentions it."""
    print_ = "0123456789abcdef"
    lines = [
        line(0, metadata={"key_fingerprint": print_}),
        line(1, event_type="api_key_used", resource_type="api_key", resource_id=print_),
        line(2, event_type="api_key_rotated", resource_type="api_key", resource_id="f" * 16,
             metadata={"name": "prod", "old": print_, "new": "f" * 16}),
        line(3, metadata={"name": "prod", "note": print_}),
        line(4, metadata={"api_key_name": "prod"}),
    ]  # fmt: skip
    assert [0, 1, 2] == found(lines, key=print_)
    assert [2, 4] == found(lines, key="prod")
    assert [0, 1, 2, 4] == found(lines, key=[print_, "prod"])
