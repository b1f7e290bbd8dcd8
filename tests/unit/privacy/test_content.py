"""Which content the policy withholds, and texts made fit to be kept."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator

import pytest

from klingai_audit.privacy import content as module
from klingai_audit.privacy import secrets
from klingai_audit.privacy.content import Content, cut_user_agent
from klingai_audit.privacy.policy import Policy

LAKE = "A serene mountain lake at sunrise"


@pytest.fixture
def content() -> Content:
    """Return the default policy's content."""
    return Content(Policy.default().privacy.commit)


@pytest.fixture(autouse=True)
def _nothing_learned() -> Iterator[None]:
    """Start and end each test with no learned secrets."""
    secrets.forget_all()
    yield
    secrets.forget_all()


@pytest.mark.parametrize(
    "key",
    [
        "prompt", "Prompt", "negative_prompt", "negativePrompt", "NEGATIVE-PROMPT", "system prompt", "image",
        "image_list", "callback_url", "callbackUrl", "watermark_urls", "message", "error_message", "query", "text",
        "task_status_msg", "p" * 1000 + "_prompt",
    ],
)  # fmt: skip
def test_names_of_content(content: Content, key: str) -> None:
    """The default policy withholds prompts, messages, media and URLs in any spelling of their names."""
    assert content.names(key)


@pytest.mark.parametrize(
    "key", ["prompt_length", "imagery", "text_log", "urls_count", "model", "status", "", "prompts"]
)
def test_names_of_other_things(content: Content, key: str) -> None:
    """Names that only begin alike do not."""
    assert not content.names(key)


def test_no_names_no_content() -> None:
    """A policy that names nothing withholds nothing but what is always removed."""
    content = Content(())
    assert not content.names("prompt")
    assert f"prompt={LAKE}" == content.clean(f"prompt={LAKE}")
    assert "api_key=[removed]" == content.clean("api_key=abc")


@pytest.mark.parametrize(
    "text",
    [
        f"bad request: prompt={LAKE}",
        f"invalid prompt: {LAKE}",
        f"negative_prompt: {LAKE}",
        f"prompt => '{LAKE}'",
        f'400: {{"message":"{LAKE}","code":1301}}',
        f'400: {{\\"prompt\\":\\"{LAKE}\\"}} cut',
        f"{{'negative_prompt': '{LAKE}'}}",
        f'text="{LAKE}"',
        f"Image: '{LAKE}'",
        f"?prompt={LAKE.replace(' ', '%20')}&n=1",
        f"?url=https://example.com/{LAKE.replace(' ', '-')}",
        json.dumps({"a": {"prompt": [LAKE]}}),
        json.dumps({"a": json.dumps({"images": [{"x": LAKE}]})}),
        json.dumps([{"Prompt": LAKE}]),
    ],
)
def test_named_content_in_text_is_removed(content: Content, text: str) -> None:
    """Content that stands in text under its name goes; cleaning twice changes nothing."""
    cleaned = content.clean(text)
    assert "serene" not in cleaned
    assert "[removed]" in cleaned
    assert cleaned == content.clean(cleaned)


@pytest.mark.parametrize(
    "text",
    [
        "text_to_video", "image: ready", "message: task accepted", "prompt", "prompt too long", "a video of 5 s",
        "831000000000000042", "0199c0de-7000-7000-8000-000000000000", "lake.mp4", '{"model":"kling-3.0-turbo"}',
        "[1, 2]", '"quoted"', "{not json", "std-5s", "1080p",
    ],
)  # fmt: skip
def test_ordinary_text_stays(content: Content, text: str) -> None:
    """Settings, ids and prose stay as they are, the first time and from the cache."""
    assert text == content.clean(text)
    assert text == content.clean(text)


def test_secrets_and_addresses_go_too(content: Content) -> None:
    """Cleaning is scrubbing and masking in one, to a fixed point."""
    text = "user@example.com at 192.168.1.100 used Bearer abc123def456"
    expected = "us***@example.com at 192.168.xxx.xxx used Bearer [removed]"
    assert expected == content.clean(text)
    assert expected == content.clean(expected)


@pytest.mark.parametrize("text", ["studio-a", "0123456789abcdef0123456789abcdef", "CjMkVmeZ-abc_12", "a b c d e f"])
def test_what_is_learned_later_is_removed_from_then_on(content: Content, text: str) -> None:
    """A text that was clean before is looked at again once a secret was learned."""
    assert text == content.clean(text)
    secrets.learn(text)
    assert "[removed]" == content.clean(text)
    assert "[removed]" == content.clean(text)


def test_cache_is_bounded_and_holds_clean_short_texts_only(content: Content, monkeypatch: pytest.MonkeyPatch) -> None:
    """The cache keeps nothing that was changed, nothing long, no ids, and never grows past its limit."""
    monkeypatch.setattr(module, "_CACHED_TEXTS", 5)
    for text in ("user@example.com", "x " * 100, "0199c0de-7000-7000-8000-000000000000", "CjMkVmeZ9x_12"):
        content.clean(text)
    assert set() == content._clean
    for number in range(20):
        content.clean(f"word {number}")
        assert len(content._clean) <= 5


@pytest.mark.parametrize(
    "given, expected",
    [
        ("python-httpx/0.28.1", "python-httpx/0"),
        ("Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0", "Mozilla/5"),
        ("curl/8.5.0", "curl/8"),
        ("klingai-audit", "klingai-audit"),
        ("Foo/v12.1 (user@example.com)", "Foo/12"),
        ("Foo/beta", "Foo"),
        ("Foo/123456789", "Foo"),
        ("Foo bar baz", "Foo"),
        ("python-httpx/0", "python-httpx/0"),
        ("user@example.com", "[removed]"),
        ("192.168.1.100", "[removed]"),
        ("", "[removed]"),
        ("(x)", "[removed]"),
        ("A" * 100 + "/1", "A" * 64 + "/1"),
    ],
)
def test_user_agents_are_cut(given: str, expected: str) -> None:
    """Product and major version remain; what is no product is removed; cutting twice changes nothing."""
    assert expected == cut_user_agent(given)
    if expected != "[removed]":
        assert expected == cut_user_agent(expected)


@pytest.mark.parametrize(
    "unit", ["prompt=", "prompt: ", "prompt:'", 'text="', "prompt", "image=\\", "a", '{"a":', "_prompt"]
)
def test_cleaning_takes_linear_time(content: Content, unit: str) -> None:
    """Twenty times the text takes nowhere near 400 times as long, whatever it repeats."""

    def seconds(size: int) -> float:
        text = unit * (size // len(unit))
        begin = time.process_time()
        content.clean(text)
        return time.process_time() - begin

    assert seconds(200_000) < 60 * seconds(10_000) + 0.5


def test_addresses_in_names_of_hosts(content: Content) -> None:
    """A host's name that spells its address is masked, though it looks like an id; ids stay."""
    assert "ip-192-168-xxx-xxx" == content.clean("ip-192-168-13-77")
    assert "ec2-192-168-xxx-xxx" == content.clean("ec2-192-168-13-77")
    assert "clip-192-168-13-77-a" == content.clean("clip-192-168-13-77-a")
