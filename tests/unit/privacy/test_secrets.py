"""Credentials are removed from whatever they hide in, and ordinary text is left alone."""

from __future__ import annotations

import base64
import json
import time
import urllib.parse
from collections.abc import Iterator
from typing import Any

import pytest

from klingai_audit.privacy import secrets
from klingai_audit.privacy.secrets import is_withheld, learn, scrub, scrub_exception, scrub_text

PLANTED = "Zq7Planted9Secret"
JWT = "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJpc3MiOiJhayIsImV4cCI6MX0.c2lnbmF0dXJl"


@pytest.fixture(autouse=True)
def _nothing_learned() -> Iterator[None]:
    """Start and end each test with no learned secrets."""
    secrets.forget_all()
    yield
    secrets.forget_all()


@pytest.mark.parametrize(
    "text",
    [
        f"Authorization: Bearer {PLANTED}",
        f"authorization:Bearer {PLANTED}",
        f"Proxy-Authorization: Basic {PLANTED}",
        f"Bearer {PLANTED}",
        f"bearer%20{PLANTED}",
        f"Bearer abc-{PLANTED.lower()}",
        f"sent with basic {base64.b64encode(f'user:{PLANTED}'.encode()).decode()}",
        f"api_key={PLANTED}",
        f"apikey: {PLANTED}",
        f"API key: {PLANTED}",
        f"X-Api-Key: {PLANTED}",
        f"KLINGAI_SECRET_KEY='{PLANTED}'",
        f'export KLINGAI_ACCESS_KEY="{PLANTED}"',
        f"password: {PLANTED}",
        "password: onlylowercase" + PLANTED,
        f"passwd={PLANTED}&x=1",
        f"the client_secret = {PLANTED}",
        f"token: {PLANTED}",
        f"invalid token: {PLANTED}",
        f"invalid token: secret: {PLANTED} x",
        f"bearer Bearer {PLANTED}",
        f"bearer basic bearer {PLANTED}",
        f"token: [removed] secret: {PLANTED} x",
        f"cookie:  \ntoken: token: {PLANTED} x",
        f"api_key=[removed]{PLANTED}",
        f"session_id={PLANTED}",
        f"Cookie: sid={PLANTED}; other={PLANTED}",
        f"Set-Cookie: a=b; token={PLANTED}",
        f"webhook-signature: v1,{PLANTED}",
        f'{{"api_key":"{PLANTED}"}}',
        f'{{"a":[{{"Authorization":"{PLANTED}"}}]}}',
        f'["Authorization","{PLANTED}"]',
        json.dumps({"a": json.dumps({"b": json.dumps({"token": PLANTED})})}),
        json.dumps(json.dumps(json.dumps({"password": PLANTED}))),
        f'reply {{"headers":{{"authorization":"Bearer {PLANTED}"}}}} cut',
        f'cut \\"api_key\\": \\"{PLANTED}\\" cut',
        f'cut \\\\\\"api_key\\\\\\":\\\\\\"{PLANTED}\\\\\\"',
        f'cut "password": "a\\"{PLANTED}"',
        f"{{'secret_key': '{PLANTED}'}}",
        f"[('authorization', 'Bearer {PLANTED}')]",
        f"[(b'Authorization', b'{PLANTED}')]",
        f"Headers({{'cookie': 'a={PLANTED}'}})",
        f"api_key => {PLANTED}",
        f"https://user:{PLANTED}@example.com/x",
        f"https://{PLANTED}@example.com/x",
        f"postgresql://user:a/{PLANTED}@example.com/db",
        f"https://user:{PLANTED}@x@example.com/",
        f"https://example.com/v.mp4?X-Amz-Signature={PLANTED}&Expires=5",
        f"https://example.com/v.mp4?a=1&auth_key={PLANTED}",
        f"https://example.com/v.mp4?x-kcdn-pid=1;tt={PLANTED}",
        f"https://example.com/cb#access_token={PLANTED}",
        f"see https://example.com/?key={PLANTED} and https://example.com/?sig={PLANTED}",
        f"/path?token={PLANTED}",
        f"api-key-kling-{PLANTED}",
        f"whsec_{PLANTED}==",
        f"PRIVATE+KEY+log.example.com+6c5015ae+{PLANTED}",
        f"sk-{PLANTED}00",
        f"sk-proj-{PLANTED}_x",
        f"(ghp_{PLANTED})",
        f"sim-secret-key-{PLANTED}",
        f"-----BEGIN PRIVATE KEY-----\n{PLANTED}\n-----END PRIVATE KEY-----",
        f"-----BEGIN EC PRIVATE KEY-----\n{PLANTED}",
    ],
)
def test_planted_secret_is_removed(text: str) -> None:
    """Whatever form the secret travels in, nothing of it is left, and scrubbing again changes nothing."""
    scrubbed = scrub_text(text)
    assert PLANTED not in scrubbed
    assert PLANTED.lower() not in scrubbed.lower()
    assert "[removed]" in scrubbed
    assert scrubbed == scrub_text(scrubbed)


@pytest.mark.parametrize("text", [JWT, f"token {JWT}", f'"{JWT}"', JWT + "." + JWT[:20], f"x={JWT};"])
def test_jwt_is_removed(text: str) -> None:
    """A JWT is removed with all its parts wherever it stands."""
    scrubbed = scrub_text(text)
    assert all(part not in scrubbed for part in JWT.split("."))


@pytest.mark.parametrize(
    "text",
    [
        "AKIA" + "IOSFODNN7EXAMPLE",
        "LTAI5tAbcdefgh12345",
        "AIza" + "SyA1234567890abcdefghijklmnopqrstu",
        "xoxb-1234567890-abcdef",
        "hf_abcdefghijklmnopqrstuvwx",
        "github_pat_11ABCDEFG0abcdefghij",
        "AGE-SECRET-KEY-1QYQSZQGPQYQSZQGPQYQSZQGP",
    ],
)
def test_known_key_shapes_are_removed(text: str) -> None:
    """Keys of common providers are removed without any name before them."""
    assert "x [removed] y" == scrub_text(f"x {text} y")


@pytest.mark.parametrize(
    "text",
    [
        "text_to_video",
        "831000000000000042",
        "0199c0de-7000-7000-8000-000000000000",
        "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
        "yiqnWchwFmO_UYV77qE3awRdxaGlc7F2kLj_yYmLj2Q",
        "p_7Q3kZr0bT9yVw2mXc4NdLg",
        "lake-2026_final.mp4",
        "kling-v2-5-turbo, 1080p, 16:9",
        "max_tokens: 512, tokens=7",
        "api_key_name: render team",
        "token_type: bearer",
        "The token was expected to have 3 parts, but got 0",
        "Authorization empty",
        '("passcode", or another)',
        '{"model": "passcode", "list": ["token", "b", "c"]}',
        "the secret: love conquers all",
        "bearer of bad news, basic functionality, Basic Understanding",
        "signing_key_rotated",
        "log.example.com/vector+6c5015ae+AQOhB7/zzhC+HXDdGOdLwJln5NYwm6UNXx3chmQSVTG4",
        "https://example.com/a/b.mp4?page=2&id=0199c0de-7000-7000-8000-000000000000#t=10",
        "http://localhost:8080/v1/videos/text2video?pageNum=1",
        "-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEA\n-----END PUBLIC KEY-----",
        '{"model":"kling-3.0-turbo","duration":5,"sound":true,"note":null}',
        '{ "spaced" : [ 1, 2.50 ] }',
        "risk-assessment-of-something-2026",
        "Compass: north; monkey=banana",
        "[removed]",
        "",
    ],
)
def test_ordinary_text_is_left_alone(text: str) -> None:
    """Ids, digests, file names, settings, public keys and prose stay exactly as they are."""
    assert text == scrub_text(text)


def test_learned_secrets_are_removed_everywhere() -> None:
    """A learned secret goes in every encoding of it, inside longer text too."""
    secret = "an ordinary phrase/that is+a key"
    learn(secret)
    raw = secret.encode()
    for form in (
        secret,
        urllib.parse.quote(secret, safe=""),
        base64.b64encode(raw).decode(),
        base64.urlsafe_b64encode(raw).decode(),
    ):
        assert "x[removed]y" == scrub_text(f"x{form}y").replace("=", "")
    assert {"a": ["[removed]"]} == scrub({"a": [secret]})


@pytest.mark.parametrize(
    "text, expected",
    [
        (f"ak={PLANTED} sk={PLANTED}", "ak=[removed] sk=[removed]"),
        (f"sig={PLANTED};signature={PLANTED}", "sig=[removed];signature=[removed]"),
        (f"sk: {PLANTED}, key={PLANTED}", "sk: [removed] key=[removed]"),
        (f"GET /v1/x?sig={PLANTED}&page=2 HTTP/1.1", "GET /v1/x?sig=[removed]&page=2 HTTP/1.1"),
        (f"/v.mp4?key={PLANTED.lower()}", "/v.mp4?key=[removed]"),
        ("X-Signature: deadbeefcafebabe", "X-Signature: [removed]"),
        ("X-Kling-Signature=deadbeef", "X-Kling-Signature=[removed]"),
        (f"curl -u alice:{PLANTED} https://x", "curl -u [removed] https://x"),
        (f"curl --user 'alice:{PLANTED}'", "curl --user '[removed]'"),
        (f"<password>{PLANTED}</password>", "<password>[removed]</password>"),
        (f'<ns:apiKey a="1"><![CDATA[{PLANTED}]]></ns:apiKey>', '<ns:apiKey a="1">[removed]</ns:apiKey>'),
        ("'x-api-key' hunter2abc", "'x-api-key' [removed]"),
        (f"'x-api-key' '{PLANTED}'", "'x-api-key' '[removed]'"),
        ("apikey hunter2longer", "apikey [removed]"),
        ("secretKey\uff1ahunter2full", "secretKey\uff1a[removed]"),
        (f"x {JWT.replace('.', '%2E')} y", "x [removed] y"),
        ("login AbCdEf0123456789:ZyXwVu9876543210.", "login [removed]."),
    ],
)
def test_short_names_and_signless_values(text: str, expected: str) -> None:
    """Short names, bare query strings, command lines, elements and pairs of keys lose their values, nothing else."""
    assert expected == scrub_text(text)
    assert scrub_text(text) == scrub_text(scrub_text(text))


@pytest.mark.parametrize(
    "text",
    [
        "docker run -u 1000:1000 image",
        "signature: the last page, task: done, otp: none",
        "sort key=name, mask=7, design=flat",
        "key=kling-v2-6-Master-Pro",
        "/v1/x?page=2&code=1301",
        "open <token> then <file>",
        "access key 0199c0de-7000-7000-8000-000000000000",
        "0123456789abcdef0123:0123456789abcdef0123",
        "the api key was refused",
    ],
)
def test_near_misses_are_left_alone(text: str) -> None:
    """What only resembles the short names and forms stays as it is."""
    assert text == scrub_text(text)


@pytest.mark.parametrize(
    "text",
    [
        "zq7-planted_9-secret",
        "zq7_planted-9_secret",
        "zq7%2Dplanted%5f9-secret",
        "zq7%252dplanted_9-secret",
        "%7aq7-planted_9-secret",
    ],
)
def test_learned_secrets_in_other_spellings(text: str) -> None:
    """`-` for `_` and percent-encoded characters do not hide a learned secret."""
    learn("zq7-planted_9-secret")
    assert "x [removed] y" == scrub_text(f"x {text} y")
    assert secrets.is_learned(text)


def test_learned_secrets_with_a_common_part() -> None:
    """A secret that begins another one does not leave the other's rest behind."""
    learn("abcdefgh1")
    learn("abcdefgh1-and-more")
    assert "[removed] [removed]" == scrub_text("abcdefgh1-and-more abcdefgh1")


def test_short_learned_secrets_are_words_only() -> None:
    """A short secret is removed where it stands alone, so that `latest` survives the key `test`."""
    learn("test")
    assert "[removed] latest testing" == scrub_text("test latest testing")
    learn("abc")
    assert "abc" == scrub_text("abc")
    learn("removed")
    assert "removed [removed]" == scrub_text("removed [removed]")


def test_learning_shows_nothing() -> None:
    """What was learned is in no repr of the module, and the generation tells caches of the change."""
    before = secrets.generation()
    learn(PLANTED)
    assert before < secrets.generation()
    assert PLANTED not in repr(secrets._learned)
    unchanged = secrets.generation()
    learn(PLANTED)
    assert unchanged == secrets.generation()
    assert secrets.is_learned(f"x{PLANTED}")
    assert not secrets.is_learned("x")


@pytest.mark.parametrize(
    "value, expected",
    [
        ({"api_key": "x"}, {"api_key": "[removed]"}),
        ({"apiKey": "x", "X-Api-Key": "y"}, {"apiKey": "[removed]", "X-Api-Key": "[removed]"}),
        ({"clientSecret": {"a": 1}}, {"clientSecret": "[removed]"}),
        ({"tokens": ["a"]}, {"tokens": "[removed]"}),
        ({"password": 123456}, {"password": "[removed]"}),
        ({"max_tokens": 5, "tokens": 1.5}, {"max_tokens": 5, "tokens": 1.5}),
        ({"token": None, "has_token": True, "secret": ""}, {"token": None, "has_token": True, "secret": ""}),
        ({"credential": "0123456789abcdef"}, {"credential": "0123456789abcdef"}),
        ({"credential": "other"}, {"credential": "[removed]"}),
        ({"headers": [["Authorization", "x"], ["a", "b"]]}, {"headers": [["Authorization", "[removed]"], ["a", "b"]]}),
        ([("cookie", "x")], [("cookie", "[removed]")]),
        ({"h": [{"name": "cookie", "value": "x"}]}, {"h": [{"name": "cookie", "value": "[removed]"}]}),
        ({"h": [{"name": "accept", "value": "x"}]}, {"h": [{"name": "accept", "value": "x"}]}),
        ({"deep": [{"a": ({"sk": "x"},)}]}, {"deep": [{"a": ({"sk": "[removed]"},)}]}),
        ({"log_key": "k", "epoch_key": "k", "public_key": "k", "key_id": "k"}, None),
        ({"n": 1.5, "i": 7, "t": True, "z": None}, None),
        (b"api_key=abc", "api_key=[removed]"),
        ({f"Bearer {PLANTED}9": 1}, {"Bearer [removed]": 1}),
        ({5: {"api_key": "x"}}, {5: {"api_key": "[removed]"}}),
    ],
)
def test_nested_values(value: Any, expected: Any) -> None:
    """Names, header pairs and header objects are understood at any depth; other values stay, input too."""
    before = repr(value)
    scrubbed = scrub(value)
    assert (value if expected is None else expected) == scrubbed
    assert before == repr(value)
    assert scrubbed == scrub(scrubbed)


def test_scrubbed_keys_do_not_swallow_each_other() -> None:
    """Two keys that become the same text both keep their values."""
    assert [1, 2] == sorted(scrub({f"Bearer {PLANTED}1": 1, f"Bearer {PLANTED}2": 2}).values())


def test_bottomless_values_end() -> None:
    """A value that contains itself is cut, not followed for ever."""
    cycle: list[Any] = []
    cycle.append(cycle)
    assert "[removed]" in repr(scrub(cycle))
    assert "[removed]" in repr(scrub({"a": {"b": cycle}}))


@pytest.mark.parametrize("name", ["api_key", "Authorization", "set-cookie", "klingSecretKey", "SK", "otp", "x-jwt"])
def test_secret_names(name: str) -> None:
    """These names withhold their text."""
    assert is_withheld(name, "x")


@pytest.mark.parametrize("name", ["key", "keys", "author", "tokenizer", "secretary", "skill", "cookie_banner", "task"])
def test_names_that_only_look_like_it(name: str) -> None:
    """These names do not."""
    assert not is_withheld(name, "x")


def test_exceptions_are_named_and_scrubbed() -> None:
    """An exception becomes its class and its text without secrets, e-mail and IP addresses, cut at 500 characters."""
    error = ConnectionError(f"GET https://u:{PLANTED}@example.com/ by user@example.com from 192.168.1.100 failed")
    expected = "ConnectionError: GET https://[removed]@example.com/ by us***@example.com from 192.168.xxx.xxx failed"
    assert expected == scrub_exception(error)
    assert "KeyError" == scrub_exception(KeyError())
    assert len(scrub_exception(ValueError("x" * 10_000))) < 520


def test_exception_that_cannot_print_itself() -> None:
    """An exception whose text raises is named by its class."""

    class Broken(Exception):
        def __str__(self) -> str:
            raise RuntimeError(PLANTED)

    assert "Broken" == scrub_exception(Broken())


@pytest.mark.parametrize(
    "unit",
    [
        "token=", "token='", 'token="', "a", "://", "://a:b", "?a=", "://x?a=b&", "-----BEGIN ",
        "-----BEGIN PRIVATE KEY", "{", "[", '"', "eyJ", "eyJaaaa.", "bearer ", "\\", "token\\", "api-key-",
        "sk-a", "-sk-", "authorization:", 'password "', "access ", "xox", "token       ", "AIza", "%20", "eyJ-_",
        "['authorization',", "pass", "=>", "api-key-a-", "whsec_", "PRIVATE+KEY+",
    ],
)  # fmt: skip
def test_scrubbing_takes_linear_time(unit: str) -> None:
    """Twenty times the text takes nowhere near 400 times as long, whatever it repeats."""

    def seconds(size: int) -> float:
        text = unit * (size // len(unit))
        begin = time.process_time()
        scrub_text(text)
        return time.process_time() - begin

    assert seconds(200_000) < 60 * seconds(10_000) + 0.5
