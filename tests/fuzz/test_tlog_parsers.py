"""Every parser of the room: only Malformed escapes, and what is accepted re-encodes to itself."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from klingai_audit.errors import InvalidSignature, Malformed
from klingai_audit.tlog import (
    COSIGNATURE,
    ML_DSA_44,
    Checkpoint,
    Note,
    SignatureLine,
    SignerKey,
    TlogProof,
    VerifierKey,
    cosign,
    decode_bundle,
    encode_bundle,
    format_note,
    open_checkpoint,
    open_note,
    parse_checkpoint,
    parse_cosignature,
    parse_note,
    parse_proof,
    parse_tile_path,
    sign_note,
    tile_path,
)
from klingai_audit.tlog.cosigned import join_blob

MUTATIONS = 4000
LOG, WITNESS = SignerKey("origin", b"\x01" * 32), SignerKey("witness", b"\x02" * 32, COSIGNATURE)
TEXT = Checkpoint("origin", 70_000, bytes(range(32)), ("extension",)).text()
NOTE = format_note(Note(TEXT, (*parse_note(sign_note(TEXT, LOG)).signatures, cosign(TEXT, WITNESS, 1_767_225_600))))
PROOF = TlogProof(69_999, (bytes(32), b"\xff" * 32, bytes(range(32))), NOTE, b"extra data").format()


def text_parser(parse, form):
    """Bytes that are no UTF-8 reach text parsers too, as lone surrogates."""

    def again(data):
        text = data.decode("utf-8", "surrogateescape")
        return form(parse(text)).encode("utf-8", "surrogateescape")

    return again


PARSERS = {
    "note": (NOTE, lambda data: format_note(parse_note(data))),
    "checkpoint": (TEXT.encode(), text_parser(parse_checkpoint, Checkpoint.text)),
    "proof": (PROOF, lambda data: parse_proof(data).format()),
    "signature-line": (
        parse_note(NOTE).signatures[0].format().encode(),
        text_parser(SignatureLine.parse, SignatureLine.format),
    ),
    "vkey": (LOG.verifier.format().encode(), text_parser(VerifierKey.parse, VerifierKey.format)),
    "skey": (LOG.format().encode(), text_parser(SignerKey.parse, SignerKey.format)),
    "tile-path": (b"tile/0/x001/x234/067.p/12", text_parser(parse_tile_path, lambda parts: tile_path(*parts))),
    "entries-path": (b"tile/entries/x001/067", text_parser(parse_tile_path, lambda parts: tile_path(*parts))),
    "bundle": (encode_bundle([b"", b"one", b"two" * 100]), lambda data: encode_bundle(decode_bundle(data))),
    "cosignature": (
        cosign(TEXT, WITNESS, 1).blob,
        lambda data: join_blob(*parse_cosignature(SignatureLine("w", bytes(4), data or b"\x00"), COSIGNATURE)),
    ),
    "cosignature-ml-dsa": (
        bytes(8 + 2420),
        lambda data: join_blob(*parse_cosignature(SignatureLine("w", bytes(4), data or b"\x00"), ML_DSA_44)),
    ),
}
SPICE = [
    *(b"\n", b"\n\n", b"\r", b"\t", b"\x00", b" ", b"+", b"-", b"_", b"=", b"0", b"00", b"9" * 30, b"/", b"x", b".p/"),
    *(char.encode() for char in ("\u2014 ", "\u00a0", "\u2028", "\u0663", "\uff11", "\x7f", "\x85")),
    *(b"\xff", b"\xed\xa0\x80", b"\xc0\x8a"),
]


def mutate(data, rng):
    """Flip, delete, insert, double, swap or cut, once to three times."""
    for _ in range(rng.randint(1, 3)):
        at, end = sorted((rng.randint(0, len(data)), rng.randint(0, len(data))))
        near = min(at + rng.randint(1, 4), len(data))
        kind = rng.randrange(8)
        if kind == 0 and at < len(data):
            data = data[:at] + bytes([data[at] ^ 1 << rng.randrange(8)]) + data[at + 1 :]
        elif kind == 1:
            data = data[:at] + data[near:]
        elif kind == 2:
            data = data[:at] + rng.choice(SPICE) + data[at:]
        elif kind == 3:
            data = data[:at] + rng.choice(SPICE) + data[near:]
        elif kind == 4:
            data = data[:end] + data[at:end] + data[end:]
        elif kind == 5:
            data = data[at:end] if rng.random() < 0.3 else data[:at] + data[end:]
        elif kind == 6:
            data = data[:at] + data[at:near][::-1] + data[near:]
        else:
            data = data[:at] + data[at:end].swapcase() + data[end:]
    return data


@pytest.mark.parametrize("name", PARSERS)
def test_valid_inputs_re_encode_to_themselves(name):
    """The starting points of the mutations are themselves accepted."""
    valid, again = PARSERS[name]
    assert valid == again(valid)


@pytest.mark.parametrize("name", PARSERS)
def test_mutated_inputs_re_encode_to_themselves_or_are_refused(name):
    """Thousands of damaged copies, always the same ones; nothing but Malformed escapes; some are refused."""
    valid, again = PARSERS[name]
    rng, refused = random.Random(name), 0
    for _ in range(MUTATIONS):
        data = mutate(valid, rng)
        try:
            written = again(data)
        except Malformed:
            refused += 1
        else:
            assert data == written
    assert refused > 0


@pytest.mark.parametrize("name", PARSERS)
@settings(deadline=None)
@given(
    st.one_of(st.binary(max_size=200), st.text(max_size=100).map(lambda text: text.encode("utf-8", "surrogatepass")))
)
def test_any_bytes_re_encode_to_themselves_or_are_refused(name, data):
    """Bytes and texts that know nothing of the format."""
    try:
        written = PARSERS[name][1](data)
    except Malformed:
        return
    assert data == written


def test_no_mutation_of_a_signed_checkpoint_says_something_else():
    """Whatever is opened carries the text that was signed, whoever damaged the bytes around it."""
    rng, keys, opened = random.Random("open"), [LOG.verifier, WITNESS.verifier], 0
    for _ in range(MUTATIONS):
        data = mutate(NOTE, rng)
        for read in (lambda data: open_note(data, keys)[0], lambda data: open_checkpoint(data, "origin", keys)[1]):
            try:
                note = read(data)
            except (Malformed, InvalidSignature):
                continue
            assert TEXT == note.text
            opened += 1
    assert opened > 0
