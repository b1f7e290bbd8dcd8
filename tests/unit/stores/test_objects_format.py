"""The bytes of `head` and of staging objects: known ones, and none but those are taken."""

from __future__ import annotations

import datetime as dt
import hashlib

import pytest

from klingai_audit.errors import LogDamaged, Malformed
from klingai_audit.ledger.batches import SignedBatch
from klingai_audit.stores.objects_format import (
    HeadObject,
    Staged,
    day_path,
    encode_head,
    encode_staging,
    kept_path,
    kind_of,
    parse_day_path,
    parse_head,
    parse_staging,
    staging_path,
    token_path,
)
from klingai_audit.testing.batches import DAY, BatchMaker

NOTE = (
    b"log.example.com/x\n640\n47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=\n\n\xe2\x80\x94 log.example.com/x AAAAAAA=\n"
)
TAIL = (
    Staged("ab" * 32, 300, 611, dt.date(2026, 11, 21)),
    Staged("cd" * 32, 611, 640, dt.date(2026, 11, 22)),
)
HEAD = (
    b"klingai-audit/head/v1\n512\n"
    + b"ab" * 32
    + b" 300 611 2026-11-21\n"
    + b"cd" * 32
    + b" 611 640 2026-11-22\n\n"
    + NOTE
)


def test_the_head_of_the_page() -> None:
    """Byte for byte as docs/object-layout.md says, there and back."""
    assert HEAD == encode_head(512, TAIL, NOTE)
    assert HeadObject(NOTE, 640, 512, TAIL) == parse_head(HEAD, "s3://bucket/log")
    assert HeadObject(NOTE, 640, 640, ()) == parse_head(encode_head(640, (), NOTE), "")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"/v1\n", b"/v2\n"),
        (b"\n512\n", b"\n0512\n"),
        (b"\n512\n", b"\n+512\n"),
        (b"\n512\n", b"\n299\n"),
        (b"\n512\n", b"\n611\n"),
        (b" 300 611 ", b" 300 610 "),
        (b" 300 611 ", b" 513 611 "),
        (b" 300 611 ", b" 300  611 "),
        (b" 611 640 ", b" 611 641 "),
        (b" 611 640 ", b" 640 640 "),
        (b"2026-11-22", b"2026-13-22"),
        (b"ab" * 32, b"AB" * 32),
        (b"ab" * 32, b"ab" * 31),
        (b"\n640\n", b"\n0640\n"),
        (b"\n\nlog", b"\nlog"),
        (NOTE, b""),
    ],
)
def test_another_head_is_refused(old: bytes, new: bytes) -> None:
    """Other versions, numbers in other forms, gaps, overlaps, no note."""
    assert old in HEAD
    with pytest.raises(LogDamaged, match="`head` of s3://bucket/log"):
        parse_head(HEAD.replace(old, new, 1), "s3://bucket/log")


@pytest.fixture
def batch() -> SignedBatch:
    """257 entries and a checkpoint to keep: two levels."""
    return BatchMaker().batch(257, keep=True)


def staged(batch: SignedBatch, data: bytes) -> Staged:
    return Staged(hashlib.sha256(data).hexdigest(), batch.begin, batch.end, batch.day)


def test_a_staging_object_of_the_page(batch: SignedBatch) -> None:
    """As docs/object-layout.md says, built here from its parts; there and back."""
    name, data = encode_staging(batch)
    top = f"klingai-audit/staging/v1\nbatch {batch.id} 0 257 {DAY}\nhashes 0 0 257\nhashes 1 0 1\n"
    top += f"kept 257 {len(batch.note)}\n\n"
    entries = b"".join(len(line).to_bytes(2, "big") + line for line in batch.entries)
    assert top.encode() + batch.leaves + batch.hashes[1][2] + batch.note + entries == data
    assert hashlib.sha256(data).hexdigest() == name
    read = parse_staging(data, staged(batch, data))
    assert (batch.id, 0, DAY, batch.entries) == (read.id, read.begin, read.day, read.entries)
    assert ({257: batch.note}, batch.leaves[32:96]) == (read.kept, read.read_hashes(0, 1, 3))
    assert (batch.hashes[1][2], b"") == (read.read_hashes(1, 0, 9), read.read_hashes(2, 0, 9))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"staging/v1", b"staging/v2"),
        (b" 0 257 2026", b" 0 256 2026"),
        (b" 0 257 2026", b" 1 257 2026"),
        (b"hashes 1 0 1", b"hashes 1 0 2"),
        (b"hashes 1 0 1", b"hashes 1 0 01"),
        (b"hashes 1 0 1", b"hash 1 0 1"),
        (b"kept 257", b"kept -257"),
        (b"\n\n", b"\n"),
    ],
)
def test_another_staging_object_is_refused(batch: SignedBatch, old: bytes, new: bytes) -> None:
    """Even under the name that its bytes have."""
    _name, data = encode_staging(batch)
    changed = data.replace(old, new, 1)
    assert changed != data
    with pytest.raises(Malformed):
        parse_staging(changed, staged(batch, changed))


def test_bytes_at_the_end(batch: SignedBatch) -> None:
    """Cut off or too many; and any byte changed under the old name."""
    name, data = encode_staging(batch)
    for changed in (data[:-1], data + b"\0", data + b"\0\0", data[:-400]):
        with pytest.raises(Malformed):
            parse_staging(changed, staged(batch, changed))
    with pytest.raises(Malformed, match="digest"):
        parse_staging(data[:-1] + b"\n", Staged(name, 0, 257, DAY))


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("head", "head"),
        ("waiting", "waiting"),
        ("checkpoint", "checkpoint"),
        ("checkpoint.cosigned", "cosigned"),
        (staging_path("0" * 64), "staging"),
        (kept_path(7), "kept"),
        (token_path(7), "token"),
        (day_path(DAY, 12), "day"),
        ("tile/0/x001/234", "tile"),
        ("tile/entries/000.p/1", "tile"),
        ("Head", "stray"),
        ("staging/" + "0" * 63, "stray"),
        ("checkpoints/7", "stray"),
        ("days/2026-02-30/00000000000000000000", "stray"),
        ("tile/0/1", "stray"),
        ("tile/0/000.p/256", "stray"),
        ("", "stray"),
    ],
)
def test_what_an_object_is_by_its_name(path: str, kind: str) -> None:
    """Every name of the page; nothing that is nearly one."""
    assert kind == kind_of(path)
    assert (kind == "day") == (parse_day_path(path) is not None)
