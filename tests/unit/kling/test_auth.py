"""Credentials: tokens that the simulator accepts, headers read without secrets, the environment."""

from __future__ import annotations

import base64
import json

import pytest

from klingai_audit.errors import UsageError
from klingai_audit.kling import auth
from klingai_audit.kling.auth import ApiKey, KeyPair, base_url_from, credential_of, credentials_from
from klingai_audit.kling.simulator import mint_token

ACCESS, SECRET = "test-access-key-1", "test-secret-key-0123456789"


def claims_of(token: str) -> dict:
    """Return the claims of a token."""
    part = token.split(".")[1]
    return json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))


def test_tokens_equal_those_of_an_independent_signer():
    """The same claims under the same key give byte for byte the token of the simulator's own signer."""
    now = 1_790_000_000
    assert auth.mint_token(ACCESS, SECRET, now=now) == mint_token(ACCESS, SECRET, now_ms=now * 1000)


def test_a_token_is_kept_until_it_has_a_minute_left():
    """Signed anew at under 60 seconds of life, and when the clock was set back."""
    now = [1000.0]
    pair = KeyPair(ACCESS, SECRET, clock=lambda: now[0])
    first = pair.authorization()
    now[0] = 1000.0 + 1800 - 61
    assert pair.authorization() == first
    now[0] = 1000.0 + 1800 - 60
    second = pair.authorization()
    assert second != first
    assert claims_of(second) == {"iss": ACCESS, "exp": int(now[0]) + 1800, "nbf": int(now[0]) - 5}
    now[0] = 500.0
    assert pair.authorization() != second


def test_credentials_show_nothing():
    """No repr of a credential holds a key."""
    assert ACCESS not in repr(KeyPair(ACCESS, SECRET))
    assert SECRET not in repr(KeyPair(ACCESS, SECRET))
    assert "the-key" not in repr(ApiKey("the-key"))


@pytest.mark.parametrize(
    "header,kind,secret",
    [
        ("Bearer api-key-1", "api_key", "api-key-1"),
        ("bearer   api-key-1 ", "api_key", "api-key-1"),
        (f"Bearer {mint_token(ACCESS, SECRET, now_ms=0)}", "access_key", ACCESS),
        ("Bearer a.b.c", "api_key", "a.b.c"),
        ("Bearer e30.W10.x", "api_key", "e30.W10.x"),
        ("Bearer e30.eyJpc3MiOjd9.x", "api_key", "e30.eyJpc3MiOjd9.x"),
        ("Basic dXNlcg==", "other", "dXNlcg=="),
        ("bare-key", "other", "bare-key"),
    ],
)
def test_headers_name_who_they_speak_for(header, kind, secret):
    """A token speaks for its AccessKey, everything else for itself."""
    found = credential_of(header)
    assert (found.kind, found.secret) == (kind, secret)


def test_no_credential_is_none():
    """An empty header names nobody."""
    assert [credential_of(text) for text in ("", "  ", "Bearer", "Bearer ")][:2] == [None, None]


@pytest.mark.parametrize(
    "given,environment,expected",
    [
        ({"api_key": "k"}, {"KLINGAI_ACCESS_KEY": "a", "KLINGAI_SECRET_KEY": "s"}, "Bearer k"),
        ({}, {"KLINGAI_API_KEY": "k"}, "Bearer k"),
        ({}, {"KLINGAI_API_KEY": "k", "KLINGAI_ACCESS_KEY": "a", "KLINGAI_SECRET_KEY": "s"}, "Bearer k"),
        ({}, {"KLINGAI_ACCESS_KEY": "a", "KLINGAI_SECRET_KEY": "s"}, None),
        ({"access_key": "a", "secret_key": "s"}, {"KLINGAI_API_KEY": "k"}, None),
    ],
)
def test_the_choice_of_credentials(given, environment, expected):
    """What is given wins over the environment, an API key over a pair."""
    found = credentials_from(**given, environment=environment)
    assert isinstance(found, KeyPair) if expected is None else found.authorization() == expected


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"api_key": ""},
        {"api_key": "two words"},
        {"api_key": "line\n"},
        {"api_key": "ключ"},
        {"access_key": "a"},
        {"secret_key": "s"},
        {"api_key": "k", "access_key": "a", "secret_key": "s"},
    ],
)
def test_bad_credentials_are_usage_errors(given):
    """None, half a pair, both kinds, or what no header can carry: refused without showing it."""
    with pytest.raises(UsageError) as caught:
        credentials_from(**given, environment={})
    assert not any(value and value in str(caught.value) for value in ("two words", "ключ"))


def test_the_base_url():
    """Given, environment, default; without the last slash; http and https only."""
    environment = {"KLINGAI_BASE_URL": "https://api-beijing.klingai.com/"}
    assert base_url_from(None, environment) == "https://api-beijing.klingai.com"
    assert base_url_from("http://localhost:1/kling/", environment) == "http://localhost:1/kling"
    assert base_url_from(None, {}) == auth.DEFAULT_BASE_URL
    with pytest.raises(UsageError):
        base_url_from("ftp://example.com", {})
