"""Masks of e-mail and IP address shapes."""

from __future__ import annotations

import re
import time

import pytest

from klingai_audit.privacy.masks import canonical_ip, is_masked_ip, mask_email, mask_id, mask_ip, mask_text


@pytest.mark.parametrize(
    "text, expected",
    [
        ("user@example.com", "us***@example.com"),
        ("u@example.com", "u***@example.com"),
        ("us***@example.com", "us***@example.com"),
        ("first.last+tag@mail.example.co.uk", "fi***@mail.example.co.uk"),
        ("nobody", "no***"),
    ],
)
def test_mask_email(text: str, expected: str) -> None:
    """The local part keeps two characters; masking twice changes nothing."""
    assert expected == mask_email(text)
    assert expected == mask_email(expected)


@pytest.mark.parametrize(
    "text, expected",
    [
        ("192.168.1.100", "192.168.xxx.xxx"),
        ("192.168.1.100:8443", "192.168.xxx.xxx"),
        (" 203.0.113.9, 10.0.0.1", "203.0.xxx.xxx"),
        ("2001:db8:1:2::5", "2001:db8::/32"),
        ("[2001:DB8::1]:443", "2001:db8::/32"),
        ("fe80::1%eth0", "fe80::/32"),
        ("::ffff:192.168.1.100", "192.168.xxx.xxx"),
        ("::1", "::/32"),
        ("192.168.xxx.xxx", "192.168.xxx.xxx"),
        ("2001:db8::/32", "2001:db8::/32"),
        ("testclient", "[removed]"),
        ("192.168.1.999", "[removed]"),
        ("", "[removed]"),
    ],
)
def test_mask_ip(text: str, expected: str) -> None:
    """An address keeps 16 bits, IPv6 32; what is no address is removed; masking twice changes nothing."""
    assert expected == mask_ip(text)
    if expected != "[removed]":
        assert is_masked_ip(expected)
        assert expected == mask_ip(expected)


@pytest.mark.parametrize("text", ["2001:0DB8:0:0::1", "2001:db8::1", "[2001:db8::1]:443", "2001:db8::1%en0"])
def test_one_address_has_one_spelling(text: str) -> None:
    """However an address is written, it is compared in one spelling."""
    assert "2001:db8::1" == canonical_ip(text)
    assert not is_masked_ip(text)


@pytest.mark.parametrize(
    "text, expected",
    [
        ("user@example.com", "us***@example.com"),
        ("render-farm", "re***"),
        ("10.1.2.3", "10.1.xxx.xxx"),
        ("a", "a***"),
        ("user@localhost", "us***@localhost"),
    ],
)
def test_mask_id(text: str, expected: str) -> None:
    """Any id of a person is shown as its beginning."""
    assert expected == mask_id(text)


@pytest.mark.parametrize(
    "text, expected",
    [
        ("mail to user@example.com.", "mail to us***@example.com."),
        ("<user@example.com>,other@example.org", "<us***@example.com>,ot***@example.org"),
        ("?email=user%40example.com&x=1", "?email=us***%40example.com&x=1"),
        ('"user\\u0040example.com"', '"us***\\u0040example.com"'),
        ("a@b@example.com", "a@b***@example.com"),
        ("\u00fcser@ex\u00e4mple.de", "\u00fcs***@ex\u00e4mple.de"),
        ("x" * 100 + "@example.com", "xx***@example.com"),
        ("from 192.168.1.100:80 and 10.1.2.3.", "from 192.168.xxx.xxx:80 and 10.1.xxx.xxx."),
        ("http://10.1.2.3/x", "http://10.1.xxx.xxx/x"),
        ("host_10.1.2.3", "host_10.1.xxx.xxx"),
        ("at 2001:db8:1:2::5/64 ok", "at 2001:db8::/32 ok"),
        ("[2001:db8::1]:443", "[2001:db8::/32]:443"),
        ("ip:2001:db8::1.", "ip:2001:db8::/32."),
        ("from=2001:db8::1; x", "from=2001:db8::/32; x"),
        ("via ::ffff:10.1.2.3", "via 10.1.xxx.xxx"),
        ("fe80::abcd%eth0", "fe80::/32"),
        ("2001:0db8:0000:0000:0000:0000:0000:0001", "2001:db8::/32"),
        ("jose\u0301phine.garci\u0301a@example.com", "jo***@example.com"),
        ("\u0915\u093f\u0936\u094b\u0930@example.com", "\u0915\u093f***@example.com"),
        ("email=john.smith%2Bkling%40example.com", "email=jo***@example.com"),
        ("john%2Esmith%40example%2Ecom", "jo***@example.com"),
        ("john.smith%2540example.com", "jo***@example.com"),
        ("john.smith&#64;example.com", "jo***@example.com"),
        ("john.smith&#x40;example&period;com", "jo***@example.com"),
        ("john.smith\uff20example.com", "jo***@example.com"),
        ("john.smith\\u0040example\\u002ecom", "jo***\\u0040example\\u002ecom"),
        ("jo\u200bhn.s\u00admith@example.com", "jo***@example.com"),
        ('to "john smith"@example.com', 'to "jo***"@example.com'),
        ('\\"john smith\\"@example.com', '\\"jo***\\"@example.com'),
        ("user@localhost john.smith@intern", "us***@localhost jo***@intern"),
        ("user@[192.168.1.77] user@[IPv6:2001:db8::1]", "us***@[192.168.xxx.xxx] us***@[IPv6:2001:db8::/32]"),
        ("jane=doe/abc@example.com", "ja***@example.com"),
        ("from v192.168.13.77 to", "from v192.168.xxx.xxx to"),
        ("1.192.168.13.77", "1.192.xxx.xxx.xxx"),
        ("192.168.13.77.1", "192.168.xxx.xxx.xxx"),
        ("192%2E168%2E13%2E77", "192.168.xxx.xxx"),
        (
            "\uff11\uff19\uff12.\uff11\uff16\uff18.\uff11\uff13.\uff17\uff17",
            "\uff11\uff19\uff12.\uff11\uff16\uff18.xxx.xxx",
        ),
        ("77.13.168.192.in-addr.arpa", "xxx.xxx.168.192.in-addr.arpa"),
        ("ip-192-168-13-77.ec2.internal", "ip-192-168-xxx-xxx.ec2.internal"),
        ("http://%5B2001%3Adb8%3A%3A1428%3A57ab%5D/", "http://[2001:db8::/32]/"),
        ("addr2001:db8:1234:5678::1", "addr2001:db8::/32"),
    ],
)
def test_shapes_in_text_are_masked(text: str, expected: str) -> None:
    """Addresses inside any text are masked and nothing else is; masking twice changes nothing."""
    assert expected == mask_text(text)
    assert expected == mask_text(expected)


@pytest.mark.parametrize(
    "text",
    [
        "0199c0de-7000-7000-8000-000000000000",
        "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
        "831000000000000042",
        "CjMkVmeZ-abc_12",
        "clip-2026_final.v2.mp4",
        "icon@2x.png",
        "npm:left-pad@1.3.0",
        "python 3.11.7, curl/8.5.0",
        "v1.2.3.4",
        "1.3.6.1.4.1.311.21",
        "2.16.840.1.101.3.4.2.1",
        "v3.11.0.7 Chrome/120.0.6099.109",
        "ip-10-file-2 take-10-20-30-40 host-1-2",
        "actions/checkout@main react.dom@latest core-js@next",
        "caf\u00e9 100%41 \uff11\uff12 fish &#38; chips \u2026 e\u0301",
        '{"to": "@everyone", "b":"@example.com"}',
        "Vec3::add Code::fade",
        "256.300.1.1",
        "2026-11-21T19:28:23.123456Z",
        "12:30:45",
        "std::vector a::b",
        "aa:bb:cc:dd:ee:ff",
        "AB:CD:EF:01:23:45:67:89:AB:CD:EF:01:23:45:67:89",
        "16:9 and 4:3:2",
        "@everyone look",
        "50% off @ noon",
        "log.example.com/vector+6c5015ae+AQOhB7/zzhC+HXDdGOdLwJln5NYwm6UNXx3chmQSVTG4",
        "https://example.com/a/b.mp4?page=2",
    ],
)
def test_ordinary_text_survives(text: str) -> None:
    """Ids, digests, times, versions, file names and code stay as they are."""
    assert text == mask_text(text)


@pytest.mark.parametrize(
    "unit",
    [
        "a",
        "a@",
        "a.a@",
        "@a.a.",
        "1.",
        ":",
        "a:",
        "1:",
        "::1 ",
        "%40",
        "\\u0040@a",
        ".1.1.1.1",
        "a-",
        "a@a.",
        "f:" * 7,
        "a=/",
        "%2",
        "%25",
        "&#64",
        '"a',
        "\u00ad.",
        "ip-1-1-",
        "@[1.",
        "%41%40",
    ],
)
def test_masking_takes_linear_time(unit: str) -> None:
    """Twenty times the text takes nowhere near 400 times as long, whatever it repeats."""

    def seconds(size: int) -> float:
        text = unit * (size // len(unit))
        begin = time.process_time()
        mask_text(text)
        return time.process_time() - begin

    assert seconds(200_000) < 60 * seconds(10_000) + 0.25


def test_the_page_of_the_format_says_what_masks_are(repository):
    """Each example of docs/format.md, section 9.3, is what becomes of it, and a mask stays what it is."""
    section = (repository / "docs/format.md").read_text().partition("### 9.3 Masks")[2].partition("\n### ")[0]
    rows = re.findall(r"^\| `([^`]+)` \| `([^`]+)` \|$", section, re.MULTILINE)
    assert len(rows) >= 12
    assert [(text, mask_text(text)) for text, _ in rows] == rows
    assert [mask_text(mask) for _, mask in rows] == [mask for _, mask in rows]
