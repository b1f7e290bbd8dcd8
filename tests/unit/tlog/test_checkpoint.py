"""Checkpoints: text both ways, and the signed way in."""

from __future__ import annotations

import base64
import hashlib

import pytest

from klingai_audit.errors import InvalidSignature, Malformed
from klingai_audit.tlog import (
    COSIGNATURE,
    ED25519,
    EMPTY_ROOT,
    ML_DSA_44,
    Checkpoint,
    CompactRange,
    Note,
    SignatureLine,
    SignerKey,
    VerifierKey,
    cosign,
    format_note,
    leaf_hash,
    open_checkpoint,
    parse_checkpoint,
    parse_note,
    sign_note,
)
from klingai_audit.tlog.strict import format_base64
from tests.unit.tlog import vectors

ROOT = bytes(range(32))
GOOD = f"origin\n8\n{format_base64(ROOT)}\n"
LOG = SignerKey("origin", b"\x01" * 32)
EPOCH = SignerKey("origin/epoch-0", b"\x02" * 32)
WITNESS = SignerKey("witness", b"\x03" * 32, COSIGNATURE)


@pytest.mark.parametrize(
    "checkpoint",
    [
        Checkpoint("o", 0, EMPTY_ROOT),
        Checkpoint("o", 1, ROOT),
        Checkpoint("go.sum database tree", 2**63 - 1, ROOT),
        Checkpoint("日本 — +", 8, ROOT, ("extension", " 2 ", "\u2028")),
    ],
)
def test_checkpoints_both_ways(checkpoint):
    """Text and object are inverse; origins may hold spaces and '+', as Go's database does."""
    assert checkpoint == parse_checkpoint(checkpoint.text())


def test_the_go_sum_database_tree():
    """Spec 12.6: the tree text with root leaf("hello world")."""
    text = "go.sum database tree\n123456789012\nTszzRgjTG6xce+z2AG31kAXYKBgQVtCSCE40HmuwBb0=\n"
    expected = Checkpoint("go.sum database tree", 123456789012, leaf_hash(b"hello world"))
    assert (expected, text) == (parse_checkpoint(text), expected.text())


def test_the_known_text_digest():
    """Spec 12.10: SHA-256 of the three lines of the 12.8 checkpoint, which RFC 3161 stamps there."""
    root = bytes.fromhex(vectors.CT["roots"][8])
    text = Checkpoint("example.com/audit/log1", 8, root).text()
    assert (
        "a7aebee6b4ddff7104d519c93ea142277e7accc0364bd16f220888ef1162f65d" == hashlib.sha256(text.encode()).hexdigest()
    )


def test_the_known_signed_checkpoint_is_reproduced():
    """Spec 12.8: text and log signature, byte for byte, from entries and seed."""
    made = CompactRange()
    for entry in vectors.ENTRIES:
        made.append(leaf_hash(entry))
    log = SignerKey("example.com/audit/log1", bytes(range(32)))
    expected = vectors.read("audit-log1.add-checkpoint").partition(b"\n\n")[2]
    assert expected == sign_note(Checkpoint(log.name, made.size, made.root()).text(), log)


@pytest.mark.parametrize("size", [0, 15])
def test_the_tessera_checkpoints(size):
    """Spec 12.7: opened, and equal to what the entries give."""
    known, made = vectors.load("tessera.json"), CompactRange()
    for word in known["words"].encode().split()[:size]:
        made.append(leaf_hash(word))
    key = VerifierKey.parse(vectors.KEYS["tessera"]["vkey"])
    checkpoint, note, verified = open_checkpoint(vectors.read(f"tessera-{size}.note"), key.name, [key])
    assert Checkpoint(key.name, size, made.root()) == checkpoint
    assert (checkpoint.text(), (key,)) == (note.text, verified)


@pytest.mark.parametrize("head", vectors.load("litewitness.json")["heads"], ids=lambda head: str(head["size"]))
def test_the_litewitness_checkpoints(head):
    """Spec 12.9: opened; the last signature byte changed is refused."""
    known = vectors.load("litewitness.json")
    key = VerifierKey(known["origin"], ED25519, bytes.fromhex(known["public_key"]))
    blob, root = base64.b64decode(head["signature"]), base64.b64decode(head["root"])
    expected = Checkpoint(key.name, head["size"], root)
    line = SignatureLine(key.name, blob[:4], blob[4:])
    assert expected == open_checkpoint(format_note(Note(expected.text(), (line,))), key.name, [key])[0]
    changed = SignatureLine(key.name, blob[:4], blob[4:-1] + bytes([blob[-1] ^ 1]))
    with pytest.raises(InvalidSignature):
        open_checkpoint(format_note(Note(expected.text(), (changed,))), key.name, [key])


@pytest.mark.parametrize(
    "text",
    [
        "",
        "\n",
        "origin\n",
        "origin\n8\n",
        GOOD[:-1],
        GOOD + "\n",
        "\n" + GOOD,
        GOOD.replace("origin", ""),
        GOOD.replace("\n8", "\n\n8"),
        GOOD.replace("\n8\n", "\n8\r\n"),
        GOOD.replace("origin", "ori\tgin"),
        GOOD.replace("origin", "ori\ud800gin"),
        GOOD + "ext\n\next\n",
        GOOD + "ext",
        GOOD + "e\x00t\n",
        *(
            GOOD.replace("\n8\n", f"\n{size}\n")
            for size in ("08", "+8", "-8", " 8", "8 ", "0x8", "8.0", "1_0", "\u0668", "\uff18", str(2**63))
        ),
        GOOD.replace("\n8\n", "\n0\n"),
        *(f"origin\n8\n{format_base64(bytes(length))}\n" for length in (0, 31, 33)),
        GOOD.replace("=\n", "\n"),
        GOOD.replace("=\n", "==\n"),
        GOOD.replace("8=\n", "9=\n"),
        f"origin\n8\n{format_base64(bytes([0xFB] * 32)).replace('+', '-')}\n",
        GOOD.replace("\n8\n", "\u20288\n"),
    ],
)
def test_malformed_texts_are_refused(text):
    """Lines, sizes, roots, control characters; size 0 with another root than the empty one."""
    with pytest.raises(Malformed):
        parse_checkpoint(text)


@pytest.mark.parametrize("size, root", [(-1, ROOT), (2**63, ROOT), (8, b""), (8, bytes(31)), (8, bytes(33)), (0, ROOT)])
def test_impossible_checkpoints_are_not_made(size, root):
    """A value that could not be parsed back."""
    with pytest.raises(Malformed):
        Checkpoint("origin", size, root)


def test_opening_returns_all_known_signers():
    """Log, epoch and witness lines, in their order."""
    data = sign_note(GOOD, LOG, EPOCH) + cosign(GOOD, WITNESS, 1).format().encode()
    keys = (LOG.verifier, EPOCH.verifier, WITNESS.verifier)
    assert (parse_checkpoint(GOOD), parse_note(data), keys) == open_checkpoint(data, "origin", keys)


@pytest.mark.parametrize("keys", [[LOG.verifier], [EPOCH.verifier], [LOG.verifier, WITNESS.verifier]])
def test_one_signature_of_the_log_is_enough(keys):
    """The log's or the epoch's; who else must sign is the caller's policy."""
    data = sign_note(GOOD, LOG, EPOCH) + cosign(GOOD, WITNESS, 1).format().encode()
    assert parse_checkpoint(GOOD) == open_checkpoint(data, "origin", keys)[0]


def test_a_cosignature_alone_is_not_enough():
    """A witness says what it saw, not that the log said it."""
    data = format_note(Note(GOOD, (cosign(GOOD, WITNESS, 1),)))
    with pytest.raises(InvalidSignature):
        open_checkpoint(data, "origin", [LOG.verifier, WITNESS.verifier])


def test_a_log_may_sign_with_ml_dsa_under_its_own_name():
    """The C2SP head recommends it; the same key under another name is a witness."""
    log, other = SignerKey("origin", b"\x04" * 32, ML_DSA_44), SignerKey("else", b"\x04" * 32, ML_DSA_44)
    data = format_note(Note(GOOD, (cosign(GOOD, log, 1),)))
    assert (log.verifier,) == open_checkpoint(data, "origin", [log.verifier])[2]
    with pytest.raises(InvalidSignature):
        open_checkpoint(format_note(Note(GOOD, (cosign(GOOD, other, 1),))), "origin", [other.verifier])


def test_another_origin_is_refused():
    """A checkpoint that the same key signed for another log."""
    data = sign_note(GOOD.replace("origin", "other"), LOG)
    with pytest.raises(InvalidSignature):
        open_checkpoint(data, "origin", [LOG.verifier])


def test_a_signed_text_that_is_no_checkpoint_is_malformed():
    """The signature is good, the text is not a head."""
    with pytest.raises(Malformed):
        open_checkpoint(sign_note("hello\n", LOG), "origin", [LOG.verifier])


def test_bytes_after_the_note_are_malformed():
    """Nothing may follow the last line."""
    with pytest.raises(Malformed):
        open_checkpoint(sign_note(GOOD, LOG) + b"\n", "origin", [LOG.verifier])
