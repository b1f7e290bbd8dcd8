"""The head of one log as one writer knows it, and every step that moves it. Used under the writer lock.

Recovery is catch-up: what other processes wrote, what a crash left behind and what a thief forged all arrive
the same way, as lines beyond the size this writer knows. Lines count up to what is signed, then up to the
last valid seal; the rest was never acknowledged and is put aside. What contradicts a signature is damage.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, TypeVar

from klingai_audit.errors import AuditUnavailable, HeadConflict, LogDamaged, LogNotFound, SignerUnavailable
from klingai_audit.event.record import EncodedEvent, format_time
from klingai_audit.ledger.clock import Clock
from klingai_audit.ledger.countersign import Countersigner
from klingai_audit.ledger.ends import EndsTable, end_id_of
from klingai_audit.ledger.handover import handover_note
from klingai_audit.ledger.heads import HeadReader, SignedHead, check_epoch, check_not_forked
from klingai_audit.ledger.keys import EpochKeys, KeyFolder
from klingai_audit.ledger.line import compute_seal, is_rotation, names_checkpoint, parse_members, splice
from klingai_audit.ledger.log_head import OwnEvent
from klingai_audit.ledger.moved import takes_up
from klingai_audit.ledger.pace import ClockWatch, parse_logged_at
from klingai_audit.ledger.places import Appended, places_of
from klingai_audit.ledger.purged import line_hash
from klingai_audit.ledger.recovery import Recovered, count_acknowledged, foreign_bytes
from klingai_audit.ledger.rotation import Rotation, RotationClock
from klingai_audit.ledger.signing import Unpublished, put_in_place
from klingai_audit.ledger.sought import Sought
from klingai_audit.ledger.state import StateFolder
from klingai_audit.ledger.store import Pulled, SealedStore, Transaction
from klingai_audit.ledger.tree import GrowingTree
from klingai_audit.tlog.checkpoint import Checkpoint
from klingai_audit.tlog.hashing import hash_leaves
from klingai_audit.tlog.merkle import EMPTY_ROOT, leaf_hash

__all__ = ["Head"]

_T = TypeVar("_T")

_CONFLICTS: Final = 5


class Head:
    """See the module. `size` entries are acknowledged, the first `published` of them signed."""

    def __init__(
        self,
        store: SealedStore,
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
        self._countersigner = Countersigner(store, keys, clock)
        self._tree = GrowingTree()
        self._tree_mutex = threading.Lock()
        self._prev = EMPTY_ROOT
        self._last_ns = 0
        self._rotating, self._last_line = False, b""
        self._due: list[EncodedEvent] = []
        self._recovered = Recovered(state)
        self.ends = EndsTable(state, store)
        self.sought = Sought(store)
        self._acknowledged = state.acknowledged
        self.published = 0

    @property
    def size(self) -> int:
        """Entries that are acknowledged."""
        return self._tree.size

    @property
    def origin(self) -> str:
        return self.keys.origin

    @property
    def silent_ns(self) -> int:
        """How long ago, by this writer's clock, the last entry it knows was logged; 0 for an empty log."""
        return self._clock.now_ns() - self._last_ns if self._last_ns else 0

    def after_fork(self) -> None:
        """In a forked child: drop the keys and locks that another thread of the parent may have held; `load` anew."""
        self._tree_mutex = threading.Lock()
        self.keys.forget()
        self.sought.after_fork()
        self.ends.after_fork()

    # --- opening ----------------------------------------------------------------------------------

    def load(self, txn: Transaction) -> None:
        """Take up the log where its last writer left it. Raises: LogDamaged, InconsistentCheckpoints, StorageError."""
        self.keys.resume()
        pending = self.keys.pending  # before the look: whoever creates this log publishes before it is not
        base, remembered = self._heads.published(), self._heads.remembered()
        if base is None and not pending:
            raise LogDamaged(
                f"The log at {self.store.url} has no checkpoint although its keys are in use.",
                kind_of_damage="checkpoint_missing",
            )
        self.published = base.size if base is not None else 0
        self._tree = GrowingTree.load(self.published, self.store.read_hashes)
        if base is not None and self._tree.root() != base.root:
            raise LogDamaged(
                f"The tree hashes of {self.store.url} do not lead to the root signed for its {base.size} entries.",
                kind_of_damage="tree_changed",
            )
        check_not_forked(self.store, base, remembered)
        self._prev = self.store.read_hashes(0, self.size - 1, self.size) if self.size else EMPTY_ROOT
        self._rotating, self._last_line = False, b""
        self.ends.begin(self.origin, self.size)
        pulled = self._pull(txn, first=True)
        self.state.create()
        self._due.clear()
        self._recovered.begin(state_missing=base is not None and remembered is None)
        if base is not None and (remembered is None or remembered.size <= base.size):
            check_epoch(base, self._last_line, self.keys.current, self.store.url)
        try:
            self._accept(txn, pulled, remembered, remember=True)
        except HeadConflict:
            self.catch_up(txn)
        self._acknowledged.check(self.size, self._prev, self.store.url)
        self._finish_rotation()

    # --- catching up ------------------------------------------------------------------------------

    def catch_up(self, txn: Transaction) -> None:
        """Take over what other writers appended since; put aside what nobody acknowledged. Raises: as `append`."""
        for _ in range(_CONFLICTS):
            try:
                return self._catch_up(txn)
            except HeadConflict:
                continue
        raise self._intruder()

    def _catch_up(self, txn: Transaction) -> None:
        self._finish_rotation()
        pulled = self._pull(txn, first=False)
        if not pulled.entries and not pulled.torn:
            return
        self._accept(txn, pulled, self._heads.published())
        self._finish_rotation()

    def _pull(self, txn: Transaction, *, first: bool) -> Pulled:
        pulled = txn.pull(self.size)
        if self.size and (first or pulled.before is not None) and not self._is_last(pulled.before):
            pulled = txn.pull(self.size, counted=True)
            if not self._is_last(pulled.before):
                raise LogDamaged(
                    f"Entry {self.size - 1} of {self.store.url} is not the one that was signed.",
                    kind_of_damage="entry_changed",
                )
        if first and pulled.before is not None:
            self._remember_line(pulled.before)
        return pulled

    def _is_last(self, line: bytes | None) -> bool:
        return line is not None and leaf_hash(line) == self._prev

    def _accept(self, txn: Transaction, pulled: Pulled, signed: SignedHead | None, *, remember: bool = False) -> None:
        """Move the head over pulled lines: those under `signed`, then up to the last valid seal.

        With `remember`, `signed` is what a writer had signed and not yet published when it died.
        """
        lines, covered = pulled.entries, 0
        if signed is not None and signed.size > self.size:
            covered = signed.size - self.size
            if len(lines) < covered:
                raise LogDamaged(
                    f"{self.store.url} holds {self.size + len(lines)} entries, but {signed.size} were signed.",
                    kind_of_damage="rollback",
                )
            if any(is_rotation(line) for line in lines[:covered]):
                self.keys.resume()
            self._advance(lines[:covered], hash_leaves(lines[:covered]))
            if self._tree.root() != signed.root:
                raise LogDamaged(
                    f"The entries of {self.store.url} up to {signed.size} do not have the signed root.",
                    kind_of_damage="history_rewritten",
                )
            if remember:
                check_epoch(signed, self._last_line, self.keys.current, self.store.url)
                with contextlib.suppress(SignerUnavailable):  # of kept ones before it, which come with the next
                    self._publish(signed=signed)
        rest = lines[covered:]
        if not rest and not pulled.torn:
            return
        accepted, foreign = count_acknowledged(rest, self.size, self._prev, self.keys, self.store.url)
        if foreign:
            self._recovered.keep(foreign_bytes(rest, foreign))
            txn.remove([(covered + number, length) for number, length in foreign])
            raise HeadConflict(f"Foreign bytes were taken out of {self.store.url}.")
        self._advance(rest[:accepted], hash_leaves(rest[:accepted]))
        if accepted < len(rest) or pulled.torn:
            self._acknowledged.check(self.size, self._prev, self.store.url)
            left = b"".join(line + b"\n" for line in rest[accepted:]) + pulled.torn
            self._recovered.keep(left, entries=accepted + (covered if remember else 0))
            txn.cut(self.size)

    def _advance(self, lines: Sequence[bytes], hashes: bytes, logged_ns: int | None = None) -> None:
        if not lines:
            return
        named: list[int] = []
        for seq, line in enumerate(lines, self.size):
            if names_checkpoint(line):
                named.append(seq + 1)
            elif (end := end_id_of(line)) is not None:
                self.ends.note(end, seq)
        with self._tree_mutex:
            self._tree.extend(hashes, tuple(named))
        self._prev = hashes[-32:]
        self._remember_line(lines[-1], logged_ns)

    def _remember_line(self, line: bytes, logged_ns: int | None = None) -> None:
        self._last_line = line
        self._rotating = is_rotation(line)
        if logged_ns is None and (members := parse_members(line)) is not None:
            logged_ns = parse_logged_at(members.logged_at)
        self._last_ns = max(self._last_ns, logged_ns or 0)

    # --- appending --------------------------------------------------------------------------------

    def append(self, txn: Transaction, events: Sequence[tuple[EncodedEvent, bool]]) -> list[Appended]:
        """Append (event, once) pairs as one batch; durable and sealed on return; one result for each pair.

        Requires `catch_up` in this transaction. The log's own events that are due come first.
        Raises: AuditUnavailable (nothing was appended), SyncFailed, LogDamaged.
        """
        return self._insist(txn, lambda: self._append_due(txn, events))

    def _insist(self, txn: Transaction, act: Callable[[], _T]) -> _T:
        for _ in range(_CONFLICTS):
            try:
                return act()
            except HeadConflict:
                self.catch_up(txn)
        raise self._intruder()

    def _intruder(self) -> AuditUnavailable:
        return AuditUnavailable(
            f"Something that is no writer keeps writing into the day file of {self.store.url}.",
            do="Find out what it is; what it wrote is in the state folder, in aside/.",
        )

    def _append_due(self, txn: Transaction, events: Sequence[tuple[EncodedEvent, bool]]) -> list[Appended]:
        now = self._clock.now_ns()
        stepped = self._watch.check(now, self._last_ns)
        if stepped is not None:
            self._due.append(self._own_event("clock_stepped", stepped))
        if not takes_up(events) and self._rotation.is_due(now, self._last_ns):
            try:
                self._rotate(txn, now)
            except SignerUnavailable as error:
                if self._rotating:
                    raise
                self._rotation.put_off(error)
        recovered = self._recovered.metadata()
        due = [(self._own_event("log_recovered", metadata), False) for metadata in recovered]
        due += [(event, False) for event in self._due]
        first = 1 if self.size == 0 or takes_up(events) else 0  # nothing stands before `log_created`
        results = self._append(txn, [*events[:first], *due, *events[first:]], now)
        del results[first : first + len(due)], self._due[:]
        self._recovered.told(recovered)
        return results

    def _append(self, txn: Transaction, events: Sequence[tuple[EncodedEvent, bool]], now: int) -> list[Appended]:
        logged_ns = max(now, self._last_ns)
        logged_at = format_time(logged_ns).encode()
        places = places_of(events, self._held, self.sought, self.size)
        last = max((index for index, place in enumerate(places) if place is None), default=-1)
        results: list[Appended] = []
        lines: list[bytes] = []
        hashes: list[bytes] = []
        seq, prev = self.size, self._prev
        for index, (event, _once) in enumerate(events):
            place = places[index]
            if place is not None:
                results.append(results[place]._replace(line=b"") if isinstance(place, int) else place)
                continue
            line = splice(event.body, seq, logged_at, prev)
            if index == last:
                line = compute_seal(self.keys.current.tail, self.origin, line)
            prev = leaf_hash(line)
            lines.append(line)
            hashes.append(prev)
            results.append(Appended(seq, prev, line))
            seq += 1
        if lines:
            txn.append(lines, self.size, dt.datetime.fromtimestamp(logged_ns // 10**9, dt.UTC).date())
            self._advance(lines, b"".join(hashes), logged_ns)
            self._watch.committed(now)
            self._acknowledged.note(self.size, self._prev)
        else:
            txn.settle()
        return results

    def _held(self, event_id: str) -> Appended | None:
        seq = self.ends.find(event_id, self.size)
        if seq is None:
            return None
        for line in self.store.read_entries(seq, seq + 1):
            return Appended(seq, line_hash(line), b"")
        raise AuditUnavailable(f"Entry {seq} of {self.store.url} cannot be read.")

    # --- publishing -------------------------------------------------------------------------------

    def publish(self) -> None:
        """Sign the tree as this writer knows it and replace the checkpoint; durable on return.

        May run beside `append` in another thread. Raises: AuditUnavailable (try again later), SyncFailed, LogDamaged,
        InconsistentCheckpoints.
        """
        if self.size == self.published:
            return
        try:
            self._publish()
        except SignerUnavailable:  # it may refuse to go back behind what it signed for a writer that died since
            remembered = self._heads.remembered()
            if remembered is None or remembered.size <= self.size:
                raise
            with self.store.transaction() as txn:
                self.catch_up(txn)
            self._publish()

    def _publish(self, *, signed: SignedHead | None = None, surely: bool = False) -> None:
        with self.store.publication() as publication:
            with self._tree_mutex:
                epoch = self.keys.current
                fixed = (self.keys.log_signer, epoch.signer), epoch.epoch, self._countersigner
                work = Unpublished(self.size, self._tree.root(), *fixed, *self._tree.take())
            try:
                put_in_place(publication, self._heads, self.state, work, signed=signed, surely=surely)
            except BaseException:
                with self._tree_mutex:
                    self._tree.put_back(work.marks, work.writes)
                raise
            self.published = work.size

    # --- rotation ---------------------------------------------------------------------------------

    def rotate(self, txn: Transaction) -> None:
        """End the current epoch now; requires `catch_up`. Durable on return; a crash inside is finished by `load`."""
        self._insist(txn, lambda: self._rotate(txn, self._clock.now_ns()))

    def _rotate(self, txn: Transaction, now: int) -> None:
        if self.keys.external:  # what begins has to be signed before anything else is appended: does anybody sign?
            self._publish()
            self.keys.log_signer.sign(Checkpoint(self.origin, self.size, self._tree.root()).text().encode())
        successor = self.keys.prepare_next()
        note = handover_note(self.keys.current.signer, self.origin, self.size, self._tree.root(), successor)
        event = self._own_event(
            "signing_key_rotated",
            {"epoch": successor.epoch, "epoch_key": successor.signer.verifier.format(), "handover": note},
        )
        self._append(txn, [(event, False)], now)
        self._finish_rotation()

    def _finish_rotation(self) -> None:
        """If the last entry ends an epoch: publish the handover and promote the successor, unless that is done.

        Nothing is appended before. Raises: AuditUnavailable, SyncFailed, LogNotFound without the successor's keys.
        """
        if not self._rotating:
            return
        self.keys.resume()
        if not self._is_named(self.keys.current):
            successor = self.keys.next_keys()
            if successor is None or not self._is_named(successor):
                raise LogNotFound(
                    f"The keys folder {self.keys.path} lacks the epoch key that entry {self.size - 1} names.",
                    do="Restore the keys folder; without that key the log cannot be continued.",
                )
            self._publish(surely=True)
            self.keys.promote()
        self._rotating = False
        self._rotation.rotated()

    def _is_named(self, keys: EpochKeys) -> bool:
        return keys.signer.verifier.format().encode() in self._last_line

    # --- the log's own events ---------------------------------------------------------------------

    def own(self, event_type: str, metadata: Mapping[str, Any]) -> tuple[EncodedEvent, bool]:
        """Make one of the log's own events, to be appended."""
        return self._own_event(event_type, metadata), False
