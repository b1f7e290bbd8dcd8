"""Weighing what was read: the steps of docs/format.md, section 10, from files and a key to the verdict."""

from __future__ import annotations

import dataclasses
import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from klingai_audit.errors import VerificationError
from klingai_audit.ledger.store import Store
from klingai_audit.tlog.keys import VerifierKey
from klingai_audit.tlog.policy import WitnessPolicy
from klingai_audit.trust.anchors import Anchor, read_mldsa_key
from klingai_audit.trust.assess import Grounds, assess
from klingai_audit.trust.authority import Roots
from klingai_audit.trust.countersigned import Countersigned, check_countersigned
from klingai_audit.trust.damage import State, damaged_state, whole_state
from klingai_audit.trust.dating import DATED_WITHIN
from klingai_audit.trust.epochs import Epochs, FirstEntry
from klingai_audit.trust.evidence import (
    check_kept_set,
    check_memory,
    check_roots,
    check_strays,
    check_tree,
    read_anchors,
)
from klingai_audit.trust.look import Look, reader_of
from klingai_audit.trust.purges import check_purges, check_sealed, listed_in, named_seals
from klingai_audit.trust.quick import Start
from klingai_audit.trust.reading import Reading
from klingai_audit.trust.remember import Memory
from klingai_audit.trust.semantics import find_notes
from klingai_audit.trust.stamps import Stamp, StampCheck
from klingai_audit.trust.verdict import Finding, Unsigned, Verdict, limited
from klingai_audit.trust.witnessed import Witnessed, check_witnessed

__all__ = ["Judge", "Terms", "gave_up", "missing_log"]

_NAMED_TYPES: Final = ("signing_key_rotated", "log_closed", "log_migrated")
_GONE: Final = ("entry_missing", "file_missing", "head_cut", "tail_cut")
"""What nobody can tell of a log that cannot be read as a whole."""
_UNFINISHED_RUNS: Final = ("purge_unfinished", "seal_unfinished")
_UNFINISHED: Final = (
    " But {signed} entries were signed, and the lines have that root, so nothing is gone: a writer was stopped before "
    "it replaced checkpoint, or checkpoint alone was set back. Open the log for writing once."
)
_LOG_ITSELF: Final = "the log itself"


@dataclass(frozen=True, slots=True)
class Terms:
    """What the caller trusts and demands; `findings` were made before the log was read.

    `mldsa_key` came from `mldsa_source`, which is empty without one.
    `forgotten` says why what is remembered could not be read, empty if it could.
    `tolerant`: lines that no checkpoint covers are a note if they link to the log and end with a seal, where logs of
    that kind have seals.
    `witnesses` is the policy that cosignatures are judged by; `demanded`: that its quorum is missing is a finding.
    `tsa_roots` stand behind time stamps that count; `dated_within` is the distance up to which they rule out
    back-dating. `compare` looks for notes that take more than one entry. `derived`: writers on several hosts derive the
    keys of coming epochs (docs/format.md, "Batch-signed logs").
    """

    trusted: VerifierKey | None
    key_source: str
    epoch_key: VerifierKey | None
    mldsa_key: VerifierKey | None
    mldsa_source: str
    remembered: bytes | None
    tolerant: bool
    forgotten: str
    now: dt.datetime
    findings: tuple[Finding, ...]
    witnesses: WitnessPolicy | None = None
    demanded: bool = False
    tsa_roots: Roots | None = None
    dated_within: dt.timedelta = DATED_WITHIN
    compare: bool = True
    derived: bool = False


def missing_log(store: Store, terms: Terms) -> Verdict:
    """Return the verdict on a place where a log is remembered and nothing is."""
    message = f"There is no log at {store.url}, but a signed checkpoint of it is remembered."
    findings = (*terms.findings, Finding("log_missing", message))
    return _verdict(store, terms, terms.trusted, findings, Grounds())


def gave_up(store: Store, terms: Terms, exc: Exception) -> Verdict:
    """Return the verdict on a log that its store cannot read, or that made this program fail: nothing is ruled out."""
    message = f"Verification of {store.url} stopped with {type(exc).__name__}. Please report this, without the log."
    finding = Finding("unexplained", message)
    if isinstance(exc, VerificationError):
        finding = Finding("file_unreadable", exc.message)
    return _verdict(store, terms, terms.trusted, (*terms.findings, finding), Grounds())


class Judge:
    """Weighs what was read of one log."""

    def __init__(self, store: Store, terms: Terms, reading: Reading, start: Start | None) -> None:
        """`start` is where a quick verification began, None if everything was read."""
        self.store = store
        self.terms = terms
        self.reading = reading
        self.start = start
        self.findings: list[Finding] = [*terms.findings]

    def judge(self, first: Look, last: Look) -> Verdict:
        """Go through the steps and return the verdict; `first` and `last` are the looks around the reading."""
        terms, reading = self.terms, self.reading
        # Step 2: signed checkpoints. The log's own claim about its key comes first, to tell a foreign key from noise.
        entry = FirstEntry(reading.scanned.first_line())
        key = terms.trusted or entry.log_key
        head, anchors, faults = read_anchors(last, lambda f: reader_of(self.store, f), terms.trusted, entry.log_key)
        size = head.size if head is not None else max((a.size for a in anchors), default=reading.scanned.reach())
        # Steps 3 to 5: entries, links, tree.
        whole = whole_state(reading, self.start, anchors, size)
        state = whole or damaged_state(reading, anchors, size, last, tolerant=terms.tolerant)
        old, forgotten = check_memory(terms.remembered, head, key, size, state.root, state.reach)
        unsigned = self._unsigned(state, old if old is not None and old > size and not forgotten else None)
        tree = list(check_tree(first, last, reading.first_lines, size, state.levels, reading.reader))
        self.findings += [*reading.findings, *unsigned, *faults, *tree]
        # Steps 6 and 7: first entry and epochs.
        if size and not state.damaged(0):
            entry = next((FirstEntry(line) for seq, line in state.own if seq == 0), entry)  # its file may be renamed
            self.findings += entry.check(terms.trusted, terms.epoch_key, state.place, terms.mldsa_key)
        for seq, line in state.own:
            if seq and _is_type(line, "log_created"):
                message = f"Entry {seq} claims to create the log; only entry 0 does."
                self.findings.append(Finding("first_entry", message, seq, None, *state.place(seq)))
        epochs = self._epochs(entry, state)
        # Step 8: kept checkpoints.
        judged = [anchor for anchor in anchors if anchor.size <= min(size, state.limit + 1)]
        self.findings += [*epochs.findings, *check_roots(judged, state.root, epochs)]
        countersigned = self._countersigned(entry, state, judged)
        self.findings += countersigned.findings
        witnessed = self._witnessed(state, size if anchors else 0, key)
        stamps = StampCheck(self.store, terms.tsa_roots, terms.now, state.place)
        known = stamps.known(self._stamps_before(), [one for one in state.own if one[0] < size])
        named = self._named(state) | {stamp.size: "checkpoint_timestamped" for stamp in known}
        files = {anchor.size: anchor.data for anchor in anchors if anchor.file != "checkpoint"}
        stamped = stamps.check(known, files, last, size=size, whole=whole is not None)
        self.findings += stamped.findings
        asked = named if stamped.unfinished is None else {**named, stamped.unfinished: "a time stamp"}
        if head is not None:
            borne_out = [a.size for a in anchors if a.size > size and state.reach(a.size) == a.root]
            signed = {anchor.size for anchor in anchors}
            kept = check_kept_set(first, last, size, reading.scanned.lines, asked, state.damaged, borne_out, signed)
            tolerated = any(finding.kind == "unpublished" for finding in unsigned)
            self.findings += [f for f in kept if not (tolerated and f.kind == "checkpoint_behind")]
        # Step 10: what is purged and sealed.
        unfinished = self._kept_back(last, state, size, whole=whole is not None)
        # Step 1 comes late: a stray file may have turned out to hold entries.
        self.findings += check_strays(first, last, {*state.renamed, *unfinished})
        # Step 11: memory.
        self.findings += forgotten
        if whole is None and not self.findings:
            message = "The quick pass over the log failed, and the slow one found no cause. Please report this."
            self.findings.append(Finding("unexplained", message))
        if not reading.readable:
            self.findings = [finding for finding in self.findings if finding.kind not in _GONE]
        broken = any(finding.severity == "broken" for finding in self.findings)
        if broken:
            self.findings = [finding for finding in self.findings if finding.kind not in _UNFINISHED_RUNS]
        else:
            self.findings += find_notes(reading.scanned, terms.now, decoded=reading.decode and terms.compare)
        if whole is not None and not broken:
            stamped = stamps.date_with(stamped, witnessed.rounds, size)
        grounds = Grounds(
            size=size if anchors else 0,
            reached=bool(anchors) and state.root(size) is not None,
            key_id=key.key_id.hex() if key else "",
            key_source=terms.key_source,
            remembered=old if not forgotten else None,
            forgotten=terms.forgotten,
            unsigned=state.unsigned.entries if any(finding.kind == "unpublished" for finding in unsigned) else 0,
            epochs=len(epochs.keys),
            closed=epochs.ends[-1] if epochs.ends else 0,
            first_epoch_pinned=terms.epoch_key is not None,
            quick_from=None if self.start is None else self.start.size,
            witnessed=witnessed,
            stamped=stamped,
            countersigned=countersigned,
            dated_within=terms.dated_within,
            derived=terms.derived,
        )
        memory = None
        if not broken and head is not None:
            memory = _memory(key, head, epochs, named, known, self._mldsa_key(entry))
        lines = reading.scanned.lines
        covered = 0 if head is None else size
        return _verdict(
            self.store,
            terms,
            key,
            self.findings,
            grounds,
            covered,
            lines,
            state.bad_lines,
            state.unsigned,
            memory,
            state.purged,
        )

    def _unsigned(self, state: State, signed: int | None) -> list[Finding]:
        """Turn an orderly unsigned tail into a note where policy says so.

        `signed` is the remembered size if that is larger than the checkpoint's and the lines have its root.
        """
        sealed = state.sealed_tail or self.terms.derived  # such logs have no seals
        kind = "unpublished" if self.terms.tolerant and state.linked_tail and sealed else "unsigned_tail"
        more = "" if sealed else " The last one has no seal: no writer ever acknowledged it."
        more += "" if signed is None else _UNFINISHED.format(signed=signed)
        return [
            Finding(kind, f.message + more, f.seq, f.seq_end, f.file, f.line) if f.kind == "unsigned_tail" else f
            for f in state.findings
        ]

    def _epochs(self, entry: FirstEntry, state: State) -> Epochs:
        epochs = Epochs(entry.origin, None if state.damaged(0) else entry.epoch_key)
        if self.start is not None:
            epochs = self.start.epochs(entry.origin or "")
        for seq, line in state.own:
            if _is_type(line, "signing_key_rotated") and seq < state.limit:
                epochs.rotate(seq, line, state.root(seq), state.place)
        return epochs

    def _mldsa_key(self, entry: FirstEntry) -> VerifierKey | None:
        """The ML-DSA-44 key that the log names."""
        return entry.mldsa_key if self.start is None else read_mldsa_key(self.start.memory.mldsa_key)

    def _countersigned(self, entry: FirstEntry, state: State, judged: Sequence[Anchor]) -> Countersigned:
        """Check the third lines, unless nothing proves which key the log names."""
        key = self._mldsa_key(entry)
        if state.damaged(0) or not entry.well_formed:
            return Countersigned()
        stamps = {stamp.size for stamp in self._stamps_before()}
        closing = {size for size in self._named(state) if size not in stamps}
        return check_countersigned(judged, state.root, key, closing, self.terms.mldsa_source)

    def _witnessed(self, state: State, size: int, key: VerifierKey | None) -> Witnessed:
        own = [(seq, line) for seq, line in state.own if seq < min(size, state.proven)]
        found = check_witnessed(own, size, state.root, key, self.terms.witnesses, state.place)
        found = dataclasses.replace(found, quiet_tail=found.quiet_tail and state.limit >= size)
        self.findings += found.findings
        if self.terms.demanded and not found.size:
            message = (
                f"No checkpoint of this log is cosigned as demanded: {found.quorum or 'no policy names witnesses'}."
            )
            self.findings.append(Finding("quorum_missing", message))
        return found

    def _kept_back(self, look: Look, state: State, size: int, *, whole: bool) -> set[str]:
        """Check purged entries and sealed days; return the sealed files that lie beside those they replace."""
        own = [(seq, line) for seq, line in state.own if seq < min(size, state.proven)]
        whole = whole and self.start is None
        told = [run for run in state.purged if not state.proven <= run.by < size]
        self.findings += check_purges(told, listed_in(own), state.leaves, state.place, whole=whole)
        unreadable = {finding.file or "" for finding in self.reading.findings if finding.kind == "file_unreadable"}
        tell = self.start is None and state.proven >= size
        sealed = list(check_sealed(look, named_seals(own), unreadable)) if tell else []
        self.findings += sealed
        return {finding.file or "" for finding in sealed}

    def _stamps_before(self) -> tuple[Stamp, ...]:
        return () if self.start is None else self.start.memory.stamps

    def _named(self, state: State) -> dict[int, str]:
        """Sizes at which entries ask for a kept checkpoint, and the type of those entries."""
        before = () if self.start is None else self.start.memory.named
        named = dict.fromkeys(before, "verified before")
        named |= {seq + 1: kind for seq, line in state.own for kind in _NAMED_TYPES if _is_type(line, kind)}
        return named


def _is_type(line: bytes, kind: str) -> bool:
    return line.startswith(kind.encode() + b'"', 118)


def _memory(
    key: VerifierKey | None,
    head: Anchor,
    epochs: Epochs,
    named: dict[int, str],
    stamps: tuple[Stamp, ...],
    mldsa_key: VerifierKey | None,
) -> Memory | None:
    keys = [epoch.format() for epoch in epochs.keys if epoch is not None]
    if key is None or len(keys) != len(epochs.keys):
        return None
    sizes = tuple(sorted(size for size in named if size <= head.size))
    mldsa = "" if mldsa_key is None else mldsa_key.format()
    return Memory(key.format(), head.data.decode(), head.size, tuple(keys), tuple(epochs.ends), sizes, stamps, mldsa)


def _verdict(
    store: Store,
    terms: Terms,
    key: VerifierKey | None,
    findings: Sequence[Finding],
    grounds: Grounds,
    size: int = 0,
    total: int = 0,
    bad_lines: int = 0,
    unsigned: Unsigned | None = None,
    memory: Memory | None = None,
    purged: Sequence[tuple[int, int, int]] = (),
) -> Verdict:
    return Verdict(
        scope="log",
        log=store.url,
        origin=None if key is None else key.name,
        key=None if key is None else key.format(),
        key_source=terms.key_source or _LOG_ITSELF,
        size=size,
        total=total,
        valid=max(0, total - bad_lines),
        findings=(listed := limited(findings)),
        threats=assess(findings, grounds),
        unsigned=unsigned or Unsigned(),
        purged=tuple(purged),
        quick_from=grounds.quick_from,
        memory=memory,
        unlisted=() if len(listed) == len(findings) else tuple(findings),
    )
