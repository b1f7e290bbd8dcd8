"""The signed heads that a writer finds: the published checkpoint and the remembered one."""

from __future__ import annotations

from klingai_audit.errors import InconsistentCheckpoints, LogDamaged, VerificationError
from klingai_audit.ledger.state import StateFolder
from klingai_audit.ledger.store import Store
from klingai_audit.tlog.checkpoint import Checkpoint, open_checkpoint
from klingai_audit.tlog.keys import VerifierKey

__all__ = ["known_heads", "open_head"]


def open_head(note: bytes, key: VerifierKey, where: str) -> Checkpoint:
    """Return the checkpoint of a note that the log key signed; its name is the origin. Raises: LogDamaged."""
    try:
        return open_checkpoint(note, key.name, [key])[0]
    except VerificationError as exc:
        raise LogDamaged(
            f"A checkpoint of {where} is not signed by this log's key: {exc.message}",
            kind_of_damage="checkpoint_signature",
        ) from exc


def known_heads(store: Store, state: StateFolder, key: VerifierKey) -> tuple[Checkpoint | None, Checkpoint | None]:
    """Return the published checkpoint and the remembered one, each None if there is none.

    Raises: LogDamaged if one is not signed by `key`; InconsistentCheckpoints if they exclude each other.
    """
    note, head = store.read_checkpoint(), state.read_head()
    published = None if note is None else open_head(note, key, store.url)
    remembered = None if head is None else open_head(head, key, str(state.path))
    if (
        published is not None
        and remembered is not None
        and published.size == remembered.size
        and published.root != remembered.root
    ):
        raise InconsistentCheckpoints(
            f"Two checkpoints of size {published.size} with different roots are signed for {key.name}.",
            older=head or b"",
            newer=note or b"",
            do="This is a fork. Preserve both files and run: klingai-audit verify",
        )
    return published, remembered
