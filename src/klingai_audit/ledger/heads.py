"""The signed heads that a writer finds: the published checkpoint and the remembered one."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from klingai_audit.errors import InconsistentCheckpoints, LogDamaged, Malformed, VerificationError
from klingai_audit.ledger.countersign import is_countersignature
from klingai_audit.ledger.keys import EpochKeys, KeyFolder
from klingai_audit.ledger.state import StateFolder
from klingai_audit.ledger.store import Store
from klingai_audit.tlog.checkpoint import Checkpoint, open_checkpoint
from klingai_audit.tlog.keys import VerifierKey
from klingai_audit.tlog.merkle import root_at
from klingai_audit.tlog.note import SignatureLine, verify_line
from klingai_audit.tlog.tile import node_reader

__all__ = ["HeadReader", "SignedHead", "check_epoch", "check_not_forked"]

_EPOCH: Final = re.compile(r"/epoch-(0|[1-9][0-9]*)")
_REMEMBERED_NOTES: Final = 8


@dataclass(frozen=True, slots=True)
class SignedHead:
    """A checkpoint of this log, its log key line verified: the note's bytes, and the epoch whose line stands second."""

    note: bytes
    checkpoint: Checkpoint
    epoch: int
    epoch_line: SignatureLine

    @property
    def size(self) -> int:
        """Entries under this head."""
        return self.checkpoint.size

    @property
    def root(self) -> bytes:
        """The 32-byte tree root over these entries."""
        return self.checkpoint.root


class HeadReader:
    """Opens the notes of one log, whose name is the log key's; what it opened lately is not verified again."""

    def __init__(self, store: Store, state: StateFolder, keys: KeyFolder) -> None:
        self._store = store
        self._state = state
        self._keys = keys
        self._opened: dict[bytes, SignedHead] = {}

    @property
    def key(self) -> VerifierKey:
        """The log key's public half."""
        return self._keys.log_signer.verifier

    def published(self) -> SignedHead | None:
        """Return the published checkpoint, or None. Raises: LogDamaged if it is not of this log, StorageError."""
        return self._open(self._store.read_checkpoint(), "checkpoint", self._store.url)

    def remembered(self) -> SignedHead | None:
        """Return the head that the state folder remembers, or None. Raises: as `published`."""
        return self._open(self._state.read_head(), "remembered head", str(self._state.path))

    def kept(self, size: int) -> SignedHead | None:
        """Return the kept checkpoint of `size`; None if there is none, or something else under its name."""
        try:
            return self._open(self._store.read_kept(size), "kept checkpoint", self._store.url)
        except LogDamaged:
            return None

    def know(self, head: SignedHead) -> None:
        """Keep a head whose signature is known to be good: it was verified, or this writer made it."""
        self._opened = dict([*list(self._opened.items())[1 - _REMEMBERED_NOTES :], (head.note, head)])

    def _open(self, note: bytes | None, what: str, where: str) -> SignedHead | None:
        if note is None:
            return None
        head = self._opened.get(note)
        if head is None:
            try:
                head = _parse(note, self.key)
            except VerificationError as exc:
                raise LogDamaged(
                    f"The {what} of {where} is not signed by this log's keys: {exc.message}",
                    kind_of_damage="checkpoint_signature",
                ) from exc
            self.know(head)
        return head


def _parse(note: bytes, key: VerifierKey) -> SignedHead:
    checkpoint, parsed, _ = open_checkpoint(note, key.name, [key])
    if len(parsed.signatures) not in (2, 3) or parsed.signatures[0].name != key.name:
        raise Malformed("It does not hold exactly the line of the log key and that of an epoch key.")
    if len(parsed.signatures) == 3 and not is_countersignature(parsed.signatures[2], key.name):
        raise Malformed("Its third line is not one by an ML-DSA-44 key of the log.")
    line = parsed.signatures[1]
    epoch = _EPOCH.fullmatch(line.name.removeprefix(key.name))
    if epoch is None:
        raise Malformed("Its second line is not that of an epoch key.")
    return SignedHead(note, checkpoint, int(epoch[1]), line)


def check_not_forked(store: Store, published: SignedHead | None, remembered: SignedHead | None) -> None:
    """Check that the published history begins with the remembered one (or is the shorter of the two).

    Raises: InconsistentCheckpoints, LogDamaged if tree hashes are missing.
    """
    if published is None or remembered is None or published.size < remembered.size:
        return
    root = published.root
    if remembered.size < published.size:
        try:
            root = root_at(remembered.size, node_reader(store.read_hashes))
        except Malformed as exc:
            raise LogDamaged(f"{store.url}: {exc.message}", kind_of_damage="tree_short") from exc
    if root != remembered.root:
        raise InconsistentCheckpoints(
            f"Two checkpoints with different roots of {remembered.size} entries are signed for {store.url}.",
            older=remembered.note,
            newer=published.note,
            do="This is a fork. Preserve both files and run: klingai-audit verify",
        )


def check_epoch(head: SignedHead, last_line: bytes, current: EpochKeys, where: str) -> None:
    """Check that `current` may sign what follows `head`, whose last entry is `last_line`.

    Raises: LogDamaged if the head is not signed by the current epoch, or at its beginning by the one before.
    """
    if head.epoch == current.epoch:
        try:
            verify_line(head.checkpoint.text(), head.epoch_line, current.signer.verifier)
        except VerificationError as exc:
            raise LogDamaged(
                f"The checkpoint of {where} is not signed by epoch {head.epoch}: {exc.message}",
                kind_of_damage="epoch_signature",
            ) from exc
    elif head.epoch > current.epoch:
        raise LogDamaged(
            f"{where} was signed in epoch {head.epoch}, but the keys folder holds the keys of epoch {current.epoch}.",
            kind_of_damage="epoch_signature",
            do="The keys folder is an older copy: restore the newest one. With the old keys the log cannot go on.",
        )
    elif head.epoch != current.epoch - 1 or current.signer.verifier.format().encode() not in last_line:
        raise LogDamaged(
            f"{where} ends in epoch {head.epoch}, but its keys are already in epoch {current.epoch}.",
            kind_of_damage="rollback",
            do="The log is an older copy than its keys. Preserve the files as they are and find the newer one.",
        )
