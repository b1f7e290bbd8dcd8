"""Logs in memory, and the events that a log received while a block ran."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from klingai_audit.durable import FileOps
from klingai_audit.event.types import EVENT_TYPES
from klingai_audit.ledger.clock import SYSTEM_CLOCK, Clock
from klingai_audit.log import AuditLog
from klingai_audit.privacy.policy import Policy
from klingai_audit.views.entry import EntryView, People

__all__ = ["CapturedEvents", "capture_events", "memory_log"]


class _Hasty(FileOps):
    """The real operations, but nobody waits for the disk: what a test writes need not outlive the machine."""

    def sync(self, fd: int) -> None:
        """Do nothing."""


@contextmanager
def memory_log(*, policy: str | None = None, clock: Clock = SYSTEM_CLOCK) -> Iterator[AuditLog]:
    """Open a log in memory for the block; its keys are in a temporary folder that goes with it.

    `policy` is the text of a policy.toml (default: the one that `init` writes). The log is a complete one: people
    become pseudonyms, prompts commitments, and `verify` works.
    Raises: InvalidPolicy.
    """
    ops = _Hasty()
    with tempfile.TemporaryDirectory(prefix="klingai-audit-") as folder:
        keys, state = Path(folder, "keys"), Path(folder, "state")
        if policy is not None:
            Policy.parse(policy.encode())
            ops.make_folder(keys, 0o700)
            ops.replace(keys / "policy.toml", policy.encode())
        with AuditLog.open(
            "memory:", keys=keys, state=state, subjects=keys / "subjects.sqlite", clock=clock, ops=ops
        ) as audit:
            yield audit


class CapturedEvents:
    """The events that `audit` received since the block began, as they are stored; asked anew each time.

    What the log writes about itself is left out. `len`, iteration and indexing are those of `events`.
    """

    def __init__(self, audit: AuditLog) -> None:
        audit.flush("published")
        self.audit = audit
        self._begin = audit.reader.size

    @property
    def events(self) -> list[EntryView]:
        """The events, in order; `event.actor("id")` gives an actor's raw id."""
        self.audit.flush()
        people = People(self.audit.subjects)
        found = (EntryView(line, people) for line in self.audit.entries(self._begin))
        return [event for event in found if not _is_own(event.event_type)]

    @property
    def types(self) -> list[str]:
        """The events' types, in order."""
        return [event.event_type for event in self.events]

    def of(self, *event_types: str) -> list[EntryView]:
        """Return the events of these types, in order."""
        return [event for event in self.events if event.event_type in event_types]

    def __len__(self) -> int:
        return len(self.events)

    def __iter__(self) -> Iterator[EntryView]:
        return iter(self.events)

    def __getitem__(self, index: int) -> EntryView:
        return self.events[index]

    def __repr__(self) -> str:
        return f"CapturedEvents({', '.join(self.types)})"


@contextmanager
def capture_events(
    audit: AuditLog | None = None, *, policy: str | None = None, clock: Clock = SYSTEM_CLOCK
) -> Iterator[CapturedEvents]:
    """Give the events that a log receives while the block runs: hand `.audit` to the code under test.

    Without `audit` the log is a new one in memory (`policy` and `clock` as for `memory_log`). Nothing is patched and
    nothing is shared: two blocks at once see their own events only. The events stay readable in the block only.
    """
    if audit is not None:
        yield CapturedEvents(audit)
        return
    with memory_log(policy=policy, clock=clock) as made:
        yield CapturedEvents(made)


def _is_own(event_type: str) -> bool:
    info = EVENT_TYPES.get(event_type)
    return info is not None and info.own
