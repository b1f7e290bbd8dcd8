"""Who signs the heads of a batch-signed log: the log key, and epoch keys that every host derives for itself.

With an external signer a batch is committed under the epoch key alone; the log key's line is added when the head is
published, except on checkpoints that are kept, which have all lines from the beginning.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from klingai_audit.errors import LogDamaged, LogNotFound, Malformed, VerificationError
from klingai_audit.ledger.batches import StoredHead
from klingai_audit.ledger.countersign import Countersigner, is_countersignature
from klingai_audit.ledger.derived import derive_next
from klingai_audit.ledger.heads import SignedHead
from klingai_audit.ledger.keys import EpochKeys, KeyFolder, read_public_key
from klingai_audit.ledger.line import is_rotation
from klingai_audit.tlog.checkpoint import Checkpoint, parse_checkpoint
from klingai_audit.tlog.keys import VerifierKey
from klingai_audit.tlog.note import Note, NoteSigner, format_note, parse_note, signed_note, verify_line

__all__ = ["BatchKeys", "CommittedHead"]

_EPOCH: Final = re.compile(r"/epoch-(0|[1-9][0-9]{0,8})")
_MAX_BEHIND: Final = 10_000
"""More epochs than a host may have slept through: 27 years of days."""


@dataclass(frozen=True, slots=True)
class CommittedHead:
    """A verified head; `complete` if the log key's line stands on it, so that everybody may see it."""

    signed: SignedHead
    complete: bool

    @property
    def note(self) -> bytes:
        """The note's bytes."""
        return self.signed.note

    @property
    def size(self) -> int:
        """Entries under it."""
        return self.signed.size

    @property
    def root(self) -> bytes:
        """The 32-byte tree root over these entries."""
        return self.signed.root


class BatchKeys:
    """Signs and checks heads for one writer. Used under the writer lock, `complete` by the publisher, too."""

    def __init__(self, keys: KeyFolder, countersigner: Countersigner) -> None:
        self._keys = keys
        self._countersigner = countersigner

    def begin(self, line: bytes) -> None:
        """Take entry 0, before it is committed. Raises: LogDamaged."""
        self._countersigner.begin(line)

    # --- signing ----------------------------------------------------------------------------------

    def sign(self, size: int, root: bytes, *, kept: bool) -> CommittedHead:
        """Return the signed checkpoint of `size` entries; a `kept` one has all lines. Raises: SignerUnavailable."""
        log, epoch = self._keys.log_signer, self._keys.current
        checkpoint = Checkpoint(self._keys.origin, size, root)
        complete = kept or not self._keys.signing_interval
        signers: tuple[NoteSigner, ...] = (log, epoch.signer) if complete else (epoch.signer,)
        note = signed_note(checkpoint.text(), *signers)
        line = note.signatures[-1]
        if complete:
            note = self._countersigner.countersign(note, always=kept)
        return CommittedHead(SignedHead(format_note(note), checkpoint, epoch.epoch, line), complete)

    def complete(self, head: CommittedHead) -> CommittedHead:
        """Return the head with the log key's line. Raises: SignerUnavailable."""
        if head.complete:
            return head
        text = head.signed.checkpoint.text()
        first = signed_note(text, self._keys.log_signer).signatures
        note = self._countersigner.countersign(Note(text, (*first, head.signed.epoch_line)), always=False)
        signed = head.signed
        return CommittedHead(
            SignedHead(format_note(note), signed.checkpoint, signed.epoch, signed.epoch_line), complete=True
        )

    # --- what others signed -----------------------------------------------------------------------

    def open(self, head: StoredHead, where: str) -> CommittedHead:
        """Verify the head of a store, whose epoch's keys are derived if this host lags behind; nothing is changed.

        Raises: LogDamaged.
        """
        try:
            return self._open(head)
        except VerificationError as exc:
            if isinstance(exc, LogDamaged):
                raise
            raise LogDamaged(
                f"The head of {where} is not signed by this log's keys: {exc.message}",
                kind_of_damage="checkpoint_signature",
            ) from exc

    def _open(self, head: StoredHead) -> CommittedHead:
        origin, note = self._keys.origin, parse_note(head.note)
        checkpoint = parse_checkpoint(note.text)
        if checkpoint.origin != origin:
            raise Malformed("It is of another log.")
        lines = list(note.signatures)
        complete = lines[0].name == origin
        if complete:
            verify_line(note.text, lines.pop(0), self._keys.log_signer.verifier)
        if len(lines) > 1 and is_countersignature(lines[-1], origin):
            lines.pop()
        match = _EPOCH.fullmatch(lines[0].name.removeprefix(origin)) if len(lines) == 1 else None
        if match is None:
            raise Malformed("It does not hold exactly the line of the log key and that of an epoch key.")
        epoch, line = int(match[1]), lines[0]
        verify_line(note.text, line, self._verifier(epoch, head.last))
        return CommittedHead(SignedHead(head.note, checkpoint, epoch, line), complete)

    def _verifier(self, epoch: int, last: bytes) -> VerifierKey:
        current = self._keys.current
        if epoch >= current.epoch:
            if epoch - current.epoch > _MAX_BEHIND:
                raise Malformed(f"Epoch {epoch} is too far from epoch {current.epoch}, which this host knows.")
            for _ in range(epoch - current.epoch):
                current = derive_next(current, self._keys.origin)
            return current.signer.verifier
        if epoch != current.epoch - 1 or not _is_named(current, last):
            raise LogDamaged(
                f"The log ends in epoch {epoch}, but its keys are already in epoch {current.epoch}.",
                kind_of_damage="rollback",
                do="The log is an older copy than its keys. Preserve both as they are and find the newer one.",
            )
        return read_public_key(self._keys.path / f"epoch-{epoch}.pub")

    def follow(self, head: CommittedHead, last: bytes) -> None:
        """Move the keys folder to the epoch in force after `head`, whose last entry is `last`.

        Older private keys are destroyed; durable on return.
        Raises: AuditUnavailable; LogNotFound if this log's epochs are not derived.
        """
        while self._keys.current.epoch < head.signed.epoch:
            self.promote()
        if is_rotation(last) and not _is_named(self._keys.current, last):
            if not _is_named(self._successor(), last):
                raise LogNotFound(
                    f"The keys folder {self._keys.path} lacks the epoch key that the last entry names.",
                    do="Take the keys over from a host that writes: klingai-audit keys export-writer",
                )
            self.promote()

    def prepare(self) -> EpochKeys:
        """Make sure that the keys folder holds the successor of the current epoch; durable on return."""
        with self._keys.locked():  # others of this host do the same, under no lock of the log
            return self._keys.prepare_next(self._successor())

    def promote(self) -> None:
        """Make the successor current and destroy its predecessor's private keys; durable on return."""
        self._keys.promote(self._successor())

    def _successor(self) -> EpochKeys:
        return derive_next(self._keys.current, self._keys.origin)


def _is_named(keys: EpochKeys, last: bytes) -> bool:
    return keys.signer.verifier.format().encode() in last
