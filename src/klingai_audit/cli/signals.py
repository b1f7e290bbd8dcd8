"""Ending a command that runs on and on: in order at the first signal, at once at the second."""

from __future__ import annotations

import contextlib
import logging
import signal
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Final

from klingai_audit.diagnostics import tell

INTERRUPTED: Final = 130
_SLICE_S: Final = 0.1


class Terminated(BaseException):
    """A service manager wants the command to end: what is open is closed on the way out."""


@contextlib.contextmanager
def terminable() -> Iterator[None]:
    """Raise `Terminated` in the block at the first SIGTERM; a second one ends the process at once.

    Without it a command would be cut off, and entries that nobody waits for yet would be lost. Nothing is changed where
    somebody else decided what SIGTERM does, or outside of the main thread.
    """

    def end(_number: int, _frame: FrameType | None) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        raise Terminated

    ours = threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    if ours:
        signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        if ours:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)


def exit_code(ended: list[int], code: int = 0) -> int:
    """Return the exit code of a command that signals ended in order: 130 after Ctrl-C, else `code`."""
    return INTERRUPTED if ended and ended[0] == signal.SIGINT else code


def pause_until(stop: Callable[[], object], seconds: float) -> None:
    """Sleep for so many seconds, but end soon after `stop()`."""
    until = time.monotonic() + seconds
    while not stop() and (left := until - time.monotonic()) > 0:
        time.sleep(min(_SLICE_S, left))


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
        if ended:
            tell(logging.INFO, "ended", "a signal ended the command in order", signal=signal.Signals(ended[0]).name)
