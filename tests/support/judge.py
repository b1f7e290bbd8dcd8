"""An independent judge of small directory logs, from docs/format.md section 10; slow, obvious, none of our code.

`judge` raises AssertionError at the first thing that is wrong with a log at rest: closed or freshly published.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

EMPTY = hashlib.sha256(b"").digest()
LAST = ("seq", "logged_at", "prev_hash")
NAMES = re.compile(r"audit-\d{4}-\d\d-\d\d\.jsonl|checkpoint|checkpoints/\d{20}(\.tsr)?|tree/(0|[1-9]\d*)")


def leaf(entry: bytes) -> bytes:
    return hashlib.sha256(b"\0" + entry).digest()


def levels_of(leaves: list[bytes]) -> list[list[bytes]]:
    """All complete subtrees: level b holds the roots of 2^b leaves each."""
    levels = [leaves]
    while len(levels[-1]) > 1:
        below = levels[-1]
        levels.append([_node(below[i], below[i + 1]) for i in range(0, len(below) - 1, 2)])
    return levels


def _node(left: bytes, right: bytes) -> bytes:
    return hashlib.sha256(b"\1" + left + right).digest()


def root_of(levels: list[list[bytes]], begin: int, end: int) -> bytes:
    """MTH of RFC 6962 section 2.1 over leaves `[begin, end)`, complete subtrees taken from `levels`."""
    n = end - begin
    if n == 0:
        return EMPTY
    if n & (n - 1) == 0 and begin % n == 0:
        return levels[n.bit_length() - 1][begin // n]
    k = 1 << ((n - 1).bit_length() - 1)
    return _node(root_of(levels, begin, begin + k), root_of(levels, begin + k, end))


@dataclass(frozen=True)
class Key:
    name: str
    key_id: bytes
    public: bytes

    @classmethod
    def parse(cls, vkey: str) -> Key:
        name, key_id, encoded = vkey.split("+", 2)
        data = base64.b64decode(encoded, validate=True)
        expected = hashlib.sha256(name.encode() + b"\n" + data).digest()[:4]
        assert (1, 33, expected.hex()) == (data[0], len(data), key_id), f"bad vkey {vkey}"
        return cls(name, expected, data[1:])


def check_note(data: bytes, keys: list[Key]) -> list[str]:
    """Check a note that bears exactly the signatures of `keys`, in this order; returns the lines of its text."""
    text, signatures = data.decode().split("\n\n")
    text += "\n"
    lines = signatures.split("\n")
    assert lines.pop() == "", "a note ends in LF"
    assert len(keys) == len(lines), f"{len(lines)} signatures"
    for line, key in zip(lines, keys, strict=True):
        dash, name, encoded = line.split(" ")
        blob = base64.b64decode(encoded, validate=True)
        assert base64.b64encode(blob).decode() == encoded
        assert ("\u2014", key.name, key.key_id) == (dash, name, blob[:4]), f"signed by {name}, expected {key.name}"
        try:
            Ed25519PublicKey.from_public_bytes(key.public).verify(blob[4:], text.encode())
        except InvalidSignature:
            raise AssertionError(f"the signature by {name} does not verify") from None
    return text.removesuffix("\n").split("\n")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    assert len(dict(pairs)) == len(pairs), "a member stands twice"
    return dict(pairs)


@dataclass(frozen=True)
class Judged:
    """What a good log holds: the lines and what they decode to."""

    lines: list[bytes]
    entries: list[dict[str, Any]]
    levels: list[list[bytes]]

    def seqs(self, event_id: str) -> list[int]:
        """Where an event stands."""
        return [entry["seq"] for entry in self.entries if entry["event_id"] == event_id]

    def types(self) -> list[str]:
        return [entry["event_type"] for entry in self.entries]

    def check_acknowledged(self, acknowledged: Mapping[str, int]) -> None:
        """Each acknowledged event stands in the log once, where its receipt said."""
        places: dict[str, list[int]] = {}
        for entry in self.entries:
            places.setdefault(entry["event_id"], []).append(entry["seq"])
        for event_id, seq in acknowledged.items():
            assert [seq] == places.get(event_id, []), f"{event_id} was acknowledged as entry {seq}"

    def check_prefix(self, note: bytes) -> None:
        """A checkpoint that was once published is that of a prefix of this log."""
        _origin, size, encoded = note.decode().split("\n\n")[0].split("\n")[:3]
        assert int(size) <= len(self.lines), f"{size} entries were published, {len(self.lines)} are left"
        assert base64.b64decode(encoded) == root_of(self.levels, 0, int(size)), f"another history of {size} entries"


def judge(log: Path, vkey: str, *, kept_every: int = 4096, tail: bool = False) -> Judged:
    """Check everything that a verifier must check; with `tail`, sealed lines may follow the checkpoint."""
    files = {path.relative_to(log).as_posix(): path.read_bytes() for path in log.rglob("*") if path.is_file()}
    assert [name for name in files if not NAMES.fullmatch(name)] == []
    assert {"tree", "checkpoints"} == {path.name for path in log.iterdir() if path.is_dir()}
    lines, entries = _entries(files)
    leaves = [leaf(line) for line in lines]
    levels = levels_of(leaves)
    log_key = Key.parse(vkey)
    epochs = _epochs(entries, levels, log_key)
    size = _checkpoint(files["checkpoint"], log_key, epochs, levels)
    assert size <= len(lines), f"{size} entries are signed, {len(lines)} are there"
    assert tail or size == len(lines), f"only {size} of {len(lines)} entries are signed"
    _kept(files, entries, size, kept_every, log_key, epochs, levels)
    _tree(files, levels, size, len(lines))
    return Judged(lines, entries, levels)


def _entries(files: Mapping[str, bytes]) -> tuple[list[bytes], list[dict[str, Any]]]:
    lines: list[bytes] = []
    entries: list[dict[str, Any]] = []
    prev, last_time = EMPTY, ""
    for name in sorted(name for name in files if name.startswith("audit-")):
        data = files[name]
        assert data.endswith(b"\n"), f"{name} is empty or ends in the middle of a line"
        for line in data.removesuffix(b"\n").split(b"\n"):
            entry = json.loads(line, object_pairs_hook=_unique)
            members = tuple(entry)
            rest = members[:-1] if members[-1] == "seal" else members
            where = f"line {len(lines)}"
            assert rest[-3:] == LAST, where
            assert set(rest[:-3]) & {*LAST, "seal"} == set(), where
            assert json.dumps(entry, ensure_ascii=False, separators=(",", ":")).encode() == line, where
            assert (len(lines), prev.hex()) == (entry["seq"], entry["prev_hash"]), where
            assert last_time <= entry["logged_at"], where
            assert name == f"audit-{entry['logged_at'][:10]}.jsonl", where
            assert min(line) >= 0x20, where
            prev, last_time = leaf(line), entry["logged_at"]
            lines.append(line)
            entries.append(entry)
    assert "seal" in entries[-1], "the last line has no seal"
    assert len(base64.urlsafe_b64decode(entries[-1]["seal"] + "=")) == 32
    return lines, entries


def _epochs(entries: list[dict[str, Any]], levels: list[list[bytes]], log_key: Key) -> list[tuple[int, Key]]:
    """The epochs' keys with the size of the first checkpoint that each may sign."""
    first = entries[0]
    assert first["event_type"] == "log_created"
    assert (1, log_key.name, log_key) == (
        first["metadata"]["format"],
        first["metadata"]["origin"],
        Key.parse(first["metadata"]["log_key"]),
    )
    assert [0] == [entry["seq"] for entry in entries if entry["event_type"] == "log_created"]
    epochs = [(1, Key.parse(first["metadata"]["epoch_key"]))]
    for entry in entries:
        if entry["event_type"] != "signing_key_rotated":
            continue
        metadata, seq = entry["metadata"], entry["seq"]
        root = base64.b64encode(root_of(levels, 0, seq)).decode()
        expected = ["klingai-audit/handover/v1", log_key.name, str(len(epochs)), str(seq), root, metadata["epoch_key"]]
        assert expected == check_note(metadata["handover"].encode(), [epochs[-1][1]])
        assert len(epochs) == metadata["epoch"]
        epochs.append((seq + 2, Key.parse(metadata["epoch_key"])))
    for number, (_, key) in enumerate(epochs):
        assert f"{log_key.name}/epoch-{number}" == key.name
    return epochs


def _checkpoint(note: bytes, log_key: Key, epochs: list[tuple[int, Key]], levels: list[list[bytes]]) -> int:
    size = int(note.split(b"\n")[1])
    assert 1 <= size <= len(levels[0]), f"a checkpoint of {size} entries, {len(levels[0])} are there"
    epoch = [key for first, key in epochs if first <= size][-1]
    root = base64.b64encode(root_of(levels, 0, size)).decode()
    assert [log_key.name, str(size), root] == check_note(note, [log_key, epoch])
    return size


def _kept(
    files: Mapping[str, bytes],
    entries: list[dict[str, Any]],
    size: int,
    every: int,
    log_key: Key,
    epochs: list[tuple[int, Key]],
    levels: list[list[bytes]],
) -> None:
    named = {e["seq"] + 1 for e in entries if e["event_type"] in ("signing_key_rotated", "log_closed", "log_migrated")}
    stamps = {e["metadata"]["size"]: e for e in entries if e["event_type"] == "checkpoint_timestamped"}
    expected = sorted(n for n in {*named, *stamps, *range(every, size + 1, every)} if n <= size)
    kept = {name for name in files if name.startswith("checkpoints/")}
    found = sorted(int(name.split("/")[1]) for name in kept if not name.endswith(".tsr"))
    assert expected == found, "kept checkpoints"
    assert {f"checkpoints/{n:020}.tsr" for n in stamps} == {name for name in kept if name.endswith(".tsr")}, "stamps"
    for number, entry in stamps.items():
        name = f"checkpoints/{number:020}"
        digests = [hashlib.sha256(files[file]).hexdigest() for file in (name, f"{name}.tsr")]
        assert digests == [entry["metadata"]["checkpoint"], entry["metadata"]["token"]], f"the stamp of {number}"
        assert bytes.fromhex(digests[0]) in files[f"{name}.tsr"], "the stamp is of something else"
        assert number <= entry["seq"]
    for number in found:
        assert number == _checkpoint(files[f"checkpoints/{number:020}"], log_key, epochs, levels)


def _tree(files: Mapping[str, bytes], levels: list[list[bytes]], size: int, total: int) -> None:
    stored = {int(name.split("/")[1]): data for name, data in files.items() if name.startswith("tree/")}
    for level in range(max([*stored, 0]) + 1):
        nodes = levels[8 * level] if 8 * level < len(levels) else []
        data = stored.get(level, b"")
        assert b"".join(nodes)[: len(data)] == data, f"tree/{level} holds other hashes"
        assert (size >> 8 * level) * 32 <= len(data) <= (total >> 8 * level) * 32, f"tree/{level} has {len(data)} bytes"
        assert data or level not in stored, f"tree/{level} is empty"
    assert size >> 8 * (max([*stored, 0]) + 1) == 0, "a tree file is missing"
