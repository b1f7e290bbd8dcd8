"""Puts the parts of an endpoint together over one open log, and records who may send events to it."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from klingai_audit.errors import KlingAuditError
from klingai_audit.event.own import own_event
from klingai_audit.ingest.capacity import Limits
from klingai_audit.ingest.endpoint import Endpoint, Served
from klingai_audit.ingest.intake import Intake
from klingai_audit.ingest.memory import Memory, alone
from klingai_audit.ingest.producers import ProducerFile, Producers
from klingai_audit.ledger.counters import writers_of
from klingai_audit.ledger.options import OptionsMemory
from klingai_audit.log import AuditLog

__all__ = ["opened"]

_OPTION: Final = "ingest_producers"


@contextlib.contextmanager
def opened(
    audit: AuditLog,
    producers: Path,
    *,
    limits: Limits | None = None,
    told: Callable[[Served], None] = lambda _served: None,
    trouble: Callable[[KlingAuditError], None] = lambda _error: None,
) -> Iterator[Endpoint]:
    """Give the endpoint of a log for the length of a block.

    A file of producers that is otherwise than the last time is an entry before it is in force. `told` is called with
    each answer, `trouble` with what is wrong with a file that was changed meanwhile.
    Raises: UsageError, UnsafePermissions: the file of producers. StorageError: another endpoint has the state folder.
    """
    with alone(audit.places.state):
        options = OptionsMemory(audit.places.state)
        file = ProducerFile(producers, changed=lambda new: _note(audit, options, new), told=trouble)
        memory = Memory(audit.places.state, audit.reader)
        intake = Intake(audit, memory)
        try:
            memory.find(())  # what is read of the last 24 hours is read before anybody waits for it
            memory.include(max((one.size for one in writers_of(audit.origin)), default=0))
            yield Endpoint(intake, file, limits, told)
        finally:
            intake.close()


def _note(audit: AuditLog, memory: OptionsMemory, producers: Producers) -> None:
    """Record the digest of the file in force and the names in it. Raises: AuditUnavailable."""
    told = {_OPTION: producers.digest}
    before = memory.changes({_OPTION: ""})
    if before and not memory.changes(told):
        return
    change = {"old": before[_OPTION]["old"], "new": producers.digest} if before else {"new": producers.digest}
    metadata = {"changed": {_OPTION: change}, "producers": list(producers.names)}
    audit.append(own_event("settings_changed", metadata, time.time_ns())).wait()
    memory.remember(told)
