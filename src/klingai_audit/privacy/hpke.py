"""Sealing to a public key: HPKE of RFC 9180, base mode, X25519 with HKDF-SHA-256 and AES-256-GCM.

Suite 0x0020, 0x0001, 0x0002; one message for each encapsulated key (`SealBase` and `OpenBase`), so that any other
implementation of the standard opens what is sealed here, given the private key.
"""

from __future__ import annotations

import hmac
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

__all__ = ["OVERHEAD", "open_base", "seal_base"]

OVERHEAD: Final = 48
"""Bytes that sealing adds: the encapsulated key of 32 bytes in front, the tag of 16 at the end."""

_KEM: Final = b"KEM\x00\x20"
_SUITE: Final = b"HPKE\x00\x20\x00\x01\x00\x02"
_HASH: Final = 32
_NONCE: Final = 12


def seal_base(public: bytes, info: bytes, text: bytes) -> bytes:
    """Return the encapsulated key and the sealed text, `OVERHEAD` bytes longer than `text`.

    `public` are the 32 bytes of an X25519 key; `info` is what it is bound to, the associated data are empty.
    Raises: ValueError for a key that gives no shared secret.
    """
    once = X25519PrivateKey.generate()
    shared = once.exchange(X25519PublicKey.from_public_bytes(public))
    sent = once.public_key().public_bytes_raw()
    key, nonce = _schedule(shared, sent + public, info)
    return sent + AESGCM(key).encrypt(nonce, text, None)


def open_base(private: bytes, info: bytes, sealed: bytes) -> bytes | None:
    """Return what `seal_base` sealed to the public half of `private`, None if it does not open."""
    if len(sealed) < OVERHEAD:
        return None
    own = X25519PrivateKey.from_private_bytes(private)
    sent = sealed[:_HASH]
    try:
        shared = own.exchange(X25519PublicKey.from_public_bytes(sent))
        key, nonce = _schedule(shared, sent + own.public_key().public_bytes_raw(), info)
        return AESGCM(key).decrypt(nonce, sealed[_HASH:], None)
    except (InvalidTag, ValueError):
        return None


def _schedule(shared: bytes, context: bytes, info: bytes) -> tuple[bytes, bytes]:
    """Return key and nonce for the Diffie-Hellman value and the KEM's context (RFC 9180, sections 4.1 and 5.1)."""
    secret = _expand(_extract(b"", b"eae_prk", shared, _KEM), b"shared_secret", context, _HASH, _KEM)
    mode = b"\0" + _extract(b"", b"psk_id_hash", b"", _SUITE) + _extract(b"", b"info_hash", info, _SUITE)
    secret = _extract(secret, b"secret", b"", _SUITE)
    return _expand(secret, b"key", mode, _HASH, _SUITE), _expand(secret, b"base_nonce", mode, _NONCE, _SUITE)


def _extract(salt: bytes, label: bytes, material: bytes, suite: bytes) -> bytes:
    return hmac.digest(salt or bytes(_HASH), b"HPKE-v1" + suite + label + material, "sha256")


def _expand(secret: bytes, label: bytes, info: bytes, length: int, suite: bytes) -> bytes:
    """Expand to at most 32 bytes, which is one block of HKDF-SHA-256."""
    message = length.to_bytes(2) + b"HPKE-v1" + suite + label + info + b"\x01"
    return hmac.digest(secret, message, "sha256")[:length]
