"""Tests of one stored entry as views read it."""

from __future__ import annotations

import datetime as dt

import pytest

from klingai_audit.errors import Malformed, StorageError
from klingai_audit.views.entry import EntryView, People
from tests.unit.views.lines import NOW, PEOPLE, event_id, line, pseudonym


def test_members_are_typed_and_absent_ones_are_none():
    """Times are aware, in UTC; what an entry does not have is None; metadata is a mapping."""
    entry = EntryView(line(3, team="t", on_behalf_of=pseudonym(2), metadata={"a": {"b": [1]}}), People(PEOPLE))
    assert (3, event_id(3), "prompt_submitted", "success", "t") == (
        entry.seq,
        entry.event_id,
        entry.event_type,
        entry.outcome,
        entry.team,
    )
    assert (NOW, NOW, dt.UTC) == (entry.timestamp, entry.logged_at, entry.timestamp.tzinfo)
    assert [None] * 8 == [
        getattr(entry, name)
        for name in (
            "project",
            "resource_type",
            "resource_id",
            "action",
            "ip_address",
            "ip_ref",
            "user_agent",
            "request_id",
        )
    ]
    assert ({"a": {"b": [1]}}, {}) == (entry.metadata, EntryView(line(0)).metadata)


@pytest.mark.parametrize(
    "style,shown", [("mask", "us***@example.com"), ("id", "user@example.com"), ("pseudonym", pseudonym(1))]
)
def test_people_in_three_styles(style, shown):
    """Actors, those acted for and users acted on are rendered alike; other resources as they are."""
    members = {"on_behalf_of": pseudonym(1), "resource_type": "user", "resource_id": pseudonym(1)}
    entry = EntryView(line(0, **members), People(PEOPLE))
    assert (shown, shown, shown) == (entry.actor(style), entry.resource(style), entry.show_person(pseudonym(1), style))
    assert pseudonym(1) == EntryView(line(0, resource_type="video", resource_id=pseudonym(1))).resource(style)


@pytest.mark.parametrize("stored", [pseudonym(9), "unknown", "klingai-audit", "render-service"])
def test_who_cannot_be_resolved_stays_as_stored(stored):
    """Erased people, literals and opaque ids have no mask."""
    entry = EntryView(line(0, actor_id=stored), People(PEOPLE))
    assert [stored] * 3 == [entry.actor(style) for style in ("mask", "id", "pseudonym")]


def test_a_table_that_cannot_be_read_leaves_pseudonyms():
    """A reader who loses the subject table goes on with pseudonyms."""

    class Broken:
        def reveal(self, pseudonym):
            raise StorageError("gone")

        erased = reveal

    assert pseudonym(1) == EntryView(line(0), People(Broken())).actor()


@pytest.mark.parametrize(
    "member,raw",
    [
        ("seq", line(0).replace(b'"seq":0', b'"seq":"0"')),
        ("event_type", line(0).replace(b'"success"', b"1")),
        ("timestamp", line(0).replace(b'"timestamp":"2026', b'"timestamp":"20x6')),
        ("logged_at", line(0).replace(b'"logged_at":"2026-11', b'"logged_at":"2026-13')),
        ("metadata", line(0, metadata={"a": 1}).replace(b'{"a":1}', b"[1]")),
        ("metadata", line(0, metadata={"a": 1}).replace(b'{"a":1}', b'"x"')),
    ],
)
def test_what_is_no_entry_is_malformed_and_not_quoted(member, raw):
    """A wrong member raises Malformed with advice; the message holds nothing of the line."""
    with pytest.raises(Malformed) as caught:
        getattr(EntryView(raw), member)
    assert (False, True) == ("prompt_submitted" in str(caught.value), "klingai-audit verify" in caught.value.do)


def test_equal_bytes_are_equal_entries():
    """Views compare by what is stored, and their repr shows no content."""
    one, same, other = EntryView(line(0)), EntryView(line(0), People(PEOPLE)), EntryView(line(1))
    assert (True, False, 2) == (one == same, one == other, len({one, same, other}))
    assert "EntryView(seq=0, event_type='prompt_submitted')" == repr(one)


@pytest.mark.parametrize("depth", [65, 900, 100_000])
def test_bottomless_metadata_is_malformed(depth):
    """Metadata deeper than a reader follows is refused by name, however deep; what the log admits is read."""
    hostile = line(3, metadata={"a": "@"}).replace(b'"@"', b"[" * depth + b"]" * depth)
    with pytest.raises(Malformed):
        EntryView(hostile).metadata  # noqa: B018
    deep = line(3, metadata={"a": "@"}).replace(b'"@"', b"[" * 15 + b"]" * 15)
    assert ["a"] == list(EntryView(deep).metadata)
    wide = line(3, metadata={"a": [{} for _ in range(500)]})
    assert 500 == len(EntryView(wide).metadata["a"])
