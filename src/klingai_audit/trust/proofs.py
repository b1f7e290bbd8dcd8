"""Proofs that leave the log: of one entry, and that one signed state extends another. Checked with a key alone.

An entry's proof is a C2SP `.tlog-proof` file whose `extra` data is the entry itself: the leaf hash is computed from
it, so the inclusion proof authenticates it. A consistency proof is the body of a C2SP `add-checkpoint` request: the
old size, the hashes, and the newer signed checkpoint. Sources: C2SP tlog-proof (draft), C2SP tlog-witness.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from klingai_audit.errors import InvalidProof, UsageError
from klingai_audit.event.record import decode_event
from klingai_audit.ledger.purged import Purged, parse_purged
from klingai_audit.ledger.reader import LogReader
from klingai_audit.tlog.checkpoint import Checkpoint, open_checkpoint, parse_checkpoint
from klingai_audit.tlog.keys import VerifierKey
from klingai_audit.tlog.merkle import verify_consistency
from klingai_audit.tlog.note import parse_note
from klingai_audit.tlog.proof import TlogProof, parse_proof, verify_leaf_proof, verify_proof
from klingai_audit.tlog.submission import AddCheckpoint

__all__ = [
    "ProvenEntry",
    "ProvenLeaf",
    "check_consistency",
    "check_entry_proof",
    "check_leaf_proof",
    "origin_of_proof",
    "prove_consistency",
    "prove_entry",
    "prove_purged",
    "stated_seq",
]

_SEQ: Final = re.compile(rb',"seq":(0|[1-9][0-9]{0,15}),"logged_at":"')


@dataclass(frozen=True, slots=True)
class ProvenEntry:
    """An entry that was proven to be in a log: its bytes, its index, and the signed checkpoint above it.

    `signed_by` are the keys whose signatures on the checkpoint verified.
    """

    entry: bytes
    index: int
    checkpoint: Checkpoint
    signed_by: tuple[VerifierKey, ...]


@dataclass(frozen=True, slots=True)
class ProvenLeaf:
    """A 32-byte leaf hash that was proven to stand at `index` of a log; the rest as in `ProvenEntry`."""

    leaf: bytes
    index: int
    checkpoint: Checkpoint
    signed_by: tuple[VerifierKey, ...]


def prove_entry(reader: LogReader, seq: int, note: bytes | None = None) -> TlogProof:
    """Return the proof of entry `seq` under the published checkpoint, the entry's bytes as its extra data.

    `note` is another signed checkpoint of the log to prove it under, such as a cosigned one. O(log n) stored hashes
    are read, no entry but this one. Raises: UsageError if the checkpoint does not cover it.
    """
    return replace(reader.prove(seq, note), extra=reader.entry(seq))


def prove_purged(reader: LogReader, seq: int, note: bytes | None = None) -> tuple[TlogProof, Purged] | None:
    """Return the proof of a purged entry, which holds no entry, and what stands in its place; None if it is whole.

    It proves the leaf hash: whoever has the entry's bytes, or kept its hash, checks it with that. `note` as in
    `prove_entry`. Raises: UsageError if the checkpoint does not cover it.
    """
    proof = reader.prove(seq, note)
    purged = next(map(parse_purged, reader.lines(seq, seq + 1)), None)
    return None if purged is None else (proof, purged)


def prove_consistency(reader: LogReader, old: int) -> AddCheckpoint:
    """Return the proof that the first `old` entries are the beginning of the published tree, in O(log n) hashes.

    Raises: UsageError if the log is shorter.
    """
    note = reader.checkpoint_note()
    size = parse_checkpoint(parse_note(note).text).size
    if not 0 <= old <= size:
        raise UsageError(f"The log has {size} entries under its checkpoint, not {old}.", do="Name a smaller size.")
    return AddCheckpoint.of(old, reader.consistency(old, size) if 0 < old < size else (), note)


def origin_of_proof(data: bytes) -> str:
    """Return the origin that a proof file names, unverified: for finding the key to verify with. Raises: Malformed."""
    is_entry = data.startswith(b"c2sp.org/")
    checkpoint = parse_proof(data).checkpoint if is_entry else AddCheckpoint.parse(data).data
    return parse_checkpoint(parse_note(checkpoint).text).origin


def check_entry_proof(data: bytes, keys: Sequence[VerifierKey], entry: bytes | None = None) -> ProvenEntry:
    """Verify a `.tlog-proof` file with nothing but keys; `entry` if its bytes are not in the file.

    `keys` begin with the log key; others may be of witnesses. Besides the inclusion, the entry must state the
    index that was proven. Raises: Malformed, InvalidSignature, InvalidProof, UsageError without an entry.
    """
    proof = parse_proof(data)
    proven = proof.extra if entry is None else entry
    if proven is None:
        raise UsageError(
            "The proof does not hold its entry.",
            do="Name its bytes with --entry FILE; of a purged one, its hash with --leaf.",
        )
    origin = keys[0].name
    checkpoint = verify_proof(proof, proven, origin, keys)
    _, _, signed = open_checkpoint(proof.checkpoint, origin, keys)
    if stated_seq(proven) != proof.index:
        raise InvalidProof(f"The entry proven at index {proof.index} states another seq.")
    return ProvenEntry(proven, proof.index, checkpoint, signed)


def check_leaf_proof(data: bytes, keys: Sequence[VerifierKey], leaf: bytes) -> ProvenLeaf:
    """Verify a `.tlog-proof` file for a 32-byte leaf hash that the caller kept or computed from an entry's bytes.

    The hash must not come from the one who gives the proof: it would then say nothing about what the entry was.
    `keys` as in `check_entry_proof`. Raises: Malformed, InvalidSignature, InvalidProof.
    """
    proof = parse_proof(data)
    checkpoint = verify_leaf_proof(proof, leaf, keys[0].name, keys)
    _, _, signed = open_checkpoint(proof.checkpoint, keys[0].name, keys)
    return ProvenLeaf(leaf, proof.index, checkpoint, signed)


def stated_seq(entry: bytes) -> int | None:
    """Return the index that an entry states of itself. Raises: Malformed for what is no entry."""
    decode_event(entry)
    stated = _SEQ.findall(entry)
    return int(stated[-1]) if stated else None


def check_consistency(proof: AddCheckpoint, old: bytes, keys: Sequence[VerifierKey]) -> tuple[Checkpoint, Checkpoint]:
    """Verify that the signed checkpoint `old` (a note's bytes) is the beginning of the proof's; return both.

    Raises: Malformed; InvalidSignature; InvalidProof if the newer history is another one.
    """
    origin = keys[0].name
    before, _, _ = open_checkpoint(old, origin, keys)
    after, _, _ = open_checkpoint(proof.data, origin, keys)
    if before.size != proof.old:
        raise InvalidProof(f"The proof begins at size {proof.old}, the older checkpoint has size {before.size}.")
    verify_consistency(before.size, after.size, before.root, after.root, proof.proof)
    return before, after
