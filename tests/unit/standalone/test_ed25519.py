"""The Ed25519 of the single file: RFC 8032's vectors, and the same answers as a library on good and bad signatures."""

from __future__ import annotations

import random
import time

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from klingai_audit.standalone.klingai_audit_verify import ed25519_verify

ORDER = 2**252 + 27742317777372353535851937790883648493

VECTORS = [  # RFC 8032, section 7.1: public key, message, signature
    (
        "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
        "",
        (
            "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24"
            "655141438e7a100b"
        ),
    ),
    (
        "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
        "72",
        (
            "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aee"
            "b00d291612bb0c00"
        ),
    ),
    (
        "fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025",
        "af82",
        (
            "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac18ff9b538d16f290ae67f760984dc6594a7c15e9716ed28d"
            "c027beceea1ec40a"
        ),
    ),
]


@pytest.mark.parametrize(("public", "message", "signature"), VECTORS)
def test_vectors_of_the_rfc(public, message, signature):
    """Tests 1 to 3 verify, and no longer after any one byte is changed."""
    key, text, good = bytes.fromhex(public), bytes.fromhex(message), bytes.fromhex(signature)
    assert ed25519_verify(key, text, good)
    for at in range(64):
        assert not ed25519_verify(key, text, good[:at] + bytes([good[at] ^ 1]) + good[at + 1 :])
    assert not ed25519_verify(key, text + b"x", good)


def library(public: bytes, message: bytes, signature: bytes) -> bool:
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signature, message)
    except (InvalidSignature, ValueError):
        return False
    return True


def test_a_thousand_bits_long_message():
    """RFC 8032's long test, by its property: signatures of any length of message verify."""
    private = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
    public = private.public_key().public_bytes_raw()
    for length in (1, 63, 64, 65, 1023, 70_000):
        message = bytes(length)
        assert ed25519_verify(public, message, private.sign(message))


def test_answers_are_those_of_a_library():
    """Random keys and damage; S of the order more is refused, as are keys and points that are none."""
    luck = random.Random(8032)
    for _ in range(60):
        private = Ed25519PrivateKey.from_private_bytes(luck.randbytes(32))
        public, message = private.public_key().public_bytes_raw(), luck.randbytes(luck.randrange(200))
        good = private.sign(message)
        s = int.from_bytes(good[32:], "little") + ORDER
        cases = [
            (public, message, good),
            (public, message + b"!", good),
            (public, message, luck.randbytes(64)),
            (luck.randbytes(32), message, good),
            (public, message, good[:32] + s.to_bytes(32, "little")),
            (bytes(31) + b"\x80", message, good),
            (b"\xff" * 32, message, good),
        ]
        for case in cases:
            assert library(*case) == ed25519_verify(*case)
    assert not ed25519_verify(b"", b"", b"")


def test_a_signature_takes_milliseconds():
    """With the tables of a key made, a verification is far below 50 ms."""
    public, message, signature = (bytes.fromhex(part) for part in VECTORS[0])
    ed25519_verify(public, message, signature)
    begin = time.process_time()
    for _ in range(20):
        ed25519_verify(public, message, signature)
    assert time.process_time() - begin < 20 * 0.05
