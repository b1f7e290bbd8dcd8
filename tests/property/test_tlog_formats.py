"""Formats: what is written is read back, and what is read is written back."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from klingai_audit.errors import InvalidSignature, Malformed
from klingai_audit.tlog import (
    COSIGNATURE,
    ED25519,
    EMPTY_ROOT,
    ML_DSA_44,
    Checkpoint,
    Note,
    SignatureLine,
    SignerKey,
    TlogProof,
    VerifierKey,
    cosign,
    format_note,
    open_note,
    parse_checkpoint,
    parse_note,
    parse_proof,
    sign_note,
    verify_cosignature,
)
from klingai_audit.tlog.strict import format_base64, parse_base64, parse_decimal

printable = st.characters(exclude_categories=["Cs"], exclude_characters="".join(map(chr, range(0x20))))
names = st.text(printable.filter(lambda char: char != "+" and not char.isspace()), min_size=1, max_size=40)
lines = st.text(printable, min_size=1, max_size=60)
texts = st.lists(st.text(printable, max_size=60), min_size=1, max_size=6).map(lambda parts: "\n".join(parts) + "\n")
hashes = st.binary(min_size=32, max_size=32)
seeds = st.binary(min_size=32, max_size=32)
signature_lines = st.builds(
    SignatureLine, names, st.binary(min_size=4, max_size=4), st.binary(min_size=1, max_size=100)
)
notes = st.builds(Note, texts, st.lists(signature_lines, min_size=1, max_size=5).map(tuple))
extensions = st.lists(lines, max_size=3).map(tuple)
checkpoints = st.one_of(
    st.builds(Checkpoint, lines, st.integers(1, 2**63 - 1), hashes, extensions),
    st.builds(Checkpoint, lines, st.just(0), st.just(EMPTY_ROOT), extensions),
)
signed_checkpoints = st.builds(
    lambda checkpoint, signed: format_note(Note(checkpoint.text(), signed)),
    checkpoints,
    st.lists(signature_lines, min_size=1, max_size=3).map(tuple),
)
proofs = st.builds(
    TlogProof,
    st.integers(0, 2**63 - 1),
    st.lists(hashes, max_size=63).map(tuple),
    signed_checkpoints,
    st.one_of(st.none(), st.binary(min_size=1, max_size=200)),
)


def read_or_none(parse, value):
    try:
        return parse(value)
    except Malformed:
        return None


@given(st.integers(0, 2**63 - 1))
def test_decimals_both_ways(number):
    """One spelling for each number."""
    assert number == parse_decimal(str(number), "n")


@given(st.text(max_size=22))
def test_any_text_read_as_decimal_is_its_spelling(text):
    """Whatever is accepted prints as it was read."""
    number = read_or_none(lambda value: parse_decimal(value, "n"), text)
    assert number is None or text == str(number)


@given(st.binary(max_size=100))
def test_base64_both_ways(data):
    """One spelling for all bytes."""
    assert data == parse_base64(format_base64(data), "b")


@given(st.one_of(st.text(max_size=12), st.text(st.sampled_from("AQgw+/-_= \nZz9"), max_size=12)))
def test_any_text_read_as_base64_is_its_spelling(text):
    """Whatever is accepted encodes as it was read."""
    data = read_or_none(lambda value: parse_base64(value, "b"), text)
    assert data is None or text == format_base64(data)


@given(notes)
def test_notes_both_ways(note):
    """Any text, any names, any blobs."""
    assert note == parse_note(format_note(note))
    assert format_note(note) == format_note(parse_note(format_note(note)))


@given(checkpoints)
def test_checkpoints_both_ways(checkpoint):
    """Any origin, size, root and extension lines."""
    assert checkpoint == parse_checkpoint(checkpoint.text())
    assert checkpoint.text() == parse_checkpoint(checkpoint.text()).text()


@settings(deadline=None)
@given(proofs)
def test_proof_files_both_ways(proof):
    """Any index, hashes, extra data and checkpoint."""
    assert proof == parse_proof(proof.format())
    assert proof.format() == parse_proof(proof.format()).format()


@given(
    names,
    st.one_of(
        st.tuples(st.sampled_from([ED25519, COSIGNATURE]), hashes),
        st.tuples(st.just(ML_DSA_44), st.binary(min_size=1312, max_size=1312)),
    ),
)
def test_verifier_keys_both_ways(name, material):
    """Any name and key bytes of every type."""
    key = VerifierKey(name, *material)
    assert key == VerifierKey.parse(key.format())
    assert key.format() == VerifierKey.parse(key.format()).format()


@settings(deadline=None)
@given(names, seeds, st.sampled_from([ED25519, COSIGNATURE, ML_DSA_44]))
def test_signer_keys_both_ways(name, seed, algorithm):
    """Any seed of every type; the parsed key has the same public half."""
    signer = SignerKey(name, seed, algorithm)
    again = SignerKey.parse(signer.format())
    assert (signer, signer.verifier, signer.format()) == (again, again.verifier, again.format())


@settings(deadline=None)
@given(texts, names, seeds, seeds)
def test_signed_notes_open_with_their_key_alone(text, name, seed, other):
    """The signer's key opens; another seed under the same name does not."""
    signer, data = SignerKey(name, seed), sign_note(text, SignerKey(name, seed))
    note, verified = open_note(data, [signer.verifier])
    assert (text, (signer.verifier,)) == (note.text, verified)
    if seed != other:
        with pytest.raises(InvalidSignature):
            open_note(data, [SignerKey(name, other).verifier])


@settings(deadline=None)
@given(checkpoints, names, seeds, st.integers(0, 2**63 - 1), st.sampled_from([COSIGNATURE, ML_DSA_44]))
def test_cosignatures_give_back_their_time(checkpoint, name, seed, time, algorithm):
    """Any checkpoint and time, as far as the type can carry the names."""
    signer, text = SignerKey(name, seed, algorithm), checkpoint.text()
    if algorithm == ML_DSA_44 and max(len(name.encode()), len(checkpoint.origin.encode())) > 255:
        with pytest.raises(Malformed):
            cosign(text, signer, time)
        return
    assert time == verify_cosignature(text, cosign(text, signer, time), signer.verifier)
