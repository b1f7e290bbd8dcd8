"""Tests that text from entries cannot act on a terminal."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from klingai_audit.views.inert import inert, one_line


@pytest.mark.parametrize(
    "hostile,shown",
    [
        ("\x1b[2Jgone", "\\x1b[2Jgone"),
        ("a\r\nb\tc", "a\\r\\nb\\tc"),
        ("\x9b31m", "\\x9b31m"),
        ("\x00\x07\x7f", "\\x00\\x07\\x7f"),
        ("abc\u202egpj.exe", "abc\\u202egpj.exe"),
        ("ad\u200bmin", "ad\\u200bmin"),
        ("line\u2028next\u2029", "line\\u2028next\\u2029"),
        ("\ud800", "\\ud800"),
        ("\U000e0041", "\\U000e0041"),
        ("[red]x[/red] :smile:", "[red]x[/red] :smile:"),
        ("Zoë 湖 \u3000🎬", "Zoë 湖 \u3000🎬"),
    ],
)
def test_hostile_characters_show_as_escapes(hostile, shown):
    """Escapes, line breaks, bidirectional and invisible characters become visible text; printable text stays."""
    assert shown == inert(hostile)


@given(st.text(st.characters()))
def test_nothing_but_printable_characters_and_spaces_comes_out(text):
    """Whatever goes in, no control, format, surrogate or separator character comes out."""
    assert [] == [char for char in inert(text) if not char.isprintable() and unicodedata.category(char) != "Zs"]


@pytest.mark.parametrize(
    "value,limit,shown",
    [
        ({"commitment": "x" * 43, "bytes": 12}, None, "[withheld, 12 bytes]"),
        ({"commitment": "x" * 43, "bytes": 9, "type": "image/png"}, None, "[withheld image/png, 9 bytes]"),
        ({"a": [1, 2.5, None, True, False, "\n"]}, None, "{a: [1, 2.5, null, true, false, \\n]}"),
        ("abcdef", 4, "abc…"),
        ("abcd", 4, "abcd"),
        ("abcd", 0, "…"),
    ],
)
def test_metadata_values_are_one_line(value, limit, shown):
    """Nested metadata is one inert line of bounded length, and a commitment says what it is."""
    assert shown == one_line(value, limit)
