"""The head of one log as one writer knows it, and every step that moves it. Used under the writer lock.

Recovery is catch-up: what other processes wrote, what a crash left behind and what a thief forged all arrive
the same way, as lines beyond the size this writer knows. Lines count up to what is signed, then up to the
last valid seal; the rest was never acknowledged and is put aside. What contradicts a signature is damage.
"""

from __future__ import annotations

import datetime as dt
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Literal, NamedTuple

from klingai_audit.errors import LogDamaged
from klingai_audit.event.record import EncodedEvent, format_time
from klingai_audit.ledger.clock import Clock
from klingai_audit.ledger.ends import EndsTable, end_id_of
from klingai_audit.ledger.handover import handover_note
from klingai_audit.ledger.heads import known_heads, open_head
from klingai_audit.ledger.keys import KeyFolder
from klingai_audit.ledger.line import (
    compute_seal,
    event_type_of,
    has_valid_seal,
    names_checkpoint,
    parse_members,
    splice,
)
from klingai_audit.ledger.pace import ClockWatch, parse_logged_at
from klingai_audit.ledger.state import StateFolder
from klingai_audit.ledger.store import Publication, Pulled, Store, Transaction
from klingai_audit.ledger.tree import GrowingTree, HashWrite
from klingai_audit.tlog.checkpoint import Checkpoint
from klingai_audit.tlog.hashing import hash_leaves
from klingai_audit.tlog.keys import SignerKey, VerifierKey
from klingai_audit.tlog.merkle import EMPTY_ROOT, leaf_hash
from klingai_audit.tlog.note import sign_note

__all__ = ["Appended", "Head", "OwnEvent", "Rotation"]

OwnEvent = Callable[[str, Mapping[str, Any]], EncodedEvent]
"""Makes the log's own events: (event type, metadata) → encoded event."""

Rotation = Literal["daily", "never"]

HEARTBEAT_NS: Final = 3_600 * 10**9
"""A log that a writer holds open gets an entry at least this often."""


class Appended(NamedTuple):
    """Where an event stands: its index and 32-byte leaf hash; `line` is empty if the log held it already."""

    seq: int
    leaf_hash: bytes
    line: bytes


class Head:
    """See the module. `size` entries are acknowledged, the first `published` of them signed."""

    def __init__(
        self,
        store: Store,
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
        self._rotation = rotation
        self._watch = ClockWatch(clock, accept=accept_clock)
        self._tree = GrowingTree()
        self._tree_mutex = threading.Lock()
        self._prev = EMPTY_ROOT
        self._last_ns = 0
        self._last_line = b""
        self._due: list[EncodedEvent] = []
        self.ends = EndsTable(state.ends, store.read_entries)
        self.published = 0

    @property
    def size(self) -> int:
        return self._tree.size

    @property
    def origin(self) -> str:
        return self.keys.origin

    @property
    def _verifier(self) -> VerifierKey:
        return self.keys.log_signer.verifier

    @property
    def silent_ns(self) -> int:
        """How long ago, by this writer's clock, the last entry it knows was logged; 0 for an empty log."""
        return self._clock.now_ns() - self._last_ns if self._last_ns else 0

    # --- opening ----------------------------------------------------------------------------------

    def load(self, txn: Transaction) -> None:
        """Take up the log where its last writer left it. Raises: LogDamaged, InconsistentCheckpoints, StorageError."""
        self.keys.resume()
        self._due.clear()
        state_missing = not self.state.remembers
        base, remembered = known_heads(self.store, self.state, self._verifier)
        if base is None and not self.keys.pending:
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
        self._prev = self.store.read_hashes(0, self.size - 1, self.size) if self.size else EMPTY_ROOT
        self.ends.begin(self.size)
        self.state.create()
        self._accept(txn, self._pull(txn, first=True), remembered)
        if state_missing and self.size:
            self._due.append(self._own_event("log_recovered", {"state_missing": True}))
        self._finish_rotation()

    # --- catching up ------------------------------------------------------------------------------

    def catch_up(self, txn: Transaction) -> None:
        """Take over what other writers appended since; put aside what nobody acknowledged."""
        pulled = self._pull(txn, first=False)
        if not pulled.entries and not pulled.torn:
            return
        note = self.store.read_checkpoint()
        signed = None if note is None else open_head(note, self._verifier, self.store.url)
        self._accept(txn, pulled, signed)
        self._finish_rotation()

    def _pull(self, txn: Transaction, *, first: bool) -> Pulled:
        pulled = txn.pull(self.size)
        if self.size and (first or pulled.before is not None) and not self._is_last(pulled.before):
            pulled = txn.pull(self.size, counted=True)
            if not self._is_last(pulled.before):
                raise LogDamaged(
                    f"Entry {self.size - 1} of {self.store.url} is not the one that was signed.", kind_of_damage="entry_changed"
                )
        if first and pulled.before is not None:
            self._remember_line(pulled.before)
        return pulled

    def _is_last(self, line: bytes | None) -> bool:
        return line is not None and leaf_hash(line) == self._prev

    def _accept(self, txn: Transaction, pulled: Pulled, signed: Checkpoint | None) -> None:
        """Move the head over pulled lines: those under `signed`, then up to the last valid seal."""
        lines = pulled.entries
        covered = 0
        if signed is not None and signed.size > self.size:
            covered = signed.size - self.size
            if len(lines) < covered:
                raise LogDamaged(
                    f"{self.store.url} holds {self.size + len(lines)} entries, but {signed.size} were signed.",
                    kind_of_damage="rollback",
                )
            self._advance(lines[:covered], hash_leaves(lines[:covered]))
            if self._tree.root() != signed.root:
                raise LogDamaged(
                    f"The entries of {self.store.url} up to {signed.size} do not have the signed root.",
                    kind_of_damage="tree_changed",
                )
            if any(event_type_of(line) == "signing_key_rotated" for line in lines[:covered]):
                self.keys.resume()
        rest = lines[covered:]
        if not rest and not pulled.torn:
            return
        accepted = self._acknowledged(rest)
        self._advance(rest[:accepted], hash_leaves(rest[:accepted]))
        if accepted < len(rest) or pulled.torn:
            left = b"".join(line + b"\n" for line in rest[accepted:]) + pulled.torn
            self._put_aside(txn, left, accepted)

    def _acknowledged(self, lines: Sequence[bytes]) -> int:
        """How many of these unsigned lines were acknowledged: linked, and up to the last valid seal."""
        tail, origin = self.keys.current.tail, self.origin
        seq, prev, accepted = self.size, self._prev, 0
        for index, line in enumerate(lines):
            members = parse_members(line)
            if members is None or members.seq != seq or members.prev_hash != prev:
                break
            if members.seal is not None and has_valid_seal(tail, origin, line):
                accepted = index + 1
            seq, prev = seq + 1, leaf_hash(line)
        for line in lines[accepted:]:
            if has_valid_seal(tail, origin, line):
                raise LogDamaged(
                    f"Acknowledged entries of {self.store.url} after entry {self.size + accepted} were changed.",
                    kind_of_damage="link_broken",
                )
        return accepted

    def _put_aside(self, txn: Transaction, data: bytes, kept: int) -> None:
        name = self.state.put_aside(data)
        txn.cut(self.size)
        self._due.append(
            self._own_event("log_recovered", {"entries": kept, "set_aside": {"sha256": name, "bytes": len(data)}})
        )

    def _advance(self, lines: Sequence[bytes], hashes: bytes) -> None:
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
        self._remember_line(lines[-1])

    def _remember_line(self, line: bytes) -> None:
        self._last_line = line
        members = parse_members(line)
        if members is not None:
            self._last_ns = max(self._last_ns, parse_logged_at(members.logged_at))

    # --- appending --------------------------------------------------------------------------------

    def append(self, txn: Transaction, events: Sequence[tuple[EncodedEvent, bool]]) -> list[Appended]:
        """Append (event, once) pairs as one batch; durable and sealed on return; one result for each pair.

        Requires `catch_up` in this transaction. The log's own events that are due come first.
        Raises: AuditUnavailable (nothing was appended), SyncFailed.
        """
        now = self._clock.now_ns()
        stepped = self._watch.check(now, self._last_ns)
        if self._rotation == "daily" and self._last_ns and _day(now) > _day(self._last_ns):
            self._rotate(txn, now)
        if stepped is not None:
            self._due.append(self._own_event("clock_stepped", stepped))
        due, self._due = self._due, []
        try:
            return self._append(txn, [(event, False) for event in due] + list(events), now)[len(due) :]
        except BaseException:
            self._due = due
            raise

    def _append(self, txn: Transaction, events: Sequence[tuple[EncodedEvent, bool]], now: int) -> list[Appended]:
        logged_ns = max(now, self._last_ns)
        logged_at = format_time(logged_ns).encode()
        results: list[Appended] = []
        lines: list[bytes] = []
        hashes: list[bytes] = []
        fresh: dict[str, Appended] = {}
        seq, prev = self.size, self._prev
        last = self._last_new(events)
        for index, (event, once) in enumerate(events):
            if once:
                first = fresh.get(event.event_id) or self._held(event.event_id)
                if first is not None:
                    results.append(first)
                    continue
            line = splice(event.body, seq, logged_at, prev)
            if index == last:
                line = compute_seal(self.keys.current.tail, self.origin, line)
            prev = leaf_hash(line)
            appended = Appended(seq, prev, line)
            if once:
                fresh[event.event_id] = Appended(seq, prev, b"")
            lines.append(line)
            hashes.append(prev)
            results.append(appended)
            seq += 1
        if lines:
            txn.append(lines, self.size, dt.datetime.fromtimestamp(logged_ns // 10**9, dt.UTC).date())
            self._advance(lines, b"".join(hashes))
            self._watch.committed(now)
        return results

    def _last_new(self, events: Sequence[tuple[EncodedEvent, bool]]) -> int:
        """Index of the last event that the log does not hold yet: the one that bears the seal."""
        for index in range(len(events) - 1, -1, -1):
            event, once = events[index]
            if not once:
                return index
            earlier = any(other.event_id == event.event_id for other, again in events[:index] if again)
            if not earlier and self._held(event.event_id) is None:
                return index
        return -1

    def _held(self, event_id: str) -> Appended | None:
        seq = self.ends.find(event_id, self.size)
        if seq is None:
            return None
        line = next(self.store.read_entries(seq, seq + 1))
        return Appended(seq, leaf_hash(line), b"")

    # --- publishing -------------------------------------------------------------------------------

    def publish(self) -> None:
        """Sign the tree as this writer knows it and replace the checkpoint; durable on return.

        May run beside `append` in another thread. Order: tree hashes synced, head remembered, checkpoints kept,
        `checkpoint` replaced. Raises: AuditUnavailable (try again later), SyncFailed, LogDamaged.
        """
        if self.size == self.published:
            return
        with self.store.publication() as publication:
            with self._tree_mutex:
                size, root, signers = self.size, self._tree.root(), self._signers
                marks, writes = self._tree.take()
            try:
                self._publish(publication, size, root, marks, writes, signers)
            except BaseException:
                with self._tree_mutex:
                    self._tree.put_back(marks, writes)
                raise
            self.published = size

    def _publish(
        self,
        publication: Publication,
        size: int,
        root: bytes,
        marks: list[tuple[int, bytes]],
        writes: list[HashWrite],
        signers: tuple[SignerKey, SignerKey],
    ) -> None:
        note = self.store.read_checkpoint()
        there = 0 if note is None else open_head(note, self._verifier, self.store.url).size
        if there >= size:
            return  # another process published these entries with its own
        for level, begin, hashes in writes:
            publication.put_hashes(level, begin, hashes)
        publication.sync_hashes()
        note = self._sign(size, root, signers)
        self.state.write_head(note)
        for kept_size, kept_root in marks:
            if kept_size > there:
                publication.put_kept(kept_size, self._sign(kept_size, kept_root, signers))
        publication.put_checkpoint(note)

    @property
    def _signers(self) -> tuple[SignerKey, SignerKey]:
        return self.keys.log_signer, self.keys.current.signer

    def _sign(self, size: int, root: bytes, signers: tuple[SignerKey, SignerKey]) -> bytes:
        return sign_note(Checkpoint(self.origin, size, root).text(), *signers)

    # --- rotation ---------------------------------------------------------------------------------

    def rotate(self, txn: Transaction) -> None:
        """End the current epoch now; requires `catch_up`. Durable on return; a crash inside is finished by `load`."""
        self._rotate(txn, self._clock.now_ns())

    def _rotate(self, txn: Transaction, now: int) -> None:
        successor = self.keys.prepare_next()
        note = handover_note(self.keys.current.signer, self.origin, self.size, self._tree.root(), successor)
        event = self._own_event(
            "signing_key_rotated",
            {"epoch": successor.epoch, "epoch_key": successor.signer.verifier.format(), "handover": note},
        )
        self._append(txn, [(event, False)], now)
        self._finish_rotation()

    def _finish_rotation(self) -> None:
        """Publish the handover and promote the successor if the last entry names it."""
        if event_type_of(self._last_line) != "signing_key_rotated":
            return
        successor = self.keys.next_keys()
        if successor is None or successor.signer.verifier.format().encode() not in self._last_line:
            return
        self.publish()
        self.keys.promote()

    # --- the log's own events ---------------------------------------------------------------------

    def own(self, event_type: str, metadata: Mapping[str, Any]) -> tuple[EncodedEvent, bool]:
        """Make one of the log's own events, to be appended."""
        return self._own_event(event_type, metadata), False


def _day(ns: int) -> int:
    return ns // (86_400 * 10**9)
