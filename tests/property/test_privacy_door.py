"""Any draft at the door: valid bytes or a refusal, commitments that open, and nothing planted that comes through."""

from __future__ import annotations

import datetime as dt
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from klingai_audit.errors import InvalidEvent
from klingai_audit.event.record import Draft, canonical_body, decode_event
from klingai_audit.privacy.commitment import ToCommit, check_opening, commit, is_commitment, opening
from klingai_audit.privacy.door import Door
from klingai_audit.privacy.entrance import Entrance
from klingai_audit.privacy.policy import Policy
from klingai_audit.privacy.subjects import SqliteSubjects

KEY = bytes(range(32))
NEEDLE = "plantedheron"

TEXT = st.text(max_size=20)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXT | TEXT.map(ToCommit) | st.binary(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.tuples(inner, inner)
        | st.dictionaries(TEXT | st.sampled_from(["prompt", "token", "note", "url"]), inner, max_size=3)
    ),
    max_leaves=8,
)
FLAT = st.sampled_from(
    [
        "kling-3.0-turbo", "text_to_video", "16:9", "720p", "831000000000000077", "task_831000000000000077",
        "0199aa00-0000-7000-8000-00000000004d", "ec2-192-168-1-100", "192.168.1.100", "user@example.com", "user",
        "sk-abc123def456ghi", "token=abc", '{"prompt":"x"}', "intent", "a lake at sunrise", "x" * 200, "0f" * 100, "",
    ]
)  # fmt: skip
EVENT_ID = "01a1fb67-1418-702a-821e-d18ef9931cd6"
MEMBERS = ["team", "project", "resource_type", "resource_id", "action", "ip_address", "user_agent", "on_behalf_of"]


@pytest.fixture(scope="module")
def door() -> Iterator[Door]:
    """Return one door for all examples."""
    with tempfile.TemporaryDirectory() as folder:
        subjects = SqliteSubjects(Path(folder) / "subjects.sqlite", KEY)
        subjects.resolve("user@example.com")
        yield Door(Policy.default(), subjects, KEY)
        subjects.close()


@given(
    metadata=st.dictionaries(TEXT, VALUES, max_size=4),
    members=st.dictionaries(st.sampled_from(MEMBERS[:7]), TEXT, max_size=4),
)
def test_any_draft_is_admitted_whole_or_refused(door: Door, metadata: dict[str, Any], members: dict[str, str]) -> None:
    """Whatever a draft holds, the answer is canonical event bytes or InvalidEvent without causes that hold values."""
    if members.get("resource_type", "").strip().lower() == "user":
        members = {}
    try:
        encoded = door.admit(Draft(event_type="x_test", actor_id="user@example.com", metadata=metadata, **members))
    except InvalidEvent as exc:
        assert (exc.__cause__, exc.__context__) == (None, None)  # noqa: PT017  # most examples pass
        return
    assert encoded.body == canonical_body(decode_event(encoded.body))


@given(
    metadata=st.dictionaries(
        st.sampled_from(["model", "ratio", "token", "prompt", "note", "phase"]),
        st.none() | st.booleans() | st.integers() | st.floats() | TEXT | FLAT | st.just(ToCommit("x")),
        max_size=5,
    ),
    members=st.dictionaries(st.sampled_from([*MEMBERS, "correlation_id", "request_id"]), TEXT | FLAT, max_size=6),
)
def test_the_short_way_writes_what_the_long_way_writes(
    door: Door, metadata: dict[str, Any], members: dict[str, str]
) -> None:
    """Events that need no closer look are admitted by a short way: the same bytes, or the same refusal."""
    draft = Draft(event_type="x_test", actor_id="user@example.com", event_id=EVENT_ID, metadata=metadata, **members)
    draft = draft.replace(timestamp=dt.datetime(2026, 11, 21, tzinfo=dt.UTC))
    long = _outcome(door, draft, plain=lambda *_: None)
    for _ in range(2):  # the first time teaches it the names
        assert long == _outcome(door, draft, plain=Entrance.plain.__get__(door._entrance))


def _outcome(door: Door, draft: Draft, plain: Callable[..., Any]) -> bytes | str:
    entrance = door._entrance
    entrance.plain = plain  # type: ignore[method-assign]
    try:
        return door.admit(draft).body
    except InvalidEvent as exc:
        return str(exc)


@st.composite
def hidden(draw: st.DrawFn) -> dict[str, Any]:
    """Draw metadata in which a needle stands only where it must be withheld."""
    text = f"a {NEEDLE} in the reeds {draw(st.integers(0, 99))}"
    name = draw(st.sampled_from(["prompt", "negativePrompt", "api_key", "Authorization", "callback_url", "images"]))
    value: Any = draw(st.sampled_from([text, [text], {"a": text}, {"a": [{"b": text}]}, ToCommit(text), (text,)]))
    metadata: Any = {name: value, "duration": 5}
    for _ in range(draw(st.integers(0, 4))):
        metadata = draw(st.sampled_from([{"a": metadata}, {"b": [metadata, 1]}, {"c": {"d": (metadata,)}}]))
    return {**metadata, "model": "kling-3.0-turbo"}


@given(metadata=hidden())
def test_nothing_withheld_comes_through(door: Door, metadata: dict[str, Any]) -> None:
    """Content and secrets at any depth and in any structure are not in the bytes."""
    encoded = door.admit(Draft(event_type="x_test", actor_id="user@example.com", metadata=metadata))
    assert NEEDLE.encode() not in encoded.body


@given(
    key=st.binary(min_size=32, max_size=32), pointer=st.text(st.characters(exclude_categories=["Cs"])), value=st.text()
)
def test_commitments_open_with_their_value_only(key: bytes, pointer: str, value: str) -> None:
    """Any text opens its own commitment and no longer or shorter one does."""
    event_id = "01a1fb67-1418-702a-821e-d18ef9931cd6"
    stored = commit(key, event_id, pointer, value)
    salt = opening(key, event_id, pointer)
    assert is_commitment(stored)
    assert check_opening(stored, salt, value)
    assert not check_opening(stored, salt, value + "x")
    assert not check_opening({**stored, "bytes": stored["bytes"] + 1}, salt, value)
