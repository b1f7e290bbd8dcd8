"""A log in memory whose writers lose its answers, and the desk and spool of each of them."""

from __future__ import annotations

import errno
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from klingai_audit import AuditLog
from klingai_audit.capture.desk import Desk, Item
from klingai_audit.capture.spool import Spool
from klingai_audit.durable import FileOps
from klingai_audit.errors import AuditUnavailable
from klingai_audit.event.record import EncodedEvent, decode_event
from klingai_audit.ledger.places import places_of
from klingai_audit.ledger.sought import Sought
from klingai_audit.privacy.policy import Policy
from tests.support.faulty import QuickOps
from tests.support.ledgers import NOON, ORIGIN, event

LOOKUP = bytes(range(32))
POLICY = "[failure]\npaid_create = 'spool'\ndownload = 'spool'\n[spool]\nafter = '1s'\n"

Fate = str
"""`ok`; `away`: nothing was appended; `lost`: it was, and the answer got lost; `slow`: no answer in time."""


class SharedLog:
    """What all writers append to."""

    url = "shared:"

    def __init__(self) -> None:
        self.lines: list[bytes] = []

    def read_entries(self, begin: int, end: int | None = None) -> Iterator[bytes]:
        return iter(self.lines[begin:end])

    def ids(self) -> list[str]:
        """Event ids in order, without the gaps' own entries."""
        events = [decode_event(line) for line in self.lines]
        return [one.event_id for one in events if not one.event_type.startswith("gap_")]

    def gaps(self) -> list[tuple[str, dict[str, Any]]]:
        """Types and metadata of the entries about gaps, in order."""
        events = [decode_event(line) for line in self.lines]
        return [(one.event_type, one.details) for one in events if one.event_type.startswith("gap_")]


class Answer:
    """What `append` returns; `settle` makes it so."""

    def __init__(self) -> None:
        self.error: AuditUnavailable | None = None
        self.done = False
        self._callbacks: list[Callable[[], object]] = []

    def settle(self, error: AuditUnavailable | None = None) -> Answer:
        self.error, self.done = error, True
        for callback in self._callbacks:
            callback()
        return self

    def when_done(self, callback: Callable[[], object]) -> None:
        self._callbacks.append(callback)
        if self.done:
            callback()

    def wait(self, state: str = "durable", timeout: float | None = None) -> Answer:
        if not self.done:
            raise AuditUnavailable(f"The entry was not durable within {timeout} s.")
        if self.error is not None:
            raise self.error
        return self

    async def reached(self, state: str = "durable", timeout: float | None = None) -> Answer:
        return self.wait(state, timeout)

    def __await__(self) -> Iterator[Any]:
        yield from ()
        return self.wait()


class Writer:
    """One process: a target for its spool, and a sink for its desk. `fate` is asked for each batch."""

    def __init__(
        self, shared: SharedLog, state: Path, *, policy: str = POLICY, ops: FileOps | None = None,
        fate: Callable[[], Fate] = lambda: "ok", quiet: bool = True,
    ) -> None:  # fmt: skip
        self.shared = shared
        self.fate = fate
        self.origin = ORIGIN
        self.policy = Policy.parse(policy.encode())
        self.size = 0
        self.sought = Sought(shared)  # type: ignore[arg-type]
        self.pending: list[tuple[list[tuple[EncodedEvent, bool]], list[Answer]]] = []
        self.opened = 0
        kind = _Quiet if quiet else Spool
        ops = ops or QuickOps()
        self.spool = kind(state, LOOKUP, ORIGIN, self.policy, self, ops=ops, now_ns=lambda: NOON)  # type: ignore[arg-type]
        self.desk = Desk(self)  # type: ignore[arg-type]

    @property
    def head(self) -> Writer:
        return self

    def open_again(self) -> None:
        if self.fate() == "away":
            raise AuditUnavailable("It cannot be opened.")
        self.opened += 1

    def append(self, event: EncodedEvent, *, once: bool = False) -> Answer:
        return self.append_batch([(event, once)])[0]

    def append_batch(self, events: Sequence[tuple[EncodedEvent, bool]]) -> list[Answer]:
        answers = [Answer() for _ in events]
        self.pending.append((list(events), answers))
        fate = self.fate()
        if fate != "slow":
            self._work(fate)
        return answers

    def flush(self, *, timeout: float | None = None) -> None:
        fate = self.fate()
        if fate == "slow" and self.pending:
            raise AuditUnavailable(f"No answer within {timeout} s.")
        self._work(fate)

    def _work(self, fate: Fate) -> None:
        """Commit what is queued, as one batch each."""
        pending, self.pending = self.pending, []
        for events, answers in pending:
            error = AuditUnavailable(f"The log is {fate}.") if fate in ("away", "lost") else None
            if fate != "away":
                self.commit(events)
            for answer in answers:
                answer.settle(error)

    def commit(self, events: Sequence[tuple[EncodedEvent, bool]]) -> None:
        """Append as every head does: after what others appended, and nothing that is sought and there."""
        self.size = len(self.shared.lines)
        held = self._held
        for (one, _), place in zip(events, places_of(events, held, self.sought, self.size), strict=True):
            if place is None:
                self.shared.lines.append(one.body)
        self.size = len(self.shared.lines)

    def _held(self, event_id: str) -> None:
        return None

    def record(self, draft: Any, *, once: bool = False) -> Answer:
        raise AssertionError("everything here is encoded")

    def die(self) -> None:
        """Let go of everything, as the end of the process would."""
        for file in self.spool._held:
            file.abandon()
        self.spool._held, self.spool._file = [], None
        self.pending.clear()

    def act(self, kind: str = "paid_create", **more: Any) -> str:
        """Announce an act; returns its event id. Raises: AuditUnavailable: it may not happen."""
        one = event(**more)
        self.desk.announce(Item(one, None, kind=kind))
        return one.event_id


class _Quiet(Spool):
    """Nobody looks after it but the test."""

    def watch(self, *, at_once: bool = True) -> None:
        pass


class Outage(QuickOps):
    """Nothing can be written into a log while the file `away` is there."""

    def __init__(self, away: Path) -> None:
        self._away = away
        self._entries: set[int] = set()

    def fails(self) -> bool:
        """Whether the log is out of reach."""
        return self._away.exists()

    def open(self, path: Path, flags: int, mode: int = 0o644) -> int:
        if path.name == "audit" and self.fails():
            raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))
        fd = super().open(path, flags, mode)
        if path.name.startswith("audit-"):
            self._entries.add(fd)
        else:
            self._entries.discard(fd)
        return fd

    def write(self, fd: int, data: bytes) -> int:
        if fd in self._entries and self.fails():
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return super().write(fd, data)


class Slow(QuickOps):
    """What is written into a log waits while `away` is set."""

    def __init__(self) -> None:
        self.away = threading.Event()
        self._entries: set[int] = set()

    def open(self, path: Path, flags: int, mode: int = 0o644) -> int:
        fd = super().open(path, flags, mode)
        (self._entries.add if path.name.startswith("audit-") else self._entries.discard)(fd)
        return fd

    def write(self, fd: int, data: bytes) -> int:
        while fd in self._entries and self.away.is_set():
            time.sleep(0.005)
        return super().write(fd, data)


def make_log(base: Path, *, after: str = "10s", more: str = "", **classes: str) -> None:
    """Make a log in which orders and reads may wait, or the classes that are named."""
    AuditLog.open(base / "audit").close()
    given = classes or {"paid_create": "spool", "read": "spool"}
    text = "".join(f'{name} = "{value}"\n' for name, value in given.items())
    (base / "audit.keys" / "policy.toml").write_text(f'[failure]\n{text}[spool]\nafter = "{after}"\n{more}')
