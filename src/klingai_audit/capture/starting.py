"""Whether there is a log to open, where its store does not answer."""

from __future__ import annotations

from pathlib import Path

from klingai_audit.errors import AuditUnavailable
from klingai_audit.ledger.keys import KeyFolder
from klingai_audit.ledger.state import StateFolder
from klingai_audit.ledger.store import Store
from klingai_audit.privacy.policy import Policy

__all__ = ["is_there"]


def is_there(store: Store, keys: KeyFolder, state: StateFolder, policy: Path) -> bool:
    """Whether the log exists, for a writer: where that cannot be told, one whose entries may wait was there before.

    `policy` is the policy file. Raises: AuditUnavailable.
    """
    try:
        return store.exists()
    except AuditUnavailable:
        if keys.exists() and not keys.pending and state.remembers and Policy.load(policy).failure.spools:
            return True
        raise
