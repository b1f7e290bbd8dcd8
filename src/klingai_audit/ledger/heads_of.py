"""Which head moves which store."""

from __future__ import annotations

from typing import cast

from klingai_audit.ledger.batch_head import BatchHead
from klingai_audit.ledger.batches import takes_batches
from klingai_audit.ledger.clock import Clock
from klingai_audit.ledger.keys import KeyFolder
from klingai_audit.ledger.log_head import LogHead, OwnEvent
from klingai_audit.ledger.rotation import Rotation
from klingai_audit.ledger.sealed_head import SealedHead
from klingai_audit.ledger.state import StateFolder
from klingai_audit.ledger.store import SealedStore, Store

__all__ = ["head_of"]


def head_of(
    store: Store,
    keys: KeyFolder,
    state: StateFolder,
    own_event: OwnEvent,
    clock: Clock,
    *,
    rotation: Rotation = "daily",
    accept_clock: bool = False,
) -> LogHead:
    """Return the head that moves `store`; nothing is read yet."""
    if takes_batches(store):
        return BatchHead(store, keys, state, own_event, clock, rotation=rotation, accept_clock=accept_clock)
    sealed = cast("SealedStore", store)
    return SealedHead(sealed, keys, state, own_event, clock, rotation=rotation, accept_clock=accept_clock)
