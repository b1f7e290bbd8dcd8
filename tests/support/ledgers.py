"""Small logs on bare ledgers: no privacy, no capture, clocks under the test's control."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from klingai_audit.durable import OPS, FileOps
from klingai_audit.errors import AuditUnavailable
from klingai_audit.event.own import own_event
from klingai_audit.event.record import EncodedEvent, Event, encode_event, end_event_id, format_time, new_event_id
from klingai_audit.ledger.appender import Appender
from klingai_audit.ledger.clock import SYSTEM_CLOCK, Clock
from klingai_audit.ledger.heads_of import head_of
from klingai_audit.ledger.keys import KeyFolder
from klingai_audit.ledger.line import compute_seal, splice
from klingai_audit.ledger.reader import LogReader
from klingai_audit.ledger.state import FAILED_SYNC, StateFolder
from klingai_audit.ledger.store import Store
from klingai_audit.stores.directory import DirectoryStore
from klingai_audit.tlog.merkle import leaf_hash

ORIGIN = "log.example.com/test"
NOON = 1_795_262_400 * 10**9  # 2026-11-21T12:00:00Z


class HandClock:
    """A clock that moves only when the test says so."""

    def __init__(self, now_ns: int = NOON) -> None:
        self.wall = now_ns
        self.boot = 1_000 * 10**9

    def now_ns(self) -> int:
        return self.wall

    def boot_ns(self) -> int:
        return self.boot

    def advance(self, seconds: float) -> None:
        """Let time pass on both clocks."""
        self.wall += int(seconds * 1e9)
        self.boot += int(seconds * 1e9)

    def step(self, seconds: float) -> None:
        """Set the wall clock ahead or back."""
        self.wall += int(seconds * 1e9)


def event(
    name: str = "x_test", metadata: Mapping[str, Any] | None = None, *, event_id: str | None = None
) -> EncodedEvent:
    """Return an encoded event of no importance."""
    return encode_event(
        Event(
            event_id=event_id or new_event_id(),
            timestamp=format_time(NOON),
            event_type=name,
            actor_id="p_0123456789abcdefghijkl",
            actor_type="user",
            outcome="success",
            metadata=dict(metadata or {"n": 1}),
        )
    )


def end_event(task: str, state: str = "succeeded") -> EncodedEvent:
    """Return the end event of a provider task: equal ids for equal tasks."""
    return event("task_completed", {"task": task}, event_id=end_event_id(ORIGIN, task, state))  # type: ignore[arg-type]


class Ledger:
    """A directory log below `base` with keys and state beside it."""

    def __init__(
        self,
        base: Path,
        *,
        ops: FileOps = OPS,
        clock: Clock = SYSTEM_CLOCK,
        store: Store | None = None,
        rotation: str = "daily",
        accept_clock: bool = False,
    ) -> None:
        self.base = base
        self.log = base / "audit"
        self.keys = KeyFolder(base / "audit.keys", ops)
        self.state = StateFolder(base / "audit.state", ops)
        self.store = store if store is not None else DirectoryStore(self.log, base / "audit.state" / FAILED_SYNC, ops)
        self.reader = LogReader(self.store)
        if not self.keys.exists() or self.keys.pending:
            with self.keys.locked():
                self.keys.create(ORIGIN)
            self.state.create()
            self.store.create()
        self.keys.resume()
        self.clock = clock
        self.head = head_of(
            self.store,
            self.keys,
            self.state,
            lambda name, metadata: own_event(name, metadata, clock.now_ns()),
            clock,
            rotation=rotation,  # type: ignore[arg-type]
            accept_clock=accept_clock,
        )
        self.appender = Appender(self.head, opening=lambda: {"policy": "0" * 64, "writer": "test"})

    def open(self) -> Self:
        created = own_event(
            "log_created",
            {
                "format": 1,
                "origin": self.keys.origin,
                "log_key": self.keys.log_signer.verifier.format(),
                "epoch": 0,
                "epoch_key": self.keys.current.signer.verifier.format(),
                "policy": "0" * 64,
            },
            self.clock.now_ns(),
        )
        self.appender.open(created=[(created, False)])
        self.keys.created()
        return self

    def close(self) -> None:
        self.appender.close()

    def die(self) -> None:
        """Stop the threads where they are, without another word to the log: as if the process had ended."""
        if self.appender._thread is not None:
            self.appender._stop(AuditUnavailable("the process ended"))
            self.appender._thread.join()
        self.head.ends.close()
        self.store.close()

    def __enter__(self) -> Self:
        return self.open()

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def vkey(self) -> str:
        return (self.keys.path / "log.pub").read_text().strip()

    def lines(self) -> list[bytes]:
        return list(self.store.read_entries(0))

    def types(self) -> list[str]:
        from klingai_audit.ledger.line import event_type_of

        return [event_type_of(line) for line in self.lines()]


def next_batch(ledger: Ledger, count: int, logged_at: str = "2026-11-21T12:00:00.000000Z") -> bytes:
    """Return `count` lines with a seal that would follow the log's last one, as its writer would write them."""
    lines = ledger.lines()
    seq, prev, made = len(lines), leaf_hash(lines[-1]), b""
    for number in range(count):
        line = splice(event().body, seq + number, logged_at.encode(), prev)
        if number == count - 1:
            line = compute_seal(ledger.keys.current.tail, ledger.keys.origin, line)
        prev, made = leaf_hash(line), made + line + b"\n"
    return made


def unsealed_entries(begin: int, count: int, day: dt.date, prev: bytes = bytes(32)) -> list[bytes]:
    """Entries `[begin, begin + count)` logged on `day`, linked among themselves, for tests of bare stores."""
    lines: list[bytes] = []
    logged_at = f"{day.isoformat()}T12:00:00.000000Z".encode()
    for seq in range(begin, begin + count):
        lines.append(splice(event(metadata={"n": seq}).body, seq, logged_at, prev))
        prev = leaf_hash(lines[-1])
    return lines
