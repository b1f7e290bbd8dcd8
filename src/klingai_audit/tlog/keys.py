"""Keys of signed notes: verifier keys (vkey) and signer keys (the `PRIVATE+KEY` encoding of Go's note package).

A key signs or verifies exact bytes; which bytes a signature line stands for is decided in `note` and `cosigned`.
Seeds never appear in repr, str or exceptions. Source: C2SP signed-note, tlog-cosignature; RFC 8032; FIPS 204.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from hashlib import sha256
from types import MappingProxyType
from typing import TYPE_CHECKING, Protocol

from cryptography.exceptions import InvalidSignature as ForeignInvalidSignature
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from klingai_audit.errors import InvalidSignature, Malformed, MissingExtra, UsageError
from klingai_audit.tlog.strict import check_name, format_base64, parse_base64

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA44PrivateKey, MLDSA44PublicKey

__all__ = [
    "COSIGNATURE",
    "ED25519",
    "KEY_ID_BYTES",
    "ML_DSA_44",
    "SEED_BYTES",
    "SIGNATURE_BYTES",
    "NoteSigner",
    "SignerKey",
    "VerifierKey",
]

ED25519 = 0x01  # Ed25519 over the note text
COSIGNATURE = 0x04  # Ed25519 over a time stamp and a checkpoint
ML_DSA_44 = 0x06  # ML-DSA-44 over a time stamp and a checkpoint

KEY_ID_BYTES = 4
SEED_BYTES = 32  # both for Ed25519 (RFC 8032) and for ML-DSA (FIPS 204)
_PUBLIC_KEY_BYTES: Mapping[int, int] = MappingProxyType({ED25519: 32, COSIGNATURE: 32, ML_DSA_44: 1312})
SIGNATURE_BYTES: Mapping[int, int] = MappingProxyType({ED25519: 64, COSIGNATURE: 64, ML_DSA_44: 2420})

_SKEY_PREFIX = "PRIVATE+KEY+"


def _key_id(name: str, algorithm: int, key_bytes: bytes) -> bytes:
    return sha256(name.encode() + b"\n" + bytes([algorithm]) + key_bytes).digest()[:KEY_ID_BYTES]


def _no_ml_dsa() -> MissingExtra:
    return MissingExtra(
        "The installed cryptography package has no ML-DSA-44.", do="Install the newest release of cryptography."
    )


@lru_cache(maxsize=1024)
def _load_public(algorithm: int, key_bytes: bytes) -> Ed25519PublicKey | MLDSA44PublicKey:
    """Load once what is verified with often; public keys only, so keeping them harms nobody."""
    if algorithm != ML_DSA_44:
        return Ed25519PublicKey.from_public_bytes(key_bytes)
    try:
        from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA44PublicKey

        return MLDSA44PublicKey.from_public_bytes(key_bytes)
    except (ImportError, UnsupportedAlgorithm) as exc:
        raise _no_ml_dsa() from exc


def _load_private(algorithm: int, seed: bytes) -> Ed25519PrivateKey | MLDSA44PrivateKey:
    if algorithm != ML_DSA_44:
        return Ed25519PrivateKey.from_private_bytes(seed)
    try:
        from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA44PrivateKey

        return MLDSA44PrivateKey.from_seed_bytes(seed)
    except (ImportError, UnsupportedAlgorithm) as exc:
        raise _no_ml_dsa() from exc


def _split_key(text: str, what: str) -> tuple[str, bytes, int, bytes]:
    """Split `<name>+<key id>+<base64>` at its first two `+`; return name, id, algorithm and key material."""
    parts = text.split("+", 2)
    if len(parts) != 3:
        raise Malformed(f"A {what} is written <name>+<key id>+<base64>; this is not.")
    name, key_id, encoded = parts
    material = parse_base64(encoded, f"The {what}'s last part")
    if len(key_id) != 2 * KEY_ID_BYTES or any(char not in "0123456789abcdef" for char in key_id):
        raise Malformed(f"The key id of the {what} is not 8 lowercase hex digits.")
    if not material or material[0] not in _PUBLIC_KEY_BYTES:
        raise Malformed(f"The {what} is of an unknown type.", do="Known are 0x01, 0x04 and 0x06.")
    return name, bytes.fromhex(key_id), material[0], material[1:]


@dataclass(frozen=True, slots=True, repr=False)
class VerifierKey:
    """A public key with the name it signs under.

    `algorithm` is ED25519 (0x01), COSIGNATURE (0x04) or ML_DSA_44 (0x06); `key_bytes` has 32, 32 or 1,312 bytes.
    `key_id` is the 4-byte hint that signature lines carry; it identifies nothing by itself.
    """

    name: str
    algorithm: int
    key_bytes: bytes
    key_id: bytes = field(init=False, compare=False)

    def __post_init__(self) -> None:
        check_name(self.name, "The name of a key")
        if len(self.key_bytes) != _PUBLIC_KEY_BYTES.get(self.algorithm):
            raise Malformed(f"{len(self.key_bytes)} bytes are not a public key of type {self.algorithm:#04x}.")
        object.__setattr__(self, "key_id", _key_id(self.name, self.algorithm, self.key_bytes))

    @classmethod
    def parse(cls, vkey: str) -> VerifierKey:
        """Read `<name>+<8 hex>+<base64>`. Raises: Malformed, also if the key id is not this key's."""
        name, key_id, algorithm, material = _split_key(vkey, "verifier key")
        key = cls(name, algorithm, material)
        if key.key_id != key_id:
            raise Malformed(f"The verifier key's id is {key_id.hex()} but its key has {key.key_id.hex()}.")
        return key

    def format(self) -> str:
        """Return the vkey, `<name>+<8 hex>+<base64(algorithm || key)>`."""
        return f"{self.name}+{self.key_id.hex()}+{format_base64(bytes([self.algorithm]) + self.key_bytes)}"

    def verify(self, message: bytes, signature: bytes) -> None:
        """Check the bare signature (64 or 2,420 bytes) over exactly `message`.

        Type 0x04 and 0x06 sign more than the note text: use `cosignature.verify_cosignature` for their lines.
        Raises: InvalidSignature; MissingExtra if cryptography lacks ML-DSA.
        """
        key = _load_public(self.algorithm, self.key_bytes)
        try:
            key.verify(signature, message)
        except ForeignInvalidSignature as exc:
            raise InvalidSignature(f"The signature by {self.name} ({self.key_id.hex()}) does not verify.") from exc

    def __str__(self) -> str:
        return self.format()

    def __repr__(self) -> str:
        return f"<VerifierKey {self.name}+{self.key_id.hex()} type {self.algorithm:#04x}>"


class NoteSigner(Protocol):
    """Whatever signs under a name: a private key in this process, or a program that keeps one elsewhere."""

    @property
    def name(self) -> str:
        """The name in its signature lines."""
        ...

    @property
    def algorithm(self) -> int:
        """As `VerifierKey.algorithm`."""
        ...

    @property
    def verifier(self) -> VerifierKey:
        """The public half."""
        ...

    def sign(self, message: bytes) -> bytes:
        """Return the bare signature over exactly `message`. Raises: what the place of the key can raise."""
        ...


@dataclass(frozen=True, slots=True, repr=False)
class SignerKey:
    """A private key: 32-byte `seed`, the name it signs under, and its type (as in `VerifierKey`).

    `verifier` is its public half. The seed is in no repr and a signer is never pickled.
    """

    name: str
    seed: bytes
    algorithm: int = ED25519
    verifier: VerifierKey = field(init=False, compare=False)
    _private: Ed25519PrivateKey | MLDSA44PrivateKey = field(init=False, compare=False)

    def __post_init__(self) -> None:
        if self.algorithm not in _PUBLIC_KEY_BYTES or len(self.seed) != SEED_BYTES:
            raise Malformed(f"A signer key has a known type and a seed of {SEED_BYTES} bytes; this has not.")
        private = _load_private(self.algorithm, self.seed)
        object.__setattr__(self, "_private", private)
        public = private.public_key().public_bytes_raw()
        object.__setattr__(self, "verifier", VerifierKey(self.name, self.algorithm, public))

    @classmethod
    def generate(cls, name: str, algorithm: int = ED25519) -> SignerKey:
        """Make a new key from the operating system's randomness. Raises: Malformed for a bad name."""
        return cls(name, Ed25519PrivateKey.generate().private_bytes_raw(), algorithm)

    @classmethod
    def parse(cls, skey: str) -> SignerKey:
        """Read `PRIVATE+KEY+<name>+<8 hex>+<base64>`. Raises: Malformed; never quotes the text."""
        if not skey.startswith(_SKEY_PREFIX):
            raise Malformed("A signer key begins with PRIVATE+KEY+; this does not.")
        name, key_id, algorithm, seed = _split_key(skey.removeprefix(_SKEY_PREFIX), "signer key")
        key = cls(name, seed, algorithm)
        if key.verifier.key_id != key_id:
            raise Malformed(f"The signer key's id is {key_id.hex()} but its key has {key.verifier.key_id.hex()}.")
        return key

    def format(self) -> str:
        """Return the private encoding, seed included: for a private file and nothing else."""
        encoded = format_base64(bytes([self.algorithm]) + self.seed)
        return f"{_SKEY_PREFIX}{self.name}+{self.verifier.key_id.hex()}+{encoded}"

    def sign(self, message: bytes) -> bytes:
        """Return the bare signature over exactly `message`: 64 bytes, or 2,420 for ML-DSA-44."""
        return self._private.sign(message)

    def __repr__(self) -> str:
        return f"<SignerKey {self.name}+{self.verifier.key_id.hex()} type {self.algorithm:#04x}>"

    def __reduce__(self) -> tuple[object, ...]:
        raise UsageError("A signer key is never pickled or copied into another process this way.")
