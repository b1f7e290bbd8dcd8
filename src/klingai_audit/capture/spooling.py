"""What the desk does with entries of classes whose policy is `spool`: the log first, the spool if that is out of reach.

An entry is encoded before it is sent, so that what waits is what would stand in the log, and it is known from which
entry of the log on it may stand there. What need not be durable at once is put into the spool by its thread.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from typing import Final

from klingai_audit.capture.facts import PendingReceipt, Sink
from klingai_audit.capture.items import Item
from klingai_audit.capture.spool import Spool
from klingai_audit.errors import AuditUnavailable
from klingai_audit.event.context import acting
from klingai_audit.event.record import EncodedEvent
from klingai_audit.ledger.spool import Record

__all__ = ["Spooling"]

_SEEN: Final = "task_status_changed"
"""What is seen of a task is no act of who sees it."""


class Spooling:
    """Used by one desk. Thread-safe. `keep` gets what can be put nowhere."""

    def __init__(self, sink: Sink, keep: Callable[[Item, Exception], None]) -> None:
        self._sink = sink
        self._keep = keep
        self.after_fork()

    def after_fork(self) -> None:
        """In a forked child: what the parent has to write is the parent's to write."""
        self._later: deque[tuple[Item, Exception]] = deque()
        self._putting = threading.Lock()

    # --- whether ----------------------------------------------------------------------------------

    def takes(self, item: Item) -> bool:
        """Whether entries of this class may wait."""
        return self._sink.spool is not None and self._sink.policy.failure.for_class(item.kind) == "spool"

    @property
    def out_of_reach(self) -> bool:
        """Whether the log cannot be reached as far as is known, so that nothing need be tried."""
        return self._sink.spool is not None and self._sink.spool.down

    @property
    def now(self) -> bool:
        """Whether entries of these classes go to the spool at once."""
        return self.out_of_reach or bool(self._later)

    @property
    def cause(self) -> Exception:
        """Why the log is out of reach."""
        known = None if self._sink.spool is None else self._sink.spool.cause
        return known or AuditUnavailable("The log cannot be reached.", do="Entries wait in the spool.")

    @property
    def later(self) -> int:
        """How many entries are about to be put into the spool."""
        return len(self._later)

    @property
    def waiting(self) -> int:
        """How many entries the log has to take before it is up to date."""
        spool = self._sink.spool
        return spool.waiting + len(self._later) if spool is not None and spool.down else 0

    @property
    def after(self) -> float:
        """How long the log's answer is waited for, in seconds."""
        return self._spool.after

    @property
    def _spool(self) -> Spool:
        spool = self._sink.spool
        if spool is None:
            raise AuditUnavailable("There is no spool.")
        return spool

    def prepare(self, cls: str) -> None:
        """See `Desk.prepare`."""
        if not self.now:
            return
        match self._sink.policy.failure.for_class(cls):
            case "refuse":
                self.drain()
            case "spool":
                self._spool.check_room()

    def drain(self) -> None:
        """If the log is out of reach, put all into the spool, and try once to drain that."""
        self.put_later()
        if self.out_of_reach:
            self._spool.drain(self._spool.after)

    # --- the log ----------------------------------------------------------------------------------

    def encode(self, item: Item) -> Item:
        """The entry as it will stand in the log, and from where on. Raises: as `Sink.admit`."""
        since = self._spool.mark() if item.since is None else item.since
        if isinstance(item.entry, EncodedEvent):
            return replace(item, since=since)
        seen = item.once or item.entry.event_type == _SEEN
        with acting.restore(item.token):
            return replace(item, entry=self._sink.admit(item.entry, warn=not seen), since=since)

    def send(self, item: Item, *, again: bool = False) -> PendingReceipt:
        """Hand an encoded entry to the log, `again` if that was done before. Raises: AuditUnavailable."""
        record = _record(item)
        receipt: PendingReceipt = self._spool.send(record.event, once=item.once, since=record.since if again else None)
        return receipt

    def wait(self, item: Item, receipt: PendingReceipt) -> None:
        """Wait for the log's answer, not for ever where the entry may wait elsewhere. Raises: as the receipt."""
        if self.takes(item):
            receipt.wait(self._spool.state, self._spool.after)
        else:
            receipt.wait()

    async def reached(self, item: Item, receipt: PendingReceipt) -> None:
        """Do the same without blocking the loop."""
        if self.takes(item):
            await receipt.reached(self._spool.state, self._spool.after)
        else:
            await receipt

    # --- the spool --------------------------------------------------------------------------------

    def put(self, item: Item, cause: Exception | None = None) -> None:
        """Put an encoded entry that announces an act into the spool, behind what is to go there; durable on return.

        Raises: AuditUnavailable, also where `cause` does not mean that the log is out of reach.
        """
        with self._putting:
            self._put_later()
            self._spool.put([_record(item)], cause or self.cause, begins=True)

    def let_wait(self, item: Item, cause: Exception) -> None:
        """Have an encoded entry put into the spool soon, by the thread that looks after it."""
        self._later.append((item, cause))
        self._spool.watch()

    def put_later(self) -> None:
        """Put into the spool what is to go there; durable on return."""
        if self._later:
            with self._putting:
                self._put_later()

    def _put_later(self) -> None:
        later = list(self._later)
        if not later:
            return
        try:
            self._spool.put([_record(item) for item, _ in later], later[0][1], begins=False)
        except Exception as exc:  # noqa: BLE001  the acts have happened; what is late is told
            for item, _ in later:
                self._keep(item, exc)
        for _ in later:
            self._later.popleft()

    def watch(self, item: Item) -> None:
        """Have somebody see to it that the log's answer comes in time."""
        if self.takes(item):
            self._spool.watch(at_once=False)


def _record(item: Item) -> Record:
    if not isinstance(item.entry, EncodedEvent):
        raise TypeError("what waits is encoded before")
    return Record(item.entry, item.since or 0, item.kind, item.once)
