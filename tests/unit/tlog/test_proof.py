"""Proof files."""

from __future__ import annotations

import base64

import pytest

from klingai_audit.errors import InvalidProof, InvalidSignature, Malformed
from klingai_audit.tlog import (
    COSIGNATURE,
    Checkpoint,
    Note,
    SignerKey,
    TlogProof,
    VerifierKey,
    build_consistency,
    build_inclusion,
    cosign,
    format_note,
    node_reader,
    parse_note,
    parse_proof,
    root_at,
    sign_note,
    verify_consistency,
    verify_leaf_proof,
    verify_proof,
)
from klingai_audit.tlog.strict import format_base64
from tests.unit.tlog import vectors

KNOWN = vectors.read("audit-log1.tlog-proof")
ORIGIN = "example.com/audit/log1"
LOG = SignerKey(ORIGIN, bytes(range(32)))
WITNESS = SignerKey("witness.example.com/w1", bytes(range(0x20, 0x40)), COSIGNATURE)
KEYS = (LOG.verifier, WITNESS.verifier)
LEVEL = b"".join(vectors.LEAVES)
READ = node_reader(lambda _, begin, end: LEVEL[32 * begin : 32 * end])


def test_the_known_proof_is_reproduced():
    """Spec 12.8: from entries, seeds and time to the same file, byte for byte."""
    text = Checkpoint(ORIGIN, 8, root_at(8, READ)).text()
    note = Note(text, (*parse_note(sign_note(text, LOG)).signatures, cosign(text, WITNESS, 1_767_225_600)))
    assert KNOWN == TlogProof(5, build_inclusion(5, 8, READ), format_note(note)).format()


def test_the_known_proof_verifies():
    """Spec 12.8: with the published keys, by entry and by leaf hash."""
    proof, keys = parse_proof(KNOWN), [VerifierKey.parse(vkey) for vkey in vectors.KEYS["audit_log1"].values()]
    expected = Checkpoint(ORIGIN, 8, bytes.fromhex(vectors.CT["roots"][8]))
    assert expected == verify_proof(proof, bytes.fromhex("40414243"), ORIGIN, keys)
    assert expected == verify_leaf_proof(proof, vectors.LEAVES[5], ORIGIN, keys[:1])
    assert KNOWN == proof.format()


def test_the_known_witness_request_is_reproduced():
    """Spec 12.8: the add-checkpoint body from 6 to 8; its proof verifies."""
    proof, new = build_consistency(6, 8, READ), root_at(8, READ)
    lines = ["old 6", *(base64.b64encode(item).decode() for item in proof), "", ""]
    body = "\n".join(lines).encode() + sign_note(Checkpoint(ORIGIN, 8, new).text(), LOG)
    assert vectors.read("audit-log1.add-checkpoint") == body
    verify_consistency(6, 8, bytes.fromhex(vectors.CT["roots"][6]), new, proof)


@pytest.mark.parametrize("extra", [None, b"\x00", b"age-v1.2.1-darwin-arm64.tar.gz", bytes(1_000_000)])
def test_proofs_both_ways(extra):
    """With and without extra data, with an empty proof."""
    proof = TlogProof(0, (), sign_note(Checkpoint("o", 1, vectors.LEAVES[0]).text(), SignerKey("o", bytes(32))), extra)
    assert proof == parse_proof(proof.format())
    line = [] if extra is None else [f"extra {format_base64(extra)}"]
    assert ["c2sp.org/tlog-proof@v1", *line, "index 0", "", "o"] == proof.format().decode().split("\n")[: 4 + len(line)]


def test_extra_data_is_not_authenticated_and_not_shown():
    """Changing it changes no verdict; it stays out of repr."""
    proof = parse_proof(KNOWN)
    with_extra = TlogProof(proof.index, proof.proof, proof.checkpoint, b"anything")
    assert verify_proof(proof, b"@ABC", ORIGIN, KEYS) == verify_proof(with_extra, b"@ABC", ORIGIN, KEYS)
    assert "anything" not in repr(with_extra)


@pytest.mark.parametrize(
    "change",
    [
        {"index": 4},
        {"index": 8},
        {"proof": ()},
        {"proof": parse_proof(KNOWN).proof[::-1]},
        {"proof": (*parse_proof(KNOWN).proof, bytes(32))},
    ],
)
def test_changed_proofs_are_refused(change):
    """Index or hashes."""
    proof = parse_proof(KNOWN)
    bad = TlogProof(**{"index": proof.index, "proof": proof.proof, "checkpoint": proof.checkpoint} | change)
    with pytest.raises(InvalidProof):
        verify_proof(bad, b"@ABC", ORIGIN, KEYS)


@pytest.mark.parametrize("entry", [b"", b"@ABc", b"@ABC\n", vectors.LEAVES[5], vectors.LEAVES[4] + vectors.LEAVES[5]])
def test_other_entries_are_refused(entry):
    """Another byte, a line feed more, the leaf hash itself, or a pair of hashes."""
    with pytest.raises(InvalidProof):
        verify_proof(parse_proof(KNOWN), entry, ORIGIN, KEYS)


def test_the_size_comes_from_the_checkpoint():
    """The proof of 6 of 8 does not verify under a checkpoint of another shape."""
    note = sign_note(Checkpoint(ORIGIN, 6, root_at(6, READ)).text(), LOG)
    with pytest.raises(InvalidProof):
        verify_proof(TlogProof(5, build_inclusion(5, 8, READ), note), b"@ABC", ORIGIN, KEYS)
    smaller = TlogProof(5, build_inclusion(5, 6, READ), note)
    assert 6 == verify_proof(smaller, b"@ABC", ORIGIN, KEYS).size


@pytest.mark.parametrize(
    "origin, keys",
    [
        ("example.com/audit/log2", KEYS),
        (ORIGIN, []),
        (ORIGIN, [WITNESS.verifier]),
        (ORIGIN, [SignerKey(ORIGIN, bytes(32)).verifier]),
    ],
)
def test_other_origins_and_keys_are_refused(origin, keys):
    """Another log, no key, only the witness's, or a namesake's."""
    with pytest.raises(InvalidSignature):
        verify_proof(parse_proof(KNOWN), b"@ABC", origin, keys)


def swap(old: bytes, new: bytes) -> bytes:
    assert old in KNOWN
    return KNOWN.replace(old, new, 1)


HASHES = b"".join(line + b"\n" for line in KNOWN.split(b"\n")[2:5])


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\n\n",
        b"c2sp.org/tlog-proof@v1\n\n",
        KNOWN[:-1],
        KNOWN + b"\n",
        b"\n" + KNOWN,
        b"\xef\xbb\xbf" + KNOWN,
        KNOWN.replace(b"\n", b"\r\n"),
        swap(b"@v1", b"@v2"),
        swap(b"c2sp.org/tlog-proof@v1\n", b""),
        swap(b"c2sp", b"C2SP"),
        swap(b"index 5\n", b""),
        *(
            swap(b"index 5", b"index" + tail)
            for tail in (b"", b" ", b" 05", b" +5", b" -5", b"  5", b" 5 ", b"\t5", b" 5.0", b" 9223372036854775808")
        ),
        swap(b"index 5", "index \u0665".encode()),
        swap(b"index 5", b"Index 5"),
        swap(b"index 5\n", b"index 5\nindex 5\n"),
        swap(b"index 5\n", b"index 5\nextra YQ==\n"),
        swap(b"index 5\n", b"extra YQ==\nextra YQ==\nindex 5\n"),
        *(
            swap(b"index 5\n", b"extra" + tail + b"\nindex 5\n")
            for tail in (b"", b" ", b" YQ", b" YR==", b"  YQ==", b" YQ== ", b" -_8=")
        ),
        swap(b"vBoG", b"vBo"),
        swap(b"Znms=", b"Znms"),
        swap(b"Znms=", b"Znmt="),
        swap(b"yoVO", b"yo_O"),
        swap(b"vBoG", b" vBoG"),
        swap(b"037k", b"\n037k"),
        swap(HASHES, HASHES * 22),
        swap(HASHES, format_base64(bytes(31)).encode() + b"\n"),
        swap(HASHES, format_base64(bytes(33)).encode() + b"\n"),
        swap(b"=\n\nexample", b"=\nexample"),
        swap(b"=\n\nexample", b"=\n\n\nexample"),
        swap(b"log1\n8\n", b"log1\n08\n"),
        swap(b"\n\n\xe2", b"\n\xe2"),
        KNOWN.partition(b"\n\n")[0] + b"\n\n" + sign_note("no checkpoint\n", LOG),
    ],
)
def test_malformed_files_are_refused(data):
    """Header, extra, index, hashes, separator, checkpoint."""
    with pytest.raises(Malformed):
        parse_proof(data)


def test_proofs_have_at_most_63_hashes():
    """A tree below 2**63 entries is no higher."""
    text = Checkpoint("o", 2**63 - 1, bytes(32)).text()
    note = sign_note(text, SignerKey("o", bytes(32)))
    assert 63 == len(parse_proof(TlogProof(2**63 - 1, (bytes(32),) * 63, note).format()).proof)
    with pytest.raises(Malformed):
        TlogProof(0, (bytes(32),) * 64, note)


@pytest.mark.parametrize(
    "change",
    [
        {"index": -1},
        {"index": 2**63},
        {"proof": (bytes(31),)},
        {"extra": b""},
        {"extra": bytes(1_000_001)},
        {"checkpoint": b""},
    ],
)
def test_impossible_proofs_are_not_made(change):
    """A value that could not be parsed back."""
    proof = parse_proof(KNOWN)
    with pytest.raises(Malformed):
        TlogProof(**{"index": proof.index, "proof": proof.proof, "checkpoint": proof.checkpoint} | change)


def test_files_have_a_size_limit():
    """Nothing is parsed of a file that is far too long."""
    with pytest.raises(Malformed):
        parse_proof(swap(b"index 5\n", b"extra " + b"A" * 4_000_000 + b"\nindex 5\n"))
