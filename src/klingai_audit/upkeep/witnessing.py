"""Having a log's checkpoints witnessed: ask, keep what verifies in an entry, and do so again when there is news.

The policy (whom to ask, how many are enough) is `witness.policy` in the keys folder, in the form of C2SP tlog-policy.
"""

from __future__ import annotations

import logging
import threading
import time
from dataclasses import dataclass, replace
from typing import Final

from klingai_audit.diagnostics import tell
from klingai_audit.errors import InconsistentCheckpoints, KlingAuditError, UsageError
from klingai_audit.event.own import own_event
from klingai_audit.ledger.clock import SYSTEM_CLOCK, Clock
from klingai_audit.ledger.reader import LogReader
from klingai_audit.log import AuditLog
from klingai_audit.tlog.checkpoint import parse_checkpoint
from klingai_audit.tlog.note import parse_note
from klingai_audit.trust.quorum import POLICY_FILE, read_policy
from klingai_audit.trust.witnessed import find_witnessed, is_quiet, read_size, witnessed_metadata
from klingai_audit.witness.client import Submission, WitnessClient

__all__ = [
    "POLICY_FILE",
    "Round",
    "Witnessing",
    "ask_witnesses",
    "keep_cosigned",
    "last_witnessed",
    "read_policy",
    "witness_now",
]

_PIECE: Final = 65_536
_GATHER_S: Final = 0.05
"""Who waits for witnesses does so with others: one round for all."""


@dataclass(frozen=True, slots=True)
class Round:
    """One look at whether witnesses should be asked: `submission` is None if there was nothing new to show them.

    `seq` is the entry that keeps the cosigned checkpoint, None if none was written.
    """

    size: int
    submission: Submission | None
    seq: int | None = None


def last_witnessed(reader: LogReader, size: int) -> int | None:
    """Return the size of the newest checkpoint that an entry below `size` keeps as witnessed, None if none does."""
    end = size
    while end > 0:
        begin = max(0, end - _PIECE)
        found = list(find_witnessed(reader.entries(begin, end)))
        if found:
            return read_size(found[-1])
        end = begin
    return None


def witness_now(audit: AuditLog, client: WitnessClient, *, clock: Clock = SYSTEM_CLOCK, always: bool = False) -> Round:
    """Publish, submit the checkpoint to all witnesses, and keep it with their lines in an entry; durable on return.

    Nobody is asked if only the log's own bookkeeping is new since the last time, unless `always`. The entry is
    written if at least one witness cosigned.
    Raises: InconsistentCheckpoints if a witness holds more than this log has; AuditUnavailable.
    """
    audit.flush("published")
    done = ask_witnesses(audit.reader, client, always=always)
    found = done.submission
    if found is None:
        return done
    if any(result.line is not None for result in found.results):
        done = replace(done, seq=keep_cosigned(audit, found, clock=clock))
    for result in found.results:
        if result.state == "ahead":
            raise InconsistentCheckpoints(
                f"The witness {result.name} cosigned {result.held} entries of this log, which has {found.size}.",
                older=found.note,
                newer=b"",
                do="An older state was put back, or there are two histories. Ask the witness for its checkpoint.",
            )
    return done


def ask_witnesses(reader: LogReader, client: WitnessClient, *, always: bool = False) -> Round:
    """Show the published checkpoint to all witnesses; nothing is written, and no keys are needed.

    Nobody is asked if only the log's own bookkeeping is new since the last time, unless `always`.
    """
    note = reader.checkpoint_note()
    size = parse_checkpoint(parse_note(note).text).size
    before = last_witnessed(reader, size)
    if not always and before is not None and is_quiet(reader.entries(before, size)):
        return Round(size, None)
    return Round(size, client.submit(note, reader.consistency, dict.fromkeys(_names(client), before or 0)))


def keep_cosigned(audit: AuditLog, found: Submission, *, clock: Clock = SYSTEM_CLOCK) -> int | None:
    """Keep a checkpoint with the lines of witnesses in an entry; published on return. Raises: AuditUnavailable."""
    event = own_event("checkpoint_witnessed", witnessed_metadata(found.note), clock.now_ns())
    return audit.append(event).wait("published").seq


class Witnessing:
    """Asks the witnesses at an interval, in a thread of its own, until closed. `every` is in seconds.

    Somebody who waits for an entry to be witnessed is not kept waiting for the interval. What goes wrong is logged and
    tried again; `last` is the newest round, `error` what stopped the last attempt.
    """

    def __init__(self, audit: AuditLog, client: WitnessClient, every: float = 60.0) -> None:
        if every <= 0:
            raise UsageError(f"Witnesses cannot be asked every {every:g} s.", do="Use a number above 0.")
        self._audit = audit
        self._client = client
        self._every = every
        self._stop = False
        self._wanted = threading.Event()
        self._thread = threading.Thread(target=self._run, name="klingai-audit-witness", daemon=True)
        self.last: Round | None = None
        self.error: KlingAuditError | None = None
        self._thread.start()
        audit.quorum.on_demand(self._wanted.set)

    def close(self) -> None:
        """Stop asking; waits for a round under way."""
        self._stop = True
        self._wanted.set()
        self._thread.join()

    def _run(self) -> None:
        while True:
            if self._wanted.wait(self._every):
                time.sleep(_GATHER_S)
            self._wanted.clear()
            if self._stop:
                return
            try:
                self.last = witness_now(self._audit, self._client)
                self.error = None
            except KlingAuditError as error:
                self.error = error
                words = "the log could not be witnessed: %s"
                tell(logging.WARNING, "not_witnessed", words, error.message, kind=error.kind)


def _names(client: WitnessClient) -> list[str]:
    return [witness.name for witness in client.policy.witnesses]
