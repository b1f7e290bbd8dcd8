"""Check a bundle with our own code and a public key; needs no log. The page does the same in a browser."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Final

from klingai_audit.bundle.archive import MAX_BUNDLE_BYTES, UNPROVEN, derived_members, read_bundle
from klingai_audit.bundle.evidence import Evidence, Stamped, read_evidence
from klingai_audit.bundle.page import embedded_evidence
from klingai_audit.errors import InvalidProof, InvalidSignature, Malformed, MissingExtra
from klingai_audit.ledger.line import names_checkpoint
from klingai_audit.tlog.checkpoint import Checkpoint, parse_checkpoint
from klingai_audit.tlog.keys import VerifierKey
from klingai_audit.tlog.merkle import leaf_hash, verify_consistency, verify_inclusion
from klingai_audit.tlog.note import Note, parse_note, verify_line
from klingai_audit.tlog.policy import WitnessPolicy
from klingai_audit.tlog.strict import parse_hash
from klingai_audit.trust.countersigned import is_demanded
from klingai_audit.trust.epochs import Epochs, FirstEntry, read_metadata
from klingai_audit.trust.proofs import stated_seq
from klingai_audit.trust.token import parse_token
from klingai_audit.trust.witnessed import find_witnessed, read_witnessed

__all__ = ["CheckedBundle", "check_bundle", "is_bundle", "origin_of_bundle"]

_MAGIC: Final = b"PK\x03\x04"
_TYPE_AT: Final = 118
_ROTATED: Final = b'signing_key_rotated"'


@dataclass(frozen=True, slots=True)
class CheckedBundle:
    """A bundle that holds: the chosen entries by seq, the checkpoint above them, and what else was established.

    `witnessed` are (size, latest time in POSIX seconds, names) of rounds that the policy accepts, ascending;
    `stamped` the sizes whose checkpoint a time stamp names. `not_checked` says in words what was not.
    """

    checkpoint: Checkpoint
    key: VerifierKey
    entries: dict[int, bytes]
    epochs: int
    witnessed: tuple[tuple[int, int, tuple[str, ...]], ...]
    stamped: tuple[int, ...]
    not_checked: tuple[str, ...]


def is_bundle(head: bytes) -> bool:
    """Tell whether a file that begins with these bytes (4 or more) is a zip file."""
    return head.startswith(_MAGIC)


def origin_of_bundle(data: bytes) -> str:
    """Return the origin that a bundle names, unverified. Raises: Malformed."""
    evidence = read_evidence(read_bundle(data)["evidence.json"])
    return parse_checkpoint(parse_note(evidence.checkpoint.encode()).text).origin


def check_bundle(data: bytes, key: VerifierKey, policy: WitnessPolicy | None = None) -> CheckedBundle:
    """Verify everything in a bundle with the log's public `key`; cosignatures with the witnesses of `policy`.

    Raises: Malformed, InvalidSignature, InvalidProof for the first thing that does not hold.
    """
    if len(data) > MAX_BUNDLE_BYTES:
        raise Malformed(f"A bundle has at most {MAX_BUNDLE_BYTES} bytes.")
    members = read_bundle(data)
    evidence = read_evidence(members["evidence.json"])
    _check_members(members, evidence)
    check = _Check(evidence, key)
    epochs = check.keys()
    check.entries()
    check.signatures(evidence.checkpoint, epochs)
    witnessed = check.witnesses(policy)
    stamped = tuple(check.stamp(stamp, epochs) for stamp in evidence.stamps)
    return CheckedBundle(
        check.checkpoint,
        key,
        {seq: check.lines[seq] for seq in evidence.chosen},
        len(epochs.keys),
        witnessed,
        stamped,
        tuple(check.not_checked(policy)),
    )


def _check_members(members: dict[str, bytes], evidence: Evidence) -> None:
    """The files for other software say the same as the evidence. Raises: Malformed."""
    derived = derived_members(evidence)
    more = set(members) - set(derived) - UNPROVEN - {"evidence.json"}
    if more:
        raise Malformed(f"The bundle holds {min(more)!a}, which its evidence does not speak of.")
    for name, content in derived.items():
        if members.get(name) != content:
            raise Malformed(f"The member {name} is not what evidence.json says.")
    page = members.get("verify.html")
    if page is not None and embedded_evidence(page) != members["evidence.json"].replace(b"<", b"\\u003c"):
        raise Malformed("The page in the bundle holds other evidence than evidence.json.")


class _Check:
    def __init__(self, evidence: Evidence, key: VerifierKey) -> None:
        self.evidence = evidence
        self.key = key
        self.lines = evidence.lines
        self.checkpoint = parse_checkpoint(parse_note(evidence.checkpoint.encode()).text)
        if self.checkpoint.origin != key.name:
            raise InvalidSignature("The bundle is of another log than the key.")
        self.steps = {step.size: step.proof for step in evidence.consistency}
        self.further = 0
        self.mldsa_key: VerifierKey | None = None

    def entries(self) -> None:
        """Every entry states its seq and is included under the root."""
        for one in self.evidence.entries:
            line = self.lines[one.seq]
            if stated_seq(line) != one.seq:
                raise InvalidProof(f"The entry proven at index {one.seq} states another seq.")
            proof = [parse_hash(text, "A hash of a proof") for text in one.proof]
            verify_inclusion(one.seq, self.checkpoint.size, leaf_hash(line), proof, self.checkpoint.root)

    def keys(self) -> Epochs:
        """Walk from entry 0 over the handovers."""
        first = FirstEntry(self.lines[0])
        if first.log_key is None or first.epoch_key is None:
            raise Malformed("Entry 0 is not a log_created entry with a log key and an epoch key.")
        if first.log_key != self.key:
            raise InvalidSignature("Entry 0 names another log key than the one given.")
        if first.names_mldsa and first.mldsa_key is None:
            raise Malformed("Entry 0 states an ML-DSA-44 key that is none.")
        self.mldsa_key = first.mldsa_key
        epochs = Epochs(self.key.name, first.epoch_key)
        for seq, line in self.lines.items():
            if not line.startswith(_ROTATED, _TYPE_AT):
                continue
            epochs.rotate(seq, line, None, lambda _: (None, None))
            if epochs.findings:
                raise InvalidSignature(epochs.findings[0].message)
            note = parse_note(str(read_metadata(line)["handover"]).encode())
            self.extends(seq, parse_hash(note.text.split("\n")[4], "The root of a handover"))
        return epochs

    def extends(self, size: int, root: bytes) -> None:
        """The tree of `size` with this root is the beginning of the checkpoint's."""
        if size != self.checkpoint.size and size not in self.steps:
            raise InvalidProof(f"The bundle does not prove that the log extends its first {size} entries.")
        proof = [parse_hash(text, "A hash of a proof") for text in self.steps.get(size, ())]
        verify_consistency(size, self.checkpoint.size, root, self.checkpoint.root, proof)

    def signatures(self, text: str, epochs: Epochs) -> Checkpoint:
        """The signatures of a checkpoint, the second by the epoch in force at its size, the third by ML-DSA-44."""
        note = parse_note(text.encode())
        checkpoint = parse_checkpoint(note.text)
        if checkpoint.origin != self.key.name or checkpoint.size < 1 or len(note.signatures) < 2:
            raise Malformed("A checkpoint of the bundle is not in the form of docs/format.md.")
        number = epochs.at(checkpoint.size)
        epoch = epochs.keys[number]
        if epoch is None:
            raise InvalidSignature(f"The key of epoch {number} is not proven.")
        verify_line(note.text, note.signatures[0], self.key)
        verify_line(note.text, note.signatures[1], epoch)
        self._countersigned(note, checkpoint)
        return checkpoint

    def _countersigned(self, note: Note, checkpoint: Checkpoint) -> None:
        """The third line, if the log names the key: where it has to be there it is, and it verifies."""
        if self.mldsa_key is None:
            self.further += len(note.signatures) - 2
            return
        closing = {seq + 1 for seq, line in self.lines.items() if names_checkpoint(line)}
        if len(note.signatures) < 3:
            if is_demanded(checkpoint.size, closing):
                raise InvalidSignature(f"The checkpoint of size {checkpoint.size} lacks its ML-DSA-44 line.")
            return
        try:
            verify_line(note.text, note.signatures[2], self.mldsa_key)
        except MissingExtra:
            self.further += 1
        self.further += len(note.signatures) - 3

    def witnesses(self, policy: WitnessPolicy | None) -> tuple[tuple[int, int, tuple[str, ...]], ...]:
        """The rounds that the policy accepts; a line by a witness of it must verify."""
        rounds = []
        for line in find_witnessed(self.lines.values()):
            found = read_witnessed(read_metadata(line), self.key, () if policy is None else policy.keys)
            self.extends(found.checkpoint.size, found.checkpoint.root)
            if policy is not None and found.times and policy.is_satisfied(found.times.keys()):
                names = tuple(sorted(key.name for key in found.times))
                rounds.append((found.checkpoint.size, max(found.times.values()), names))
        return tuple(sorted(rounds))

    def stamp(self, stamp: Stamped, epochs: Epochs) -> int:
        """A stamped checkpoint is of this log, and the token is of it; who issued it is not looked at."""
        checkpoint = self.signatures(stamp.checkpoint, epochs)
        if checkpoint.size != stamp.size:
            raise Malformed(f"The stamped checkpoint of {stamp.size} entries is of another size.")
        self.extends(checkpoint.size, checkpoint.root)
        token = parse_token(derived_members(self.evidence)[f"checkpoints/{stamp.size:020}.tsr"])
        if token.digest != hashlib.sha256(stamp.checkpoint.encode()).digest():
            raise InvalidProof(f"The time stamp of size {stamp.size} is of something else.")
        return stamp.size

    def not_checked(self, policy: WitnessPolicy | None) -> list[str]:
        """Say what a reader might think was checked."""
        words = ["whether the choice leaves anything out: the bundle holds what was chosen, no more"]
        if policy is None and any(find_witnessed(self.lines.values())):
            words.append("cosignatures of witnesses: give the witnesses that you trust with --witnesses FILE")
        if self.evidence.stamps:
            words.append("who issued the time stamps: openssl ts -verify does, with roots that you trust")
        if self.further:
            words.append(f"{self.further} further signature line(s) on checkpoints")
        return words
