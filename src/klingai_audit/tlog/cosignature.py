"""Make, read and verify cosignature lines of type 0x04 (Ed25519) and 0x06 (ML-DSA-44).

A cosigner states: at that time this was the largest consistent tree of the origin that it had seen.
Source: C2SP tlog-cosignature.
"""

from __future__ import annotations

from klingai_audit.errors import InvalidSignature
from klingai_audit.tlog.cosigned import cosigned_message, join_blob, split_blob
from klingai_audit.tlog.keys import SignerKey, VerifierKey
from klingai_audit.tlog.note import SignatureLine, verify_line

__all__ = ["cosign", "cosigned_message", "parse_cosignature", "verify_cosignature"]


def cosign(text: str, signer: SignerKey, timestamp: int) -> SignatureLine:
    """Return the signer's line for the checkpoint `text` at `timestamp` (POSIX seconds, `[0, 2**63)`).

    Raises: Malformed if `text` is not a checkpoint; UsageError for another key type or an impossible time.
    """
    message = cosigned_message(signer.algorithm, signer.name, text, timestamp)
    return SignatureLine(signer.name, signer.verifier.key_id, join_blob(timestamp, signer.sign(message)))


def parse_cosignature(line: SignatureLine, algorithm: int) -> tuple[int, bytes]:
    """Return the unverified time (POSIX seconds) and bare signature of a line of type 0x04 or 0x06.

    Raises: Malformed.
    """
    return split_blob(algorithm, line.blob)


def verify_cosignature(text: str, line: SignatureLine, key: VerifierKey) -> int:
    """Check a cosigner's line on the checkpoint `text`; return the time it states (POSIX seconds).

    Raises: InvalidSignature, also for a line or key that does not cosign; Malformed if `text` is not a checkpoint.
    """
    timestamp = verify_line(text, line, key)
    if timestamp is None:
        raise InvalidSignature(f"The line by {key.name} ({key.key_id.hex()}) is a plain signature, no cosignature.")
    return timestamp
