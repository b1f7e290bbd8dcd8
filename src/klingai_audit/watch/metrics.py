"""What a watch tells an operator: when each check was made, what is open, what waits to be told."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from klingai_audit.diagnostics import tell
from klingai_audit.operation.board import Board
from klingai_audit.watch.problems import exit_code_of

if TYPE_CHECKING:
    from klingai_audit.watch.rounds import Round
    from klingai_audit.watch.run import Watch

__all__ = ["observe", "take"]


def observe(board: Board, watch: Watch) -> None:
    """Let a board show what `watch` remembers, from the last run on; ready while every check can be made."""

    def checks() -> dict[tuple[str, ...], float]:
        return {(name,): moment for name, moment in watch.done.items()}

    def verified() -> dict[tuple[str, ...], float]:
        return {(name,): moment for name, moment in watch.done.items() if name in ("quick", "full")}

    def result() -> dict[tuple[str, ...], float]:
        code = float(exit_code_of(one for one in watch.open if one.source == "verify"))
        return dict.fromkeys(verified(), code)

    def findings() -> dict[tuple[str, ...], float]:
        found: dict[tuple[str, ...], float] = {("verify", "broken"): 0.0}
        for one in watch.open:
            key = one.source, one.level
            found[key] = found.get(key, 0.0) + 1
        return found

    def undelivered() -> dict[tuple[str, ...], float]:
        return {(name.partition(":")[0],): float(count) for name, count in watch.undelivered.items()}

    def unable() -> str | None:
        failed = sorted({one.source for one in watch.open if one.failure})
        return f"cannot be made: {', '.join(failed)}" if failed else None

    board.look("check_time_seconds", checks)
    board.look("verification_time_seconds", verified)
    board.look("verification_result", result)
    board.look("findings", findings)
    board.look("undelivered_messages", undelivered)
    board.check("checks", unable)


def take(board: Board, made: Round) -> None:
    """Count what a round came to, and tell of it without its words."""
    for job in made.jobs:
        board.put("check_duration_seconds", job.name, value=job.seconds)
        if job.failed:
            board.count("errors", "check", job.name)
        level = logging.WARNING if job.failed else logging.DEBUG if job.quiet else logging.INFO
        words = "a check could not be made" if job.failed else "a check was made"
        tell(level, "check", words, check=job.name, seconds=round(job.seconds, 3), recorded=job.recorded)
    for alert in made.alerts:
        board.count("alerts", alert.change)
        one = alert.problem
        level = logging.INFO if alert.change == "gone" else logging.WARNING
        tell(level, "alert", "a finding is %s", alert.change, source=one.source, kind=one.kind, weight=one.level,
             seq=one.seq)  # fmt: skip
    if made.trouble:
        board.count("errors", "deliver", "StorageError")
        tell(logging.WARNING, "undelivered", "alerts wait for a receiver", messages=sum(made.undelivered.values()))
