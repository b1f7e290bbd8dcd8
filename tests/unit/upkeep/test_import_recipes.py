"""Lines of the two recipes: recognised, and held against their own checks."""

from __future__ import annotations

import contextlib
import datetime as dt
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from klingai_audit.event.record import is_event_id
from klingai_audit.event.types import is_canonical
from klingai_audit.privacy.commitment import ToCommit
from klingai_audit.upkeep.old_events import read_event
from klingai_audit.upkeep.recipes import MAX_LINE_BYTES, BadLine, Chain, parse_line
from tests.support.recipes import START, ChainWriter, ChecksumWriter

# A line as the first recipe would have written it, with its checksum worked out by hand:
#   ID=0b9c0c9e-9d3c-4d0e-8f0e-2f5f3c1d7a11 AT=2026-03-01T09:00:00.250000Z
#   printf '%s' "$ID:$AT:api_key_used:us***@example.com:use_key" | sha256sum | cut -c1-16
CHECKSUM_LINE = {
    "event_id": "0b9c0c9e-9d3c-4d0e-8f0e-2f5f3c1d7a11",
    "timestamp": "2026-03-01T09:00:00.250000Z",
    "event_type": "api_key_used",
    "actor_id": "us***@example.com",
    "actor_type": "user",
    "resource_type": "api_key",
    "resource_id": None,
    "action": "use_key",
    "outcome": "success",
    "ip_address": "192.168.xxx.xxx",
    "user_agent": None,
    "metadata": {},
    "checksum": "055138c2dec03ab1",
}
# The second recipe's: printf '%s' '{"actor": "system", "details": {"n": 1}, "event_type": "auth_event", "prev_hash":
#   "genesis", "timestamp": "2026-03-01T09:00:00.250000Z"}genesis' | sha256sum | cut -c1-16   (on one line)
CHAIN_LINE = {
    "timestamp": "2026-03-01T09:00:00.250000Z",
    "event_type": "auth_event",
    "actor": "system",
    "details": {"n": 1},
    "prev_hash": "genesis",
    "hash": "7fea7ebfeecf4dee",
}


def line(members: dict, **changes: object):
    """Parse a line; a change to `...` leaves the member out."""
    merged = {name: value for name, value in {**members, **changes}.items() if value is not ...}
    return parse_line(json.dumps(merged).encode())


def event(members: dict, **changes: object):
    """What a line becomes."""
    return read_event(line(members, **changes))


# --- checks of their own -------------------------------------------------------------------------------


def test_known_lines_hold():
    """Both formulas give what the command line gives."""
    assert ("checksum-lines", "ok") == (line(CHECKSUM_LINE).format, line(CHECKSUM_LINE).checksum)
    assert ("hash-chain", "ok") == (line(CHAIN_LINE).format, line(CHAIN_LINE).checksum)


@pytest.mark.parametrize("name", ["event_id", "timestamp", "event_type", "actor_id", "action", "checksum"])
def test_changed_member_is_noticed(name):
    """Each member that the checksum covers, and the checksum."""
    assert "bad" == line(CHECKSUM_LINE, **{name: "x"}).checksum


@pytest.mark.parametrize("name", ["outcome", "resource_id", "metadata", "ip_address"])
def test_what_the_checksum_does_not_cover_is_not_noticed(name):
    """The recipe's check says nothing about these; that is why it proves little."""
    assert "ok" == line(CHECKSUM_LINE, **{name: {"other": 1}}).checksum


@pytest.mark.parametrize("name", ["timestamp", "event_type", "actor", "details", "hash", "more"])
def test_changed_member_of_a_chain_is_noticed(name):
    """The hash covers the whole line."""
    assert "bad" == line(CHAIN_LINE, **{name: {"other": 1}}).checksum


def test_missing_checks_are_absent():
    """Lines without a checksum are neither good nor bad."""
    assert ("absent", "absent") == (line(CHECKSUM_LINE, checksum=...).checksum, line(CHAIN_LINE, hash=...).checksum)


def test_text_of_every_alphabet_holds(tmp_path):
    """The hash is over JSON with escapes, as the recipe's library writes it."""
    writer = ChainWriter(tmp_path)
    writer.log("auth_event", "system", {"ü": "日本 \U0001f3ac", "n": 1.5, "nested": {"b": [1, None], "a": True}})
    (raw,) = (tmp_path / "audit-2026-03-01.jsonl").read_bytes().splitlines()
    assert "ok" == parse_line(raw).checksum


# --- lines that are none -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "raw,words",
    [
        (b"", "empty"),
        (b"   ", "empty"),
        (b"2026-03-01 | INFO | api_key_used", "not JSON"),
        (b'{"event_id":"x"', "not JSON"),
        (b'"text"', "not a JSON object"),
        (b"[]", "not a JSON object"),
        (b"\xff{}", "not UTF-8"),
        (b"{}", "neither recipe"),
        (b'{"actor_id":"a"}', "event_id"),
        (b'{"actor":"a","event_type":"x","timestamp":"t"}', "details"),
        (b'{"actor":"a","actor":"b"}', "twice"),
        (b"[" * 100_000, "deep"),
        (b'{"a":"' + b"x" * MAX_LINE_BYTES + b'"}', "longer"),
    ],
)
def test_bad_lines_say_why(raw, words):
    """The reason names the kind of fault and nothing of the line."""
    with pytest.raises(BadLine) as caught:
        parse_line(raw)
    assert words in str(caught.value)
    assert caught.value.__context__ is None


@pytest.mark.parametrize(
    "changes",
    [
        {"timestamp": "yesterday"},
        {"timestamp": "2026-03-01"},
        {"timestamp": 5},
        {"timestamp": "0001-01-01T00:00:00+14:00"},
        {"event_type": 5},
        {"event_type": ""},
        {"actor_id": {"a": 1}},
        {"resource_type": True},
        {"metadata": []},
        {"metadata": json.loads('{"a":' * 70 + "1" + "}" * 70)},
    ],
)
def test_lines_that_no_entry_can_hold_are_bad(changes):
    """A member of a wrong kind is a bad line, never a guess."""
    with pytest.raises(BadLine):
        event(CHECKSUM_LINE, **changes)


@given(st.binary(max_size=200) | st.text(max_size=100).map(str.encode))
def test_any_bytes_are_a_line_or_a_bad_line(raw):
    """Nothing else is raised, whatever stands in a file."""
    with contextlib.suppress(BadLine):
        read_event(parse_line(raw))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.sampled_from([*CHECKSUM_LINE, *CHAIN_LINE]), JSON, max_size=4), st.booleans())
def test_any_members_are_an_event_or_a_bad_line(changes, chained):
    """Whatever the members hold, a type that can be stored comes out, or a reason."""
    try:
        found = event(CHAIN_LINE if chained else CHECKSUM_LINE, **changes)
    except BadLine:
        return
    assert is_canonical(found.draft.event_type)
    assert found.event_id is None or is_event_id(found.event_id)


# --- the chain -----------------------------------------------------------------------------------------


def states(*files: list[dict]) -> list[str]:
    """What the chain says of each line, file after file."""
    chain, found = Chain(), []
    for lines in files:
        chain.next_file()
        found += [chain.follow(line(members)) for members in lines]
    return found


def test_chain_is_followed_over_files_and_restarts(tmp_path):
    """One process runs on over midnight; the next one starts anew, and its restart is told."""
    first, second = ChainWriter(tmp_path), ChainWriter(tmp_path)
    one, two = [first.log("x", "a", {"n": n}) for n in range(3)], [first.log("x", "a", {"n": n}) for n in range(2)]
    restarted = [second.log("x", "a", {"n": n}) for n in range(2)]
    assert ["ok"] * 5 + ["restart", "ok"] == states(one, two, restarted)


def test_processes_that_take_turns_are_told_from_a_break(tmp_path):
    """Two processes on one file are interleaved; a line that was taken out is a break."""
    first, second = ChainWriter(tmp_path), ChainWriter(tmp_path)
    a, b, c, d = (writer.log("x", "a", {"n": n}) for n, writer in enumerate([first, second, first, second]))
    assert ["ok", "restart", "interleaved", "interleaved"] == states([a, b, c, d])
    lines = [first.log("x", "a", {"n": n}) for n in range(4)]
    assert ["open", "broken", "ok"] == states([lines[0], lines[2], lines[3]])
    assert ["open", "broken", "interleaved"] == states([lines[1], lines[0], lines[2]])
    assert ["open", "ok", "broken"] == states([lines[0], lines[1], lines[1]])


def test_line_without_a_link_is_absent():
    """A line of the second recipe that names no hash before it."""
    assert ["absent"] == states([{**CHAIN_LINE, "prev_hash": None}])


# --- what a line becomes -------------------------------------------------------------------------------


def test_every_member_has_its_place():
    """The first recipe's members are ours, with their names."""
    found = event(CHECKSUM_LINE, resource_id="831", user_agent="curl/8.0", metadata={"model": "kling-v1.5"})
    draft = found.draft
    assert (CHECKSUM_LINE["event_id"], {}) == (found.event_id, found.notes)
    assert dt.datetime(2026, 3, 1, 9, 0, 0, 250_000, tzinfo=dt.UTC) == draft.timestamp
    names = ("event_type", "actor_id", "actor_type", "resource_type", "action", "outcome", "ip_address")
    assert [CHECKSUM_LINE[name] for name in names] == [getattr(draft, name) for name in names]
    assert ("831", "curl/8.0", {"model": "kling-v1.5"}) == (draft.resource_id, draft.user_agent, draft.metadata)


def test_second_recipe_has_fewer_members():
    """Action and outcome are looked for in the details."""
    found = event(CHAIN_LINE, actor="a@example.com", details={"action": "text_to_video", "status": "succeed"})
    draft = found.draft
    assert (None, "text_to_video", "success", {"status": "succeed"}) == (
        found.event_id, draft.action, draft.outcome, draft.metadata,
    )  # fmt: skip
    assert ("a@example.com", None) == (draft.actor_id, draft.actor_type)
    assert "system" == event(CHAIN_LINE).draft.actor_type


@pytest.mark.parametrize(
    "details,outcome",
    [
        ({"success": True}, "success"),
        ({"success": False}, "failure"),
        ({"status": "failed"}, "failure"),
        ({"status": "succeeded"}, "success"),
        ({"status": "processing"}, "unknown"),
        ({"success": "yes"}, "unknown"),
        ({}, "unknown"),
    ],
)
def test_outcome_is_taken_only_where_it_is_stated(details, outcome):
    """What the line does not say is unknown."""
    assert outcome == event(CHAIN_LINE, details=details).draft.outcome


@pytest.mark.parametrize(
    "name,stored",
    [
        ("generation_started", "video_generation_started"),
        ("Weird Thing!", "x_import_weird_thing"),
        ("log_created", "x_import_log_created"),
        ("x_mine", "x_mine"),
        ("a@example.com", "x_import_other"),
        ("sk-live-0123456789abcdef", "x_import_other"),
        ("é", "x_import_other"),
        ("n" * 80, "x_import_other"),
        ("n" * 64, "x_import_" + "n" * 55),
    ],
)
def test_types_are_resolved_or_kept_as_imported(name, stored):
    """A name that is not stored as it is stands in the notes; one that tells of a person makes no type."""
    found = event(CHECKSUM_LINE, event_type=name)
    assert (stored, None if stored == name else name) == (found.draft.event_type, found.notes.get("event_type"))


def test_type_that_lacks_what_it_needs_is_kept_as_imported():
    """budget_modified needs a resource, which the second recipe has no place for."""
    assert "x_import_budget_modified" == event(CHAIN_LINE, event_type="budget_modified").draft.event_type


@pytest.mark.parametrize(
    "event_id,usable",
    [
        ("0B9C0C9E-9D3C-4D0E-8F0E-2F5F3C1D7A11", True),
        ("0b9c0c9e-9d3c-8d0e-8f0e-2f5f3c1d7a11", False),
        ("evt-1", False),
        (7, False),
        (None, False),
    ],
)
def test_ids_are_kept_if_they_can_be_ours(event_id, usable):
    """A UUID of any version but 8; another id stands in the notes."""
    found = event(CHECKSUM_LINE, event_id=event_id)
    assert (usable, None if usable else event_id) == (found.event_id is not None, found.notes.get("event_id"))


@pytest.mark.parametrize(
    "text,moment",
    [
        ("2026-03-01T09:00:00Z", START.replace(microsecond=0)),
        ("2026-03-01T09:00:00", START.replace(microsecond=0)),
        ("2026-03-01T10:00:00.250+01:00", START),
    ],
)
def test_times_are_utc(text, moment):
    """Whole seconds, as the recipe writes them by chance; no zone is UTC; another zone is converted."""
    assert moment == event(CHECKSUM_LINE, timestamp=text).draft.timestamp


def test_what_has_no_place_is_noted():
    """Outcomes, addresses and members that we do not have, and values that the recipe had redacted."""
    found = event(
        CHECKSUM_LINE, outcome="meh", ip_address="xxx.xxx.xxx.xxx", region="eu", checksum=...,
        metadata={"api_key": "***REDACTED***", "token_id": "***REDACTED***", "import": "own", "model": "m"},
    )  # fmt: skip
    assert {
        "outcome": "meh", "ip_address": "xxx.xxx.xxx.xxx", "members": {"region": "eu"},
        "redacted": "api_key, token_id", "metadata_import": "own",
    } == found.notes  # fmt: skip
    assert ("unknown", None, "m") == (found.draft.outcome, found.draft.ip_address, found.draft.metadata["model"])


def test_nobody_named_is_unknown():
    """A line without an actor is not given one."""
    for nobody in (None, ""):
        draft = event(CHECKSUM_LINE, actor_id=nobody).draft
        assert ("unknown", "system") == (draft.actor_id, draft.actor_type)


def test_values_that_no_entry_holds_become_text():
    """Large numbers lose nothing, NaN stays readable."""
    details = {"task": 831045678901234567, "few": 2**53, "x": float("nan"), "y": [float("-inf")], "t": True}
    found = event(CHAIN_LINE, details=details).draft.metadata
    assert {"task": "831045678901234567", "few": 2**53, "x": "nan", "y": ["-inf"], "t": True} == found


def test_hashes_of_prompts_are_withheld():
    """Without a key they tell the prompt to whoever guesses it; lengths stay."""
    found = event(CHAIN_LINE, details={"prompt_hash": "0123456789abcdef", "prompt_length": 30, "n": {"Prompt": "a"}})
    metadata = found.draft.metadata
    assert (ToCommit, 30, ToCommit) == (
        type(metadata["prompt_hash"]), metadata["prompt_length"], type(metadata["n"]["Prompt"]),
    )  # fmt: skip


def test_writers_of_the_tests_are_the_recipes(tmp_path):
    """What the made-up writers write is what the formulas above expect."""
    written = ChecksumWriter(tmp_path / "audit.json").log("x", "user@example.com", "video", "y", ip_address="10.1.2.3")
    assert ("us***@example.com", "10.1.xxx.xxx", "ok") == (
        written["actor_id"], written["ip_address"], line(written).checksum,
    )  # fmt: skip
