"""The `.tlog-proof` file: one entry's inclusion proof with the signed checkpoint it leads to.

Source: C2SP tlog-proof (draft).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from klingai_audit.errors import Malformed
from klingai_audit.tlog.checkpoint import Checkpoint, open_checkpoint, parse_checkpoint
from klingai_audit.tlog.keys import VerifierKey
from klingai_audit.tlog.merkle import leaf_hash, verify_inclusion
from klingai_audit.tlog.note import MAX_NOTE_BYTES, parse_note
from klingai_audit.tlog.strict import MAX_SIZE, check_hash, format_base64, parse_base64, parse_decimal, parse_hash

__all__ = [
    "MAX_EXTRA_BYTES",
    "MAX_PROOF_BYTES",
    "MAX_PROOF_HASHES",
    "TlogProof",
    "parse_proof",
    "verify_leaf_proof",
    "verify_proof",
]

MAX_PROOF_HASHES = 63  # a tree below 2**63 entries is at most 63 levels high
MAX_EXTRA_BYTES = 1_000_000  # ours; the draft names no limit
MAX_PROOF_BYTES = MAX_NOTE_BYTES + 2 * MAX_EXTRA_BYTES
_FORMAT_LINE = "c2sp.org/tlog-proof@v1"


@dataclass(frozen=True, slots=True)
class TlogProof:
    """Entry `index` (from 0), its inclusion `proof` (32-byte hashes, sibling first) and the signed `checkpoint`.

    `checkpoint` is the note's bytes. `extra` is opaque, not authenticated by anything, and never empty.
    Raises on creation: Malformed, also if `checkpoint` is not a note with a checkpoint in it.
    """

    index: int
    proof: tuple[bytes, ...]
    checkpoint: bytes
    extra: bytes | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if not 0 <= self.index <= MAX_SIZE:
            raise Malformed("The entry index of the proof is not in [0, 2**63).")
        if len(self.proof) > MAX_PROOF_HASHES:
            raise Malformed(f"An inclusion proof has at most {MAX_PROOF_HASHES} hashes, not {len(self.proof)}.")
        for item in self.proof:
            check_hash(item, "A hash of the proof")
        if self.extra is not None and not 1 <= len(self.extra) <= MAX_EXTRA_BYTES:
            raise Malformed(f"The extra data of a proof has 1 to {MAX_EXTRA_BYTES} bytes, or is left out.")
        parse_checkpoint(parse_note(self.checkpoint).text)

    def format(self) -> bytes:
        """Return the file's bytes."""
        lines = [_FORMAT_LINE]
        if self.extra is not None:
            lines.append(f"extra {format_base64(self.extra)}")
        lines.append(f"index {self.index}")
        lines.extend(map(format_base64, self.proof))
        return "\n".join((*lines, "", "")).encode() + self.checkpoint


def parse_proof(data: bytes) -> TlogProof:
    """Read a proof file; `parse_proof(data).format() == data` for all that is accepted. Verifies nothing.

    Raises: Malformed.
    """
    if len(data) > MAX_PROOF_BYTES:
        raise Malformed(f"A proof file has at most {MAX_PROOF_BYTES} bytes, not {len(data)}.")
    head, separator, checkpoint = data.partition(b"\n\n")
    if not separator or not head.isascii():
        raise Malformed("A proof file is ASCII lines, an empty line and a checkpoint; this is not.")
    lines = head.decode("ascii").split("\n")
    if lines.pop(0) != _FORMAT_LINE:
        raise Malformed(f"A proof file begins with {_FORMAT_LINE}; this does not.")
    extra = None
    if lines and lines[0].startswith("extra "):
        extra = parse_base64(lines.pop(0).removeprefix("extra "), "The extra data of the proof")
    if not lines or not lines[0].startswith("index "):
        raise Malformed("The proof file has no index line where it belongs.")
    index = parse_decimal(lines.pop(0).removeprefix("index "), "The entry index of the proof")
    if len(lines) > MAX_PROOF_HASHES:
        raise Malformed(f"An inclusion proof has at most {MAX_PROOF_HASHES} hashes, not {len(lines)}.")
    return TlogProof(index, tuple(parse_hash(line, "A hash of the proof") for line in lines), checkpoint, extra)


def verify_proof(proof: TlogProof, entry: bytes, origin: str, keys: Sequence[VerifierKey]) -> Checkpoint:
    """Prove that `entry`, byte for byte, is in the log `origin`; return the verified checkpoint.

    `keys` as for `open_checkpoint`. Which cosigners must have signed is the caller's policy.
    Raises: Malformed, InvalidSignature, InvalidProof.
    """
    return verify_leaf_proof(proof, leaf_hash(entry), origin, keys)


def verify_leaf_proof(proof: TlogProof, leaf: bytes, origin: str, keys: Sequence[VerifierKey]) -> Checkpoint:
    """Do as `verify_proof` for a 32-byte leaf hash that the caller computed itself.

    Never pass a hash that came with the proof: an inner node of the tree would pass for an entry.
    """
    checkpoint, _, _ = open_checkpoint(proof.checkpoint, origin, keys)
    verify_inclusion(proof.index, checkpoint.size, leaf, proof.proof, checkpoint.root)
    return checkpoint
