"""The way in: a request's events through the door and into the log, each event id once, all of them or none.

Events with an id are claimed first, so that two requests with the same one take turns. What the log, or a request under
way, holds already is compared and not appended again.
"""

from __future__ import annotations

import contextlib
import hashlib
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from klingai_audit.errors import AuditUnavailable, InvalidEvent
from klingai_audit.event.given import refuse_given
from klingai_audit.event.record import Draft, EncodedEvent, event_body
from klingai_audit.event.types import canonical_type, category_of
from klingai_audit.ingest.denials import Denials
from klingai_audit.ingest.memory import Memory
from klingai_audit.ingest.producers import Producer
from klingai_audit.ingest.reading import Given, fault_of, refused_events
from klingai_audit.ingest.wire import Fault
from klingai_audit.ledger.line import PURGED_PREFIX
from klingai_audit.ledger.receipt import Receipt
from klingai_audit.log import AuditLog
from klingai_audit.tlog.merkle import leaf_hash

__all__ = ["Intake", "Taken"]

_TIMESTAMP: Final = slice(75, 102)
_MOST_UNDER_WAY: Final = 20_000


@dataclass(frozen=True, slots=True)
class Taken:
    """What became of one event: a receipt that is under way, or the place where the log has it.

    `repeated` tells that it was there, or on its way, before.
    """

    event_id: str
    repeated: bool
    receipt: Receipt | None = None
    seq: int = -1
    leaf: bytes = b""

    @property
    def place(self) -> tuple[int, bytes]:
        """`seq` and the 32-byte leaf hash. Raises: AuditUnavailable if it was not recorded, or is not durable yet."""
        if self.receipt is None:
            return self.seq, self.leaf
        if self.receipt.seq is None or self.receipt.leaf_hash is None:
            raise AuditUnavailable("The entry was not recorded.")
        return self.receipt.seq, self.receipt.leaf_hash


@dataclass(frozen=True, slots=True)
class _Mark:
    """By what an event is known again: its time, and a digest of the rest of its bytes."""

    time: bytes
    rest: bytes

    @classmethod
    def of(cls, body: bytes) -> _Mark:
        rest = hashlib.sha256(body[: _TIMESTAMP.start] + body[_TIMESTAMP.stop :]).digest()
        return cls(body[_TIMESTAMP], rest)

    def is_same(self, other: _Mark, *, timed: bool) -> bool:
        """Tell whether both are one event; the time counts only if the newer one says it (`timed`)."""
        return self.rest == other.rest and (not timed or self.time == other.time)


@dataclass(frozen=True, slots=True)
class _UnderWay:
    receipt: Receipt
    mark: _Mark

    @property
    def has_failed(self) -> bool:
        """Tell whether it was not recorded."""
        return self.receipt.done and self.receipt.seq is None

    def is_settled(self, through: int) -> bool:
        """Tell whether it failed, or is among the first `through` entries of the log."""
        seq = self.receipt.seq
        return self.has_failed if seq is None else seq < through


@dataclass(frozen=True, slots=True)
class _Held:
    """An event that the log has: where, its leaf hash, and what it is (None: it was purged)."""

    seq: int
    leaf: bytes
    mark: _Mark | None


@dataclass(slots=True)
class _Book:
    """Which ids are claimed by requests that are looking, and which are queued and not in the memory yet."""

    free: threading.Condition = field(default_factory=threading.Condition)
    claimed: set[str] = field(default_factory=set)
    under_way: dict[str, _UnderWay] = field(default_factory=dict)


class Intake:
    """Takes events into one log; any thread may call it."""

    def __init__(self, audit: AuditLog, memory: Memory) -> None:
        self.audit = audit
        self._memory = memory
        self._book = _Book()
        self._denials = Denials(audit)
        self._through = -1

    def take(self, events: Sequence[Given], producer: Producer) -> list[Taken]:
        """Append the events of one request in order; none is durable yet on return.

        Raises: Refused (403: a claim that the producer may not make; 409: an id that is another event's; 422: an event
        that the log cannot hold), AuditUnavailable, StorageError. Nothing of the request is appended then, unless the
        log becomes unavailable in the middle of it.
        """
        events = [_completed(one, producer) for one in events]
        self._check_claims(events, producer)
        with self._claimed({one.draft.event_id for one in events if one.draft.event_id}) as known:
            admitted = self._admitted(events)
            self._check_same(events, admitted, known)
            if self.audit.policy.vault.seals:  # only now, as nothing may be sealed of what is refused
                admitted = [
                    event if event.event_id in known else self.audit.admit(one.draft, warn=False)
                    for one, event in zip(events, admitted, strict=True)
                ]
            return self._append(admitted, known)

    def close(self) -> None:
        """Close the memory."""
        with self._book.free:
            self._memory.close()

    def _check_claims(self, events: Sequence[Given], producer: Producer) -> None:
        """Refuse claims that the producer may not make, on the record. Raises: Refused (403)."""
        do = "Whoever runs the endpoint sets in the file of producers what each may claim."
        faults = [one.fault(reason, do) for one in events if (reason := producer.fault(one.draft)) is not None]
        if faults:
            self._denials.note(producer, {fault.message[1:].partition(":")[0] for fault in faults})
            raise refused_events(faults, status=403, kind="claim_not_allowed")

    # --- who has which id ---------------------------------------------------------------------------

    @contextlib.contextmanager
    def _claimed(self, ids: set[str]) -> Iterator[Mapping[str, _UnderWay | _Held]]:
        """Hold event ids alone; gives what is known of them."""
        book = self._book
        with book.free:
            while not book.claimed.isdisjoint(ids):
                book.free.wait()
            known = self._look_up(ids) if ids else {}
            book.claimed |= ids
        try:
            yield known
        finally:
            with book.free:
                book.claimed -= ids
                book.free.notify_all()

    def _look_up(self, ids: set[str]) -> dict[str, _UnderWay | _Held]:
        known: dict[str, _UnderWay | _Held] = {
            event_id: one
            for event_id in ids & self._book.under_way.keys()
            if not (one := self._book.under_way[event_id]).has_failed
        }
        for event_id, seq in self._memory.find(ids - known.keys()).items():
            if (held := self._held(seq, event_id)) is not None:
                known[event_id] = held
        if self._memory.through != self._through or len(self._book.under_way) > _MOST_UNDER_WAY:
            self._settle()
        return known

    def _settle(self) -> None:
        """Forget what the memory knows by now, and what failed."""
        self._through = through = self._memory.through
        left = {event_id: one for event_id, one in self._book.under_way.items() if not one.is_settled(through)}
        if len(left) > _MOST_UNDER_WAY:  # nothing is published, as the signer does not answer
            durable = {event_id: seq for event_id, one in left.items() if (seq := one.receipt.seq) is not None}
            self._memory.note(durable)
            left = {event_id: one for event_id, one in left.items() if event_id not in durable}
        self._book.under_way = left

    def _held(self, seq: int, event_id: str) -> _Held | None:
        for line in self.audit.reader.lines(seq, seq + 1):
            if line.startswith(PURGED_PREFIX):
                return _Held(seq, b"", None)
            if line[24:60] == event_id.encode():
                return _Held(seq, leaf_hash(line), _Mark.of(event_body(line)))
        return None

    # --- the door -----------------------------------------------------------------------------------

    def _admitted(self, events: Sequence[Given]) -> list[EncodedEvent]:
        """Return the events as they would be recorded, with nothing sealed. Raises: Refused (422)."""
        faults: list[Fault] = []
        admitted: list[EncodedEvent] = []
        for one in events:
            try:
                _check_type(one.draft)
                admitted.append(self.audit.admit(one.draft, warn=False, seal=False))
            except InvalidEvent as exc:
                faults.append(one.fault(*fault_of(exc)))
        if faults:
            raise refused_events(faults)
        return admitted

    def _check_same(
        self, events: Sequence[Given], admitted: Sequence[EncodedEvent], known: Mapping[str, _UnderWay | _Held]
    ) -> None:
        """Refuse ids that are another event's, in the log or earlier in the request. Raises: Refused (409)."""
        faults: list[Fault] = []
        earlier: dict[str, _Mark] = {}
        for one, event in zip(events, admitted, strict=True):
            if one.draft.event_id is None:
                continue
            mark = _Mark.of(event.body)
            found = known.get(event.event_id)
            first = earlier.setdefault(event.event_id, mark) if found is None else found.mark
            if first is None or not first.is_same(mark, timed=one.timed):
                faults.append(one.fault("/event_id: another event has it already", "Give each event an id of its own."))
        if faults:
            raise refused_events(faults, status=409, kind="event_id_reused")

    def _append(self, admitted: Sequence[EncodedEvent], known: Mapping[str, _UnderWay | _Held]) -> list[Taken]:
        """Queue what is new, in order and together. Raises: AuditUnavailable."""
        taken: list[Taken] = []
        new: dict[str, Receipt] = {}
        with self._book.free:
            for event in admitted:
                event_id = event.event_id
                found = known.get(event_id)
                if isinstance(found, _Held):
                    taken.append(Taken(event_id, repeated=True, seq=found.seq, leaf=found.leaf))
                elif found is not None or event_id in new:
                    receipt = new[event_id] if found is None else found.receipt
                    taken.append(Taken(event_id, repeated=True, receipt=receipt))
                else:
                    receipt = new[event_id] = self.audit.append(event)
                    taken.append(Taken(event_id, repeated=False, receipt=receipt))
                    if event_id in self._book.claimed:
                        self._book.under_way[event_id] = _UnderWay(receipt, _Mark.of(event.body))
        return taken


def _completed(one: Given, producer: Producer) -> Given:
    """Return an event with the producer's name, and with the producer's actor if it names none."""
    draft = one.draft.with_metadata(producer=producer.name)
    if not draft.actor_id and producer.actor is not None:
        draft = draft.replace(actor_id=producer.actor, actor_type=draft.actor_type or "service")
    if draft.event_id is not None:
        draft = draft.replace(event_id=draft.event_id.lower())
    return Given(one.at, one.line, draft, one.timed)


def _check_type(draft: Draft) -> None:
    """Refuse what the log says of itself, what has effects, and what names nobody. Raises: InvalidEvent."""
    refuse_given(draft.event_type, draft.event_id)
    if category_of(canonical_type(draft.event_type)) == "log":
        raise InvalidEvent(
            "/event_type: a type by which the log speaks of itself", do="Types of your own begin with x_."
        )
    if not draft.actor_id:
        raise InvalidEvent("/actor_id: nobody is named", do="Name who acted, or set the producer's actor.")
