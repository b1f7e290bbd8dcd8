"""Text search inside one entry. Pure; allowed callers: views, report."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Final

import msgspec

from klingai_audit.event.record import TEXT_MEMBERS
from klingai_audit.views.entry import EntryView

__all__ = ["SEARCHED", "holds_text", "text_needle", "words_of"]

SEARCHED: Final = TEXT_MEMBERS
"""Members in which `text` is looked for, beside names and values of metadata at every depth.

The ledger's members and the time are left out: nobody means a digest when typing a word.
"""

_encode = msgspec.json.Encoder().encode


def holds_text(entry: EntryView, lowered: str) -> bool:
    """Tell whether `lowered` (already lower case) occurs in the entry's text, ignoring case."""
    if any(lowered in value.lower() for name in SEARCHED if (value := getattr(entry, name)) is not None):
        return True
    metadata = (value if isinstance(value, str) else _encode(value).decode() for value in words_of(entry.metadata))
    return any(lowered in text.lower() for text in metadata)


def text_needle(lowered: str) -> bytes | None:
    """Return bytes that every ASCII line holding `lowered` holds in its lower-case form; None if none are known.

    Characters that JSON escapes could stand there in another spelling, so they rule the short cut out.
    """
    if lowered.isascii() and lowered.isprintable() and not set('"\\') & set(lowered):
        return lowered.encode("ascii")
    return None


def words_of(value: Any, but: Callable[[Any], bool] = lambda _: False) -> Iterator[Any]:
    """Yield the names and plain values of a JSON value, at every depth, in order; nothing of a value that is `but`."""
    if but(value):
        return
    if isinstance(value, dict):
        for key, item in value.items():
            yield key
            yield from words_of(item, but)
    elif isinstance(value, list):
        for item in value:
            yield from words_of(item, but)
    else:
        yield value
