"""Which content the policy withholds, and texts made fit to be kept: no credentials, no content, no addresses."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, Final

import msgspec

from klingai_audit.privacy.masks import has_dashed, mask_text
from klingai_audit.privacy.secrets import REMOVED, generation, is_learned, scrub_text
from klingai_audit.privacy.shapes import QUOTED, SIGN, has_shape, replace_values, squash, withheld

__all__ = ["Content", "cut_user_agent"]

_MAX_PASSES: Final = 4
_CACHED_TEXTS: Final = 4096
_CACHED_CHARACTERS: Final = 128
_MAX_NESTED_JSON: Final = 8
_MAX_AGENT_CHARACTERS: Final = 64

# Hexadecimal digests, UUIDs and decimal ids: no rule but the learned secrets can apply to them, and the rule for
# names of hosts if they hold its one word of these letters (`ec2-192-168-1-100`).
_IDENTIFIER: Final = re.compile(r"[0-9a-f-]{0,128}", re.ASCII).fullmatch
_IDENTIFIERS: Final = re.compile(r"[0-9a-f\n-]{0,256}", re.ASCII).fullmatch
_HOST: Final = "ec2"
# Without space and punctuation only the shapes of keys and the learned secrets can apply.
_TOKEN: Final = re.compile(r"[\w-]{0,128}", re.ASCII).fullmatch
# What comes again and again: model names, modes, states. Ids of single things would only push them out.
_WORD: Final = re.compile(r"[A-Za-z_-]{1,32}[0-9]{0,2}|[0-9]{1,4}[A-Za-z]{1,2}", re.ASCII).fullmatch
_JSON_OPENS: Final = frozenset('{["')
_AGENT: Final = re.compile(
    r"\s*([A-Za-z][\w.+-]*+)(?:/v?(\d{1,5})(?!\d)[^\s]*|/[^\s]*)?(?:\s.*)?", re.ASCII | re.DOTALL
).fullmatch


class Content:
    """The policy's names of content, applied to keys and texts. May be shared by threads.

    `names` are lowercase with `_`; a leading `*` stands for any beginning.
    """

    def __init__(self, names: Iterable[str]) -> None:
        exact = [name for name in names if not name.startswith("*")]
        ends = [name[1:] for name in names if name.startswith("*")]
        self._exact = frozenset(squash(name) for name in exact)
        self._ends = tuple(squash(name) for name in ends)
        self._in_text = _text_rule(exact, ends)
        self._clean: set[str] = set()
        self._generation = generation()

    @property
    def known(self) -> set[str]:
        """Texts that pass unchanged, as found before; read only. A bounded cache, emptied when a secret is learned."""
        if self._generation != generation():
            self._generation = generation()
            self._clean = set()
        return self._clean

    def pass_unchanged(self, texts: list[str]) -> bool:
        """Tell whether `clean` would return every one of `texts` as it is; ids together, in one look."""
        joined = "\n".join(texts)
        if _IDENTIFIERS(joined) is not None and _HOST not in joined and not is_learned(joined):
            return True
        return all(self.clean(text) == text for text in texts)

    def names(self, key: str) -> bool:
        """Tell whether values under `key` are content, in any spelling of the name."""
        squashed = squash(key[-128:])
        return squashed in self._exact or (bool(self._ends) and squashed.endswith(self._ends))

    def clean(self, text: str) -> str:
        """Return `text` as it may be kept in an entry; cleaning twice gives what cleaning once gives."""
        if text in self._clean and self._generation == generation():
            return text
        if _TOKEN(text) is None or is_learned(text):
            return self._cleaned(text)
        if _IDENTIFIER(text) is None or _HOST in text:
            if has_shape(text) or has_dashed(text):
                return self._cleaned(text)
            if _WORD(text) is not None:
                self._remember(text)
        return text

    def _cleaned(self, text: str) -> str:
        if self.in_json(text):
            return REMOVED
        fresh = text
        for _ in range(_MAX_PASSES):
            former, fresh = fresh, self._one_pass(fresh)
            if fresh == former:
                break
        else:
            return REMOVED
        if fresh == text and len(text) <= _CACHED_CHARACTERS:
            self._remember(text)
        return fresh

    def _one_pass(self, text: str) -> str:
        text = scrub_text(text)
        if self._in_text is not None and ("=" in text or ":" in text):
            text = replace_values(self._in_text, withheld, text)
        return mask_text(text)

    def _remember(self, text: str) -> None:
        """Keep a text that needed no change; what was learned later, or too many of them, starts anew."""
        if len(self.known) >= _CACHED_TEXTS:
            self._clean = set()
        self._clean.add(text)

    def in_json(self, text: str) -> bool:
        """Tell whether `text` is JSON that holds content under one of the names, at any depth, also as text in text."""
        return self._in_json(text, 0)

    def _in_json(self, text: str, nested: int) -> bool:
        if nested >= _MAX_NESTED_JSON or len(text) < 2 or text.lstrip()[:1] not in _JSON_OPENS:
            return False
        try:
            value = msgspec.json.decode(text)
        except (msgspec.DecodeError, UnicodeError, RecursionError):
            return False
        return self._in_value(value, nested)

    def _in_value(self, value: Any, nested: int) -> bool:
        if isinstance(value, str):
            return self._in_json(value, nested + 1)
        if isinstance(value, Mapping):
            return any(
                (self.names(key) and not isinstance(item, bool) and item not in (None, "", REMOVED))
                or self._in_value(item, nested)
                for key, item in value.items()
            )
        return isinstance(value, list) and any(self._in_value(item, nested) for item in value)


def _text_rule(exact: list[str], ends: list[str]) -> re.Pattern[str] | None:
    """Build the rule that finds content in running text: quoted or after `=`, and prompts up to the line's end."""
    cores = [r"(?<![A-Za-z0-9])" + _loosely(name) for name in exact] + [_loosely(name.lstrip("_")) for name in ends]
    if not cores:
        return None
    cores.sort(key=len, reverse=True)
    return re.compile(
        rf"(?:{'|'.join(cores)})(?P<prompt>(?<=prompt))?{SIGN}(?:(?P<quoted>{QUOTED})"
        r"|(?P<line>(?(prompt)[^\n\"'&]++|(?!)))|(?<==)(?P<bare>[^\s\"'&;]++))",
        re.IGNORECASE,
    )


def _loosely(name: str) -> str:
    return "[_-]?".join(re.escape(part) for part in name.split("_") if part)


def cut_user_agent(text: str) -> str:
    """Return product and major version of a user agent: `python-httpx/0`; `[removed]` if there is no product."""
    found = _AGENT(text)
    if found is None:
        return REMOVED
    product, major = found.group(1)[:_MAX_AGENT_CHARACTERS], found.group(2)
    return product if major is None else f"{product}/{major}"
