"""One spelling for the characters of addresses: what percent-encoding, entities, wide forms and hidden signs hide.

Only characters that e-mail and IP addresses consist of are decoded, so that the structure around them (JSON,
query strings, mark-up) stays what it was. Pure; time linear in the text.
"""

from __future__ import annotations

import re
import unicodedata
from typing import Final

__all__ = ["fold"]

_MAX_PASSES: Final = 4
_ADDRESS: Final = re.compile(r"[A-Za-z0-9@.:+_~!'\[\]-]").fullmatch
# `%25` only where it hides one more escape.
_PERCENT: Final = re.compile(r"%25(?=[0-9A-Fa-f]{2})|(?:%[89A-Fa-f][0-9A-Fa-f])+|%[2-7][0-9A-Fa-f]")
_ENTITY: Final = re.compile(r"&(?:amp;)?#(?:[xX]([0-9A-Fa-f]{1,6})|([0-9]{1,7}));?")
_NAMED: Final = {"&commat;": "@", "&period;": ".", "&colon;": ":"}
_ESCAPE: Final = re.compile(r"\\u(00[2-7][0-9A-Fa-f])")
# Wide and small forms of the characters of addresses, and the full stops of East Asian scripts.
_WIDE: Final = {
    **{code + 0xFEE0: chr(code) for code in range(0x21, 0x7F) if _ADDRESS(chr(code))},
    0xFE6B: "@",
    **dict.fromkeys((0xFE52, 0x3002, 0xFF61, 0x2024), "."),
}
# Soft hyphen, zero-width and direction signs, word joiner, byte order mark.
_HIDDEN: Final = re.compile("[\u00ad\u034f\u061c\u180e\u200b-\u200f\u202a-\u202e\u2060-\u2064\u2066-\u206f\ufeff]+")


def fold(text: str) -> str:
    """Return `text` with encoded, wide and hidden characters of addresses in their plain spelling."""
    for _ in range(_MAX_PASSES):
        fresh = _one_pass(text)
        if fresh == text:
            break
        text = fresh
    return text


def _one_pass(text: str) -> str:
    if "%" in text:
        text = _PERCENT.sub(_decoded, text)
    if "&" in text:
        text = _ENTITY.sub(_referred, text)
        for name, character in _NAMED.items():
            text = text.replace(name, character)
    if "\\u" in text:
        text = _ESCAPE.sub(_escaped, text)
    if not text.isascii():
        text = unicodedata.normalize("NFC", _HIDDEN.sub("", text).translate(_WIDE))
    return text


def _decoded(found: re.Match[str]) -> str:
    raw = bytes.fromhex(found.group().replace("%", ""))
    if raw[0] < 0x80:
        character = chr(raw[0])
        return character if character == "%" or _ADDRESS(character) else found.group()
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return found.group()


def _referred(found: re.Match[str]) -> str:
    code = int(found[1], 16) if found[1] else int(found[2])
    if code < 0x80:
        return chr(code) if _ADDRESS(chr(code)) else found.group()
    return chr(code) if code <= 0x10FFFF and not 0xD800 <= code <= 0xDFFF else found.group()


def _escaped(found: re.Match[str]) -> str:
    character = chr(int(found[1], 16))
    return character if _ADDRESS(character) else found.group()
