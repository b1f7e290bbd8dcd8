"""Any single-bit change of any file of a log is found, with its file (issue 2, Acceptance)."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from klingai_audit.stores.directory import DirectoryStore
from klingai_audit.trust.anchors import read_anchor, read_key
from klingai_audit.trust.epochs import Epochs, FirstEntry
from klingai_audit.trust.verify import verify
from tests.support.logsmith import Smith, write_files

SMITH = Smith().create().work(3)
SMITH.next_day().rotate().work(2).closed()
FILES = SMITH.files()
NOTES = sorted(name for name in FILES if name.startswith("checkpoint"))


def flipped(data: bytes, bit: int) -> bytes:
    return data[: bit // 8] + bytes([data[bit // 8] ^ 1 << bit % 8]) + data[bit // 8 + 1 :]


def missed(folder: Path, name: str, bits: list[int]) -> list[tuple[str, int]]:
    """Flip each bit in turn; return those after which the verdict is not exit 4 at that file."""
    write_files(folder, FILES)
    store = DirectoryStore(folder, folder.parent / "mark")
    found = []
    for bit in bits:
        (folder / name).write_bytes(flipped(FILES[name], bit))
        verdict = verify(store, key=SMITH.log_key.vkey, now=SMITH.now, patience=0)
        if verdict.exit_code != 4 or name not in {finding.file for finding in verdict.broken}:
            found.append((name, bit))
    (folder / name).write_bytes(FILES[name])
    return found


def test_log_is_good_before_any_bit_is_flipped(tmp_path):
    """The log under test verifies."""
    write_files(tmp_path, FILES)
    verdict = verify(DirectoryStore(tmp_path, tmp_path.parent / "mark"), key=SMITH.log_key.vkey, now=SMITH.now)
    assert verdict.exit_code == 0


@pytest.mark.parametrize("name", sorted(FILES))
def test_flipped_bit_is_found_in_its_file(tmp_path, name):
    """A seeded sample of bits of every file: exit code 4 and a finding in that file."""
    bits = range(8 * len(FILES[name]))
    assert missed(tmp_path / "audit", name, random.Random(name).sample(bits, min(60, len(bits)))) == []


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(FILES))
def test_every_bit_is_found_in_its_file(tmp_path, name):
    """Every bit of checkpoints and tree files, and 4,000 of each day file."""
    bits = range(8 * len(FILES[name]))
    chosen = random.Random(name).sample(bits, min(4000, len(bits)))
    assert missed(tmp_path / "audit", name, list(bits) if len(bits) < 4000 else chosen) == []


@pytest.mark.parametrize("name", NOTES)
def test_no_bit_of_a_checkpoint_is_slack(name):
    """Every bit of every checkpoint is covered by its form or one of its two signatures."""
    entry = FirstEntry(SMITH.entries[0])
    epochs = Epochs(entry.origin, entry.epoch_key)
    rotation = next(n for n, line in enumerate(SMITH.entries) if line.startswith(b"signing_key_rotated", 118))
    epochs.rotate(rotation, SMITH.entries[rotation], SMITH.tree.root(rotation), lambda seq: (None, None))
    size = int(FILES[name].split(b"\n")[1])
    key = read_key(SMITH.log_key.vkey)
    passed = []
    for bit in range(8 * len(FILES[name])):
        anchor, findings = read_anchor(name, flipped(FILES[name], bit), key, entry.log_key, size)
        if not findings and anchor is not None and anchor.root == SMITH.tree.root(size) and not epochs.check(anchor):
            passed.append(bit)
    assert (epochs.findings, passed) == ([], [])
