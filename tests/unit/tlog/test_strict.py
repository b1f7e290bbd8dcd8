"""Scalars have exactly one spelling."""

from __future__ import annotations

import base64
import traceback

import pytest

from klingai_audit.errors import Malformed
from klingai_audit.tlog import strict


@pytest.mark.parametrize("number", [0, 1, 9, 10, 999, 2**31, 2**53 + 1, 10**18, 2**63 - 1])
def test_canonical_decimals_are_read(number):
    """What str() writes is read back."""
    assert number == strict.parse_decimal(str(number), "n")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "08",
        "00",
        "+8",
        "-1",
        "-0",
        " 8",
        "8 ",
        "8\n",
        "1_0",
        "0x8",
        "8.0",
        "1e3",
        "\u0663",
        "\uff18",
        "\u00b2",
        "8\u2028",
        "\ufeff8",
        str(2**63),
        str(10**19),
        "9" * 5000,
    ],
)
def test_other_spellings_of_numbers_are_refused(text):
    """Nothing that Python's int() would forgive, nothing above int64, and no quadratic conversion."""
    with pytest.raises(Malformed):
        strict.parse_decimal(text, "n")


@pytest.mark.parametrize("data", [b"", b"\x00", b"ab", b"abc", bytes(range(256)), b"\xfb\xff"])
def test_base64_is_the_standard_alphabet_with_padding(data):
    """Format and parse are inverse and agree with RFC 4648 section 4."""
    assert base64.standard_b64encode(data).decode() == strict.format_base64(data)
    assert data == strict.parse_base64(strict.format_base64(data), "b")


@pytest.mark.parametrize(
    "text",
    [
        "YQ",
        "YQ=",
        "YQ===",
        "YR==",
        "YWJ=",
        "Y Q==",
        "YQ==\n",
        "\nYQ==",
        "YQ==YQ==",
        "-_8=",
        "Y=Q=",
        "=",
        "====",
        "YQ==é",
        "\uff39Q==",
    ],
)
def test_other_spellings_of_base64_are_refused(text):
    """No missing padding, no URL-safe alphabet, no white space, no non-zero trailing bits."""
    with pytest.raises(Malformed):
        strict.parse_base64(text, "b")


@pytest.mark.parametrize("length", [0, 31, 33, 64])
def test_hashes_have_32_bytes(length):
    """Another length is refused by parser and check."""
    with pytest.raises(Malformed):
        strict.parse_hash(strict.format_base64(bytes(length)), "h")
    with pytest.raises(Malformed):
        strict.check_hash(bytes(length), "h")


@pytest.mark.parametrize("name", ["a", "example.com/foo", "日本", "a—b", "a\u200bb", "\U0001f600"])
def test_names_without_space_or_plus_pass(name):
    """Any other character may stand in a name."""
    assert strict.check_name(name, "n") is None


@pytest.mark.parametrize(
    "name",
    [
        "",
        " ",
        "a b",
        "a+b",
        "+",
        "a\u00a0b",
        "a\u2028b",
        "a\u3000b",
        "a\u1680",
        "\u2003a",
        "a\nb",
        "a\tb",
        "a\x00b",
        "a\x85b",
        "a\ud800b",
        f"a{chr(0xDFFF)}b",
    ],
)
def test_names_with_space_plus_or_control_are_refused(name):
    """Unicode spaces count, and so does what UTF-8 cannot hold."""
    with pytest.raises(Malformed):
        strict.check_name(name, "n")


@pytest.mark.parametrize("char", [chr(code) for code in range(0x20)])
def test_control_characters_are_refused_but_for_line_feeds_in_texts(char):
    """LF separates lines of a text; every other character below 0x20 is refused everywhere."""
    with pytest.raises(Malformed):
        strict.check_printable(f"a{char}b", "t")
    if char == "\n":
        assert strict.check_printable("a\nb", "t", lines=True) is None
    else:
        with pytest.raises(Malformed):
            strict.check_printable(f"a{char}b", "t", lines=True)


def test_errors_do_not_quote_the_text():
    """What is refused may be a private key; the whole traceback is free of it."""
    for parse in (strict.parse_decimal, strict.parse_base64, strict.parse_hash):
        with pytest.raises(Malformed) as caught:
            parse("sEcReT~sEcReT", "The value")
        shown = "".join(traceback.format_exception_only(caught.value)) + repr(caught.value.__cause__)
        assert "sEcReT~" not in shown
        assert str(caught.value).startswith("The value ")
