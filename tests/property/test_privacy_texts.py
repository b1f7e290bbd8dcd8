"""Scrubbing, masking and cleaning for any text: idempotent, removing what is planted, leaving the rest alone."""

from __future__ import annotations

import json
import string
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from klingai_audit.privacy.content import Content, cut_user_agent
from klingai_audit.privacy.masks import canonical_ip, is_masked_ip, mask_email, mask_ip, mask_text
from klingai_audit.privacy.policy import Policy
from klingai_audit.privacy.secrets import scrub, scrub_text

CONTENT = Content(Policy.default().privacy.commit)

# Pieces out of which hostile texts are made: what the rules look for, in any order and overlap.
PIECES = st.sampled_from(
    [
        "api_key", "token", "secret", "password", "Authorization", "cookie", "prompt", "negative_prompt", "message",
        "Bearer", "basic", "=", ":", "=>", " ", "'", '"', "\\", '\\"', "\\\\\\", ",", "&", ";", "{", "}", "[", "]", "(",
        "://", "https://", "@", "%40", "\\u0040", "?", "#", "/", "user", "example.com", "a.b", "192.168.1.100", "1.",
        "2001:db8::1", "::", "fe80", "eyJhbGciOi.eyJpc3Mi.c2ln", "sk-abc123def456", "api-key-kling-x1", "whsec_abcdef",
        "-----BEGIN PRIVATE KEY-----", "-----END PRIVATE KEY-----", "[removed]", "***", "xxx", "/32", "\n", "é", "水",
        "%25", "%2E", "&#64;", "\uff20", "\u200b", "e\u0301", "localhost", "[1.2", "ip-10-20-30-40",
        "sig", "<password>", "</",
        "-u ", "x-api-key", "10.20.30.40.50", "v", "\uff1a",
        "PRIVATE+KEY+", "0199c0de-7000-7000-8000-000000000000", "x" * 30, "7",
    ]
)  # fmt: skip
HOSTILE = st.lists(PIECES, max_size=14).map("".join) | st.text(max_size=60)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | HOSTILE,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(HOSTILE, inner, max_size=3),
    max_leaves=6,
)

# "bearer 0.10.0" may as well be a key.
WORD = st.text(string.ascii_lowercase, min_size=1, max_size=12).filter(
    lambda word: not word.endswith(("bearer", "basic", "token", "secret", "pwd"))
)
ORDINARY = st.one_of(
    st.uuids().map(str),
    st.binary(min_size=16, max_size=32).map(bytes.hex),
    st.integers(0, 10**24).map(str),
    st.lists(WORD, min_size=1, max_size=8).map(" ".join),
    st.lists(WORD, min_size=1, max_size=4).map("_".join),
    st.tuples(WORD, st.sampled_from(["mp4", "png", "wav", "jsonl", "tar.gz"])).map(".".join),
    st.tuples(WORD, st.integers(0, 99), st.integers(0, 99)).map(lambda parts: f"{parts[0]} {parts[1]}.{parts[2]}.0"),
    st.datetimes().map(lambda moment: moment.isoformat() + "Z"),
)
"""Ids, digests, numbers, names, sentences, file names, versions and times."""


@given(HOSTILE)
@example('{"a":"password","b":"="}')
@example("token: token: token: x1")
@example("api_key@192.168.1.100")
@example("https://a:b@c:d@e/?token=x&https://f:g@h")
@example('prompt="prompt="prompt="x"')
def test_cleaning_is_idempotent(text: str) -> None:
    """What was scrubbed, masked or cleaned once does not change any more."""
    for function in (scrub_text, mask_text, CONTENT.clean):
        once = function(text)
        assert once == function(once)


@given(HOSTILE)
def test_clean_text_needs_no_scrubbing_or_masking(text: str) -> None:
    """Cleaning leaves nothing that scrubbing or masking would still change."""
    cleaned = CONTENT.clean(text)
    assert cleaned == scrub_text(cleaned)
    assert cleaned == mask_text(cleaned)


@given(VALUES)
def test_scrubbing_values_is_idempotent(value: Any) -> None:
    """A scrubbed value does not change any more, and its input was not changed."""
    before = repr(value)
    once = scrub(value)
    assert before == repr(value)
    assert once == scrub(once)


@given(ORDINARY, ORDINARY)
def test_ordinary_text_is_left_alone(first: str, second: str) -> None:
    """Ids, digests, file names, versions, times and sentences survive, alone and together."""
    for text in (first, f"{first} {second}", f"{first}, {second}", f"({first})"):
        assert text == CONTENT.clean(text)
        assert text == scrub_text(text)
        assert text == mask_text(text)


@given(st.lists(ORDINARY | HOSTILE, max_size=6))
@example(["ec2-192-168-1-100"])
@example(["0199c0de-7000-7000-8000-000000000000", "831"])
def test_texts_looked_at_together_are_judged_as_each_alone(texts: list[str]) -> None:
    """Many texts pass in one look exactly if each of them would come out as it is."""
    fresh = Content(Policy.default().privacy.commit)
    assert all(text == CONTENT.clean(text) for text in texts) == fresh.pass_unchanged(texts)


@given(ORDINARY)
def test_ordinary_values_are_left_alone(text: str) -> None:
    """The same inside values and inside JSON in text."""
    value = {"model": text, "list": [text, 1, None, True]}
    assert value == scrub(value)
    assert json.dumps(value) == CONTENT.clean(json.dumps(value))


SECRET = st.text(string.ascii_letters + string.digits, min_size=10, max_size=30).map(lambda text: f"Qz7{text}")


@st.composite
def planted(draw: st.DrawFn) -> tuple[str, str]:
    """Draw a secret and a text that holds it in some form, inside some more text."""
    secret = draw(SECRET)
    form = draw(
        st.sampled_from(
            [
                "Authorization: Bearer {}", "Bearer {}", "api_key={}", "X-API-Key: {}", "password: {}",
                '"secret_key": "{}"', "'token': '{}'", '\\"token\\":\\"{}\\"', "https://u:{}@example.com/",
                "https://example.com/?X-Amz-Signature={}", "api-key-kling-{}", "whsec_{}", "?access_token={}&a=1",
                "('authorization', '{}')", "client_secret => {}", "PRIVATE+KEY+a+b+{}",
            ]
        )
    )  # fmt: skip
    text = form.replace("{}", secret)
    before, after = draw(ORDINARY), draw(ORDINARY)
    text = f"{before} {text} {after}"
    for _ in range(draw(st.integers(0, 3))):
        text = json.dumps({"note": text, "n": 1}) if draw(st.booleans()) else json.dumps([text])
    return secret, text


@given(planted())
def test_planted_secrets_do_not_survive(case: tuple[str, str]) -> None:
    """Any secret in any form, between ordinary texts, in JSON in JSON, is removed."""
    secret, text = case
    assert secret not in scrub_text(text)
    assert secret not in CONTENT.clean(text)
    assert secret not in repr(scrub({"a": [text], text: 1}))


LOCAL = st.text(string.ascii_letters + string.digits + "._+-", min_size=3, max_size=20).filter(
    lambda text: text[0].isalnum() and text[-1].isalnum()
)


@given(LOCAL, ORDINARY, st.sampled_from([" ", "<", "(", '"', "=", ":", "/", "\n"]))
def test_emails_are_masked_anywhere(local: str, before: str, gap: str) -> None:
    """Any e-mail address after any text keeps two characters of its local part."""
    masked = mask_text(f"{before}{gap}{local}@mail.example.com>")
    assert masked.endswith(f"{local[:2]}***@mail.example.com>")


@given(st.text(max_size=20), st.text(max_size=20))
def test_email_masks_are_idempotent(local: str, domain: str) -> None:
    """Masking a masked address changes nothing."""
    once = mask_email(f"{local}@{domain}")
    assert once == mask_email(once)


@given(st.ip_addresses(), ORDINARY, st.sampled_from([" ", "[", "(", '"', "=", "\n", ","]))
def test_addresses_are_masked_anywhere(address: Any, before: str, gap: str) -> None:
    """Any address after any text loses all but its first 16 or 32 bits."""
    masked = mask_ip(str(address))
    assert is_masked_ip(masked)
    assert masked == mask_ip(masked)
    if address.version == 4 or len(str(address).replace(":", "")) >= 8:
        assert str(address) not in mask_text(f"{before}{gap}{address} x")


@given(st.ip_addresses())
def test_addresses_have_one_spelling(address: Any) -> None:
    """The exploded, upper-case and plain spellings of an address are one."""
    plain = canonical_ip(str(address))
    assert plain == canonical_ip(address.exploded) == canonical_ip(str(address).upper())


@pytest.mark.parametrize("function", [scrub_text, mask_text, CONTENT.clean, mask_ip, cut_user_agent])
@given(text=st.text(st.characters(), max_size=80))
def test_no_text_breaks_a_rule(function: Any, text: str) -> None:
    """Any text at all, lone surrogates included, gives a text."""
    assert isinstance(function(text), str)
