"""Credentials out of texts and nested values, whatever form they travel in.

Removed are: values under keyed names (`api_key`, `Authorization` …) in objects, header lists and running text;
Bearer and Basic credentials; JWTs; key shapes (`api-key-kling-…`, `whsec_…`, `PRIVATE+KEY+…`, `sk-…`, PEM …);
userinfo and tokens in URLs; and secrets that this process learned exactly. Strings that hold JSON are opened.
Scrubbing twice gives what scrubbing once gives. Every rule takes time linear in the text.
"""

from __future__ import annotations

import base64
import re
import urllib.parse
from collections.abc import Mapping
from typing import Any, Final

import msgspec

from klingai_audit.privacy.masks import mask_text
from klingai_audit.privacy.shapes import REMOVED, is_secret_name, keeps_number, scrub_shapes

__all__ = [
    "MAX_EXCEPTION_CHARACTERS",
    "REMOVED",
    "forget_all",
    "generation",
    "is_learned",
    "is_withheld",
    "learn",
    "scrub",
    "scrub_exception",
    "scrub_text",
]

MAX_EXCEPTION_CHARACTERS: Final = 500
"""Length at which `scrub_exception` cuts the text."""

_MAX_NESTED_JSON: Final = 8  # quoting doubles backslashes per level, so deeper strings cannot be small
_MAX_LEVELS: Final = 64
_MAX_PASSES: Final = 4
_MIN_LEARNED: Final = 4
_MIN_LEARNED_ANYWHERE: Final = 8
_FINGERPRINT: Final = re.compile(r"[0-9a-f]{16}").fullmatch
_PAIR: Final = 2
_ESCAPE: Final = re.compile(r"%[0-9A-Fa-f]{2}").search


class _Learned:
    """Exact secrets of this process. Replaced as a whole on every change, so readers need no lock."""

    __slots__ = ("_plain", "generation", "known", "loose", "told", "words")

    def __init__(self, known: frozenset[str], generation: int, told: frozenset[str] = frozenset()) -> None:
        self.known = known
        self.told = set(told)
        self.generation = generation
        long = sorted((secret for secret in known if len(secret) >= _MIN_LEARNED_ANYWHERE), key=len, reverse=True)
        # `-` and `_` are told apart by no copyist, so both are compared as one.
        self._plain = tuple(dict.fromkeys(secret.replace("_", "-") for secret in long))
        self.loose = re.compile("|".join(map(_loosely, self._plain))) if long else None
        short = [re.escape(secret) for secret in sorted(known, key=len, reverse=True) if len(secret) < 8]
        self.words = re.compile(rf"(?<!\w)(?:{'|'.join(short)})(?!\w)") if short else None

    def __repr__(self) -> str:
        return f"<{len(self.known)} learned secrets>"

    def remove(self, text: str) -> str:
        if self.loose is not None:
            plain = text.replace("_", "-")
            if "%" in plain and _ESCAPE(plain) is not None:
                plain += "\n" + _unquoted(plain)
            for secret in self._plain:
                if secret in plain:
                    text = self.loose.sub(REMOVED, text)
                    break
        return text if self.words is None else self.words.sub(REMOVED, text)


def _loosely(secret: str) -> str:
    """Return a pattern of a secret in which any character may be percent-encoded, and `-` be `_`."""
    out = []
    for character in secret:
        raw = "".join(f"%(?:25){{0,3}}(?i:{byte:02x})" for byte in character.encode("utf-8", "surrogatepass"))
        out.append(f"(?:{re.escape(character)}|{raw})" if character != "-" else "(?:[-_]|%(?:25){0,3}(?i:2d|5f))")
    return "".join(out)


def _unquoted(text: str) -> str:
    for _ in range(_MAX_PASSES):
        fresh = urllib.parse.unquote(text).replace("_", "-")
        if fresh == text:
            break
        text = fresh
    return text


_learned: list[_Learned] = [_Learned(frozenset(), 0)]


def learn(secret: str) -> None:
    """Remember an exact secret of this process, to be removed wherever it turns up, also percent- or base64-encoded.

    Secrets of under 8 characters are removed only where they stand as a word, under 4 not at all. They are
    kept in memory only and shown nowhere.
    """
    if secret in _learned[0].told or len(secret) < _MIN_LEARNED or secret in REMOVED:
        return
    raw = secret.encode("utf-8", "surrogatepass")
    forms = {
        secret,
        urllib.parse.quote(raw, safe=""),
        base64.b64encode(raw).decode().rstrip("="),
        base64.urlsafe_b64encode(raw).decode().rstrip("="),
        msgspec.json.encode(secret).decode()[1:-1] if secret.isprintable() else secret,
    }
    former = _learned[0]
    if forms <= former.known:
        former.told.add(secret)
    else:
        _learned[0] = _Learned(former.known | forms, former.generation + 1, frozenset((*former.told, secret)))


def forget_all() -> None:
    """Forget every learned secret: for tests and for processes that change identity."""
    _learned[0] = _Learned(frozenset(), _learned[0].generation + 1)


def generation() -> int:
    """Return a number that grows whenever the learned secrets change: caches of clean texts depend on it."""
    return _learned[0].generation


def is_learned(text: str) -> bool:
    """Tell whether `text` holds a learned secret."""
    learned = _learned[0]
    return bool(learned.known) and learned.remove(text) != text


def scrub_text(text: str) -> str:
    """Return `text` without credentials; each is replaced by `[removed]`. Other text is left alone."""
    return _scrub_text(text, 0)


def _scrub_text(text: str, nested: int) -> str:
    # A removal can join what stood apart, so passes repeat until nothing changes: that also makes it idempotent.
    for _ in range(_MAX_PASSES):
        fresh = _one_pass(text, nested)
        if fresh == text:
            return text
        text = fresh
    return REMOVED


def _one_pass(text: str, nested: int) -> str:
    if nested < _MAX_NESTED_JSON and text[:1] in _JSON_OPENS and len(text) > 1:
        text = _scrub_json(text, nested)
    return scrub_shapes(_learned[0].remove(text))


_JSON_OPENS: Final = frozenset('{["')


def _scrub_json(text: str, nested: int) -> str:
    try:
        value = msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return text
    fresh = _scrub(value, 1, nested + 1)
    return text if fresh == value else msgspec.json.encode(fresh).decode()


def scrub(value: Any) -> Any:
    """Return `value` without credentials: objects, lists and tuples are copied, texts scrubbed, other values kept.

    Values under a secret's name are removed as a whole, but null, booleans, and numbers under a plural
    (`max_tokens`) stay. Keys are scrubbed as well. Deeper than 64 levels everything is removed.
    """
    return _scrub(value, 1, 0)


def _scrub(value: Any, level: int, nested: int) -> Any:
    if isinstance(value, str):
        return _scrub_text(value, nested)
    if isinstance(value, Mapping):
        if level > _MAX_LEVELS:
            return REMOVED
        return _scrub_object(value, level, nested)
    if isinstance(value, list | tuple):
        if level > _MAX_LEVELS:
            return REMOVED
        if len(value) == _PAIR and isinstance(value[0], str) and is_withheld(value[0], value[1]):
            items = [value[0], REMOVED]
        else:
            items = [_scrub(item, level + 1, nested) for item in value]
        return tuple(items) if type(value) is tuple else items
    if isinstance(value, bytes | bytearray | memoryview):
        return _scrub_text(bytes(value).decode("utf-8", "replace"), nested)
    return value


def _scrub_object(value: Mapping[Any, Any], level: int, nested: int) -> dict[Any, Any]:
    # {"name": "authorization", "value": "…"}: a header as an object
    label = next((value[name] for name in ("name", "key", "header") if isinstance(value.get(name), str)), None)
    out: dict[Any, Any] = {}
    for key, item in value.items():
        if isinstance(key, str):
            withheld = is_withheld(key, item) or (key == "value" and label is not None and is_withheld(label, item))
            fresh_key = _scrub_text(key, nested)
            while fresh_key in out:
                fresh_key += "~"
            out[fresh_key] = REMOVED if withheld else _scrub(item, level + 1, nested)
        else:
            out[key] = _scrub(item, level + 1, nested)
    return out


def is_withheld(name: str, value: object) -> bool:
    """Tell whether `value` must not be kept under `name`: a secret's name, and a value that could be one.

    A fingerprint (16 hex digits) may stand under `credential`.
    """
    if value is None or value is True or value is False or not is_secret_name(name):
        return False
    if isinstance(value, int | float):
        return not keeps_number(name)
    if name == "credential" and isinstance(value, str) and _FINGERPRINT(value):
        return False
    return value != ""


def scrub_exception(exc: BaseException) -> str:
    """Return `ClassName: text` of an exception without credentials and with e-mail and IP addresses masked.

    At most 500 characters. Texts of exceptions may quote what a caller sent; where that can be a prompt, keep the
    class name only.
    """
    try:
        text = str(exc)
    except Exception:  # noqa: BLE001  # a foreign exception may fail to print itself
        text = ""
    text = mask_text(scrub_text(text))
    if len(text) > MAX_EXCEPTION_CHARACTERS:
        text = text[: MAX_EXCEPTION_CHARACTERS - 1] + "…"
    return f"{type(exc).__name__}: {text}" if text else type(exc).__name__
