"""What the package says of its own work, through the logger `klingai_audit`: never what an event holds.

Each line has a name (`event`), words without content and facts: numbers, truth values and short names from our own
vocabulary. An exception is told by its class and by where it happened; its text and its traceback could hold anything.
"""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import Final

__all__ = ["LOGGER_NAME", "RESERVED", "Fact", "place_of", "tell"]

LOGGER_NAME: Final = "klingai_audit"
"""The one logger of the package; a library only speaks, whoever runs it says where to."""

RESERVED: Final = frozenset({"event", "level", "logger", "message", "pid", "time"})
"""Names that no fact has: they are members of every line."""

Fact = int | float | bool | str | None

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:/+-]{0,159}", re.ASCII)
_LOGGER: Final = logging.getLogger(LOGGER_NAME)


def tell(
    level: int, event: str, words: str, *arguments: object, error: BaseException | None = None, **facts: Fact
) -> None:
    """Say something of our own work: `event` is its name for programs, `words % arguments` are for people.

    A text among the facts that is no plain name becomes "(text)". Of `error` only its class and place are told.
    """
    if not _LOGGER.isEnabledFor(level):
        return
    if error is not None:
        facts = {"error": type(error).__name__, "where": place_of(error), **facts}
        words, arguments = words + " (%s in %s)", (*arguments, facts["error"], facts["where"])
    told = {name: _plain(value) for name, value in facts.items() if name not in RESERVED}
    _LOGGER.log(level, words, *arguments, extra={"event": event, "facts": told}, stacklevel=2)


def place_of(error: BaseException) -> str:
    """Return `file:line` of where an exception was raised, without the folders."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return "nowhere" if trace is None else f"{Path(trace.tb_frame.f_code.co_filename).name}:{trace.tb_lineno}"


def _plain(value: Fact) -> Fact:
    return "(text)" if isinstance(value, str) and not _NAME.fullmatch(value) else value
