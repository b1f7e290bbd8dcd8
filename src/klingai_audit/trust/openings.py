"""An opening: one committed content, handed to one party who checks it with the log's public key alone.

It is a JSON object that holds the content, the salt that opens its commitment, where it stands, and the entry's
inclusion proof with the entry in it. Nothing else of the person is opened by it. Source: docs/format.md, "Openings".
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal

import msgspec
from msgspec import UNSET, UnsetType

from klingai_audit.errors import InvalidProof, Malformed
from klingai_audit.event.plain import pointer_of
from klingai_audit.event.record import decode_event
from klingai_audit.privacy.commitment import check_opening, is_commitment
from klingai_audit.tlog.keys import VerifierKey
from klingai_audit.tlog.proof import TlogProof
from klingai_audit.trust.proofs import ProvenEntry, check_entry_proof, origin_of_proof

__all__ = [
    "MAX_OPENING_BYTES",
    "Opened",
    "check_opening_file",
    "commitments_in",
    "format_opening",
    "origin_of_opening",
]

MAX_OPENING_BYTES: Final = 64 << 20
"""No file with an opening is longer."""

_FORMAT: Final = "klingai-audit/opening/v1"
_SALT: Final = 32


class _File(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    format: Literal["klingai-audit/opening/v1"]
    seq: int
    event_id: str
    pointer: str
    commitment: str
    salt: str
    value: str | UnsetType = UNSET
    value_base64: str | UnsetType = UNSET
    proof: str


@dataclass(frozen=True, slots=True)
class Opened:
    """What an opening proves: the entry, and the content (never shown in a repr) behind its commitment at `pointer`."""

    proven: ProvenEntry
    pointer: str
    stored: Mapping[str, Any]
    value: bytes = field(repr=False)


def format_opening(proof: TlogProof, event_id: str, pointer: str, commitment: str, salt: bytes, value: bytes) -> bytes:
    """Return the bytes of an opening; `proof` holds its entry. Content that is no UTF-8 stands there in base64."""
    try:
        told: dict[str, str] = {"value": value.decode()}
    except UnicodeDecodeError:
        told = {"value_base64": base64.b64encode(value).decode("ascii")}
    members = {
        "format": _FORMAT,
        "seq": proof.index,
        "event_id": event_id,
        "pointer": pointer,
        "commitment": commitment,
        "salt": base64.b64encode(salt).decode("ascii"),
        **told,
        "proof": proof.format().decode(),
    }
    return msgspec.json.format(msgspec.json.encode(members), indent=1) + b"\n"


def origin_of_opening(data: bytes) -> str:
    """Return the origin that an opening names, unverified: for finding the key to verify with. Raises: Malformed."""
    return origin_of_proof(_parse(data).proof.encode())


def check_opening_file(data: bytes, keys: Sequence[VerifierKey]) -> Opened:
    """Verify an opening with nothing but keys, the log key first: the entry is in the log, and commits to the content.

    Raises: Malformed, InvalidSignature, InvalidProof.
    """
    file = _parse(data)
    proven = check_entry_proof(file.proof.encode(), keys)
    event = decode_event(proven.entry)
    stored = commitments_in(event.details).get(file.pointer)
    if file.seq != proven.index or file.event_id != event.event_id:
        raise InvalidProof("The opening is of another entry than its proof.")
    if stored is None or stored["commitment"] != file.commitment:
        raise InvalidProof("The entry has no such commitment at the place that the opening names.")
    if not isinstance(file.value, UnsetType):
        value = file.value.encode()
    else:
        value = _base64(str(file.value_base64), "value_base64")
    if not check_opening(stored, _base64(file.salt, "salt", _SALT), value):
        raise InvalidProof("The content is not what the entry commits to.")
    return Opened(proven, file.pointer, stored, value)


def commitments_in(metadata: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Return the commitments in an entry's metadata by their JSON pointers in the entry, in order."""
    found: dict[str, Mapping[str, Any]] = {}

    def look(value: Any, path: tuple[str | int, ...]) -> None:
        if is_commitment(value):
            found[pointer_of(path)] = value
        elif isinstance(value, Mapping):
            for key, item in value.items():
                look(item, (*path, key))
        elif isinstance(value, list):
            for index, item in enumerate(value):
                look(item, (*path, index))

    look(metadata, ("metadata",))
    return found


def _parse(data: bytes) -> _File:
    try:
        file = msgspec.json.decode(data, type=_File)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        file = None
    # Raised outside the handler: the decoder's error may carry content.
    if file is None or isinstance(file.value, UnsetType) is isinstance(file.value_base64, UnsetType):
        raise Malformed("The file is no opening as `klingai-audit unseal --opening` writes it.")
    return file


def _base64(text: str, name: str, length: int | None = None) -> bytes:
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        data = None
    if data is None or base64.b64encode(data).decode("ascii") != text or length not in (None, len(data)):
        raise Malformed(f"The opening's {name} is not what it should be.")
    return data
