"""Signed notes: published examples, and everything that is refused."""

from __future__ import annotations

import pytest

from klingai_audit.errors import InvalidSignature, Malformed, UsageError
from klingai_audit.tlog import (
    COSIGNATURE,
    ED25519,
    ML_DSA_44,
    Note,
    SignatureLine,
    SignerKey,
    VerifierKey,
    cosign,
    format_note,
    open_note,
    parse_note,
    sign_note,
)
from klingai_audit.tlog.note import MAX_NOTE_BYTES
from klingai_audit.tlog.strict import format_base64
from tests.unit.tlog import vectors

ALICE, BOB, CAROL = (SignerKey(name, bytes([seed]) * 32) for seed, name in enumerate(("alice", "bob", "carol"), 1))
KEYS = (ALICE.verifier, BOB.verifier)
TEXT = "one line\n\nafter an empty line\n"
SIGNED = sign_note(TEXT, ALICE, BOB)
LINE = format_base64(b"keyidblob")


def spoil(data, name):
    """Change one bit of the signature in the line by `name`."""
    note = parse_note(data)
    lines = tuple(
        SignatureLine(line.name, line.key_id, line.blob[:-1] + bytes([line.blob[-1] ^ 1]))
        if line.name == name
        else line
        for line in note.signatures
    )
    return format_note(Note(note.text, lines))


@pytest.mark.parametrize("name", ["c2sp.note", "go.note", "tessera-0.note", "tessera-15.note", "c2sp-cosigned.note"])
def test_published_notes_both_ways(name):
    """Spec 12.6 and 12.7: parsed and written back byte for byte."""
    assert vectors.read(name) == format_note(parse_note(vectors.read(name)))


@pytest.mark.parametrize(
    "name, vkeys",
    [
        ("c2sp.note", [vectors.KEYS["c2sp"]["vkey"]]),
        ("go.note", [vectors.KEYS["go"]["vkey"], vectors.KEYS["go"]["enoch"]]),
        ("tessera-0.note", [vectors.KEYS["tessera"]["vkey"]]),
        ("tessera-15.note", [vectors.KEYS["tessera"]["vkey"]]),
    ],
)
def test_published_signatures_verify(name, vkeys):
    """Spec 12.6 and 12.7: by all keys at once and by each alone."""
    keys = tuple(VerifierKey.parse(vkey) for vkey in vkeys)
    assert keys == open_note(vectors.read(name), keys)[1]
    for key in keys:
        note, verified = open_note(vectors.read(name), [key])
        assert (vectors.read(name).decode().partition("\n\n")[0] + "\n", (key,)) == (note.text, verified)
        with pytest.raises(InvalidSignature):
            open_note(spoil(vectors.read(name), key.name), [key])


def test_published_signatures_are_reproduced():
    """Spec 12.6 and 12.7: Ed25519 is deterministic, so signing again gives the same bytes."""
    go = (SignerKey.parse(vectors.KEYS["go"]["skey"]), SignerKey("EnochRoot", bytes(32)))
    assert vectors.read("go.note") == sign_note(parse_note(vectors.read("go.note")).text, *go)
    tessera = SignerKey.parse(vectors.KEYS["tessera"]["skey"])
    for name in ("tessera-0.note", "tessera-15.note"):
        assert vectors.read(name) == sign_note(parse_note(vectors.read(name)).text, tessera)


def test_texts_with_empty_lines_split_at_the_last():
    """The text keeps its own empty lines; parsing gives back what was signed."""
    for text in ("\n", "\n\n", "a\n", "a\n\n", "\na\n", TEXT, "\u2028\x7f\u2014 x eHh4eHg=\n"):
        note = parse_note(sign_note(text, ALICE))
        assert (text, 1) == (note.text, len(note.signatures))


def test_unknown_signers_are_ignored():
    """One known key is enough; the order is that of the lines."""
    assert (ALICE.verifier,) == open_note(SIGNED, [ALICE.verifier])[1]
    assert (ALICE.verifier, BOB.verifier) == open_note(SIGNED, [BOB.verifier, CAROL.verifier, ALICE.verifier])[1]
    assert (BOB.verifier,) == open_note(spoil(SIGNED, "alice"), [BOB.verifier])[1]


def test_a_known_key_with_a_bad_signature_spoils_the_note():
    """Even beside a good known one, and beside a good unknown one."""
    for keys in (KEYS, [ALICE.verifier]):
        with pytest.raises(InvalidSignature):
            open_note(spoil(SIGNED, "alice"), keys)


@pytest.mark.parametrize("keys", [[], [CAROL.verifier]])
def test_a_note_without_a_known_signature_is_refused(keys):
    """Text is not handed out."""
    with pytest.raises(InvalidSignature):
        open_note(SIGNED, keys)


def test_name_and_id_must_both_match():
    """A key of the same name, or of the same id under another name, is another signer."""
    renamed = SignatureLine("bob", ALICE.verifier.key_id, ALICE.sign(TEXT.encode()))
    with pytest.raises(InvalidSignature):
        open_note(format_note(Note(TEXT, (renamed,))), KEYS)
    namesake = SignerKey("alice", bytes(32))
    with pytest.raises(InvalidSignature):
        open_note(sign_note(TEXT, namesake), KEYS)


def test_changed_text_is_refused():
    """One byte of the text, or its last line feed doubled."""
    for old, new in ((b"one", b"One"), (b"after", b"\nafter"), (b"line\n\n\xe2", b"line\n\n\n\xe2")):
        with pytest.raises(InvalidSignature):
            open_note(SIGNED.replace(old, new, 1), KEYS)


def test_repeated_lines_must_all_verify():
    """A repetition counts once; a bad one after a good one spoils the note."""
    note = parse_note(SIGNED)
    twice = Note(TEXT, (*note.signatures, note.signatures[0]))
    assert KEYS == open_note(format_note(twice), KEYS)[1]
    bad = SignatureLine("alice", ALICE.verifier.key_id, bytes(64))
    with pytest.raises(InvalidSignature):
        open_note(format_note(Note(TEXT, (*note.signatures, bad))), KEYS)


def test_two_keys_with_one_id_are_refused():
    """Key ids are a hint with cheap collisions; the same key twice is fine."""
    clash = VerifierKey("alice", ED25519, bytes(32))
    object.__setattr__(clash, "key_id", ALICE.verifier.key_id)
    with pytest.raises(UsageError):
        open_note(SIGNED, [ALICE.verifier, clash])
    assert (ALICE.verifier,) == open_note(SIGNED, [ALICE.verifier, VerifierKey.parse(str(ALICE.verifier))])[1]


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\n",
        b"text\n",
        b"text\n\n",
        b"text\n\n\n",
        SIGNED[:-1],
        SIGNED + b"\n",
        SIGNED + b"x",
        SIGNED.replace(b"\n\n\xe2", b"\n\xe2"),
        SIGNED.replace(b"line\n\n\xe2", b"line\r\n\r\n\xe2"),
        SIGNED.replace(b"one", b"o\rne"),
        SIGNED.replace(b"one", b"o\tne"),
        SIGNED.replace(b"one", b"o\x00ne"),
        SIGNED.replace(b"one", b"o\xffne"),
        SIGNED.replace(b"one", b"o\xed\xa0\x80ne"),
        SIGNED.replace(b"one", b"o\xc0\x8ane"),
        SIGNED.replace(b"\n\xe2\x80\x94 bob", b"\r\n\xe2\x80\x94 bob"),
        SIGNED.replace("\u2014".encode(), b"-"),
        SIGNED.replace("\u2014".encode(), "\u2013".encode()),
        SIGNED.replace("\u2014 bob".encode(), "\u2014bob".encode()),
        SIGNED.replace("\u2014 bob".encode(), "\u2014  bob".encode()),
        SIGNED.replace("\u2014 bob".encode(), "\u2014\u00a0bob".encode()),
        SIGNED.replace("\u2014 bob".encode(), " \u2014 bob".encode()),
        SIGNED.replace(b"bob ", b"b+b "),
        SIGNED.replace(b"bob ", b" "),
        SIGNED.replace(b"bob ", b"bob"),
        SIGNED.replace(b"bob ", b"bob  "),
        SIGNED.replace(b"bob ", "b\u00a0b ".encode()),
        SIGNED.replace(b"bob ", "b\u2003b ".encode()),
        SIGNED.replace(b"\n\xe2\x80\x94 bob", b"\n\n\xe2\x80\x94 bob")[: -len("\n")],
        f"text\n\n— name {format_base64(b'abcd')}\n".encode(),
        f"text\n\n— name {format_base64(b'abc')}\n".encode(),
        "text\n\n— name \n".encode(),
        "text\n\n— name\n".encode(),
        "text\n\n— name a2V5aWQh\n— name a2V5aWQ\n".encode(),
        "text\n\n— name a2V5aWT7_-v_\n".encode(),
        "text\n\n— name a2V5aWQh=\n".encode(),
        f"text\n\n— name {LINE} \n".encode(),
        f"text\n\n— name {LINE} x\n".encode(),
        f"text\n\n— name {LINE}\n— name".encode(),
        "text\n\n— name eHh4eHh4eB==\n".encode(),
    ],
)
def test_malformed_notes_are_refused(data):
    """No final LF, no separator, control characters, not UTF-8, other dashes, names, base64 and short blobs."""
    with pytest.raises(Malformed):
        parse_note(data)
    with pytest.raises(Malformed):
        open_note(data, KEYS)


def test_the_shortest_signature_has_five_bytes():
    """Key id and one byte."""
    note = parse_note(f"text\n\n— name {format_base64(b'abcd!')}\n".encode())
    assert (SignatureLine("name", b"abcd", b"!"),) == note.signatures


def test_up_to_a_hundred_signatures_are_read():
    """And not one more, in either direction."""
    line = SignatureLine("n", b"abcd", b"!")
    hundred = format_note(Note("t\n", (line,) * 100))
    assert 100 == len(parse_note(hundred).signatures)
    with pytest.raises(Malformed):
        parse_note(hundred + line.format().encode())
    for count in (0, 101):
        with pytest.raises(Malformed):
            Note("t\n", (line,) * count)


def test_notes_have_a_size_limit():
    """A note of a million bytes passes, one byte more does not, in either direction."""
    room = MAX_NOTE_BYTES - len(sign_note("\n", ALICE))
    longest = sign_note("x" * room + "\n", ALICE)
    assert 1_000_000 == MAX_NOTE_BYTES == len(longest)
    assert longest == format_note(parse_note(longest))
    with pytest.raises(Malformed):
        sign_note("x" * (room + 1) + "\n", ALICE)
    with pytest.raises(Malformed):
        parse_note(b"x" + longest)


@pytest.mark.parametrize("text", ["", "no line feed", "a\rb\n", "a\tb\n", "a\x00\n", "a\ud800\n"])
def test_unusable_texts_are_not_signed(text):
    """What could not be parsed back."""
    with pytest.raises(Malformed):
        sign_note(text, ALICE)
    with pytest.raises(Malformed):
        Note(text, (SignatureLine("n", b"abcd", b"!"),))


@pytest.mark.parametrize(
    "signers",
    [
        (),
        (ALICE, ALICE),
        (ALICE, BOB, ALICE),
        (SignerKey("w", bytes(32), COSIGNATURE),),
        (ALICE, SignerKey("w", bytes(32), ML_DSA_44)),
    ],
)
def test_unusable_signers_are_refused(signers):
    """Nobody, somebody twice, or a key that signs a time."""
    with pytest.raises(UsageError):
        sign_note(TEXT, *signers)


@pytest.mark.parametrize(
    "name, key_id, blob",
    [("", b"abcd", b"!"), ("a b", b"abcd", b"!"), ("a", b"abc", b"!"), ("a", b"abcde", b"!"), ("a", b"abcd", b"")],
)
def test_impossible_lines_are_refused(name, key_id, blob):
    """A line that could not be parsed back is never made."""
    with pytest.raises(Malformed):
        SignatureLine(name, key_id, blob)


def test_a_line_has_its_line_feed():
    """Format gives it, parse demands it."""
    line = SignatureLine("n", b"abcd", b"!")
    assert "\u2014 n YWJjZCE=\n" == line.format()
    assert line == SignatureLine.parse(line.format())
    for text in ("\u2014 n YWJjZCE=", "\u2014 n YWJjZCE=\n\n", "n YWJjZCE=\n"):
        with pytest.raises(Malformed):
            SignatureLine.parse(text)


@pytest.mark.parametrize("algorithm", [COSIGNATURE, ML_DSA_44])
def test_cosigners_are_verified_in_place(algorithm):
    """open_note knows what a cosigner's line signs, and refuses a bad, cut or re-timed one."""
    text, witness = "log\n0\n47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=\n", SignerKey("w", bytes(32), algorithm)
    line = cosign(text, witness, 7)
    note = Note(text, (*parse_note(sign_note(text, ALICE)).signatures, line))
    assert (ALICE.verifier, witness.verifier) == open_note(format_note(note), [witness.verifier, ALICE.verifier])[1]
    for blob in (line.blob[:-1], line.blob + b"\x00", b"\x00" * 7 + b"\x08" + line.blob[8:], b"\xff" + line.blob[1:]):
        bad = Note(text, (note.signatures[0], SignatureLine("w", line.key_id, blob)))
        with pytest.raises(InvalidSignature):
            open_note(format_note(bad), [ALICE.verifier, witness.verifier])
        assert (ALICE.verifier,) == open_note(format_note(bad), [ALICE.verifier])[1]
