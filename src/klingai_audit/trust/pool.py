"""Run scan tasks, in worker processes if the log is large, and hand the reports back in order."""

from __future__ import annotations

import contextlib
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Final

import msgspec

from klingai_audit.trust.chunk import Report, Task
from klingai_audit.trust.worker import read_message, write_message

__all__ = ["PARALLEL_FROM", "run_tasks"]

PARALLEL_FROM: Final = 16 << 20
"""Bytes of entries from which processes are worth their start (about 0.1 s)."""

_AHEAD: Final = 4
_COMMAND: Final = "from klingai_audit.trust.worker import main; main()"
_decode: Final = msgspec.msgpack.Decoder(Report).decode


def run_tasks(tasks: Sequence[Task], run_here: Callable[[Task], Report], processes: int) -> Iterator[Report]:
    """Yield the report of every task, in order. With `processes` below 2, or without workers, all run here.

    A worker that dies leaves its tasks to this process; nothing is skipped.
    """
    workers = _start(min(processes, len(tasks))) if processes > 1 else []
    if not workers:
        yield from map(run_here, tasks)
        return
    waiting: queue.SimpleQueue[Task] = queue.SimpleQueue()
    for task in tasks:
        waiting.put(task)
    done: queue.SimpleQueue[Report | None] = queue.SimpleQueue()
    threads = [threading.Thread(target=_serve, args=(worker, waiting, done), daemon=True) for worker in workers]
    for thread in threads:
        thread.start()
    try:
        yield from _in_order(tasks, run_here, done, len(threads))
    finally:
        _stop(workers, threads)


def _in_order(
    tasks: Sequence[Task],
    run_here: Callable[[Task], Report],
    done: queue.SimpleQueue[Report | None],
    alive: int,
) -> Iterator[Report]:
    early: dict[int, Report] = {}
    for task in tasks:
        while task.number not in early and alive:
            report = done.get()
            if report is None:
                alive -= 1
            else:
                early[report.number] = report
        report = early.pop(task.number, None)
        yield run_here(task) if report is None else report


def _serve(
    worker: subprocess.Popen[bytes], waiting: queue.SimpleQueue[Task], done: queue.SimpleQueue[Report | None]
) -> None:
    """Feed one worker until nothing waits or it dies; some tasks ahead, so that it never waits for this process."""
    under_way = 0
    with contextlib.suppress(OSError, ValueError, msgspec.MsgspecError):
        while True:
            while under_way < _AHEAD and (task := _next(waiting)) is not None:
                write_message(worker.stdin, task)  # type: ignore[arg-type]  # a buffered pipe, as asked for
                under_way += 1
            answer = read_message(worker.stdout) if under_way else None  # type: ignore[arg-type]  # as above
            if answer is None:
                break
            done.put(_decode(answer))
            under_way -= 1
    done.put(None)


def _next(waiting: queue.SimpleQueue[Task]) -> Task | None:
    try:
        return waiting.get_nowait()
    except queue.Empty:
        return None


def _start(count: int) -> list[subprocess.Popen[bytes]]:
    """Start up to `count` workers; fewer or none if this interpreter cannot be started again."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    workers: list[subprocess.Popen[bytes]] = []
    with contextlib.suppress(OSError):
        while sys.executable and len(workers) < count:
            worker = subprocess.Popen(  # noqa: S603  # our own interpreter, a constant command
                [sys.executable, "-S", "-c", _COMMAND],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env=environment,
            )
            workers.append(worker)
    return workers


def _stop(workers: list[subprocess.Popen[bytes]], threads: list[threading.Thread]) -> None:
    for worker in workers:
        worker.kill()
    for thread in threads:
        thread.join()
    for worker in workers:
        worker.wait()
        for stream in (worker.stdin, worker.stdout):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()
