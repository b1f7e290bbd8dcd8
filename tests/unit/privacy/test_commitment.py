"""Commitments and their openings."""

from __future__ import annotations

import base64
import hashlib
import hmac
from typing import Any

import pytest

from klingai_audit.errors import InvalidEvent
from klingai_audit.privacy.commitment import ToCommit, check_opening, commit, is_commitment, opening, value_bytes

KEY = bytes(range(32))
ID = "01a1fb67-1418-702a-821e-d18ef9931cd6"
PROMPT = "A serene mountain lake at sunrise"


def reference(key: bytes, event_id: str, pointer: str, value: bytes) -> str:
    """Compute a commitment step by step as docs/format.md 9.2 says."""
    domain = b"klingai-audit/commit/v1" + bytes([0])
    salt = hmac.new(key, domain + event_id.encode() + bytes([0]) + pointer.encode(), hashlib.sha256).digest()
    return base64.urlsafe_b64encode(hashlib.sha256(domain + salt + value).digest()).decode().rstrip("=")


@pytest.mark.parametrize(
    "value, raw",
    [
        (PROMPT, PROMPT.encode()),
        ("\u6c34\u5f69 \U0001f30a", "\u6c34\u5f69 \U0001f30a".encode()),
        ("", b""),
        (b"\x00\xff", b"\x00\xff"),
        (bytearray(b"ab"), b"ab"),
        (["a", {"b": 1, "a": None}], b'["a",{"b":1,"a":null}]'),
        (5, b"5"),
        ("\ud800", b"\xed\xa0\x80"),
    ],
)
def test_commitment_is_the_documented_hash(value: object, raw: bytes) -> None:
    """Text in UTF-8, bytes as they are, JSON compact: each has the documented digest and length."""
    expected = {"commitment": reference(KEY, ID, "/metadata/prompt", raw), "bytes": len(raw)}
    assert expected == commit(KEY, ID, "/metadata/prompt", value)
    assert raw == value_bytes(value)


def test_fixed_vector() -> None:
    """One salt and commitment, the salt computed with openssl, so that reference and product cannot drift together."""
    salt = opening(KEY, ID, "/metadata/prompt")
    assert "3becc2c91ec11d99596f748f95472211874b998678f19a9873c809a1f996b85e" == salt.hex()
    expected = {"commitment": "YCN0rUTrGGRE1SWSUn-7BuXjPMJ9NhTacZjGDuTRcrs", "bytes": 33}
    assert expected == commit(KEY, ID, "/metadata/prompt", PROMPT)


def test_media_carry_their_type() -> None:
    """A type given with the value stands as third member."""
    stored = commit(KEY, ID, "/metadata/image", ToCommit(b"\x89PNG", "image/png"))
    assert ["commitment", "bytes", "type"] == list(stored)
    assert (4, "image/png") == (stored["bytes"], stored["type"])


@pytest.mark.parametrize("kind", ["", "image/png; secret=1", "IMAGE", "a b", "x" * 200])
def test_odd_types_are_refused(kind: str) -> None:
    """A type that is no media type could carry content: refused without being shown."""
    with pytest.raises(InvalidEvent) as caught:
        commit(KEY, ID, "/metadata/image", ToCommit(b"x", kind))
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    "other",
    [
        (bytes(32), ID, "/metadata/prompt"),
        (KEY, ID.replace("01a1", "01a2"), "/metadata/prompt"),
        (KEY, ID, "/metadata/prompt2"),
    ],
)
def test_equal_prompts_do_not_show(other: tuple[bytes, str, str]) -> None:
    """The same text under another subject, event or place has another commitment, and another salt."""
    assert commit(KEY, ID, "/metadata/prompt", PROMPT) != commit(*other, PROMPT)
    assert opening(KEY, ID, "/metadata/prompt") != opening(*other)


def test_opening_opens_one_commitment() -> None:
    """The salt shows that the text is the one; another text, salt or length is not accepted."""
    stored = commit(KEY, ID, "/metadata/prompt", PROMPT)
    salt = opening(KEY, ID, "/metadata/prompt")
    assert check_opening(stored, salt, PROMPT)
    assert check_opening(stored, salt, ToCommit(PROMPT))
    assert not check_opening(stored, salt, PROMPT + " ")
    assert not check_opening(stored, bytes(32), PROMPT)
    assert not check_opening({**stored, "bytes": 32}, salt, PROMPT)


@pytest.mark.parametrize(
    "stored",
    [
        {}, {"commitment": 5, "bytes": 33}, {"commitment": "\u00e9", "bytes": 33}, {"commitment": "x", "bytes": True},
        {"bytes": 33}, {"commitment": "x", "bytes": "33"},
    ],
)  # fmt: skip
def test_bad_openings_are_false_not_errors(stored: dict[str, Any]) -> None:
    """Whatever stands in the entry, the check answers, and a value that is no JSON is no match."""
    assert not check_opening(stored, bytes(32), PROMPT)
    assert not check_opening({"commitment": "x", "bytes": 1}, bytes(32), {1, 2})


def test_values_that_are_not_json_are_refused_by_place() -> None:
    """What cannot be committed to is refused by pointer and type; the error carries no text."""
    with pytest.raises(InvalidEvent, match=r"^/metadata/x: a value of type set"):
        commit(KEY, ID, "/metadata/x", [{1}])
    with pytest.raises(InvalidEvent) as caught:
        commit(KEY, ID, "/metadata/x", ["planted \ud800"])
    assert (None, None) == (caught.value.__context__, caught.value.__cause__)
    assert "planted" not in repr(caught.value)


def test_wrapper_hides_its_value() -> None:
    """A wrapped value shows in no repr; wrappers compare by value."""
    wrapped = ToCommit(PROMPT, "text/plain")
    assert "lake" not in repr(wrapped)
    assert "lake" not in f"{wrapped} {[wrapped]!r}"
    assert (ToCommit(PROMPT, "text/plain"), True) == (wrapped, hash(wrapped) == hash(ToCommit(PROMPT, "text/plain")))
    assert wrapped != ToCommit(PROMPT)


def test_form_of_a_commitment() -> None:
    """Exactly what `commit` returns has the form of a commitment; 43 characters leave no slack bits."""
    stored = commit(KEY, ID, "/metadata/image", ToCommit(b"x", "image/png"))
    assert is_commitment(stored)
    for other in (
        None, "x", {}, {**stored, "more": 1}, {**stored, "bytes": -1}, {**stored, "bytes": 1.0}, {**stored, "type": 5},
        {**stored, "commitment": stored["commitment"] + "="}, {**stored, "commitment": stored["commitment"][:-1] + "9"},
    ):  # fmt: skip
        assert not is_commitment(other)
