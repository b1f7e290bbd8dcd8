"""Verifier and signer keys: encodings, key ids, secrecy."""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import pickle
import traceback

import pytest

from klingai_audit.errors import InvalidSignature, Malformed, MissingExtra, UsageError
from klingai_audit.tlog import COSIGNATURE, ED25519, ML_DSA_44, SignerKey, VerifierKey, keys
from klingai_audit.tlog.strict import format_base64
from tests.unit.tlog import vectors

LOG = SignerKey("example.com/audit/log1", bytes(range(0x20)))
VKEYS = [
    *(vectors.KEYS["c2sp"].values()),
    *(vectors.KEYS["go"][name] for name in ("vkey", "enoch", "sumdb")),
    vectors.KEYS["tessera"]["vkey"],
    *(vectors.KEYS["audit_log1"].values()),
]
ALGORITHMS = [ED25519, COSIGNATURE, ML_DSA_44]


@pytest.mark.parametrize("vkey", VKEYS)
def test_known_verifier_keys_both_ways(vkey):
    """Spec 12.6 to 12.8: parsed with the key id recomputed, written back unchanged."""
    key = VerifierKey.parse(vkey)
    assert vkey == key.format()
    assert vkey == str(key)
    assert key == VerifierKey(key.name, key.algorithm, key.key_bytes)


@pytest.mark.parametrize("log", ["go", "tessera"])
def test_known_signer_keys_both_ways(log):
    """Spec 12.6 and 12.7: the skey leads to the published vkey and is written back unchanged."""
    known = vectors.KEYS[log]
    signer = SignerKey.parse(known["skey"])
    assert known["vkey"] == signer.verifier.format()
    assert known["skey"] == signer.format()


@pytest.mark.parametrize(
    "name, first, algorithm, vkey",
    [
        ("example.com/audit/log1", 0x00, ED25519, vectors.KEYS["audit_log1"]["vkey"]),
        ("witness.example.com/w1", 0x20, COSIGNATURE, vectors.KEYS["audit_log1"]["witness"]),
        (
            "witness.example.com/w1",
            0x20,
            ED25519,
            "witness.example.com/w1+78b3b84c+ASmsuuFBvMrwsi4alNNNC8c2HlJtC/4SyJeUvJMilm3X",
        ),
    ],
)
def test_known_seeds(name, first, algorithm, vkey):
    """Spec 12.8: seeds of counted bytes, and the same key under both types."""
    assert vkey == SignerKey(name, bytes(range(first, first + 32)), algorithm).verifier.format()


def test_the_zero_seed_is_enoch_root():
    """Spec 12.6: the key of 32 zero bytes."""
    assert vectors.KEYS["go"]["enoch"] == SignerKey("EnochRoot", bytes(32)).verifier.format()


def test_the_known_ml_dsa_key():
    """Spec 12.8: key id and digest of the public key from seed 40..5f."""
    key = SignerKey("witness.example.com/w2", bytes(range(0x40, 0x60)), ML_DSA_44).verifier
    assert "f8cb0cfc" == key.key_id.hex()
    assert (
        "6c1c65071979225a139b3ec84688e2688ec30fabe8cc510cb688bc435f2d3cb9" == hashlib.sha256(key.key_bytes).hexdigest()
    )
    assert key == VerifierKey.parse(key.format())


def test_the_litewitness_key_id():
    """Spec 12.9: the id of the sigsum log's key."""
    known = vectors.load("litewitness.json")
    key = VerifierKey(known["origin"], ED25519, bytes.fromhex(known["public_key"]))
    assert known["key_id"] == key.key_id.hex()
    assert hashlib.sha256(key.key_bytes).hexdigest() in known["origin"]


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_generated_keys_sign_and_verify(algorithm):
    """Every type: two keys differ, encodings round-trip, signatures verify and only over the same bytes."""
    signer, other = (SignerKey.generate("example.com/x", algorithm) for _ in range(2))
    assert signer.seed != other.seed
    assert signer == SignerKey.parse(signer.format())
    assert signer.verifier == VerifierKey.parse(str(signer.verifier))
    signature = signer.sign(b"message")
    assert keys.SIGNATURE_BYTES[algorithm] == len(signature)
    signer.verifier.verify(b"message", signature)
    for key, message, blob in [
        (other.verifier, b"message", signature),
        (signer.verifier, b"massage", signature),
        (signer.verifier, b"message", signature[:-1]),
        (signer.verifier, b"message", signature + b"\x00"),
        (signer.verifier, b"message", bytes([signature[0] ^ 1]) + signature[1:]),
        (signer.verifier, b"message", b""),
    ]:
        with pytest.raises(InvalidSignature):
            key.verify(message, blob)


def test_a_key_is_loaded_once():
    """Repeated verification does not decode the key again."""
    signer = SignerKey.generate("example.com/often")
    signature = signer.sign(b"m")
    signer.verifier.verify(b"m", signature)
    before = keys._load_public.cache_info()
    for _ in range(5):
        VerifierKey.parse(str(signer.verifier)).verify(b"m", signature)
    after = keys._load_public.cache_info()
    assert (before.misses, before.hits + 5) == (after.misses, after.hits)


@pytest.mark.parametrize(
    "vkey",
    [
        "",
        "name",
        "name+00000000",
        "+dc389258+AQOhB7/zzhC+HXDdGOdLwJln5NYwm6UNXx3chmQSVTG4",
        LOG.verifier.format().replace("dc389258", "dc389259"),
        LOG.verifier.format().replace("dc389258", "DC389258"),
        LOG.verifier.format().replace("dc389258", "0xdc3892"),
        LOG.verifier.format().replace("dc389258", "dc38925"),
        LOG.verifier.format().replace("dc389258", "dc3892580"),
        LOG.verifier.format().replace("dc389258", "dc\uff1389258"),
        LOG.verifier.format().replace("log1", "log2"),
        LOG.verifier.format().replace("/audit", " audit"),
        LOG.verifier.format().replace("/audit", "\u00a0audit"),
        LOG.verifier.format() + "\n",
        " " + LOG.verifier.format(),
        LOG.verifier.format() + "+",
        LOG.verifier.format()[:-1],
        LOG.verifier.format()[:-1] + "5",
        LOG.verifier.format().replace("/zzh", "_zzh"),
        "example.com/audit/log1+dc389258+",
        "n+00000000+" + format_base64(b"\x02" + bytes(32)),
        "n+00000000+" + format_base64(b"\xff" + bytes(32)),
        "n+00000000+" + format_base64(b"\x01" + bytes(31)),
        "n+00000000+" + format_base64(b"\x06" + bytes(32)),
        "n+00000000+" + format_base64(b"\x01"),
    ],
)
def test_broken_verifier_keys_are_refused(vkey):
    """A wrong id, name, alphabet, length or type."""
    with pytest.raises(Malformed):
        VerifierKey.parse(vkey)


@pytest.mark.parametrize(
    "skey",
    [
        "",
        LOG.verifier.format(),
        LOG.format().removeprefix("PRIVATE+"),
        LOG.format().removeprefix("PRIVATE+KEY+"),
        LOG.format().replace("PRIVATE", "private"),
        LOG.format().replace("dc389258", "dc389259"),
        LOG.format().replace("log1", "log2"),
        LOG.format() + "\n",
        LOG.format()[:-4],
        LOG.format()[:-1] + "~",
        LOG.format() + "é",
        "PRIVATE+KEY+n+00000000+" + format_base64(b"\x01" + bytes(33)),
        "PRIVATE+KEY+n+00000000+" + format_base64(b"\x02" + bytes(32)),
    ],
)
def test_broken_signer_keys_are_refused_without_being_quoted(skey):
    """The whole traceback is free of what may be most of a private key."""
    with pytest.raises(Malformed) as caught:
        SignerKey.parse(skey)
    shown = (
        "".join(traceback.format_exception_only(caught.value)) + repr(caught.value.__cause__) + repr(vars(caught.value))
    )
    assert "AQABAgMEBQ" not in shown
    assert caught.value.__cause__ is None or skey not in map(str, vars(caught.value.__cause__).values())


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_the_seed_is_shown_by_nothing_but_format(algorithm):
    """Not by repr, str, f-strings or a containing object."""
    seed = bytes(range(0x41, 0x61))
    signer = SignerKey("example.com/secret", seed, algorithm)
    shown = f"{signer!r} {signer} {[signer]} {signer.verifier!r}"
    for spelling in (
        seed.decode(),
        seed.hex(),
        format_base64(seed),
        format_base64(bytes([algorithm]) + seed),
        repr(seed),
    ):
        assert spelling not in shown
    assert "example.com/secret" in shown


def test_signer_keys_are_not_pickled():
    """Neither pickle nor deepcopy carries a seed away."""
    for carry in (pickle.dumps, copy.deepcopy):
        with pytest.raises(UsageError):
            carry(LOG)


def test_verifier_keys_are_pickled_and_hashed():
    """They travel to other processes and serve as dictionary keys."""
    assert LOG.verifier == pickle.loads(pickle.dumps(LOG.verifier))
    assert {LOG.verifier: 1} == {VerifierKey.parse(str(LOG.verifier)): 1}


def test_keys_are_frozen():
    """Neither half can be changed in place."""
    for key in (LOG, LOG.verifier):
        with pytest.raises(dataclasses.FrozenInstanceError):
            key.name = "other"


@pytest.mark.parametrize(
    "seed, algorithm", [(bytes(31), ED25519), (bytes(33), ML_DSA_44), (bytes(32), 0x02), (bytes(32), 0)]
)
def test_impossible_signer_keys_are_refused(seed, algorithm):
    """32 bytes and a known type."""
    with pytest.raises(Malformed):
        SignerKey("n", seed, algorithm)


@pytest.mark.parametrize("name", ["", "a b", "a+b", "a\nb", "a\ud800"])
def test_impossible_names_are_refused_by_both_halves(name):
    """A name that could not stand in a signature line."""
    with pytest.raises(Malformed):
        SignerKey(name, bytes(32))
    with pytest.raises(Malformed):
        VerifierKey(name, ED25519, bytes(32))


def test_without_ml_dsa_the_error_says_what_to_install(monkeypatch):
    """An older cryptography has no such module."""
    monkeypatch.setitem(__import__("sys").modules, "cryptography.hazmat.primitives.asymmetric.mldsa", None)
    with pytest.raises(MissingExtra) as caught:
        SignerKey("n", bytes(32), ML_DSA_44)
    assert "cryptography" in caught.value.do
    with pytest.raises(MissingExtra):
        VerifierKey("n", ML_DSA_44, b"\x07" * 1312).verify(b"", bytes(2420))


@pytest.mark.parametrize("algorithm", [*ALGORITHMS, 0x00, 0x02, 0x05, 0xFF])
@pytest.mark.parametrize("length", [0, 31, 33, 1311, 1313])
def test_impossible_verifier_keys_are_refused(algorithm, length):
    """A known type and its length."""
    with pytest.raises(Malformed):
        VerifierKey("n", algorithm, bytes(length))
