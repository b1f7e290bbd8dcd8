"""The slow look at an entry names each fault of its form, and the canonical spelling is msgspec's."""

from __future__ import annotations

import msgspec
import pytest

from klingai_audit.trust.lines import canonical, examine, split_lines
from tests.support.logsmith import Smith

SMITH = Smith().create().work(4)
ENTRY = SMITH.entries[2]


def kinds(line: bytes) -> list[str]:
    return [kind for kind, _ in examine(line)[1]]


def test_good_entries_have_no_fault():
    """Every entry that the independent writer makes is of the form."""
    assert [examine(entry)[1] for entry in SMITH.entries] == [[] for _ in SMITH.entries]


def test_members_are_read_from_the_end():
    """The ledger's members come back as written."""
    members, _ = examine(ENTRY)
    assert (members.seq, members.seal, len(members.prev_hash)) == (2, None, 32)


FAULTY = {
    "empty": (b"", "entry_malformed"),
    "byte order mark": (b"\xef\xbb\xbf" + ENTRY, "entry_malformed"),
    "carriage return": (ENTRY + b"\r", "entry_malformed"),
    "control character": (ENTRY.replace(b'"team":"', b'"team":"\x01'), "entry_malformed"),
    "too large": (ENTRY + b" " * 65_536, "entry_too_large"),
    "no JSON": (ENTRY[:-1], "entry_malformed"),
    "no object": (b"[1]", "entry_malformed"),
    "not UTF-8": (ENTRY.replace(b'"team":"', b'"team":"\xff'), "entry_malformed"),
    "NaN": (ENTRY.replace(b'"deadline_s":600', b'"deadline_s":NaN'), "entry_malformed"),
    "another schema": (ENTRY.replace(b'"schema":1', b'"schema":2'), "unknown_version"),
    "schema true": (ENTRY.replace(b'"schema":1', b'"schema":true'), "unknown_version"),
    "white space": (ENTRY.replace(b'"outcome"', b' "outcome"'), "entry_malformed"),
    "escaped slash": (ENTRY.replace(b"python-httpx/0", rb"python-httpx\/0"), "entry_malformed"),
    "escaped letter": (ENTRY.replace(b'"team":"s', rb'"team":"\u0073'), "entry_malformed"),
    "number spelled long": (ENTRY.replace(b'"deadline_s":600', b'"deadline_s":6e2'), "entry_malformed"),
    "integer beyond 2**53": (ENTRY.replace(b'"deadline_s":600', b'"deadline_s":9007199254740993'), "entry_malformed"),
    "members out of order": (
        ENTRY.replace(b'"actor_type":"user","team":"studio-0"', b'"team":"studio-0","actor_type":"user"'),
        "entry_malformed",
    ),
    "null member": (ENTRY.replace(b'"team":"studio-0"', b'"team":null'), "entry_malformed"),
    "unknown member": (ENTRY.replace(b'"team":"studio-0"', b'"teem":"studio-0"'), "entry_malformed"),
    "no actor": (ENTRY.replace(b'"actor_id"', b'"on_behalf_of"', 1), "entry_malformed"),
    "member of another type": (ENTRY.replace(b'"team":"studio-0"', b'"team":["studio-0"]'), "entry_malformed"),
    "event id in capitals": (ENTRY[:24] + ENTRY[24:60].upper() + ENTRY[60:], "entry_malformed"),
    "time without zone": (ENTRY.replace(b'Z","event_type"', b'0","event_type"'), "entry_malformed"),
    "outcome unknown to us": (ENTRY.replace(b'"outcome":"unknown"', b'"outcome":"perhaps"'), "entry_malformed"),
    "no link": (ENTRY[: ENTRY.index(b',"prev_hash"')] + b"}", "entry_malformed"),
    "link in capitals": (ENTRY[:-66] + ENTRY[-66:-2].upper() + b'"}', "entry_malformed"),
    "member twice": (ENTRY.replace(b'"outcome"', b'"team":"x","outcome"'), "duplicate_member"),
    "metadata name twice": (ENTRY.replace(b'"mode":"std"', b'"mode":"std","mode":"pro"'), "duplicate_member"),
    "nested name twice": (ENTRY.replace(b'"mode":"std"', b'"mode":[{"a":1,"a":2}]'), "duplicate_member"),
    "seq among the event's": (ENTRY.replace(b'"outcome"', b'"seq":9,"outcome"'), "ledger_member"),
    "seal among the event's": (ENTRY.replace(b'"outcome"', b'"seal":"x","outcome"'), "ledger_member"),
}


@pytest.mark.parametrize("name", FAULTY)
def test_fault_is_named(name):
    """Each departure from docs/format.md, section 2, has its kind."""
    line, kind = FAULTY[name]
    assert line != ENTRY
    assert kinds(line)[:1] == [kind]


def test_ledger_names_inside_metadata_are_names_like_others():
    """`seq` in metadata is no ledger member."""
    assert kinds(ENTRY.replace(b'"mode":"std"', b'"seq":1,"seal":"x"')) == []


def test_nesting_beyond_the_limit_is_a_fault():
    """16 levels of metadata pass, 17 do not."""
    deep = {n: ENTRY.replace(b'"mode":"std"', b'"mode":' + b"[" * n + b"]" * n) for n in (15, 16)}
    assert [kinds(line) for line in deep.values()] == [[], ["entry_malformed"]]


def test_messages_quote_nothing_of_the_entry():
    """No fault repeats a value or an unknown name of the entry."""
    for line, _ in FAULTY.values():
        text = " ".join(what for _, what in examine(line)[1])
        assert not any(word in text for word in ("studio", "p_", "teem", "perhaps", "mode"))


NUMBERS = [0.0, -0.0, 1.0, 100.0, 0.1, 1e15, 1e16, 1.5e16, 1e-5, 1e-6, 5e-324, 1.7976931348623157e308, 123456789.125]
OTHERS = [
    0,
    -1,
    2**53,
    True,
    None,
    "",
    "é\U0001f600",
    '"\\/\b\f\n\r\t\x00\x1f\x7f\u2028',
    [],
    {},
    [1, [2.5]],
    {"a": {"b": []}},
]


@pytest.mark.parametrize("value", [*NUMBERS, *OTHERS])
def test_canonical_spelling_is_that_of_the_encoder(value):
    """The page's rules, spelled out here, give the bytes that msgspec gives."""
    assert canonical(value) == msgspec.json.encode(value)


def test_lines_are_split_at_line_feeds_only():
    """The rest without LF is marked; CR and other separators stay in the line."""
    parts = list(split_lines(b"a\r\n\n\xe2\x80\xa8b\nc"))
    assert parts == [(b"a\r", True), (b"", True), (b"\xe2\x80\xa8b", True), (b"c", False)]
