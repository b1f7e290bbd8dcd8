"""Waiting until witnesses have seen an entry: until the log holds a checkpoint over it, cosigned as the policy asks.

Who asks the witnesses is all the same: this process or another, as every round that succeeds leaves an entry
`checkpoint_witnessed`. What such an entry says is checked: signatures by the policy's keys, and the root.
"""

from __future__ import annotations

import asyncio
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from klingai_audit.diagnostics import tell
from klingai_audit.durable import read_optional
from klingai_audit.errors import AuditUnavailable, InvalidSignature, KlingAuditError, Malformed
from klingai_audit.ledger.reader import LogReader
from klingai_audit.privacy.policy import WitnessRules
from klingai_audit.tlog.keys import VerifierKey
from klingai_audit.tlog.merkle import root_at
from klingai_audit.tlog.policy import MAX_POLICY_BYTES, WitnessPolicy
from klingai_audit.tlog.tile import node_reader

__all__ = ["POLICY_FILE", "Quorum", "read_policy"]

POLICY_FILE: Final = "witness.policy"
"""Name of the witnesses' policy in the keys folder, in the form of C2SP tlog-policy."""

POLL_S: Final = 0.1


def read_policy(keys: Path) -> WitnessPolicy | None:
    """Return the policy in a keys folder, None if there is none. Raises: Malformed, OSError."""
    data = read_optional(keys / POLICY_FILE, limit=MAX_POLICY_BYTES)
    return None if data is None else WitnessPolicy.parse(data)


class Quorum:
    """What the witnesses of a log's policy have seen, by the log's entries. Thread-safe.

    `key` is the log's, `keys` its keys folder. `rules` say how long somebody waits who does not.
    """

    def __init__(self, reader: LogReader, key: VerifierKey, keys: Path, rules: WitnessRules) -> None:
        self._reader = reader
        self._key = key
        self._keys = keys
        self._patience = rules.span.total_seconds()
        self._askers: list[Callable[[], object]] = []
        self._reset(None)

    def _reset(self, policy: WitnessPolicy | None) -> None:
        self._lock = threading.Lock()
        self._pid = os.getpid()
        self._policy = policy
        self._covered = 0
        self._seen = (0, 0)

    def on_demand(self, ask: Callable[[], object]) -> None:
        """Have `ask` called whenever somebody begins to wait; it must return at once."""
        self._askers.append(ask)

    def wait(self, seq: int, timeout: float | None = None) -> None:
        """Block until the quorum has seen entry `seq`, at most `timeout` seconds.

        Raises: AuditUnavailable when time is up, or at once if no policy says who has to see it.
        """
        deadline = time.monotonic() + self._begin(timeout)
        while not self.covers(seq):
            left = deadline - time.monotonic()
            if left <= 0:
                raise self._too_late(seq, timeout)
            time.sleep(min(POLL_S, left))

    async def awaited(self, seq: int, timeout: float | None = None) -> None:
        """Do the same without blocking the loop."""
        deadline = time.monotonic() + self._begin(timeout)
        while not await asyncio.to_thread(self.covers, seq):
            left = deadline - time.monotonic()
            if left <= 0:
                raise self._too_late(seq, timeout)
            await asyncio.sleep(min(POLL_S, left))

    def covers(self, seq: int) -> bool:
        """Tell whether entries of the log show that the quorum has seen entry `seq`.

        Raises: AuditUnavailable if no policy says who has to see it.
        """
        from klingai_audit.trust.witnessed import find_witnessed  # not before somebody waits: it is not small

        policy = self._demanded()
        if self._pid != os.getpid():
            self._reset(policy)
        with self._lock:
            if policy != self._policy:
                self._policy, self._covered, self._seen = policy, 0, (0, 0)
            if self._covered > seq:
                return True
            for begin, end in self._unseen(seq + 1, self._reader.size):
                for line in find_witnessed(self._reader.entries(begin, end)):
                    self._covered = max(self._covered, self._read(line, policy))
            return self._covered > seq

    def _unseen(self, begin: int, end: int) -> Iterator[tuple[int, int]]:
        """Yield ranges of `[begin, end)` that were not looked through; what is between looked-at ranges counts as so.

        What witnesses saw of an entry stands behind it.
        """
        first, last = self._seen
        if first == last:
            first = last = begin
        self._seen = min(begin, first), max(end, last)
        if begin < first:
            yield begin, first
        if last < end:
            yield last, end

    def _read(self, line: bytes, policy: WitnessPolicy) -> int:
        """Return the size that an entry shows to be seen by the quorum, 0 if it shows nothing."""
        from klingai_audit.trust.epochs import read_metadata
        from klingai_audit.trust.witnessed import read_witnessed

        try:
            found = read_witnessed(read_metadata(line), self._key, policy.keys)
            root = root_at(found.checkpoint.size, node_reader(self._reader.store.read_hashes))
        except (Malformed, InvalidSignature):
            return 0
        good = root == found.checkpoint.root and policy.is_satisfied(found.times.keys())
        return found.checkpoint.size if good else 0

    def _begin(self, timeout: float | None) -> float:
        self._demanded()
        for ask in self._askers:
            try:
                ask()
            except Exception as exc:  # noqa: BLE001  whoever asks, others may, too
                tell(logging.ERROR, "witnesses_not_asked", "the witnesses could not be asked", error=exc)
        return self._patience if timeout is None else timeout

    def _demanded(self) -> WitnessPolicy:
        path = self._keys / POLICY_FILE
        try:
            policy = read_policy(self._keys)
        except (OSError, KlingAuditError) as exc:
            why = exc.message if isinstance(exc, KlingAuditError) else exc.strerror
            raise AuditUnavailable(f"{path} cannot be used: {why}") from exc
        if policy is None or policy.quorum is None:
            why = f"there is no {path}" if policy is None else f"{path} asks for nobody"
            raise AuditUnavailable(
                f"Nobody can be waited for to witness an entry: {why}.", do="docs/how-to/witness.md shows a policy."
            )
        return policy

    def _too_late(self, seq: int, timeout: float | None) -> AuditUnavailable:
        policy = self._policy.describe() if self._policy else ""
        seconds = self._patience if timeout is None else timeout
        return AuditUnavailable(
            f"Entry {seq} is durable, but it was not witnessed by {policy} within {seconds:.2g} s.",
            do="Does anybody ask the witnesses (klingai-audit watch --record, witness submit --every)? Do they answer?",
        )
