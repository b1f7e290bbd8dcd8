"""A part of a test in a forked process."""

from __future__ import annotations

import os
import signal
import traceback
from collections.abc import Callable

__all__ = ["in_child"]


def in_child(act: Callable[[], None]) -> int:
    """Run `act` in a forked process; returns its exit code: 0 if it returned, 1 if it raised."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            signal.alarm(120)
            act()
            code = 0
        except BaseException:  # noqa: BLE001  whatever it was, this process ends here
            traceback.print_exc()
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
