"""The head of a log whose store takes the signed checkpoint with each batch (docs/format.md 7.1).

Several hosts move it. Each reads the head in its transaction, checks who signed it and that it continues what it
knows, appends, signs and commits; who was too slow begins again. The store can neither add nor change an entry that
would go unnoticed: what a writer builds on leads to a root that it verified.
"""

from __future__ import annotations

import copy
import datetime as dt
import logging
import random
import secrets
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from typing import Any, Final, NamedTuple

from klingai_audit.diagnostics import tell
from klingai_audit.errors import AuditUnavailable, HeadConflict, LogDamaged, SignerUnavailable
from klingai_audit.event.record import EncodedEvent, format_time
from klingai_audit.ledger.acknowledged import AcknowledgedRecord
from klingai_audit.ledger.batch_keys import BatchKeys, CommittedHead
from klingai_audit.ledger.batch_tree import follow_tree
from klingai_audit.ledger.batches import BatchStore, BatchTransaction, SignedBatch, StoredHead
from klingai_audit.ledger.clock import Clock
from klingai_audit.ledger.countersign import Countersigner
from klingai_audit.ledger.ends import end_id_of
from klingai_audit.ledger.handover import handover_note
from klingai_audit.ledger.heads import HeadReader, SignedHead, check_not_forked
from klingai_audit.ledger.keys import KeyFolder
from klingai_audit.ledger.line import PURGED_PREFIX, is_rotation, names_checkpoint, parse_members, splice
from klingai_audit.ledger.log_head import HEARTBEAT_NS, OwnEvent
from klingai_audit.ledger.moved import refuse_moved, takes_up
from klingai_audit.ledger.pace import ClockWatch, parse_logged_at
from klingai_audit.ledger.places import Appended, places_of
from klingai_audit.ledger.purged import line_hash
from klingai_audit.ledger.rotation import Rotation, RotationClock
from klingai_audit.ledger.sought import Sought
from klingai_audit.ledger.state import StateFolder
from klingai_audit.ledger.tree import GrowingTree
from klingai_audit.tlog.merkle import EMPTY_ROOT, leaf_hash

__all__ = ["CONTENTION_S", "BatchHead"]

CONTENTION_S: Final = 60.0
"""How long a writer tries again while others are faster, in seconds; then the batch is refused."""

_MAX_PAUSE_S: Final = 0.5
_REMEMBER_S: Final = 1.0
_ENDS: Final = 100_000
_Events = Sequence[tuple[EncodedEvent, bool]]


class _Position(NamedTuple):
    """Where the log stands: its tree, the leaf hash and time of its last entry, its signed head, that entry's line."""

    tree: GrowingTree
    prev: bytes
    logged_ns: int
    head: CommittedHead | None
    last: bytes = b""


_BEGINNING: Final = _Position(GrowingTree(), EMPTY_ROOT, 0, None)


class BatchHead:
    """See `log_head.LogHead`."""

    def __init__(
        self,
        store: BatchStore,
        keys: KeyFolder,
        state: StateFolder,
        own_event: OwnEvent,
        clock: Clock,
        *,
        rotation: Rotation = "daily",
        accept_clock: bool = False,
    ) -> None:
        self.store = store
        self.keys = keys
        self.state = state
        self._own_event = own_event
        self._clock = clock
        self._rotation = RotationClock(rotation)
        self._watch = ClockWatch(clock, accept=accept_clock)
        self._heads = HeadReader(store, state, keys)
        self._epochs = BatchKeys(keys, Countersigner(store, keys, clock))
        self._acknowledged = state.acknowledged
        self._at = _BEGINNING
        self._ends: dict[str, Appended] = {}
        self.sought = Sought(store)
        self._due: list[EncodedEvent] = []
        self._remembered_at = 0.0
        self._publishing = threading.Lock()
        self.published = 0

    @property
    def size(self) -> int:
        """Entries under the newest head that this writer knows."""
        return self._at.tree.size

    @property
    def silent_ns(self) -> int:
        """How long ago, by this writer's clock, the last entry it knows was logged; 0 for an empty log."""
        return self._clock.now_ns() - self._at.logged_ns if self._at.logged_ns else 0

    @property
    def publish_interval(self) -> float:
        return max(self.store.publish_interval, self.keys.signing_interval)

    def after_fork(self) -> None:
        self._publishing = threading.Lock()
        self.keys.forget()
        self.sought.after_fork()

    def close(self) -> None:
        self._remember()
        self.store.close()

    # --- what a writer does -----------------------------------------------------------------------

    def take_up(self, created: _Events) -> list[Appended]:
        self.keys.resume()
        pending = self.keys.pending
        self._at = _BEGINNING
        self._due.clear()
        known = self._heads.remembered(), self._acknowledged.read()  # before the head: other processes go on

        def act(txn: BatchTransaction) -> list[Appended] | None:
            self._follow(txn.head(), pending=pending)
            if self.size == 0:
                return self._append(txn, created)
            self._check_known(*known)
            return self._append(txn, created[-1:])

        return self._insist(act)

    def commit(self, events: _Events) -> list[Appended]:
        return self._insist(lambda txn: self._append(txn, events))

    def beat(self) -> list[Appended]:
        self._remember()  # what was committed less than a second after the last time
        if self.silent_ns < HEARTBEAT_NS:
            return []

        def act(txn: BatchTransaction) -> list[Appended] | None:
            if self._now(txn) - self._at.logged_ns < HEARTBEAT_NS:
                return []
            return self._append(txn, [self.own("log_heartbeat", {})])

        return self._insist(act)

    def rotate_now(self) -> None:
        def act(txn: BatchTransaction) -> list[Appended]:
            refuse_moved(self._at.last, self.store.url)
            self._rotate(txn, self._now(txn))
            return []

        self._insist(act)

    def publish(self) -> None:
        """Publish the newest head that this writer knows; durable on return. Raises: AuditUnavailable, LogDamaged."""
        with self._publishing:
            committed = self._at.head
            if committed is None or committed.size <= self.published:
                return
            head = self._epochs.complete(committed)
            self._keep(head)
            with self.store.publication() as publication:
                publication.put_checkpoint(head.note)
            self.published = max(self.published, head.size)

    def own(self, event_type: str, metadata: Mapping[str, Any]) -> tuple[EncodedEvent, bool]:
        return self._own_event(event_type, metadata), False

    # --- attempts ---------------------------------------------------------------------------------

    def _insist(self, act: Callable[[BatchTransaction], list[Appended] | None]) -> list[Appended]:
        """Do `act` in a transaction, after what others committed; again while it gives None or others are faster."""
        deadline, pause = time.monotonic() + CONTENTION_S, 0.005
        while True:
            try:
                with self.store.transaction() as txn:
                    if self._at.head is not None:
                        self._follow(txn.head())
                    done = act(txn)
                if done is not None:
                    return done
                continue
            except HeadConflict as exc:
                if time.monotonic() > deadline:
                    raise AuditUnavailable(
                        f"Other writers of {self.store.url} were faster for {CONTENTION_S:.0f} s.",
                        do="Let fewer processes write, or give each a log of its own (docs/how-to/ten-writers.md).",
                    ) from exc
            time.sleep(random.uniform(0, pause))  # noqa: S311  not for secrets
            pause = min(2 * pause, _MAX_PAUSE_S)

    def _now(self, txn: BatchTransaction) -> int:
        now = txn.now_ns()
        return self._clock.now_ns() if now is None else now

    # --- what others did --------------------------------------------------------------------------

    def _follow(self, head: StoredHead | None, *, pending: bool = False) -> None:
        """Take up the head of the store. Raises: LogDamaged, InconsistentCheckpoints, AuditUnavailable."""
        at = self._at
        if head is None:
            if at.tree.size or not pending:
                raise LogDamaged(
                    f"The log at {self.store.url} has no head although its keys are in use.",
                    kind_of_damage="checkpoint_missing",
                )
            return
        if at.head is not None and head.note == at.head.note:
            self._epochs.follow(at.head, at.last)  # after a handover whose keys could not be moved on
            return
        signed = self._epochs.open(head, self.store.url)
        if signed.size < at.tree.size:
            raise LogDamaged(
                f"{self.store.url} holds {signed.size} entries, but {at.tree.size} were signed.",
                kind_of_damage="rollback",
            )
        tree, prev = follow_tree(self.store, at.tree, signed.size, signed.root)
        if leaf_hash(head.last) != prev:
            raise LogDamaged(
                f"Entry {signed.size - 1} of {self.store.url} is not the one that was signed.",
                kind_of_damage="entry_changed",
            )
        self._epochs.follow(signed, head.last)
        members = parse_members(head.last)
        logged_ns = at.logged_ns if members is None else parse_logged_at(members.logged_at)
        self._moved(_Position(tree, prev, max(at.logged_ns, logged_ns), signed, head.last))
        if is_rotation(head.last):
            self._rotation.rotated()

    def _check_known(self, remembered: SignedHead | None, acknowledged: AcknowledgedRecord | None) -> None:
        """Compare with what this machine remembered of the log before it was looked at."""
        here = self._at.head
        if remembered is not None and remembered.size > self.size:
            raise LogDamaged(
                f"{self.store.url} holds {self.size} entries, but {remembered.size} were signed.",
                kind_of_damage="rollback",
            )
        check_not_forked(self.store, None if here is None else here.signed, remembered)
        self._acknowledged.compare(acknowledged, self.size, self._at.prev, self.store.url)
        self.state.create()
        if remembered is None and not self._due:  # an attempt before this one said so
            self._due.append(self._own_event("log_recovered", {"state_missing": True}))

    # --- appending --------------------------------------------------------------------------------

    def _append(self, txn: BatchTransaction, events: _Events) -> list[Appended] | None:
        """Append events and the log's own that are due; None if the transaction was used for a rotation."""
        refuse_moved(self._at.last, self.store.url, events)
        now = self._now(txn)
        stepped = self._watch.check(now, self._at.logged_ns)
        if stepped is not None:  # told once, in whichever attempt succeeds
            self._due.append(self._own_event("clock_stepped", stepped))
        if not takes_up(events) and self._rotation.is_due(now, self._at.logged_ns):
            try:
                self._rotate(txn, now)
            except SignerUnavailable as error:  # nothing was committed: the handover has all lines
                self._rotation.put_off(error)
            else:
                return None
        first = 1 if self.size == 0 or takes_up(events) else 0  # nothing stands before `log_created`
        more = [*events[:first], *((event, False) for event in self._due), *events[first:]]
        results = self._commit(txn, more, now)
        del results[first : first + len(self._due)], self._due[:]
        self._watch.committed(now)
        return results

    def _commit(self, txn: BatchTransaction, events: _Events, now: int) -> list[Appended]:
        at = self._at
        logged_ns = max(now, at.logged_ns)
        logged_at = format_time(logged_ns).encode()
        places = places_of(events, self._held, self.sought, self.size)
        results: list[Appended] = []
        fresh: list[Appended] = []
        ends: list[tuple[str, int]] = []
        seq, prev = at.tree.size, at.prev
        for index, (event, once) in enumerate(events):
            place = places[index]
            if place is not None:
                results.append(results[place]._replace(line=b"") if isinstance(place, int) else place)
                continue
            line = splice(event.body, seq, logged_at, prev)
            prev = leaf_hash(line)
            fresh.append(Appended(seq, prev, line))
            results.append(fresh[-1])
            if once:
                ends.append((event.event_id, seq))
            seq += 1
        if fresh:
            self._put(txn, fresh, ends, logged_ns)
        return results

    def _put(self, txn: BatchTransaction, fresh: Sequence[Appended], ends: list[tuple[str, int]], ns: int) -> None:
        """Sign and commit new lines; afterwards they are this writer's position."""
        tree = copy.deepcopy(self._at.tree)
        leaves = b"".join(place.leaf_hash for place in fresh)
        named = tuple(place.seq + 1 for place in fresh if names_checkpoint(place.line))
        begin = tree.size
        if begin == 0:
            self._epochs.begin(fresh[0].line)
        tree.extend(leaves, named)
        marks, hashes = tree.take()
        head = self._epochs.sign(tree.size, tree.root(), kept=any(size == tree.size for size, _root in marks))
        kept = [
            (size, head.note if size == tree.size else self._epochs.sign(size, root, kept=True).note)
            for size, root in marks
        ]
        day = dt.datetime.fromtimestamp(ns // 10**9, dt.UTC).date()
        batch = SignedBatch(
            id=secrets.token_hex(16),
            begin=begin,
            entries=[place.line for place in fresh],
            leaves=leaves,
            hashes=hashes,
            day=day,
            note=head.note,
            published=head.complete,
            kept=kept,
            ends=ends,
        )
        txn.append(batch)
        self._moved(_Position(tree, fresh[-1].leaf_hash, ns, head, fresh[-1].line))
        self._acknowledged.note(tree.size, fresh[-1].leaf_hash)
        self._note_ends(ends, fresh)
        if time.monotonic() - self._remembered_at >= _REMEMBER_S:
            self._remember()

    def _moved(self, at: _Position) -> None:
        self._at = at
        if self.store.publishes and at.head is not None and at.head.complete:
            self.published = max(self.published, at.head.size)

    def _note_ends(self, ends: Sequence[tuple[str, int]], fresh: Sequence[Appended]) -> None:
        begin = fresh[0].seq
        for event_id, seq in ends:
            self._ends[event_id] = fresh[seq - begin]._replace(line=b"")
        for event_id in list(islice(self._ends, max(0, len(self._ends) - _ENDS))):
            del self._ends[event_id]

    def _held(self, event_id: str) -> Appended | None:
        known = self._ends.get(event_id)
        if known is not None:
            return known
        seq = self.store.find_end(event_id)
        if seq is None:
            return None
        for line in self.store.read_entries(seq, seq + 1):
            if end_id_of(line) == event_id or line.startswith(PURGED_PREFIX):
                return Appended(seq, line_hash(line), b"")
        raise AuditUnavailable(f"Entry {seq} of {self.store.url} cannot be read.")

    def _rotate(self, txn: BatchTransaction, now: int) -> None:
        """End the epoch with a batch of one entry, whose checkpoint is the handover. Ends the transaction's use."""
        successor = self._epochs.prepare()
        note = handover_note(self.keys.current.signer, self.keys.origin, self.size, self._at.tree.root(), successor)
        event = self._own_event(
            "signing_key_rotated",
            {"epoch": successor.epoch, "epoch_key": successor.signer.verifier.format(), "handover": note},
        )
        self._commit(txn, [(event, False)], now)
        self._epochs.promote()
        self._rotation.rotated()

    def _remember(self) -> None:
        """Remember the head on this machine, so that a rollback behind it is refused.

        A folder that cannot be written is told, not raised: the entries are durable.
        """
        head = self._at.head
        if head is None or not head.complete:
            return
        self._remembered_at = time.monotonic()
        try:
            self._keep(head)
        except (AuditUnavailable, LogDamaged) as exc:
            words = "the head of the log cannot be remembered on this machine: %s"
            tell(logging.WARNING, "not_remembered", words, exc.message, kind=exc.kind)

    def _keep(self, head: CommittedHead) -> None:
        known = self._heads.remembered()  # by another process of this host, perhaps
        if known is None or known.size < head.size:
            self.state.write_head(head.note, alone=False)
