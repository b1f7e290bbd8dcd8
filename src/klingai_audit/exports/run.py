"""The way of entries from the log to a destination: in order, checked, at least once."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

from klingai_audit.exports.cursor import CursorFile
from klingai_audit.exports.record import Batch, Position, Source, TreeHead
from klingai_audit.exports.sink import Sink, SinkLost

__all__ = ["Course", "ExportResult", "Job"]

POLL_SECONDS: Final = 0.2
"""How often a following export looks for a new checkpoint."""

PATIENCE_SECONDS: Final = 60.0
"""How long an export that does not follow tries to reach a receiver that went away."""

FIRST_PAUSE: Final = 0.2
LONGEST_PAUSE: Final = 30.0
"""Pauses between attempts to reach a receiver, in seconds: doubled each time."""

SAVE_SECONDS: Final = 0.5
"""While there is much to send, the cursor is written no more often than this."""


@dataclass(slots=True)
class ExportResult:
    """What an export did.

    `entries` counts those that were sent or written, `again` how many of them for another time after a break; `[begin,
    end)` is the range of the log that was gone through; `tree_size` and `root` (base64) are those of the last
    checkpoint; `unsigned_tail` counts lines after it, which were not exported; `recorded` tells whether the export is
    an entry of the log.
    """

    format: str
    to: str
    begin: int
    end: int
    entries: int = 0
    again: int = 0
    tree_size: int = 0
    root: str = ""
    unsigned_tail: int = 0
    recorded: bool = False

    def to_json(self) -> dict[str, Any]:
        """Return the members as JSON values."""
        return {name: getattr(self, name) for name in self.__dataclass_fields__}


@dataclass(slots=True)
class Course:
    """How an export is to go on, and whom it tells.

    `follow` goes on until `stop()`. `told` gets the number of entries gone through and their total, `sent` how many
    were just handed over; `trouble` gets each error that is waited out, and the pause in seconds.
    """

    follow: bool = False
    stop: Callable[[], bool] = bool
    told: Callable[[int, int], None] | None = None
    sent: Callable[[int], None] | None = None
    trouble: Callable[[SinkLost, float], None] | None = None
    pause: Callable[[float], None] = time.sleep
    clock: Callable[[], float] = time.monotonic


@dataclass(slots=True)
class Job:
    """One export from `begin` on. `run` may be called once."""

    source: Source
    sink: Sink
    course: Course
    result: ExportResult
    begin: Position
    cursor: CursorFile | None = None
    _done: Position = field(init=False)
    _furthest: int = field(init=False)
    _head: TreeHead = field(init=False)
    _saved_at: float = field(init=False, default=0.0)
    _broken: tuple[float, int] | None = field(init=False, default=None)
    _reached: bool = field(init=False, default=False)

    def run(self, head: TreeHead) -> ExportResult:
        """Export, beginning under `head`. Raises: StorageError, LogDamaged, UsageError."""
        self._head, self._furthest = head, self.begin.seq
        try:
            self._connect(self.begin)
            self._go_through()
            while self.course.follow and not self.course.stop():
                self._rest()
                if TreeHead.read(self.source.reader).note != self._head.note:
                    self._head = self.source.head()
                    self.source.check(self._done, self._head, "by this process")
                self._go_through()
            self._finish()
        finally:
            self.sink.abandon()
        self.result.end = self._done.seq
        self.result.tree_size, self.result.root = self._head.size, self._head.root_text
        self.result.unsigned_tail = self.source.unsigned_tail(self._head)
        return self.result

    def _go_through(self) -> None:
        """Hand over everything up to the end of the head; after a break, from the settled position on again."""
        while self._done.seq < self._head.size and not self.course.stop():
            try:
                for batch in self.source.batches(self._done.seq, self._head):
                    self._hand_over(batch)
                    if self.course.stop():
                        break
            except SinkLost as exc:
                self._recover(exc)

    def _hand_over(self, batch: Batch) -> None:
        self.sink.send(batch.records, batch.position)
        self._reached = True
        self.result.entries += len(batch.records)
        self.result.again += sum(record.seq < self._furthest for record in batch.records)
        self._done = batch.position
        self._furthest = max(self._furthest, batch.position.seq)
        if self.course.sent is not None:
            self.course.sent(len(batch.records))
        if self.course.told is not None:
            self.course.told(self._done.seq, self._head.size)
        if self.course.clock() - self._saved_at >= SAVE_SECONDS:
            self._save(self.sink.settled)

    def _rest(self) -> None:
        """Between checkpoints: see that the receiver is still there, and note what it certainly has."""
        try:
            self.sink.check(self._head)
        except SinkLost as exc:
            self._recover(exc)
        else:
            self._save(self.sink.settled)
            self.course.pause(POLL_SECONDS)

    def _finish(self) -> None:
        while True:
            try:
                self.sink.finish(self._head)
            except SinkLost as exc:
                self._recover(exc)
                self._go_through()
            else:
                self._save(self._done)
                return

    def _save(self, position: Position) -> None:
        if self.cursor is not None:
            self.cursor.save(position, self._head, self.result.format, self.result.to)
        self._saved_at = self.course.clock()

    def _connect(self, position: Position) -> None:
        self._reached = self.sink.open(position) or self._reached
        self._done = position

    def _recover(self, error: SinkLost) -> None:
        """Reach the receiver again and go back to what it certainly has. Raises: SinkLost, when patience ends."""
        if not self._reached:
            raise error
        settled, now = self.sink.settled, self.course.clock()
        self._save(settled)
        if self._broken is None or settled.seq > self._broken[1]:
            self._broken = (now, settled.seq)
        pause = FIRST_PAUSE
        while not self.course.stop():
            if not self.course.follow and self.course.clock() - self._broken[0] > PATIENCE_SECONDS:
                raise error
            if self.course.trouble is not None:
                self.course.trouble(error, pause)
            self.course.pause(pause)
            pause = min(2 * pause, LONGEST_PAUSE)
            try:
                self._connect(settled)
            except SinkLost as exc:
                error = exc
            else:
                return
        raise SinkLost(f"{error.message} The export was ended before it could be reached again.", do=error.do)
