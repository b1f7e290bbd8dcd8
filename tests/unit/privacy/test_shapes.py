"""Names and shapes of credentials; what scrubbing does with them is tested in test_secrets.py."""

from __future__ import annotations

import pytest

from klingai_audit.privacy.shapes import has_shape, is_secret_name, keeps_number, scrub_shapes, squash


@pytest.mark.parametrize("name", ["X-Api-Key", "x_api_key", "xApiKey", "X API KEY"])
def test_spellings_of_a_name_meet(name: str) -> None:
    """Case, hyphens, underscores and spaces do not tell names apart."""
    assert "xapikey" == squash(name)
    assert is_secret_name(name)


def test_counts_are_no_secrets() -> None:
    """A number under a plural is a count."""
    assert keeps_number("max_tokens")
    assert not keeps_number("token")


def test_a_long_name_is_judged_by_its_end() -> None:
    """A name of any length is judged at little cost."""
    assert is_secret_name("a" * 100_000 + "_api_key")
    assert not is_secret_name("api_key" + "a" * 100_000)


def test_has_shape_agrees_with_scrubbing() -> None:
    """`has_shape` finds the shapes that scrubbing removes from text without any name in it."""
    for text in ("sk-abc123def456ghi", "x api-key-kling-abc", "whsec_abcdef"):
        assert has_shape(text)
        assert "[removed]" in scrub_shapes(text)
    assert not has_shape("text_to_video")
