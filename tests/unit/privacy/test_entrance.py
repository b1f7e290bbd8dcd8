"""Metadata on its way in."""

from __future__ import annotations

import enum
import json
from collections import OrderedDict, UserDict
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import pytest

from klingai_audit.errors import InvalidEvent
from klingai_audit.privacy import secrets
from klingai_audit.privacy.commitment import ToCommit, check_opening, commit, opening
from klingai_audit.privacy.content import Content
from klingai_audit.privacy.entrance import Entrance
from klingai_audit.privacy.policy import Policy

KEY = bytes(range(32))
ID = "01a1fb67-1418-702a-821e-d18ef9931cd6"
LAKE = "A serene mountain lake at sunrise"


@pytest.fixture
def entrance() -> Entrance:
    """Return the entrance of the default policy."""
    return Entrance(Content(Policy.default().privacy.commit))


def admit(entrance: Entrance, metadata: Mapping[str, Any], members: tuple[str, ...] = ()) -> dict[str, Any]:
    """Return metadata as it would stand in the entry."""
    return entrance.walk(metadata, KEY, ID, members).result


def committed(pointer: str, value: object) -> dict[str, Any]:
    """Return the commitment that must stand at a pointer."""
    return commit(KEY, ID, pointer, value)


@pytest.mark.parametrize(
    "metadata, pointer, value",
    [
        ({"prompt": LAKE}, "/metadata/prompt", LAKE),
        ({"a": {"b": [{"negativePrompt": LAKE}]}}, "/metadata/a/b/0/negativePrompt", LAKE),
        ({"images": ["x", {"y": 1}]}, "/metadata/images", ["x", {"y": 1}]),
        ({"multi_prompt": ({"prompt": LAKE, "n": 1},)}, "/metadata/multi_prompt", [{"prompt": LAKE, "n": 1}]),
        ({"image": b"\x89PNG"}, "/metadata/image", b"\x89PNG"),
        ({"text": 5}, "/metadata/text", 5),
        ({"query": ""}, "/metadata/query", ""),
        ({"anything": ToCommit(LAKE)}, "/metadata/anything", LAKE),
        ({"list": [1, ToCommit(b"ab", "image/png")]}, "/metadata/list/1", ToCommit(b"ab", "image/png")),
        ({"prompt": ToCommit({"a": LAKE})}, "/metadata/prompt", {"a": LAKE}),
        ({"images": [ToCommit(LAKE)]}, "/metadata/images", [LAKE]),
        ({"a/b~c": {"prompt": LAKE}}, "/metadata/a~1b~0c/prompt", LAKE),
        ({"body": json.dumps({"prompt": LAKE})}, "/metadata/body", json.dumps({"prompt": LAKE})),
        ({"form": [["prompt", LAKE]]}, "/metadata/form/0/1", LAKE),
        ({"form": [{"name": "prompt", "value": LAKE}]}, "/metadata/form/0/value", LAKE),
        ({"k" * 100: {"prompt": LAKE}}, "/metadata/" + "k" * 100 + "/prompt", LAKE),
    ],
)
def test_content_becomes_a_commitment_at_its_place(
    entrance: Entrance, metadata: dict[str, Any], pointer: str, value: object
) -> None:
    """Content by name or by wrapper is committed to under the JSON pointer at which it then stands in the entry."""
    found: Any = admit(entrance, metadata)
    for token in pointer.split("/")[2:]:
        found = found[int(token) if isinstance(found, list) else token.replace("~1", "/").replace("~0", "~")]
    assert committed(pointer, value) == found
    assert check_opening(found, opening(KEY, ID, pointer), value)


def test_absent_null_and_withheld_stay_three_facts(entrance: Entrance) -> None:
    """Null and booleans say what they say under any name, wrapped null too; withheld text is a commitment."""
    metadata = {"prompt": None, "image": False, "audio": True, "token": None, "message": ToCommit(None), "text": "x"}
    expected = {**metadata, "message": None, "text": committed("/metadata/text", "x")}
    assert expected == admit(entrance, metadata)


def test_commitments_are_not_committed_to_again(entrance: Entrance) -> None:
    """What already has the form of a commitment stays as it is, under any name."""
    stored = committed("/metadata/prompt", LAKE)
    assert {"prompt": stored, "x": [stored]} == admit(entrance, {"prompt": stored, "x": [stored]})


def test_secrets_win_over_content(entrance: Entrance) -> None:
    """A credential is removed, not committed to; header pairs and objects are understood."""
    metadata = {
        "api_key": "abc", "headers": [["Authorization", "abc"], ["accept", "x"]],
        "h": [{"name": "cookie", "value": "abc"}], "max_tokens": 5,
    }  # fmt: skip
    expected = {
        "api_key": "[removed]", "headers": [["Authorization", "[removed]"], ["accept", "x"]],
        "h": [{"name": "cookie", "value": "[removed]"}], "max_tokens": 5,
    }  # fmt: skip
    assert expected == admit(entrance, metadata)


def test_echoes_of_withheld_text_are_removed(entrance: Entrance) -> None:
    """Text that this event withholds does not stand elsewhere in it, before or after, in keys or members."""
    metadata = {
        "before": f"no: {LAKE}!", "prompt": LAKE, "after": [LAKE], f"key {LAKE}": 1, "short": "lake", "status": "done",
    }  # fmt: skip
    walk = entrance.walk(metadata, KEY, ID, [f"action {LAKE}", None])
    expected = {
        "before": "no: [removed]!", "prompt": committed("/metadata/prompt", LAKE), "after": ["[removed]"],
        "key [removed]": 1, "short": "lake", "status": "done",
    }  # fmt: skip
    assert expected == walk.result
    assert "action [removed]" == walk.text(f"action {LAKE}")


def test_single_words_are_no_echoes(entrance: Entrance) -> None:
    """A provider message of one ordinary word does not erase that word from the rest of the event."""
    found = admit(entrance, {"message": "succeeded", "status": "succeeded"})
    assert "succeeded" == found["status"]


def test_echoes_in_committed_structures(entrance: Entrance) -> None:
    """Text inside a committed structure counts as withheld as well."""
    found = admit(entrance, {"multi_prompt": [{"prompt": LAKE}], "note": LAKE})
    assert "[removed]" == found["note"]


def test_texts_and_keys_are_cleaned(entrance: Entrance) -> None:
    """Addresses and credentials in texts and keys go; keys that become equal stay apart."""
    metadata = {"note": "by user@example.com", "us1@example.com": 1, "us2@example.com": 2, "x": "Bearer abc123def"}
    expected = {
        "note": "by us***@example.com",
        "us***@example.com": 1,
        "us***@example.com~": 2,
        "x": "Bearer [removed]",
    }
    assert expected == admit(entrance, metadata)


class Mode(enum.StrEnum):
    """An enumeration of texts."""

    PRO = "pro"


class Level(enum.IntEnum):
    """An enumeration of numbers."""

    HIGH = 3


class Ratio(float):
    """A number of a type of its own."""


def test_values_of_other_types_become_plain(entrance: Entrance) -> None:
    """Tuples, mappings and members of enumerations become the JSON that they are by value, of exact type."""
    metadata = {
        "t": (1, 2), "m": MappingProxyType({"a": 1}), "o": OrderedDict(b=2), "u": UserDict({"c": 3}), "e": Mode.PRO,
        Mode.PRO: 1, "i": Level.HIGH, "f": Ratio(0.5), "l": [Mode.PRO, (Level.HIGH,)],
    }  # fmt: skip
    found = admit(entrance, metadata)
    expected = {
        "t": [1, 2], "m": {"a": 1}, "o": {"b": 2}, "u": {"c": 3}, "e": "pro", "pro": 1, "i": 3, "f": 0.5,
        "l": ["pro", [3]],
    }  # fmt: skip
    assert expected == found
    assert [str, str, int, float] == [type(found["e"]), type(list(found)[5]), type(found["i"]), type(found["f"])]


@pytest.mark.parametrize(
    "metadata, message",
    [
        ({"a": {"b": [object()]}}, "/metadata/a/b/0: a value of type object is not JSON"),
        ({"a": b"x"}, "/metadata/a: a value of type bytes is not JSON"),
        ({"a": {1: 2}}, "/metadata/a: a key of type int, keys are str"),
        ({"user@example.com": {1, 2}}, "/metadata/us***@example.com: a value of type set is not JSON"),
        ({"prompt": {1, 2}}, "/metadata/prompt: a value of type set is not JSON (in a value to commit to)"),
        ({"prompt": [b"x"]}, "/metadata/prompt: a value of type bytes is not JSON (in a value to commit to)"),
    ],
)
def test_errors_name_place_and_type(entrance: Entrance, metadata: dict[str, Any], message: str) -> None:
    """What is not JSON is refused by its pointer, cleaned, and its type."""
    with pytest.raises(InvalidEvent) as caught:
        admit(entrance, metadata)
    assert message == caught.value.message


@pytest.mark.parametrize("wrap", [lambda inner: {"k": inner}, lambda inner: [inner]])
def test_depth_is_limited_before_the_stack_is(entrance: Entrance, wrap: Any) -> None:
    """Sixteen levels pass, seventeen and a cycle are refused, under a content name too."""
    value: Any = 1
    for _ in range(15):
        value = wrap(value)
    assert admit(entrance, {"a": value})
    with pytest.raises(InvalidEvent, match="nested deeper than 16 levels"):
        admit(entrance, {"a": wrap(value)})
    cycle: list[Any] = []
    cycle.append(cycle)
    for name in ("a", "images"):
        with pytest.raises(InvalidEvent, match="nested deeper than 16 levels"):
            admit(entrance, {name: cycle})


@pytest.mark.parametrize(
    "metadata",
    [{}, {"model": "kling-3.0-turbo", "duration": 5, "sound": True, "x": None, "ratio": 0.5}, {"a": "lake.mp4"}],
)
def test_the_short_way_gives_what_the_walk_gives(entrance: Entrance, metadata: dict[str, Any]) -> None:
    """Metadata that needs no change takes a short way, with the same result, as a new object."""
    walked = admit(entrance, metadata)
    short = entrance.plain(metadata)
    assert metadata == walked == short
    assert short is not metadata


@pytest.mark.parametrize(
    "metadata",
    [
        {"prompt": LAKE}, {"a": {"b": 1}}, {"a": [1]}, {"token": "x"}, {"a": "user@example.com"}, {"a": b"x"},
        {"a": ToCommit("x")}, {"a": '{"prompt":"x"}'}, {"user@example.com": 1}, {1: 2}, {"a": Mode.PRO},
    ],
)  # fmt: skip
def test_the_short_way_is_for_nothing_else(entrance: Entrance, metadata: dict[Any, Any]) -> None:
    """Whatever needs a closer look does not take the short way, also when its keys are known."""
    for key in metadata:
        if isinstance(key, str):
            entrance.key(key)
    assert entrance.plain(metadata) is None


def test_the_short_way_ends_when_a_secret_is_learned(entrance: Entrance) -> None:
    """A value or key that was fine is looked at again after a secret was learned."""
    admit(entrance, {"studio-a-key": "studio-b"})
    assert entrance.plain({"studio-a-key": "studio-b"}) is not None
    try:
        secrets.learn("studio-a-key")
        assert entrance.plain({"studio-a-key": 5}) is None
        secrets.learn("studio-b")
        assert entrance.plain({"studio-a-key": "studio-b"}) is None
        assert {"[removed]": "[removed]"} == admit(entrance, {"studio-a-key": "studio-b"})
    finally:
        secrets.forget_all()


def test_caches_of_keys_are_bounded(entrance: Entrance) -> None:
    """Any number of different keys leaves a bounded cache."""
    for number in range(10_000):
        entrance.key(f"key {number}")
    assert len(entrance._keys) <= 4096
