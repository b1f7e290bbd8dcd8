"""Small logs made by hand from docs/format.md, so that one thing in them can be false and all hashes still be right."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from klingai_audit.bundle.evidence import FORMAT, Evidence, Proven, Step
from klingai_audit.tlog.cosignature import cosign
from klingai_audit.tlog.keys import SignerKey
from klingai_audit.tlog.note import Note, SignatureLine, format_note, parse_note, sign_note
from tests.support.bundles import WITNESS

ORIGIN = "log.example.com/forged"
LOG = SignerKey(ORIGIN, b"\x01" * 32)
EPOCHS = [SignerKey(f"{ORIGIN}/epoch-{number}", bytes([16 + number]) * 32) for number in range(2)]
THIEF = SignerKey(EPOCHS[0].name, b"\x77" * 32)
SEEN_AT = 1_790_000_000


def _split(count: int) -> int:
    return 1 << ((count - 1).bit_length() - 1)


def root(leaves: Sequence[bytes]) -> bytes:
    """The root of RFC 6962 over leaf hashes."""
    if len(leaves) == 1:
        return leaves[0]
    at = _split(len(leaves))
    return hashlib.sha256(b"\x01" + root(leaves[:at]) + root(leaves[at:])).digest()


def path(index: int, leaves: Sequence[bytes]) -> list[bytes]:
    """The inclusion proof, sibling first."""
    if len(leaves) == 1:
        return []
    at = _split(len(leaves))
    if index < at:
        return [*path(index, leaves[:at]), root(leaves[at:])]
    return [*path(index - at, leaves[at:]), root(leaves[:at])]


def extension(old: int, leaves: Sequence[bytes], *, whole: bool = True) -> list[bytes]:
    """The consistency proof from the first `old` of the leaves."""
    if old == len(leaves):
        return [] if whole else [root(leaves)]
    at = _split(len(leaves))
    if old <= at:
        return [*extension(old, leaves[:at], whole=whole), root(leaves[at:])]
    return [*extension(old - at, leaves[at:], whole=False), root(leaves[:at])]


@dataclass
class Forgery:
    """A log of five entries: created, a note, a rotation, a note, and what a witness cosigned at size 4.

    Its members say how it departs from the truth; by default it does not.
    """

    outgoing: SignerKey = EPOCHS[0]
    handover_root: bytes | None = None
    handover_size: int = 2
    head_epoch: SignerKey = EPOCHS[1]
    head_log: SignerKey = LOG
    seen_root: bytes | None = None
    false_cosignature: bool = False
    stated: dict[int, int] = field(default_factory=dict)
    first_members: dict[str, Any] = field(default_factory=dict)

    def evidence(self) -> Evidence:
        """Return the evidence of both notes."""
        lines: list[bytes] = []
        self._add(lines, "log_created", {**self._first(), **self.first_members})
        self._add(lines, "x_note", {"number": 1})
        self._add(lines, "signing_key_rotated", self._rotation(lines))
        self._add(lines, "x_note", {"number": 2})
        self._add(lines, "checkpoint_witnessed", self._seen(lines))
        leaves = hashes(lines)
        head = self._head(len(lines), root(leaves), self.head_epoch)
        return Evidence(
            FORMAT,  # type: ignore[arg-type]
            "by hand",
            head.decode(),
            (1, 3),
            tuple(Proven(seq, line.decode(), _text(path(seq, leaves))) for seq, line in enumerate(lines)),
            tuple(Step(size, _text(extension(size, leaves))) for size in (2, 4)),
        )

    def _add(self, lines: list[bytes], kind: str, metadata: dict[str, Any]) -> None:
        seq = len(lines)
        before = hashes(lines[-1:])[0] if lines else hashlib.sha256(b"").digest()
        members = {
            "schema": 1,
            "event_id": f"01a1fb67-1224-7458-8ed7-{seq:012x}",
            "timestamp": f"2026-11-20T10:00:0{seq}.000000Z",
            "event_type": kind,
            "actor_id": "klingai-audit",
            "actor_type": "system",
            "outcome": "success",
            "metadata": metadata,
            "seq": self.stated.get(seq, seq),
            "logged_at": f"2026-11-20T10:00:0{seq}.000000Z",
            "prev_hash": before.hex(),
            "seal": "A" * 43,
        }
        lines.append(json.dumps(members, separators=(",", ":"), ensure_ascii=False).encode())

    def _first(self) -> dict[str, Any]:
        keys = {"log_key": LOG.verifier.format(), "epoch": 0, "epoch_key": EPOCHS[0].verifier.format()}
        return {"format": 1, "origin": ORIGIN, **keys, "policy": "00" * 32}

    def _rotation(self, lines: list[bytes]) -> dict[str, Any]:
        over = base64.b64encode(self.handover_root or root(hashes(lines))).decode()
        vkey = EPOCHS[1].verifier.format()
        text = f"klingai-audit/handover/v1\n{ORIGIN}\n1\n{self.handover_size}\n{over}\n{vkey}\n"
        return {"epoch": 1, "epoch_key": vkey, "handover": sign_note(text, self.outgoing).decode()}

    def _seen(self, lines: list[bytes]) -> dict[str, Any]:
        note = parse_note(self._head(len(lines), self.seen_root or root(hashes(lines)), EPOCHS[1]))
        line = cosign(note.text, WITNESS, SEEN_AT)
        if self.false_cosignature:
            line = SignatureLine(line.name, line.key_id, line.blob[:-1] + bytes([line.blob[-1] ^ 1]))
        return {"size": len(lines), "note": format_note(Note(note.text, (*note.signatures, line))).decode()}

    def _head(self, size: int, over: bytes, epoch: SignerKey) -> bytes:
        return sign_note(f"{ORIGIN}\n{size}\n{base64.b64encode(over).decode()}\n", self.head_log, epoch)


def hashes(lines: Sequence[bytes]) -> list[bytes]:
    """Leaf hashes."""
    return [hashlib.sha256(b"\x00" + line).digest() for line in lines]


def _text(proof: Sequence[bytes]) -> tuple[str, ...]:
    return tuple(base64.b64encode(one).decode() for one in proof)


FORGED: dict[str, tuple[Callable[[], Forgery], str]] = {
    "handover by a thief's key": (lambda: Forgery(outgoing=THIEF), "key_theft"),
    "handover over another history": (lambda: Forgery(handover_root=b"\x05" * 32), "key_theft"),
    "handover at another place": (lambda: Forgery(handover_size=3), "key_theft"),
    "signed by an epoch that ended": (lambda: Forgery(head_epoch=EPOCHS[0]), "edit"),
    "signed by another log key": (lambda: Forgery(head_log=SignerKey(ORIGIN, b"\x02" * 32)), "edit"),
    "another history shown to the witness": (lambda: Forgery(seen_root=b"\x06" * 32), "fork"),
    "a cosignature that is none": (lambda: Forgery(false_cosignature=True), "fork"),
    "an entry that states another number": (lambda: Forgery(stated={1: 7}), "reorder"),
    "no log_created of this log": (lambda: Forgery(first_members={"origin": "log.example.com/else"}), "head_cut"),
}
"""Lies that whoever holds today's keys could sign: name -> (the log, the threat that it shows)."""
