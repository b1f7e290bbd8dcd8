"""The exact bytes that cosignatures of type 0x04 and 0x06 sign, and the blob that their lines carry.

Used by `note` (to verify lines) and `cosignature` (to make them). Source: C2SP tlog-cosignature.
"""

from __future__ import annotations

from klingai_audit.errors import Malformed, UsageError
from klingai_audit.tlog.checkpoint_text import parse_checkpoint
from klingai_audit.tlog.keys import COSIGNATURE, ML_DSA_44, SIGNATURE_BYTES
from klingai_audit.tlog.strict import MAX_SIZE

__all__ = ["TIMESTAMP_BYTES", "cosigned_message", "join_blob", "split_blob"]

TIMESTAMP_BYTES = 8  # big-endian uint64, POSIX seconds, at most 2**63 - 1
_MAX_VECTOR_BYTES = 255  # uint8 length prefix
_SUBTREE_LABEL = b"subtree/v1\n\x00"


def _vector(text: str, what: str) -> bytes:
    data = text.encode()
    if len(data) > _MAX_VECTOR_BYTES:
        raise Malformed(f"{what} has {len(data)} bytes; an ML-DSA-44 cosignature takes up to {_MAX_VECTOR_BYTES}.")
    return bytes([len(data)]) + data


def cosigned_message(algorithm: int, name: str, text: str, timestamp: int) -> bytes:
    """Return what the cosigner `name` signs at `timestamp` (POSIX seconds) for the checkpoint `text`.

    Raises: Malformed if `text` is not a checkpoint; UsageError for a time outside `[0, 2**63)` or another algorithm.
    """
    if not 0 <= timestamp <= MAX_SIZE:
        raise UsageError("The time of a cosignature is not in [0, 2**63) seconds.")
    checkpoint = parse_checkpoint(text)
    if algorithm == COSIGNATURE:
        return f"cosignature/v1\ntime {timestamp}\n{text}".encode()
    if algorithm != ML_DSA_44:
        raise UsageError(f"A key of type {algorithm:#04x} does not cosign.")
    return b"".join(
        (
            _SUBTREE_LABEL,
            _vector(name, "The cosigner's name"),
            timestamp.to_bytes(TIMESTAMP_BYTES, "big"),
            _vector(checkpoint.origin, "The origin"),
            (0).to_bytes(8, "big"),
            checkpoint.size.to_bytes(8, "big"),
            checkpoint.root,
        )
    )


def split_blob(algorithm: int, blob: bytes) -> tuple[int, bytes]:
    """Return time (POSIX seconds) and bare signature of a line's blob: 72 bytes, or 2,428 for ML-DSA-44.

    Raises: Malformed.
    """
    if algorithm not in (COSIGNATURE, ML_DSA_44):
        raise Malformed(f"A line of type {algorithm:#04x} carries no time.")
    if len(blob) != TIMESTAMP_BYTES + SIGNATURE_BYTES[algorithm]:
        raise Malformed(f"A cosignature of type {algorithm:#04x} cannot have {len(blob)} bytes.")
    timestamp = int.from_bytes(blob[:TIMESTAMP_BYTES], "big")
    if timestamp > MAX_SIZE:
        raise Malformed("The time of the cosignature is above 2**63 - 1.")
    return timestamp, blob[TIMESTAMP_BYTES:]


def join_blob(timestamp: int, signature: bytes) -> bytes:
    """Return the blob of a line; the inverse of `split_blob`."""
    return timestamp.to_bytes(TIMESTAMP_BYTES, "big") + signature
