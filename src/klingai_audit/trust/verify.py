"""Verification of a whole log: from its files and a public key to a graded verdict. Reads only.

The steps follow docs/format.md, section 10. The fast path (`scan` in `pool`) settles a whole log; if a range is
unsound, a link or a root is off, or `tree/0` differs, `diagnose` finds out what happened.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime as dt
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from klingai_audit.errors import AuditUnavailable, KlingAuditError, LogNotFound, UsageError, VerificationError
from klingai_audit.ledger.batches import takes_batches
from klingai_audit.ledger.mirror import Mirrored
from klingai_audit.ledger.store import Store
from klingai_audit.privacy.policy import Policy
from klingai_audit.tlog.keys import VerifierKey
from klingai_audit.tlog.policy import WitnessPolicy
from klingai_audit.trust.anchors import read_key, read_mldsa_key
from klingai_audit.trust.authority import Roots
from klingai_audit.trust.dating import DATED_WITHIN
from klingai_audit.trust.judge import Judge, Terms, gave_up, missing_log
from klingai_audit.trust.look import Watch
from klingai_audit.trust.mirrored import at_hand, faults_of, told_of
from klingai_audit.trust.reading import Progress, Reading
from klingai_audit.trust.remember import Memory
from klingai_audit.trust.verdict import Finding, Verdict

__all__ = ["PATIENCE", "Progress", "verify"]

PATIENCE: Final = 2.0
"""Seconds for which unfinished things are looked at again."""


def verify(
    store: Store,
    *,
    key: str | None = None,
    key_source: str = "--key",
    also: Sequence[tuple[str, str]] = (),
    epoch_key: str | None = None,
    mldsa_key: str | None = None,
    mldsa_source: str = "--mldsa-key",
    remembered: bytes | None = None,
    forgotten: str = "",
    policy: Policy | None = None,
    witnesses: WitnessPolicy | None = None,
    require_witness: bool = False,
    tsa_roots: Roots | None = None,
    quick_from: Memory | None = None,
    proofs_only: bool = False,
    compare: bool = True,
    processes: int | None = None,
    progress: Progress | None = None,
    now: dt.datetime | None = None,
    patience: float = PATIENCE,
    scratch: Path | None = None,
    copied: Callable[[Mirrored], None] | None = None,
) -> Verdict:
    """Verify a log and return the verdict; never raises for what the log holds.

    `key` is the trusted log key (vkey) and `key_source` says where it came from; with None the log's own claim is
    taken and `foreign_key` stays open. `also` are (vkey, source) of other places that know the log's key: one that
    differs is a finding. `epoch_key` is epoch 0's vkey if it was kept, `mldsa_key` the log's ML-DSA-44 one, and
    `mldsa_source` where that came from. `remembered` is a signed checkpoint seen earlier; `forgotten` says why one
    could not be read. `policy` may tolerate lines that no checkpoint covers.
    `witnesses` are whose cosignatures count, and how many are enough; `require_witness` makes it a finding if no
    checkpoint has enough.
    `tsa_roots` are root certificates of time stamp authorities; without any, who issued the log's time stamps is not
    checked. `policy` says up to which distance between entries and stamps back-dating counts as ruled out.
    `quick_from` (`Verdict.memory` of an earlier run) spares reading again what that run verified, unless anything
    is off. `proofs_only` leaves out decoding entries (links, leaves, tree and signatures remain). `compare` False
    leaves out the notes that compare entries (acts without an outcome, equal ids, two ends). `processes` is
    the number of workers for large logs (default: one for each processor). `patience` is in seconds: 0 for a log
    that surely has no writer. A log on a server is copied below `scratch` first (default: the temporary folder), with
    `quick_from` only what is new of it; the copy is removed afterwards. `copied` is told of each.
    Raises: LogNotFound if there is nothing and nothing is remembered; UsageError for a key that is none;
    AuditUnavailable if the store cannot be read at all.
    """
    trusted = _parse_key(key)
    terms = Terms(
        trusted=trusted,
        key_source=key_source if trusted else "",
        epoch_key=_parse_key(epoch_key),
        mldsa_key=_parse_mldsa_key(mldsa_key),
        mldsa_source=mldsa_source if mldsa_key else "",
        remembered=remembered,
        forgotten=forgotten,
        tolerant=policy is not None and not policy.verify.require_checkpoint,
        now=now or dt.datetime.now(dt.UTC),
        findings=tuple(_disagreements(trusted, key_source, also)),
        witnesses=witnesses,
        demanded=require_witness,
        tsa_roots=tsa_roots,
        dated_within=DATED_WITHIN if policy is None else 2 * policy.timestamp.span,
        compare=compare,
        derived=takes_batches(store),
    )
    workers = processes or os.cpu_count() or 1
    run = _Run(store, terms, workers, progress, not proofs_only, patience, scratch, copied)
    try:
        if quick_from is not None and (verdict := run.quick(quick_from)) is not None:
            return verdict
        return run.whole()
    except VerificationError as exc:  # of a store that can make no log of what it holds
        return gave_up(store, terms, exc)
    except KlingAuditError:
        raise
    except OSError as exc:
        raise AuditUnavailable(
            f"The log at {store.url} cannot be read: {exc.strerror}.", do="Check that it is there and readable."
        ) from exc
    except Exception as exc:  # noqa: BLE001  # whatever bytes did it, they are no whole log
        return gave_up(store, terms, exc)


@dataclass(frozen=True, slots=True)
class _Run:
    """One verification: what is read, and how."""

    store: Store
    terms: Terms
    workers: int
    progress: Progress | None
    decode: bool
    patience: float
    scratch: Path | None
    copied: Callable[[Mirrored], None] | None

    def quick(self, memory: Memory) -> Verdict | None:
        """Verify what follows what `memory` tells of; None unless the log goes on from there and is whole."""
        with self._opened(begin=memory.size - 1) as (store, terms, watch):
            first, reading = watch.look(), self._reading(store)
            start = reading.scan(first, memory, terms.trusted) if first.after else None
            if start is None:
                return None
            verdict = Judge(store, terms, reading, start).judge(first, reading.look_again(watch, first))
            return told_of(store, verdict) if verdict.integrity_ok else None

    def whole(self) -> Verdict:
        """Verify everything. Raises: LogNotFound."""
        with self._opened() as (store, terms, watch):
            first = watch.look()
            if not first.after:
                if terms.remembered is None:
                    raise LogNotFound(
                        f"There is no log at {store.url}.", do="Name it with --log, or run: klingai-audit init"
                    )
                return missing_log(store, terms)
            reading = self._reading(store)
            reading.scan(first, None, None)
            return told_of(store, Judge(store, terms, reading, None).judge(first, reading.look_again(watch, first)))

    def _reading(self, store: Store) -> Reading:
        return Reading(store, self.decode, self.workers, self.progress)

    @contextlib.contextmanager
    def _opened(self, begin: int = 0) -> Iterator[tuple[Store, Terms, Watch]]:
        hand = at_hand(
            self.store,
            begin=begin,
            scratch=self.scratch,
            patience=self.patience,
            progress=self.progress,
            copied=self.copied,
        )
        with hand as store:
            terms = dataclasses.replace(self.terms, findings=(*self.terms.findings, *faults_of(store)))
            yield store, terms, Watch(store, self.patience if store is self.store else 0.0, time.sleep)


def _parse_key(vkey: str | None) -> VerifierKey | None:
    if vkey is None:
        return None
    key = read_key(vkey.strip())
    if key is None:
        raise UsageError("The given key is not an Ed25519 verifier key.", do="Give <name>+<8 hex digits>+<base64>.")
    return key


def _parse_mldsa_key(vkey: str | None) -> VerifierKey | None:
    if vkey is None:
        return None
    key = read_mldsa_key(vkey.strip())
    if key is None:
        raise UsageError("The given key is not an ML-DSA-44 verifier key.", do="Give what mldsa.pub holds.")
    return key


def _disagreements(trusted: VerifierKey | None, source: str, also: Sequence[tuple[str, str]]) -> list[Finding]:
    found = []
    for vkey, other in also:
        if trusted is not None and read_key(vkey.strip()) != trusted:
            message = f"{other} names the key {vkey.strip()} for this log, but {source} names {trusted}."
            found.append(Finding("key_disagreement", message))
    return found
