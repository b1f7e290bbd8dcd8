"""Epochs: who may sign which sizes, read from entry 0 and the rotations, checked against the handover notes.

Format: docs/format.md, section 7. A rotation names its successor in a note signed by the epoch that it ends, so
the chain of keys stands on epoch 0's key alone.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

from klingai_audit.errors import InvalidSignature, Malformed
from klingai_audit.event.record import decode_event
from klingai_audit.tlog.keys import VerifierKey
from klingai_audit.tlog.note import parse_note, verify_line
from klingai_audit.tlog.strict import format_base64
from klingai_audit.trust.anchors import Anchor, read_key, read_mldsa_key, signed_by
from klingai_audit.trust.verdict import Finding

__all__ = ["Epochs", "FirstEntry", "read_first_entry", "read_metadata"]

FORMAT: Final = 1
_FIRST_MEMBERS: Final = ["format", "origin", "log_key", "epoch", "epoch_key", "mldsa_key", "policy"]
_OPTIONAL: Final = "mldsa_key"
_ROTATION_MEMBERS: Final = ["epoch", "epoch_key", "handover"]
_HANDOVER: Final = "klingai-audit/handover/v1"
_EPOCH_LINE: Final = 6

_Place = Callable[[int], tuple[str | None, int | None]]
"""Entry -> (file, line), each None where it cannot be told."""


class FirstEntry:
    """What `log_created` states: origin and keys, each None if it is not there in its form.

    `names_mldsa` tells that there is something in the place of the ML-DSA-44 key.
    """

    def __init__(self, line: bytes | None) -> None:
        """`line` is entry 0, or None if there is none."""
        created = line is not None and line.startswith(b'log_created"', 118)
        self.metadata = read_metadata(line) if created and line is not None else {}
        origin = self.metadata.get("origin")
        self.origin = origin if isinstance(origin, str) else None
        self.log_key = _named(read_key(self.metadata.get("log_key")), self.origin)
        self.epoch_key = _named(read_key(self.metadata.get("epoch_key")), f"{self.origin}/epoch-0")
        self.names_mldsa = _OPTIONAL in self.metadata
        self.mldsa_key = _named(read_mldsa_key(self.metadata.get(_OPTIONAL)), self.origin)

    @property
    def well_formed(self) -> bool:
        """Tell whether all members are there in their order, and the keys in their form."""
        expected = [name for name in _FIRST_MEMBERS if name != _OPTIONAL or self.names_mldsa]
        keys = self.log_key is not None and self.epoch_key is not None
        in_order = list(self.metadata) == expected and self.metadata["format"] == FORMAT and self.metadata["epoch"] == 0
        return in_order and keys and (self.mldsa_key is not None) == self.names_mldsa

    def check(
        self,
        trusted: VerifierKey | None,
        epoch_key: VerifierKey | None,
        place: _Place,
        mldsa_key: VerifierKey | None = None,
    ) -> list[Finding]:
        """Compare with the form, and with the keys that the caller trusts."""
        file, line = place(0)
        if self.metadata.get("format", FORMAT) != FORMAT:
            message = f"Entry 0 states format {self.metadata['format']!r}; this program knows format {FORMAT}."
            return [Finding("unknown_version", message, 0, file=file, line=line)]
        expected = [name for name in _FIRST_MEMBERS if name != _OPTIONAL or self.names_mldsa]
        if list(self.metadata) != expected or self.metadata["epoch"] != 0:
            message = "Entry 0 is not a log_created entry with the members that docs/format.md lists."
            return [Finding("first_entry", message, 0, file=file, line=line)]
        if self.log_key is None or self.epoch_key is None or (self.names_mldsa and self.mldsa_key is None):
            message = "Entry 0 does not state keys of its origin, each of its kind."
            return [Finding("first_entry", message, 0, file=file, line=line)]
        found = []
        if trusted is not None and self.log_key != trusted:
            message = f"Entry 0 names the log key {self.log_key}, but you trust {trusted}."
            found.append(Finding("foreign_key", message, 0, file=file, line=line))
        if epoch_key is not None and self.epoch_key != epoch_key:
            message = f"Entry 0 names the epoch 0 key {self.epoch_key}, but you kept {epoch_key}."
            found.append(Finding("epoch_replaced", message, 0, file=file, line=line))
        if mldsa_key is not None and self.mldsa_key != mldsa_key:
            states = "another ML-DSA-44 key" if self.names_mldsa else "no ML-DSA-44 key"
            message = f"Entry 0 names {states}, but you kept {mldsa_key.key_id.hex()}."
            found.append(Finding("mldsa_replaced", message, 0, file=file, line=line))
        return found


def _named(key: VerifierKey | None, name: str | None) -> VerifierKey | None:
    return key if key is not None and key.name == name else None


def read_metadata(line: bytes) -> Mapping[str, Any]:
    """Return an entry's metadata, empty if it cannot be decoded."""
    try:
        return decode_event(line).details
    except Malformed:
        return {}


def read_first_entry(own: Iterable[tuple[int, bytes]]) -> FirstEntry:
    """Find entry 0 among the log's own entries."""
    return FirstEntry(next((line for seq, line in own if seq == 0), None))


class Epochs:
    """The chain of epochs: `keys[k]` verifies for epoch k (None if unknown), `ends[k]` is its handover's size."""

    def __init__(self, origin: str | None, first: VerifierKey | None) -> None:
        self.origin = origin or ""
        self.keys: list[VerifierKey | None] = [first]
        self.ends: list[int] = []
        self.findings: list[Finding] = []

    def at(self, size: int) -> int:
        """Return the epoch in force at tree size `size`."""
        return bisect_left(self.ends, size)

    def rotate(self, seq: int, line: bytes, root: bytes | None, place: _Place) -> None:
        """Take the `signing_key_rotated` entry `seq`; `root` is that of the entries before it, None if unknown."""
        fault, successor = self._read_rotation(seq, read_metadata(line), root)
        if fault:
            file, number = place(seq)
            self.findings.append(Finding("handover_invalid", fault, seq, file=file, line=number))
        self.keys.append(successor)
        self.ends.append(seq + 1)

    def _read_rotation(
        self, seq: int, metadata: Mapping[str, Any], root: bytes | None
    ) -> tuple[str, VerifierKey | None]:
        """Return what is wrong with a rotation (empty if nothing) and the successor's key if it is proven."""
        epoch = len(self.keys)
        if list(metadata) != _ROTATION_MEMBERS or metadata["epoch"] != epoch:
            return f"Entry {seq} does not describe the change to epoch {epoch}.", None
        key = _named(read_key(metadata["epoch_key"]), f"{self.origin}/epoch-{epoch}")
        outgoing = self.keys[-1]
        if key is None:
            return f"Entry {seq} does not state a key of epoch {epoch}.", None
        try:
            note = parse_note(str(metadata["handover"]).encode())
            if outgoing is None:
                return "", key
            if len(note.signatures) != 1:
                raise Malformed("It has not exactly one signature.")
            verify_line(note.text, note.signatures[0], outgoing)
        except (Malformed, InvalidSignature) as exc:
            return f"The handover note of entry {seq} is not signed by epoch {epoch - 1}: {exc}", None
        items = note.text.split("\n")
        stated = [_HANDOVER, self.origin, str(epoch), str(seq), items[4] if len(items) > 4 else "", key.format(), ""]
        if items != stated:
            return f"The handover note of entry {seq} is about another place or key than the entry.", None
        if root is not None and items[4] != format_base64(root):
            message = (
                f"Epoch {epoch - 1} handed over at entry {seq} with another root than these entries have: "
                f"what lies before was written anew after the handover."
            )
            return message, key
        return "", key

    def check(self, anchor: Anchor) -> list[Finding]:
        """Check a checkpoint's second signature: by the epoch in force at its size."""
        epoch = self.at(anchor.size)
        key = self.keys[epoch]
        line = anchor.epoch_line
        named = line.name == f"{self.origin}/epoch-{epoch}"
        if key is not None and named and line.key_id == key.key_id and signed_by(anchor.note, line, key):
            return []
        file, where = anchor.file, f"{anchor.file} (size {anchor.size}, epoch {epoch})"
        for later, other in enumerate(self.keys[epoch + 1 :], epoch + 1):
            if other is not None and signed_by(anchor.note, line, other):
                message = (
                    f"{where} is signed by epoch {later}, which began after it: the keys of epoch {later} were "
                    f"used to sign the past anew."
                )
                return [Finding("epoch_misused", message, *_covered(self, epoch), file=file, line=_EPOCH_LINE)]
        if key is None:
            message = f"The epoch's signature on {where} cannot be checked: the log does not prove that epoch's key."
        else:
            message = f"The second signature on {where} is not by that epoch's key."
        return [Finding("epoch_signature", message, file=file, line=_EPOCH_LINE)]


def _covered(epochs: Epochs, epoch: int) -> tuple[int, int]:
    """Entries `[begin, end)` that the epoch signed."""
    begin = epochs.ends[epoch - 1] if epoch else 0
    return begin, epochs.ends[epoch]
