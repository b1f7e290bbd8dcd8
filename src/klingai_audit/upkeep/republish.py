"""Putting a lost `checkpoint` back: the signed head that the state folder remembers, if the log still bears it out.

Nothing is believed that is not signed by this log's keys, and nothing is put back that the entries do not lead to.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from klingai_audit.errors import LogDamaged
from klingai_audit.ledger.countersign import Countersigner
from klingai_audit.ledger.heads import HeadReader, SignedHead
from klingai_audit.ledger.keys import KeyFolder
from klingai_audit.ledger.line import KEPT_INTERVAL, is_rotation, names_checkpoint
from klingai_audit.ledger.purged import line_hash
from klingai_audit.ledger.signing import Unpublished
from klingai_audit.ledger.state import StateFolder
from klingai_audit.ledger.store import Store
from klingai_audit.tlog.merkle import CompactRange

__all__ = ["find_head", "republish"]

_LOST: Final = "Preserve everything, then see docs/when-it-fails.md, section “Checkpoints and keys”."


def find_head(store: Store, state: StateFolder, heads: HeadReader, keys: KeyFolder) -> tuple[SignedHead | None, bool]:
    """Return the head to go by, and whether it has to be published again because `checkpoint` is gone or garbled.

    That head is the largest of the remembered one and the kept ones; None for a log whose creation was cut off.
    Raises: LogDamaged: there is no remembered head either.
    """
    pending = keys.pending  # before the look, as writers do: whoever creates this log publishes before it is not
    try:
        published = heads.published()
        if published is not None or pending:
            return published, False
    except LogDamaged:
        if heads.remembered() is None:
            raise
    remembered = heads.remembered()
    if remembered is None:
        raise LogDamaged(
            f"The log at {store.url} has no checkpoint, and {state.path} remembers none.",
            kind_of_damage="checkpoint_missing",
            do=_LOST,
        )
    sizes = [int(file.name.rpartition("/")[2]) for file in store.inspect() if file.kind == "kept"]
    kept = (heads.kept(size) for size in sizes if size > remembered.size)
    return max([remembered, *filter(None, kept)], key=lambda head: head.size), True


def republish(
    store: Store, heads: HeadReader, keys: KeyFolder, head: SignedHead, keep: Callable[[bytes], object]
) -> bool:
    """Put `head` in the place of a lost `checkpoint`, missing kept ones before it; False if somebody else was faster.

    Requires that the entries were found to lead to its root. `keep` gets what stood there. Durable on return; may be
    repeated. Raises: AuditUnavailable, SyncFailed.
    """
    missing = [(size, root) for size, root in _kept(store, head) if heads.kept(size) is None]
    epoch = keys.current
    signers = keys.log_signer, epoch.signer
    work = Unpublished(head.size, head.root, signers, epoch.epoch, Countersigner(store, keys), [], [])
    with store.publication() as publication:
        try:
            if heads.published() is not None:
                return False
        except LogDamaged:
            if stood := store.read_checkpoint():
                keep(stood)
        for size, root in missing:
            publication.put_kept(size, head.note if size == head.size else work.sign(size, root).note)
        publication.put_checkpoint(head.note)
    return True


def _kept(store: Store, head: SignedHead) -> list[tuple[int, bytes]]:
    """Sizes up to the head's, with their roots, at which the keys of this epoch keep a checkpoint, and the head's."""
    tree = CompactRange()
    found: list[tuple[int, bytes]] = []
    for line in store.read_entries(0, head.size):
        tree.extend(line_hash(line))
        if is_rotation(line) and tree.size < head.size:
            found.clear()  # those up to here are of earlier epochs, whose keys are gone
        elif names_checkpoint(line) or tree.size % KEPT_INTERVAL == 0:
            found.append((tree.size, tree.root()))
    return found
