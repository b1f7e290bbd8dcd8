"""The bytes of an entry: splice, seal, and reading both back by position."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from klingai_audit.ledger.line import (
    SEAL_BYTES,
    compute_seal,
    event_type_of,
    has_valid_seal,
    names_checkpoint,
    parse_members,
    seq_of,
    splice,
)
from tests.support.ledgers import ORIGIN, event

KEY = bytes(range(32))
AT = b"2026-11-21T12:00:00.000000Z"
PREV = hashlib.sha256(b"before").digest()


def entry(**members: object) -> bytes:
    return splice(event(**members).body, 41, AT, PREV)  # type: ignore[arg-type]


def test_spliced_members_are_last_and_in_order() -> None:
    """The event's bytes stay as they are; the ledger's members follow."""
    body = event().body
    line = splice(body, 41, AT, PREV)
    assert line.startswith(body[:-1])
    assert ["seq", "logged_at", "prev_hash"] == list(json.loads(line))[-3:]
    assert (41, AT.decode(), PREV.hex()) == tuple(json.loads(line)[name] for name in ("seq", "logged_at", "prev_hash"))


def test_seal_is_what_the_format_page_says() -> None:
    """HMAC-SHA-256 over context, origin and the bytes before the seal, as 43 characters base64url."""
    unsealed = entry()
    sealed = compute_seal(KEY, ORIGIN, unsealed)
    covered = unsealed[:-1]
    message = b"klingai-audit/seal/v1\0" + ORIGIN.encode() + b"\0" + covered
    mac = base64.urlsafe_b64encode(hmac.new(KEY, message, hashlib.sha256).digest()).rstrip(b"=")
    assert covered + b',"seal":"' + mac + b'"}' == sealed
    assert sealed[:-SEAL_BYTES] == covered


@pytest.mark.parametrize("change", ["byte", "key", "origin", "missing"])
def test_only_the_true_seal_is_valid(change: str) -> None:
    """Another byte, key or origin, or no seal at all, is no valid seal."""
    sealed = compute_seal(KEY, ORIGIN, entry())
    assert has_valid_seal(KEY, ORIGIN, sealed)
    assert not {
        "byte": lambda: has_valid_seal(KEY, ORIGIN, sealed.replace(b'"n":1', b'"n":2')),
        "key": lambda: has_valid_seal(bytes(32), ORIGIN, sealed),
        "origin": lambda: has_valid_seal(KEY, ORIGIN + "x", sealed),
        "missing": lambda: has_valid_seal(KEY, ORIGIN, entry()),
    }[change]()


@given(st.binary(max_size=300))
def test_any_bytes_are_judged(data: bytes) -> None:
    """Foreign bytes have no members and no valid seal, and nothing is raised."""
    assert not has_valid_seal(KEY, ORIGIN, data)
    assert parse_members(data) is None or data.endswith(b"}")
    assert "" == event_type_of(data) or len(data) > 118


@given(st.integers(min_value=0, max_value=10**15), st.binary(min_size=32, max_size=32))
def test_members_come_back(seq: int, prev: bytes) -> None:
    """What was spliced is parsed, sealed or not."""
    line = splice(event().body, seq, AT, prev)
    for form, sealed in ((line, False), (compute_seal(KEY, ORIGIN, line), True)):
        members = parse_members(form)
        assert members is not None
        assert (seq, AT.decode(), prev, sealed) == (
            members.seq, members.logged_at, members.prev_hash, members.seal is not None
        )  # fmt: skip
        assert seq == seq_of(form)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b'"seq":41', b'"seq":041'),
        (b'"seq":41', b'"seq":-41'),
        (b'"seq":41', b'"seq": 41'),
        (b'"prev_hash":"', b'"prev_hash":"A'),
        (b'Z",', b'z",'),
    ],
)
def test_other_forms_are_no_members(old: bytes, new: bytes) -> None:
    """There is one way to write the ledger's members."""
    assert parse_members(entry().replace(old, new)) is None


def test_members_in_metadata_are_not_the_ledgers() -> None:
    """Position decides: what looks alike inside the event is not read."""
    forged = event(metadata={"seq": 7, "logged_at": AT.decode(), "prev_hash": "0" * 64, "seal": "A" * 43})
    assert 41 == seq_of(splice(forged.body, 41, AT, PREV))
    assert seq_of(forged.body) is None


@pytest.mark.parametrize(
    ("name", "named"),
    [("signing_key_rotated", True), ("log_closed", True), ("log_opened", False), ("x_log_closed", False)],
)
def test_which_entries_name_a_checkpoint(name: str, named: bool) -> None:
    """Handovers and closings, told by the type at its fixed place."""
    line = splice(event(name).body, 0, AT, PREV)
    assert name == event_type_of(line)
    assert named == names_checkpoint(line)


def test_a_type_in_metadata_names_nothing() -> None:
    """Only the event's own type counts."""
    line = splice(event(metadata={"event_type": "log_closed"}).body, 0, AT, PREV)
    assert not names_checkpoint(line)
