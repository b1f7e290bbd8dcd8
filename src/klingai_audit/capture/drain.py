"""How what waits in a spool file gets into the log: in order, each record once, and an entry that says how many waited.

Exactly once: every record says from which entry of the log on its event may stand already, since it may have been
handed to the log before and the answer was lost. The head looks there, under the writer lock, before it appends
(`ledger.sought`). So a drain that was cut off is simply done again.
"""

from __future__ import annotations

import hashlib
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final, Protocol

from klingai_audit.durable import PRIVATE_MODE, FileOps
from klingai_audit.errors import Malformed
from klingai_audit.event.own import own_event
from klingai_audit.event.record import EncodedEvent, format_time, new_event_id
from klingai_audit.ledger.sought import Sought
from klingai_audit.ledger.spool import Contents, Entry, SpoolFile

__all__ = ["GAP", "Drain", "Pending", "SpoolTarget", "time_left"]

GAP: Final = "gap"
"""Class of the records by which a spool file says that a gap begins."""

_BATCH: Final = 1_000
"""Records that go into the log at once: those behind wait until they are durable there."""


class Pending(Protocol):
    """What `SpoolTarget.append` returns; see `ledger.receipt.Receipt`."""

    def wait(self, state: Any = "durable", timeout: float | None = None) -> Any:
        """Block until it is durable. Raises: AuditUnavailable."""
        ...

    def when_done(self, callback: Callable[[], object]) -> None:
        """Have `callback` called when that is known."""
        ...


class _Head(Protocol):
    @property
    def sought(self) -> Sought: ...

    @property
    def size(self) -> int: ...


class SpoolTarget(Protocol):
    """The log as a spool sees it: `ledger.appender.Appender` is one."""

    @property
    def head(self) -> _Head:
        """The head that the writer of this process moves."""
        ...

    def open_again(self) -> None:
        """Open the log if it is not open. Raises: AuditUnavailable."""
        ...

    def append(self, event: EncodedEvent, *, once: bool = False) -> Pending:
        """Queue an event. Raises: AuditUnavailable."""
        ...

    def append_batch(self, events: Sequence[tuple[EncodedEvent, bool]]) -> Sequence[Pending]:
        """Queue (event, once) pairs that are committed together or not at all. Raises: AuditUnavailable."""
        ...

    def flush(self, *, timeout: float | None = None) -> None:
        """Block until nothing is queued that was queued before. Raises: AuditUnavailable."""
        ...


def time_left(deadline: float | None) -> float | None:
    """Seconds until a moment of `time.monotonic()`; None for ever."""
    return None if deadline is None else max(0.0, deadline - time.monotonic())


class Drain:
    """Empties spool files into one log; used by one thread at a time. Methods raise AuditUnavailable and OSError."""

    def __init__(self, target: SpoolTarget, state: Path, ops: FileOps, now_ns: Callable[[], int]) -> None:
        self._target = target
        self._aside = state / "aside"
        self._ops = ops
        self._now_ns = now_ns
        self._known: dict[str, Contents] = {}
        self._sent: dict[str, int] = {}

    def send(self, file: SpoolFile, deadline: float | None) -> Contents:
        """Append the records that were not appended by an earlier call; durable on return."""
        contents = self._known[file.name] = file.contents(self._known.get(file.name))
        done = self._sent.get(file.name, -1)
        entries = [entry for entry in contents.entries if entry.number > done]
        self._append(file, entries, deadline)
        return contents

    def _append(self, file: SpoolFile, entries: Sequence[Entry], deadline: float | None) -> None:
        if not entries:
            return
        self._target.head.sought.seek({entry.event_id: entry.since for entry in entries})
        self._target.flush(timeout=time_left(deadline))
        for begin in range(0, len(entries), _BATCH):
            batch = entries[begin : begin + _BATCH]
            for receipt in self._target.append_batch(self._events(file, batch)):
                receipt.wait(timeout=time_left(deadline))
            self._sent[file.name] = batch[-1].number

    def _events(self, file: SpoolFile, entries: Sequence[Entry]) -> list[tuple[EncodedEvent, bool]]:
        try:
            return [(file.event(entry), entry.once) for entry in entries]
        except Malformed:  # it is looked at anew, and then told apart
            self._known.pop(file.name, None)
            raise

    def finish(self, file: SpoolFile, contents: Contents, deadline: float | None) -> None:
        """Put aside what is no record, say in the log what waited, and remove the file; all records were sent."""
        entries = contents.entries
        if entries or contents.refused:
            closing = _as_event_id(file.name) if entries else new_event_id(self._now_ns())
            event = own_event("gap_closed", self._facts(file, contents), self._now_ns(), event_id=closing)
            sought = self._target.head.sought
            sought.seek({closing: min((entry.since for entry in entries), default=0)})
            self._target.append(event).wait(timeout=time_left(deadline))
            sought.forget([closing, *(entry.event_id for entry in entries)])
        file.remove()
        self._sent.pop(file.name, None)
        self._known.pop(file.name, None)

    def _facts(self, file: SpoolFile, contents: Contents) -> dict[str, Any]:
        classes = Counter(entry.cls for entry in contents.entries if entry.cls != GAP)
        facts: dict[str, Any] = {
            "late": classes.total(),
            "lost": contents.missing,
            "classes": dict(sorted(classes.items())),
            "since": contents.begun or format_time(self._now_ns()),
            "spool": file.name,
        }
        if contents.refused:
            data = file.read(contents.refused)
            digest = hashlib.sha256(data).hexdigest()
            self._ops.make_folder(self._aside, 0o750)
            self._ops.replace(self._aside / digest, data, mode=PRIVATE_MODE)
            facts["set_aside"] = {"sha256": digest, "bytes": len(data)}
        return facts


def _as_event_id(name: str) -> str:
    """The id of the entry that closes a gap is the name of its spool file, so that there is one, however it is told."""
    return f"{name[:8]}-{name[8:12]}-{name[12:16]}-{name[16:20]}-{name[20:]}"
