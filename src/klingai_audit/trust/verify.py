"""Verification of a whole log: from its files and a public key to a graded verdict. Reads only.

The steps follow docs/format.md, section 10. The fast path (`scan` in `pool`) settles a whole log; if a range is
unsound, a link or a root is off, or `tree/0` differs, `diagnose` finds out what happened.
"""

from __future__ import annotations

import datetime as dt
import os
import time
from collections.abc import Sequence
from typing import Final

from klingai_audit.errors import LogNotFound, UsageError
from klingai_audit.ledger.store import Store
from klingai_audit.tlog.keys import VerifierKey
from klingai_audit.trust.anchors import read_key
from klingai_audit.trust.assess import Grounds, assess
from klingai_audit.trust.damage import State, damaged_state, whole_state
from klingai_audit.trust.epochs import Epochs, FirstEntry
from klingai_audit.trust.evidence import (
    check_kept_set,
    check_memory,
    check_roots,
    check_strays,
    check_tree,
    read_anchors,
)
from klingai_audit.trust.look import Look, Watch, reader_of
from klingai_audit.trust.reading import Progress, Reading
from klingai_audit.trust.semantics import find_notes
from klingai_audit.trust.verdict import Finding, Unsigned, Verdict

__all__ = ["PATIENCE", "verify"]

PATIENCE: Final = 2.0
"""Seconds for which unfinished things are looked at again."""

_NAMED_TYPES: Final = ("signing_key_rotated", "log_closed")
_LOG_ITSELF: Final = "the log itself"


def verify(
    store: Store,
    *,
    key: str | None = None,
    key_source: str = "--key",
    also: Sequence[tuple[str, str]] = (),
    epoch_key: str | None = None,
    remembered: bytes | None = None,
    proofs_only: bool = False,
    processes: int | None = None,
    progress: Progress | None = None,
    now: dt.datetime | None = None,
    patience: float = PATIENCE,
) -> Verdict:
    """Verify a log and return the verdict; never raises for what the log holds.

    `key` is the trusted log key (vkey) and `key_source` says where it came from; with None the log's own claim
    is taken and `foreign_key` stays open. `also` are (vkey, source) of other places that know the log's key: one
    that differs is a finding. `epoch_key` is epoch 0's vkey if it was kept. `remembered` is a signed checkpoint
    seen earlier. `proofs_only` leaves out decoding entries (links, leaves, tree and signatures remain).
    `processes` is the number of workers for large logs (default: one for each processor). `patience` is in
    seconds: 0 for a log that surely has no writer.
    Raises: LogNotFound if there is nothing and nothing is remembered; UsageError for a key that is none;
    AuditUnavailable if the store cannot be read at all.
    """
    judge = _Judge(store, _parse_key(key), key_source, _parse_key(epoch_key), now or dt.datetime.now(dt.UTC))
    for vkey, source in also:
        if judge.trusted is not None and _parse_key(vkey) != judge.trusted:
            message = f"{source} names another key for this log ({vkey}) than {key_source} does ({key})."
            judge.findings.append(Finding("key_disagreement", message))
    watch = Watch(store, patience, time.sleep)
    first = watch.look()
    if not first.after and remembered is None:
        raise LogNotFound(f"There is no log at {store.url}.", do="Name it with --log, or run: klingai-audit init")
    if not first.after:
        message = f"There is no log at {store.url}, but a signed checkpoint of it is remembered."
        judge.findings.append(Finding("log_missing", message))
        return judge.verdict(Grounds(), 0, 0)
    reading = Reading(store, not proofs_only, processes or os.cpu_count() or 1, progress)
    reading.scan(first)
    last = reading.look_again(watch, first)
    return judge.judge(reading, first, last, remembered)


def _parse_key(vkey: str | None) -> VerifierKey | None:
    if vkey is None:
        return None
    key = read_key(vkey.strip())
    if key is None:
        raise UsageError("The given key is not an Ed25519 verifier key.", do="Give <name>+<8 hex digits>+<base64>.")
    return key


class _Judge:
    """Weighs what was read of one log."""

    def __init__(
        self,
        store: Store,
        trusted: VerifierKey | None,
        key_source: str,
        epoch_key: VerifierKey | None,
        now: dt.datetime,
    ) -> None:
        self.store = store
        self.trusted = trusted
        self.key_source = key_source if trusted else ""
        self.epoch_key = epoch_key
        self.now = now
        self.key = trusted
        self.findings: list[Finding] = []

    def judge(self, reading: Reading, first: Look, last: Look, remembered: bytes | None) -> Verdict:
        """Go through the steps of docs/format.md, section 10, and return the verdict."""
        # Step 2: signed checkpoints. The log's own claim about its key comes first, to tell a foreign key from noise.
        entry = FirstEntry(reading.scanned.first_line())
        self.key = self.trusted or entry.log_key
        head, anchors, faults = read_anchors(last, lambda f: reader_of(self.store, f), self.trusted, entry.log_key)
        size = head.size if head is not None else max((a.size for a in anchors), default=reading.scanned.lines)
        # Steps 3 to 5: entries, links, tree.
        state = whole_state(reading, anchors, size)
        if state is None:
            state = damaged_state(reading, anchors, size, last, seal_due=last is first)
        self.findings += [*reading.findings, *state.findings, *faults]
        self.findings += check_tree(first, last, reading.first_lines, size, state.levels, reading.reader)
        # Steps 6 and 7: first entry and epochs.
        if not state.damaged(0):
            self.findings += entry.check(self.trusted, self.epoch_key, state.place)
        epochs = self._epochs(entry, state)
        # Step 8: kept checkpoints.
        judged = [anchor for anchor in anchors if anchor.size <= state.limit]
        self.findings += [*epochs.findings, *check_roots(judged, state.root, epochs)]
        named = {seq + 1: kind for seq, line in state.own for kind in _NAMED_TYPES if _is_type(line, kind)}
        if head is not None:
            self.findings += check_kept_set(first, last, size, named, state.damaged)
        # Step 1 comes late: a stray file may have turned out to hold entries.
        self.findings += check_strays(first, last, state.renamed)
        # Step 9: memory.
        old, faults = check_memory(remembered, head, self.key, size, state.root)
        self.findings += faults
        if not any(finding.severity == "broken" for finding in self.findings):
            self.findings += find_notes(reading.scanned, self.now, decoded=reading.decode)
        grounds = Grounds(
            size=size if anchors else 0,
            reached=bool(anchors) and state.root(size) is not None,
            key_id=self.key.key_id.hex() if self.key else "",
            key_source=self.key_source,
            remembered=old if not faults else None,
            epochs=len(epochs.keys),
            closed=epochs.ends[-1] if epochs.ends else 0,
            first_epoch_pinned=self.epoch_key is not None,
        )
        bad = state.bad_lines
        return self.verdict(grounds, 0 if head is None else size, reading.scanned.lines, bad, state.unsigned)

    def _epochs(self, entry: FirstEntry, state: State) -> Epochs:
        epochs = Epochs(entry.origin, None if state.damaged(0) else entry.epoch_key)
        for seq, line in state.own:
            if _is_type(line, "signing_key_rotated") and seq < state.limit:
                epochs.rotate(seq, line, state.root(seq), state.place)
        return epochs

    def verdict(
        self, grounds: Grounds, size: int, total: int, bad_lines: int = 0, unsigned: Unsigned | None = None
    ) -> Verdict:
        """Put the verdict together."""
        return Verdict(
            scope="log",
            log=self.store.url,
            origin=None if self.key is None else self.key.name,
            key=None if self.key is None else self.key.format(),
            key_source=self.key_source or _LOG_ITSELF,
            size=size,
            total=total,
            valid=max(0, total - bad_lines),
            findings=tuple(self.findings),
            threats=assess(self.findings, grounds),
            unsigned=unsigned or Unsigned(),
        )


def _is_type(line: bytes, kind: str) -> bool:
    return line.startswith(kind.encode() + b'"', 118)
