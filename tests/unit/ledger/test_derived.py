"""Derived epoch keys: the bytes of docs/format.md 7.1, computed here with hmac alone."""

from __future__ import annotations

import hashlib
import hmac

from klingai_audit.ledger.derived import derive_next
from klingai_audit.ledger.keys import EpochKeys, epoch_name
from klingai_audit.tlog.keys import SignerKey
from tests.support.ledgers import ORIGIN


def expand(secret: bytes, info: bytes) -> bytes:
    """HKDF-SHA-256 without salt, one block (RFC 5869, sections 2.2 and 2.3)."""
    key = hmac.digest(bytes(32), secret, hashlib.sha256)
    return hmac.digest(key, info + b"\1", hashlib.sha256)


def test_the_keys_of_the_next_epoch():
    """Seed and tail key follow from those before, name and number from the epoch."""
    first = EpochKeys(9, SignerKey(epoch_name(ORIGIN, 9), b"s" * 32), b"t" * 32)
    second = derive_next(first, ORIGIN)
    assert second.epoch == 10
    assert second.signer.name == f"{ORIGIN}/epoch-10"
    assert second.signer.seed == expand(b"s" * 32, b"klingai-audit/epoch/v110")
    assert second.tail == expand(b"t" * 32, b"klingai-audit/tail/v110")


def test_a_known_answer():
    """The first derived public key of a fixed seed never changes: a host of another version must come to it."""
    keys = EpochKeys(0, SignerKey(epoch_name(ORIGIN, 0), bytes(range(32))), bytes(32))
    assert derive_next(keys, ORIGIN).signer.verifier.key_bytes.hex() == (
        "5904b3d0d8a0fb246969bca3883d2fb5cf8f811a47bdea3870166ec9eb53ad66"
    )
