"""The third line of a checkpoint: an ML-DSA-44 cosignature by the log itself, which no quantum computer forges.

A log has it if its first entry names the key. It stands on every checkpoint that is kept for its size or its last
entry, and on the first one after a minute since the last such line. Format: docs/format.md, section 7.
"""

from __future__ import annotations

from typing import Final

import msgspec

from klingai_audit.errors import LogDamaged, LogNotFound, Malformed
from klingai_audit.ledger.clock import SYSTEM_CLOCK, Clock
from klingai_audit.ledger.keys import KeyFolder
from klingai_audit.ledger.store import Store
from klingai_audit.tlog.cosignature import cosign, parse_cosignature
from klingai_audit.tlog.keys import ML_DSA_44
from klingai_audit.tlog.note import Note, SignatureLine, SignerKey

__all__ = ["INTERVAL_NS", "Countersigner", "is_countersignature"]

INTERVAL_NS: Final = 60 * 10**9
"""A checkpoint published this long after the last countersigned one is countersigned, in nanoseconds."""

_SECOND_NS: Final = 10**9


def is_countersignature(line: SignatureLine, origin: str) -> bool:
    """Tell whether a line has the form of an ML-DSA-44 cosignature by the log `origin` itself."""
    try:
        parse_cosignature(line, ML_DSA_44)
    except Malformed:
        return False
    return line.name == origin


class Countersigner:
    """Adds that line for one writer, where the log's first entry names the key. Used under the publication lock."""

    def __init__(self, store: Store, keys: KeyFolder, clock: Clock = SYSTEM_CLOCK) -> None:
        self._store = store
        self._keys = keys
        self._clock = clock
        self._named: str | None = None
        self._last_ns: int | None = None

    def countersign(self, note: Note, *, always: bool) -> Note:
        """Return the note with the third line if it is `always` to stand there, or a minute is over.

        Raises: LogNotFound, LogDamaged if the keys folder lacks the key that the log names; AuditUnavailable.
        """
        now = self._clock.now_ns()
        due = self._last_ns is None or not 0 <= now - self._last_ns < INTERVAL_NS
        if not (always or due) or (signer := self._signer()) is None:
            return note
        self._last_ns = now
        return Note(note.text, (*note.signatures, cosign(note.text, signer, max(0, now // _SECOND_NS))))

    def begin(self, line: bytes) -> None:
        """Take entry 0 from the writer that is about to commit it. Raises: LogDamaged."""
        self._named = _named_key(line, self._store.url)

    def _signer(self) -> SignerKey | None:
        if self._named is None:
            self._named = _named_key(next(iter(self._store.read_entries(0, 1)), b""), self._store.url)
        if not self._named:
            return None
        signer = self._keys.mldsa_signer
        if signer is None:
            raise LogNotFound(
                f"The private file {self._keys.path / 'mldsa.key'} is missing.",
                do="Restore the keys folder from your backup; this log's checkpoints need its signature.",
            )
        if signer.verifier.format() != self._named:
            raise LogDamaged(
                f"{self._keys.path / 'mldsa.key'} is not the ML-DSA-44 key that the log's first entry names.",
                kind_of_damage="mldsa_replaced",
                do="The keys folder is that of another log, or somebody replaced one. Run: klingai-audit verify",
            )
        return signer


class _Metadata(msgspec.Struct):
    mldsa_key: str = ""


class _Created(msgspec.Struct):
    metadata: _Metadata


def _named_key(line: bytes, where: str) -> str:
    """Return the vkey that entry 0 names, empty if none. Raises: LogDamaged."""
    try:
        return msgspec.json.decode(line, type=_Created).metadata.mldsa_key
    except (msgspec.DecodeError, UnicodeDecodeError) as exc:
        raise LogDamaged(f"Entry 0 of {where} does not create the log.", kind_of_damage="first_entry") from exc
