"""Epoch keys where several hosts sign: each is derived from the one before, so that every host comes to the same.

Who holds the key of epoch k can make those of all later epochs, and none of the earlier ones. So yesterday is safe
from a thief of today's key, tomorrow is not. Source: RFC 5869 (HKDF-SHA-256); docs/format.md 7.1.
"""

from __future__ import annotations

from typing import Final

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from klingai_audit.ledger.keys import EpochKeys, epoch_name
from klingai_audit.tlog.keys import SignerKey

__all__ = ["derive_next"]

_EPOCH: Final = b"klingai-audit/epoch/v1"
_TAIL: Final = b"klingai-audit/tail/v1"


def derive_next(keys: EpochKeys, origin: str) -> EpochKeys:
    """Return the keys of the following epoch: 32-byte seeds by HKDF without salt, info label ‖ decimal number."""
    epoch = keys.epoch + 1
    number = str(epoch).encode()
    signer = SignerKey(epoch_name(origin, epoch), _expand(keys.signer.seed, _EPOCH + number))
    return EpochKeys(epoch, signer, _expand(keys.tail, _TAIL + number))


def _expand(secret: bytes, info: bytes) -> bytes:
    return HKDF(algorithm=SHA256(), length=32, salt=None, info=info).derive(secret)
