"""What `wait(progress=…)` shows: one line on a terminal, nothing where nobody watches."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator

from klingai_audit.kling.reply import TaskRecord

__all__ = ["Progress", "reporting"]

Progress = bool | Callable[[TaskRecord], None]
"""True: a line on stderr if that is a terminal. A function: called with each record that is read."""


@contextlib.contextmanager
def reporting(progress: Progress) -> Iterator[Callable[[TaskRecord], None]]:
    """Give the function to call with each record, and tidy the line up at the end."""
    if callable(progress):
        yield progress
        return
    if not progress:
        yield _ignore
        return
    from rich.console import Console

    console = Console(stderr=True)
    if not console.is_terminal:
        yield _ignore
        return
    began = time.monotonic()
    with console.status("Kling") as status:

        def show(task: TaskRecord) -> None:
            status.update(f"task {task.id}: {task.status}, {time.monotonic() - began:.0f} s")

        yield show


def _ignore(task: TaskRecord) -> None:
    """Nobody watches."""
