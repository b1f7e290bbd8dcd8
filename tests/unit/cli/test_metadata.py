"""Tests of `--metadata`."""

from __future__ import annotations

import pytest

from klingai_audit.cli.writing import parse_metadata
from klingai_audit.errors import UsageError


def test_values_that_are_json_are_taken_as_such():
    """Numbers, booleans, null, lists and quoted text are JSON; everything else is text as typed."""
    texts = ["a=1", "b=true", "c=null", 'd=["x"]', 'e="7"', "f=007", "g=two words", "h=", "i=x=y", '{"j":{"k":0.5}}']
    assert {
        "a": 1, "b": True, "c": None, "d": ["x"], "e": "7", "f": "007", "g": "two words", "h": "", "i": "x=y",
        "j": {"k": 0.5},
    } == parse_metadata(texts)  # fmt: skip


@pytest.mark.parametrize("texts", [["a"], ["=1"], ["{"], ["{}x"], ["a=1", "a=2"], ["a=1", '{"a":2}'], [""]])
def test_what_has_no_name_or_two_values_is_refused(texts):
    """A usage error with advice."""
    with pytest.raises(UsageError) as caught:
        parse_metadata(texts)
    assert caught.value.do != ""


@pytest.mark.parametrize("text", ["k=" + "[" * 50_000, '{"k":' + "[" * 50_000])
def test_bottomless_json_is_refused(text):
    """JSON that no reader can follow is a usage error."""
    with pytest.raises(UsageError, match="too deep"):
        parse_metadata([text])
