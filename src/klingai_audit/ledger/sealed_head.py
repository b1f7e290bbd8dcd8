"""The head of a log whose batches are sealed first and signed later: each act of a writer in one transaction."""

from __future__ import annotations

from collections.abc import Sequence

from klingai_audit.event.record import EncodedEvent
from klingai_audit.ledger.head import Head
from klingai_audit.ledger.log_head import HEARTBEAT_NS
from klingai_audit.ledger.moved import refuse_moved
from klingai_audit.ledger.places import Appended
from klingai_audit.ledger.store import Transaction

__all__ = ["SealedHead"]


class SealedHead(Head):
    """See `log_head.LogHead`."""

    @property
    def publish_interval(self) -> float:
        return self.keys.signing_interval

    def take_up(self, created: Sequence[tuple[EncodedEvent, bool]]) -> list[Appended]:
        with self.store.transaction() as txn:
            self.load(txn)
            events = created if self.size == 0 else created[-1:]
            refuse_moved(self._last_line, self.store.url, events)
            return self.append(txn, events)

    def commit(self, events: Sequence[tuple[EncodedEvent, bool]]) -> list[Appended]:
        with self.store.transaction() as txn:
            self._catch_up_here(txn)
            return self.append(txn, events)

    def beat(self) -> list[Appended]:
        if self.silent_ns < HEARTBEAT_NS:
            return []
        with self.store.transaction() as txn:
            self._catch_up_here(txn)
            if self.silent_ns < HEARTBEAT_NS:
                return []
            return self.append(txn, [self.own("log_heartbeat", {})])

    def rotate_now(self) -> None:
        with self.store.transaction() as txn:
            self._catch_up_here(txn)
            self.rotate(txn)

    def _catch_up_here(self, txn: Transaction) -> None:
        self.catch_up(txn)
        refuse_moved(self._last_line, self.store.url)

    def close(self) -> None:
        self.ends.close()
        self.store.close()
