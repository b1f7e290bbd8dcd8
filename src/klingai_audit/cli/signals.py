"""Ending a command that runs on and on: in order at the first signal, at once at the second."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from types import FrameType

__all__ = ["until_signalled"]


@contextlib.contextmanager
def until_signalled() -> Iterator[list[int]]:
    """Let Ctrl-C and a service manager end a command in order; a second time ends it at once.

    Gives the list of signals that came; the handlers of before are put back on exit.
    """
    ended: list[int] = []

    def end(number: int, _frame: FrameType | None) -> None:
        ended.append(number)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)

    before = {number: signal.signal(number, end) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield ended
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
