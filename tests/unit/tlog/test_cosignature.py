"""Cosignatures of both types."""

from __future__ import annotations

import hashlib

import pytest

from klingai_audit.errors import InvalidSignature, Malformed, UsageError
from klingai_audit.tlog import (
    COSIGNATURE,
    ED25519,
    ML_DSA_44,
    Checkpoint,
    SignatureLine,
    SignerKey,
    cosign,
    parse_cosignature,
    parse_note,
    verify_cosignature,
)
from klingai_audit.tlog.cosignature import cosigned_message
from tests.unit.tlog import vectors

TIME = 1_767_225_600  # 2026-01-01T00:00:00Z, spec 12.8
ROOT = bytes.fromhex(vectors.CT["roots"][8])
TEXT = Checkpoint("example.com/audit/log1", 8, ROOT).text()
W1 = SignerKey("witness.example.com/w1", bytes(range(0x20, 0x40)), COSIGNATURE)
W2 = SignerKey("witness.example.com/w2", bytes(range(0x40, 0x60)), ML_DSA_44)
BOTH = pytest.mark.parametrize("signer", [W1, W2], ids=["ed25519", "ml-dsa-44"])


def test_the_known_ed25519_message():
    """Spec 12.8: 101 bytes and their digest."""
    message = cosigned_message(COSIGNATURE, W1.name, TEXT, TIME)
    assert f"cosignature/v1\ntime 1767225600\n{TEXT}".encode() == message
    assert 101 == len(message)
    assert "ce5879cc5b83c7e93202440984b5a4f7f29d4bd23dadaf742eb4eb8c5bf59f96" == hashlib.sha256(message).hexdigest()


def test_the_known_ed25519_cosignature_is_reproduced():
    """Spec 12.8: the witness line of the proof file, byte for byte."""
    expected = parse_note(vectors.read("audit-log1.tlog-proof").partition(b"\n\n")[2]).signatures[1]
    assert expected == cosign(TEXT, W1, TIME)
    assert TIME == verify_cosignature(TEXT, expected, W1.verifier)
    assert TIME == parse_cosignature(expected, COSIGNATURE)[0]


def test_the_known_ml_dsa_message():
    """Spec 12.8: 114 bytes, laid out as in the document, and their digest."""
    message = cosigned_message(ML_DSA_44, W2.name, TEXT, TIME)
    expected = bytes.fromhex(
        "737562747265652f76310a00"
        "16" + W2.name.encode().hex() + "000000006955b900"
        "16" + b"example.com/audit/log1".hex() + "0000000000000000" + "0000000000000008"
    )
    assert expected + ROOT == message
    assert 114 == len(message)
    assert "691bdb9794429559ac111ea61cff62c51db83d024e83701951dcdcd7ee806aaa" == hashlib.sha256(message).hexdigest()


def test_the_published_cosignature_parses():
    """Spec 12.6: the C2SP example, whose key is not published: 76 bytes, id and time."""
    line = parse_note(vectors.read("c2sp-cosigned.note")).signatures[1]
    assert ("8d66cf3f", 76) == (line.key_id.hex(), len(line.key_id + line.blob))
    time, signature = parse_cosignature(line, COSIGNATURE)
    assert (1_679_315_147, 64) == (time, len(signature))


@BOTH
@pytest.mark.parametrize("time", [0, 1, TIME, 2**63 - 1])
def test_cosignatures_verify_with_their_time(signer, time):
    """The time comes back; blob lengths are 72 and 2,428."""
    line = cosign(TEXT, signer, time)
    assert time == verify_cosignature(TEXT, line, signer.verifier)
    assert {COSIGNATURE: 72, ML_DSA_44: 2428}[signer.algorithm] == len(line.blob)


@BOTH
def test_another_checkpoint_is_refused(signer):
    """Other size, root or origin."""
    line = cosign(TEXT, signer, TIME)
    for other in (
        TEXT.replace("\n8\n", "\n9\n"),
        TEXT.replace("log1", "log2"),
        Checkpoint("example.com/audit/log1", 8, bytes(32)).text(),
    ):
        with pytest.raises(InvalidSignature):
            verify_cosignature(other, line, signer.verifier)


def test_only_ed25519_covers_extension_lines():
    """As the document says: ML-DSA-44 commits to origin, size and root alone."""
    extended = TEXT + "extension\n"
    with pytest.raises(InvalidSignature):
        verify_cosignature(extended, cosign(TEXT, W1, TIME), W1.verifier)
    assert TIME == verify_cosignature(extended, cosign(TEXT, W2, TIME), W2.verifier)


@BOTH
def test_another_time_is_refused(signer):
    """The time is signed."""
    line = cosign(TEXT, signer, TIME)
    moved = SignatureLine(line.name, line.key_id, (TIME + 1).to_bytes(8, "big") + line.blob[8:])
    with pytest.raises(InvalidSignature):
        verify_cosignature(TEXT, moved, signer.verifier)


@BOTH
@pytest.mark.parametrize("cut", [slice(0, -1), slice(1, None), slice(0, 8), slice(0, 1)])
def test_cut_blobs_are_refused(signer, cut):
    """Type 0x04 has 72 bytes, type 0x06 2,428: parsing says Malformed, verifying InvalidSignature."""
    line = cosign(TEXT, signer, TIME)
    for blob in (line.blob[cut], line.blob + b"\x00"):
        bad = SignatureLine(line.name, line.key_id, blob)
        with pytest.raises(Malformed):
            parse_cosignature(bad, signer.algorithm)
        with pytest.raises(InvalidSignature):
            verify_cosignature(TEXT, bad, signer.verifier)


@BOTH
def test_times_above_int64_are_refused(signer):
    """2**63 and beyond."""
    line = cosign(TEXT, signer, TIME)
    bad = SignatureLine(line.name, line.key_id, b"\x80" + bytes(7) + line.blob[8:])
    with pytest.raises(Malformed):
        parse_cosignature(bad, signer.algorithm)
    with pytest.raises(InvalidSignature):
        verify_cosignature(TEXT, bad, signer.verifier)
    for time in (-1, 2**63):
        with pytest.raises(UsageError):
            cosign(TEXT, signer, time)


@BOTH
def test_the_line_must_be_by_the_key(signer):
    """Another name or another id."""
    line = cosign(TEXT, signer, TIME)
    for bad in (SignatureLine("other", line.key_id, line.blob), SignatureLine(line.name, bytes(4), line.blob)):
        with pytest.raises(InvalidSignature):
            verify_cosignature(TEXT, bad, signer.verifier)


def test_a_plain_signature_is_no_cosignature():
    """Type 0x01 states no time, and its key does not cosign."""
    log = SignerKey("example.com/audit/log1", bytes(32))
    line = SignatureLine(log.name, log.verifier.key_id, log.sign(TEXT.encode()))
    with pytest.raises(InvalidSignature):
        verify_cosignature(TEXT, line, log.verifier)
    with pytest.raises(UsageError):
        cosign(TEXT, log, TIME)
    with pytest.raises(Malformed):
        parse_cosignature(line, ED25519)


def test_the_two_ed25519_types_do_not_mix():
    """The same seed as 0x01 and 0x04 has two ids, and neither's signature is the other's."""
    plain = SignerKey(W1.name, W1.seed)
    assert plain.verifier.key_bytes == W1.verifier.key_bytes
    assert plain.verifier.key_id != W1.verifier.key_id
    disguised = SignatureLine(W1.name, W1.verifier.key_id, TIME.to_bytes(8, "big") + plain.sign(TEXT.encode()))
    with pytest.raises(InvalidSignature):
        verify_cosignature(TEXT, disguised, W1.verifier)


@BOTH
@pytest.mark.parametrize("text", ["", "hello\n", TEXT[:-1], TEXT.replace("\n8\n", "\n08\n")])
def test_only_checkpoints_are_cosigned(signer, text):
    """Neither made nor accepted over another text."""
    with pytest.raises(Malformed):
        cosign(text, signer, TIME)
    with pytest.raises(Malformed):
        verify_cosignature(text, cosign(TEXT, signer, TIME), signer.verifier)


def test_ml_dsa_names_have_at_most_255_bytes():
    """Origin and cosigner have a uint8 length; a longer one is not signed."""
    longest = Checkpoint("o" * 255, 8, ROOT).text()
    assert TIME == verify_cosignature(longest, cosign(longest, W2, TIME), W2.verifier)
    with pytest.raises(Malformed):
        cosign(Checkpoint("é" * 128, 8, ROOT).text(), W2, TIME)
    with pytest.raises(Malformed):
        cosign(TEXT, SignerKey("w" * 256, bytes(32), ML_DSA_44), TIME)
