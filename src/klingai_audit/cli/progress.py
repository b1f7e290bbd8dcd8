"""The bar that a person sees on stderr while something takes long, with its rate and the time that is left.

Nothing is shown where standard error is no terminal, and nothing with `--json`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from klingai_audit.cli.session import Session

if TYPE_CHECKING:
    from rich.progress import Progress

__all__ = ["Told", "progress_bar", "watched"]

Told = Callable[[int, int], None]
"""Takes how much is done, and how much there is in all."""


def watched(session: Session) -> bool:
    """Tell whether a person looks on: standard error is a terminal, and the output is not for programs."""
    return not session.as_json and session.remarks.is_terminal


@contextmanager
def progress_bar(session: Session, words: str, unit: str) -> Iterator[Told | None]:
    """Give a function that draws a bar from its first call on until the block ends; None if nobody looks on.

    `words` say what is being done; `unit` is what is counted, in the plural: `bytes` are shown as such.
    """
    if not watched(session):
        yield None
        return
    with ExitStack() as stack:
        bar: Progress | None = None

        def told(done: int, total: int) -> None:
            nonlocal bar
            if bar is None:
                bar = stack.enter_context(_bar(session, unit))
                bar.add_task(words, total=total, completed=done)
            else:
                bar.update(bar.task_ids[0], completed=done, total=total)

        yield told


def _bar(session: Session, unit: str) -> Progress:
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        ProgressColumn,
        Task,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )
    from rich.text import Text

    class Count(ProgressColumn):
        def render(self, task: Task) -> Text:
            return Text(f"{task.completed:,.0f}/{task.total or 0:,.0f} {unit}", style="progress.download")

    class Rate(ProgressColumn):
        def render(self, task: Task) -> Text:
            return Text("" if task.speed is None else f"{task.speed:,.0f}/s", style="progress.data.speed")

    counted = (DownloadColumn(), TransferSpeedColumn()) if unit == "bytes" else (Count(), Rate())
    # Twenty columns of bar leave room for the time that is left on a screen of eighty.
    columns = (TextColumn("{task.description}"), BarColumn(20), *counted, TimeRemainingColumn())
    return Progress(*columns, console=session.remarks, transient=True)
