"""Putting a signed head in place: tree hashes, remembered head, kept checkpoints, `checkpoint`; in this order.

Used under the store's publication lock, which is not the writer lock: entries go on being appended meanwhile.
"""

from __future__ import annotations

from typing import NamedTuple

from klingai_audit.errors import InconsistentCheckpoints
from klingai_audit.ledger.countersign import Countersigner
from klingai_audit.ledger.heads import HeadReader, SignedHead
from klingai_audit.ledger.state import StateFolder
from klingai_audit.ledger.store import SealedPublication
from klingai_audit.ledger.tree import HashWrite
from klingai_audit.tlog.checkpoint import Checkpoint
from klingai_audit.tlog.keys import NoteSigner, SignerKey
from klingai_audit.tlog.note import format_note, signed_note

__all__ = ["Unpublished", "put_in_place"]


class Unpublished(NamedTuple):
    """What one writer has to publish: size and root of its tree, and who signs it (log key, key of epoch `epoch`).

    `marks` are sizes with their roots at which a checkpoint is kept; `writes` hashes that the store may not hold yet.
    `countersigner` adds the third line where it is due.
    """

    size: int
    root: bytes
    signers: tuple[NoteSigner, SignerKey]
    epoch: int
    countersigner: Countersigner
    marks: list[tuple[int, bytes]]
    writes: list[HashWrite]

    def sign(self, size: int, root: bytes, *, kept: bool = True) -> SignedHead:
        """Return the checkpoint of `size` entries with the lines of its signers; `kept` ones have all lines."""
        checkpoint = Checkpoint(self.signers[0].name, size, root)
        note = signed_note(checkpoint.text(), *self.signers)
        note = self.countersigner.countersign(note, always=kept)
        return SignedHead(format_note(note), checkpoint, self.epoch, note.signatures[1])


def put_in_place(
    publication: SealedPublication,
    heads: HeadReader,
    state: StateFolder,
    work: Unpublished,
    *,
    signed: SignedHead | None = None,
    surely: bool = False,
) -> None:
    """Publish `work` unless a checkpoint of its size or a larger one is published already; durable on return.

    A published one may not be durable yet if its writer died; with `surely` it is made so. `signed` is the head of
    that size if it was signed before. Raises: AuditUnavailable, SyncFailed, LogDamaged, InconsistentCheckpoints.
    """
    there = heads.published()
    if there is not None and there.size >= work.size:
        if there.size == work.size:
            _check_same(there, work)
        if surely:
            publication.put_checkpoint(there.note)
        return
    publication.settle()
    for level, begin, hashes in work.writes:
        publication.put_hashes(level, begin, hashes)
    publication.sync_hashes()
    marks = [(size, root) for size, root in work.marks if there is None or size > there.size]
    smaller = [_kept(heads, work, *mark) for mark in marks if mark[0] < work.size]  # first: some signers never go back
    if signed is None:
        signed = work.sign(work.size, work.root, kept=(work.size, work.root) in work.marks)
        heads.know(signed)
    remembered = heads.remembered()
    if remembered is not None and remembered.size == work.size:
        _check_same(remembered, work)
    if remembered is None or remembered.size <= work.size:
        state.write_head(signed.note)
    for kept in smaller:
        publication.put_kept(kept.size, kept.note)
    if len(smaller) < len(marks):
        publication.put_kept(work.size, _kept(heads, work, work.size, work.root, signed).note)
    publication.put_checkpoint(signed.note)


def _kept(heads: HeadReader, work: Unpublished, size: int, root: bytes, signed: SignedHead | None = None) -> SignedHead:
    """The checkpoint to keep at `size`: one of a writer that died is put again, for its name may not be durable."""
    kept = heads.kept(size)
    if kept is not None and kept.root == root:
        return kept
    return work.sign(size, root) if signed is None else signed


def _check_same(head: SignedHead, work: Unpublished) -> None:
    if head.root != work.root:
        raise InconsistentCheckpoints(
            f"Another checkpoint of the same {work.size} entries is signed, with another root.",
            older=head.note,
            newer=work.sign(work.size, work.root).note,
            do="This is a fork. Preserve the log as it is and run: klingai-audit verify",
        )
