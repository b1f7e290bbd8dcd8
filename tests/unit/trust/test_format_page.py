"""docs/format.md is enough to check a log: the worked example is parsed from the page and verified by its words."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import re
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from tests.support.logsmith import VECTOR_PROMPT, VECTOR_TASK, vector, vector_markdown

PAGE = (Path(__file__).parents[3] / "docs" / "format.md").read_text("utf-8")


def sha(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def root_of(leaves: list[bytes]) -> bytes:
    if len(leaves) == 1:
        return leaves[0]
    k = 1 << ((len(leaves) - 1).bit_length() - 1)
    return sha(b"\x01" + root_of(leaves[:k]) + root_of(leaves[k:]))


@pytest.fixture(scope="module")
def files() -> dict[str, str]:
    return dict(re.findall(r"^`([^`]+)`[^\n]*:\n\n```text\n(.*?)```$", PAGE, re.MULTILINE | re.DOTALL))


@pytest.fixture(scope="module")
def entries(files: dict[str, str]) -> list[bytes]:
    days = sorted(name for name in files if name.startswith("audit-"))
    return [line.encode() for name in days for line in files[name].splitlines()]


@pytest.fixture(scope="module")
def keys() -> dict[str, Ed25519PublicKey]:
    """Name of a signer to its key, from the page's table; the key id is checked on the way."""
    found = {}
    for vkey in re.findall(r"\| `([^`]+\+[0-9a-f]{8}\+[^`]+)` \|", PAGE):
        name, key_id, encoded = vkey.split("+", 2)
        material = base64.b64decode(encoded)
        assert key_id == sha(name.encode() + b"\n" + material)[:4].hex()
        found[name] = Ed25519PublicKey.from_public_bytes(material[1:])
    return found


def check_note(note: str, keys: dict[str, Ed25519PublicKey]) -> tuple[list[str], list[str]]:
    """Return the text's lines and the signers' names, all signatures checked."""
    text, tail = note.split("\n\n")
    names = []
    for line in tail.splitlines():
        dash, name, encoded = line.split(" ")
        assert dash == "—"
        keys[name].verify(base64.b64decode(encoded)[4:], (text + "\n").encode())
        names.append(name)
    return text.split("\n"), names


def test_example_is_what_the_independent_writer_makes():
    """The page shows exactly the log that logsmith writes with the stated keys."""
    assert PAGE.endswith(vector_markdown())


def test_example_names_every_file_of_its_log(files):
    """Two days, three checkpoints and one level of the tree."""
    assert sorted(files) == sorted(vector().files())


def test_entries_link_and_hash_to_the_tree_file(files, entries):
    """Sections 3 and 5: links, leaf hashes and the roots of the table."""
    leaves = [sha(b"\0" + entry) for entry in entries]
    previous = [sha(b""), *leaves[:-1]]
    assert [json.loads(entry)["prev_hash"] for entry in entries] == [link.hex() for link in previous]
    assert [json.loads(entry)["seq"] for entry in entries] == list(range(len(entries)))
    assert files["tree/0"].split() == [leaf.hex() for leaf in leaves]
    roots = dict(re.findall(r"^\| (\d+) \| `([0-9a-f]{64})` \|$", PAGE, re.MULTILINE))
    assert roots == {str(n): root_of(leaves[:n]).hex() for n in range(1, len(leaves) + 1)}


def test_header_stands_at_its_offsets(entries):
    """Section 2.1: id, time and type are read by position."""
    for entry in entries:
        event = json.loads(entry)
        assert entry[24:60].decode() == event["event_id"]
        assert entry[75:102].decode() == event["timestamp"]
        assert entry[118 : entry.index(b'"', 118)].decode() == event["event_type"]


def test_checkpoints_are_signed_by_the_epoch_in_force(files, entries, keys):
    """Sections 7 and 8: text, root, both lines, and which sizes are kept."""
    origin = "log.example.com/vector"
    leaves = [sha(b"\0" + entry) for entry in entries]
    rotations = [n for n, entry in enumerate(entries) if entry.startswith(b"signing_key_rotated", 118)]
    closings = [n for n, entry in enumerate(entries) if entry.startswith(b"log_closed", 118)]
    kept = {name for name in files if name.startswith("checkpoints/")}
    assert kept == {f"checkpoints/{n + 1:020}" for n in rotations + closings}
    for name in ("checkpoint", *kept):
        lines, signers = check_note(files[name], keys)
        size = int(lines[1])
        epoch = sum(n + 1 < size for n in rotations)
        assert lines == [origin, str(size), base64.b64encode(root_of(leaves[:size])).decode()]
        assert signers == [origin, f"{origin}/epoch-{epoch}"]


def test_handover_note_is_signed_by_the_outgoing_epoch(entries, keys):
    """Section 7: six lines, the successor's key, the root before the entry."""
    leaves = [sha(b"\0" + entry) for entry in entries]
    event = json.loads(entries[3])["metadata"]
    lines, signers = check_note(event["handover"], keys)
    root = base64.b64encode(root_of(leaves[:3])).decode()
    assert lines == ["klingai-audit/handover/v1", "log.example.com/vector", "1", "3", root, event["epoch_key"]]
    assert signers == ["log.example.com/vector/epoch-0"]


def test_seals_open_with_the_tail_keys(entries):
    """Section 4: the last entry of each batch carries the MAC of the bytes before it."""
    for number, entry in enumerate(entries):
        if b',"seal":"' in entry:
            tail = bytes(range(0x40, 0x60)) if number <= 3 else bytes(range(0x80, 0xA0))
            message = b"klingai-audit/seal/v1\0log.example.com/vector\0" + entry[:-54]
            mac = base64.urlsafe_b64encode(hmac.digest(tail, message, "sha256"))[:43]
            assert entry[-54:] == b',"seal":"' + mac + b'"}'
    assert [b',"seal":"' in entry for entry in entries] == [False, True, True, True, False, True]


def test_commitment_and_end_id_follow_their_formulas(entries):
    """Sections 9.1 and 9.2: the committed prompt opens, the end's id is computed from the task."""
    intent, end = json.loads(entries[2]), json.loads(entries[4])
    salt = hmac.digest(
        b"\xa0" * 32, b"klingai-audit/commit/v1\0" + intent["event_id"].encode() + b"\0/metadata/prompt", "sha256"
    )
    commitment = base64.urlsafe_b64encode(sha(b"klingai-audit/commit/v1\0" + salt + VECTOR_PROMPT.encode()))[:43]
    assert intent["metadata"]["prompt"] == {"commitment": commitment.decode(), "bytes": len(VECTOR_PROMPT)}
    parts = ("klingai-audit/end/v1", "log.example.com/vector", VECTOR_TASK, "succeeded")
    number = int.from_bytes(sha("\0".join(parts).encode())[:16])
    number = number & ~(0xF << 76) & ~(0x3 << 62) | 8 << 76 | 2 << 62
    text = f"{number:032x}"
    assert end["event_id"] == "-".join((text[:8], text[8:12], text[12:16], text[16:20], text[20:]))
