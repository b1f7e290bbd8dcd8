"""Signed notes: text, an empty line, signature lines. Source: C2SP signed-note.

Only the one spelling that `format_note` writes is parsed. Text is to be used after `open_note`, not before.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from klingai_audit.errors import InvalidSignature, Malformed, UsageError
from klingai_audit.tlog.cosigned import cosigned_message, split_blob
from klingai_audit.tlog.keys import ED25519, KEY_ID_BYTES, NoteSigner, SignerKey, VerifierKey
from klingai_audit.tlog.strict import check_name, check_printable, format_base64, parse_base64

__all__ = [
    "MAX_NOTE_BYTES",
    "MAX_SIGNATURES",
    "Note",
    "NoteSigner",
    "SignatureLine",
    "SignerKey",
    "VerifierKey",
    "format_note",
    "open_note",
    "parse_note",
    "sign_note",
    "signed_note",
    "verify_line",
]

MAX_NOTE_BYTES = 1_000_000  # as Go's note package
MAX_SIGNATURES = 100  # as Go's note package; C2SP asks for at least 16
_MARK = "\u2014 "  # EM DASH and a space begin a signature line


@dataclass(frozen=True, slots=True)
class SignatureLine:
    """One signature line: the signer's `name`, 4-byte `key_id`, and `blob` (1 byte or more, what the type defines).

    Raises on creation: Malformed.
    """

    name: str
    key_id: bytes
    blob: bytes

    def __post_init__(self) -> None:
        check_name(self.name, "The name in a signature line")
        if len(self.key_id) != KEY_ID_BYTES or not self.blob:
            raise Malformed("A signature line has a key id of 4 bytes and a signature after it; one has not.")

    def format(self) -> str:
        """Return the line with its LF."""
        return f"{_MARK}{self.name} {format_base64(self.key_id + self.blob)}\n"

    @classmethod
    def parse(cls, line: str) -> SignatureLine:
        """Read one line, its LF included. Raises: Malformed."""
        name, space, encoded = line.removeprefix(_MARK).removesuffix("\n").partition(" ")
        if not line.startswith(_MARK) or not line.endswith("\n") or not space:
            raise Malformed("A signature line is an em dash, a name and base64, one space between; one is not.")
        data = parse_base64(encoded, "A signature")
        return cls(name, data[:KEY_ID_BYTES], data[KEY_ID_BYTES:])


@dataclass(frozen=True, slots=True)
class Note:
    """A parsed note, nothing verified: `text` ends in LF; 1 to 100 `signatures` in the order written.

    Raises on creation: Malformed.
    """

    text: str
    signatures: tuple[SignatureLine, ...]

    def __post_init__(self) -> None:
        check_printable(self.text, "The text of the note", lines=True)
        if not self.text.endswith("\n"):
            raise Malformed("The text of the note does not end in a line feed.")
        if not 1 <= len(self.signatures) <= MAX_SIGNATURES:
            raise Malformed(f"A note has 1 to {MAX_SIGNATURES} signatures, not {len(self.signatures)}.")


def parse_note(data: bytes) -> Note:
    """Read a note; `format_note(parse_note(data)) == data` for all that is accepted. Raises: Malformed."""
    if len(data) > MAX_NOTE_BYTES:
        raise Malformed(f"A note has at most {MAX_NOTE_BYTES} bytes, not {len(data)}.")
    try:
        whole = data.decode("utf-8")
    except UnicodeDecodeError as exc:
        raise Malformed("The note is not UTF-8.") from exc
    text, separator, tail = whole.rpartition("\n\n")
    if not separator or not tail.endswith("\n"):
        raise Malformed("A note is text, an empty line and signature lines, ended by a line feed; this is not.")
    lines = tail.removesuffix("\n").split("\n")
    if len(lines) > MAX_SIGNATURES:
        raise Malformed(f"A note has at most {MAX_SIGNATURES} signatures, not {len(lines)}.")
    return Note(text + "\n", tuple(SignatureLine.parse(line + "\n") for line in lines))


def format_note(note: Note) -> bytes:
    """Return the note's bytes. Raises: Malformed above 1,000,000 bytes."""
    data = "".join((note.text, "\n", *(line.format() for line in note.signatures))).encode()
    if len(data) > MAX_NOTE_BYTES:
        raise Malformed(f"A note has at most {MAX_NOTE_BYTES} bytes, not {len(data)}.")
    return data


def sign_note(text: str, *signers: NoteSigner) -> bytes:
    """Return the bytes of `signed_note`. Raises: as that."""
    return format_note(signed_note(text, *signers))


def signed_note(text: str, *signers: NoteSigner) -> Note:
    """Return `text` signed by each signer in turn (type 0x01 only; cosigners use `cosignature.cosign`).

    Raises: UsageError without signers, for one given twice or of another type; Malformed for unusable text.
    """
    if any(signer.algorithm != ED25519 for signer in signers):
        raise UsageError("A note is signed by keys of type 0x01; cosigners add their line with cosign().")
    if not signers or len({(s.name, s.verifier.key_id) for s in signers}) != len(signers):
        raise UsageError("A note needs one signer or more, each once.")
    check_printable(text, "The text of the note", lines=True)
    message = text.encode()
    lines = (SignatureLine(signer.name, signer.verifier.key_id, signer.sign(message)) for signer in signers)
    return Note(text, tuple(lines))


def verify_line(text: str, line: SignatureLine, key: VerifierKey) -> int | None:
    """Check one line against its key; return the time it states (POSIX seconds), or None for type 0x01.

    Raises: InvalidSignature, also if the line is not by this key or its blob is not of the key's type; Malformed if
    a cosigned `text` is no checkpoint.
    """
    if (line.name, line.key_id) != (key.name, key.key_id):
        raise InvalidSignature(f"The line by {line.name} ({line.key_id.hex()}) is not by {key!r}.")
    if key.algorithm == ED25519:
        key.verify(text.encode(), line.blob)
        return None
    try:
        timestamp, signature = split_blob(key.algorithm, line.blob)
    except Malformed as exc:
        raise InvalidSignature(f"The cosignature by {key.name} ({key.key_id.hex()}) is not of its type.") from exc
    key.verify(cosigned_message(key.algorithm, key.name, text, timestamp), signature)
    return timestamp


def open_note(data: bytes, keys: Sequence[VerifierKey]) -> tuple[Note, tuple[VerifierKey, ...]]:
    """Parse and verify a note; return it with the keys that signed it, each once, in the order of their lines.

    Lines by unknown (name, key id) are ignored. A line by a known one must verify, every repetition too.
    Raises: Malformed; InvalidSignature if a known line fails or no known line is there; UsageError if two of `keys`
    share name and key id.
    """
    known: dict[tuple[str, bytes], VerifierKey] = {}
    for key in keys:
        if known.setdefault((key.name, key.key_id), key) != key:
            raise UsageError(f"Two keys are named {key.name} with key id {key.key_id.hex()}.")
    note = parse_note(data)
    verified: dict[VerifierKey, None] = {}
    for line in note.signatures:
        signer = known.get((line.name, line.key_id))
        if signer is not None:
            verify_line(note.text, line, signer)
            verified[signer] = None
    if not verified:
        raise InvalidSignature("The note carries no signature by a trusted key.")
    return note, tuple(verified)
