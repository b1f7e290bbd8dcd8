"""What is open in a process: begun anew in its forked children, closed at its end."""

from __future__ import annotations

import atexit
import logging
import os
import weakref
from typing import Any, Generic, Protocol, TypeVar

from klingai_audit.diagnostics import tell
from klingai_audit.errors import KlingAuditError

__all__ = ["Alive", "close_last"]


class _Closable(Protocol):
    def after_fork(self) -> None: ...

    def close(self) -> None: ...


_T = TypeVar("_T", bound=_Closable)


class Alive(Generic[_T]):
    """Things of one kind that are open, held weakly. Kinds are closed in the reverse order of their making."""

    def __init__(self) -> None:
        self._things: weakref.WeakSet[_T] = weakref.WeakSet()
        os.register_at_fork(after_in_child=self._after_fork_in_child)
        atexit.register(self._close_all)

    def add(self, thing: _T) -> None:
        """Close `thing` at the end of the process if nobody does before."""
        self._things.add(thing)

    def discard(self, thing: _T) -> None:
        """It is closed, or about to be."""
        self._things.discard(thing)

    def _after_fork_in_child(self) -> None:
        for thing in list(self._things):
            thing.after_fork()

    def _close_all(self) -> None:
        for thing in list(self._things):
            close_last(weakref.ref(thing))


def close_last(reference: weakref.ref[Any]) -> None:
    """Close what is still open at the end of a process; nobody is there to catch an error, so it is told.

    Whatever happens to one, the others are closed.
    """
    try:
        if (thing := reference()) is not None:
            thing.close()
    except KlingAuditError as exc:
        tell(logging.ERROR, "not_closed", "A log could not be closed at the end of the process: %s", exc, kind=exc.kind)
    except Exception as exc:  # noqa: BLE001  # told
        tell(logging.ERROR, "not_closed", "A log could not be closed at the end of the process", error=exc)
