"""Sealing to a public key: HPKE of RFC 9180, base mode, X25519 with HKDF-SHA-256 and AES-256-GCM.

Suite 0x0020, 0x0001, 0x0002; one message for each encapsulated key (`SealBase` and `OpenBase`), so that any other
implementation of the standard opens what is sealed here, given the private key.
"""

from __future__ import annotations

from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, Suite

__all__ = ["OVERHEAD", "open_base", "seal_base"]

OVERHEAD: Final = 48
"""Bytes that sealing adds: the encapsulated key of 32 bytes in front, the tag of 16 at the end."""

_SUITE: Final = Suite(KEM.X25519, KDF.HKDF_SHA256, AEAD.AES_256_GCM)


def seal_base(public: bytes, info: bytes, text: bytes) -> bytes:
    """Return the encapsulated key and the sealed text, `OVERHEAD` bytes longer than `text`.

    `public` are the 32 bytes of an X25519 key; `info` is what it is bound to, the associated data are empty.
    Raises: ValueError for a key that gives no shared secret.
    """
    return _SUITE.encrypt(text, X25519PublicKey.from_public_bytes(public), info)


def open_base(private: bytes, info: bytes, sealed: bytes) -> bytes | None:
    """Return what `seal_base` sealed to the public half of `private`, None if it does not open."""
    try:
        return _SUITE.decrypt(sealed, X25519PrivateKey.from_private_bytes(private), info)
    except (InvalidTag, ValueError):
        return None
