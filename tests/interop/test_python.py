"""C2SP libraries of others (aics-tlog, tlog-scales) read our tiles, checkpoints and proofs, and refuse changed ones."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from klingai_audit.tlog.keys import SignerKey
from tests.interop.conftest import TOKEN, Published
from tests.support.integers import ROOTS, SIZES
from tests.support.others import PACKAGES

pytestmark = pytest.mark.slow

HEAD = """
import base64, json, pathlib, sys

what = json.loads(sys.argv[1])

def parts(name, first):
    '''Split one of our proof files: (lines before the hashes, hashes, checkpoint).'''
    head, _, checkpoint = pathlib.Path(name).read_bytes().partition(b"\\n\\n")
    lines = head.decode("ascii").split("\\n")
    return lines[:first], [base64.b64decode(line, validate=True) for line in lines[first:]], checkpoint

def of_entry(name):
    (kind, extra, index), hashes, checkpoint = parts(name, 3)
    assert kind == "c2sp.org/tlog-proof@v1", kind
    return int(index.removeprefix("index ")), base64.b64decode(extra.removeprefix("extra ")), hashes, checkpoint
"""
AICS = (
    HEAD
    + """
from aics_tlog import *
from aics_tlog.checkpoint import checkpoint_from_note

keys = [parse_vkey(key) for key in what["keys"]]

def opened(data):
    checkpoint, note = checkpoint_from_note(data)
    found = verify_checkpoint(note, keys[0], keys[1:], len(keys) - 1, expected_origin=keys[0].name)
    assert found.ok, found.error
    return checkpoint

http = what["base"].startswith("http")
reader = HttpTileReader(what["base"], proxies={}) if http else FileSystemTileReader(what["base"])
data = reader.read_checkpoint() if http else pathlib.Path(what["base"], "checkpoint").read_bytes()
now = opened(data)
audit_tiles(reader, now.size, now.root, entries=not http)
tiles = VerifiedTileReader(reader, now.size, now.root)
for number, name in enumerate(what["olds"]):
    old = opened(pathlib.Path(name).read_bytes())
    mine = consistency_proof_from_tiles(tiles, old.size, now.size)
    assert verify_consistency(old.size, now.size, old.root, now.root, mine)
    if number < len(what["growths"]):
        (line,), hashes, newer = parts(what["growths"][number], 1)
        assert (f"old {old.size}", now) == (line, opened(newer)), "not from there"
        assert hashes == mine and verify_consistency(old.size, now.size, old.root, now.root, hashes), "growth"
for name in what["proofs"]:
    index, entry, hashes, checkpoint = of_entry(name)
    assert opened(checkpoint) == now
    assert hashes == inclusion_proof_from_tiles(tiles, index, now.size), "hashes"
    assert verify_leaf_inclusion(entry, index, now.size, hashes, now.root), "inclusion"
    assert http or entry == tiles.entry(index), "entry"
print(json.dumps([now.size, now.root.hex()]))
"""
)
SCALES = (
    HEAD
    + """
import dataclasses
from tlog_scales.backend import HttpBackend, LocalBackend
from tlog_scales.reader import TilesReader
from tlog_scales.signing import Vkey
from tlog_scales.tiles import leaf_hash
from tlog_scales.tlog import Checkpoint, ConsistencyProof, InclusionProof

keys = [Vkey.from_string(key) for key in what["keys"]]
http = what["base"].startswith("http")
backend = HttpBackend(what["base"]) if http else LocalBackend(pathlib.Path(what["base"]))
if http:
    backend.session.headers["Authorization"] = "Bearer " + what["token"]
    backend.session.trust_env = False

def opened(data):
    checkpoint = Checkpoint.from_text(data.decode())
    for key in keys:
        checkpoint.verify(key)
    return checkpoint

reader = TilesReader(backend)
now = reader.get_checkpoint()
for key in keys:
    now.verify(key)
assert now.size == 0 or reader.calculate_root_hash() == now.root_hash, "root"
for number, name in enumerate(what["olds"]):
    old = opened(pathlib.Path(name).read_bytes())
    mine = reader.get_consistency_proof(old.size, now.size)
    mine.check(old.root_hash, now.root_hash)
    if number < len(what["growths"]):
        _, hashes, newer = parts(what["growths"][number], 1)
        assert (now, mine.node_hashes) == (opened(newer), hashes), "growth"
        ConsistencyProof(old.size, now.size, hashes).check(old.root_hash, now.root_hash)
for name in what["proofs"]:
    index, entry, hashes, checkpoint = of_entry(name)
    assert (now, entry) == (opened(checkpoint), reader.get_entry(index)), "entry"
    assert hashes == reader.get_inclusion_proof(index, now.size).node_hashes, "hashes"
    InclusionProof(index, now.size, hashes).check(leaf_hash(entry), now.root_hash)
print(json.dumps([now.size, now.root_hash.hex()]))
"""
)
READERS = {"aics-tlog": AICS, "tlog-scales": SCALES}


@pytest.fixture(params=READERS)
def library(request: pytest.FixtureRequest) -> str:
    """Name one of the two; skips where they are not installed."""
    if not all((PACKAGES / name).is_dir() for name in ("aics_tlog", "tlog_scales")):
        pytest.skip("make test-slow installs the C2SP libraries of others")
    return str(request.param)


def ask(library: str, what: Published, base: object = None) -> subprocess.CompletedProcess[str]:
    """Let a library check all that somebody outside has, in a process that has nothing of ours."""
    names = {name: list(map(str, getattr(what, name))) for name in ("keys", "olds", "growths", "proofs")}
    told = json.dumps({"base": str(base or what.tiles), "token": TOKEN, **names})
    return subprocess.run(
        [sys.executable, "-c", READERS[library], told],
        env={"PYTHONPATH": str(PACKAGES), "PATH": os.environ["PATH"]},
        cwd=what.tiles,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def found(done: subprocess.CompletedProcess[str]) -> Any:
    assert ("", 0) == (done.stderr, done.returncode)
    return json.loads(done.stdout)


@pytest.mark.parametrize("size", SIZES)
def test_the_trees_of_the_sheet(library: str, sheet: dict[int, Published], size: int) -> None:
    """Known roots from our tiles; its own proofs from them are ours, hash for hash."""
    assert [size, ROOTS[size]] == found(ask(library, sheet[size]))


def test_a_real_log(library: str, real: Published, server: str) -> None:
    """In a folder and over HTTP, with checkpoints kept earlier and proofs that the commands wrote."""
    assert found(ask(library, real)) == found(ask(library, real, server))


@pytest.mark.parametrize(
    ("name", "at"),
    [("tiles/tile/0/000", 40), ("tiles/tile/0/001.p/1", 4), ("tiles/tile/entries/000", 9), ("tiles/checkpoint", 17),
     ("tiles/checkpoint", 120), ("256.tlog-proof", 30), ("0.tlog-proof", 60), ("from-255", 12)],
)  # fmt: skip
def test_what_was_changed_is_refused(
    library: str, sheet: dict[int, Published], tmp_path: Path, name: str, at: int
) -> None:
    """One bit anywhere: the test above could have failed."""
    whole = sheet[257]
    shutil.copytree(whole.tiles.parent, tmp_path / "copy")
    moved: Callable[[Path], Path] = lambda path: tmp_path / "copy" / path.relative_to(whole.tiles.parent)  # noqa: E731
    files = (tuple(map(moved, whole.growths)), tuple(map(moved, whole.proofs)))
    copy = Published(moved(whole.tiles), whole.keys, whole.olds, *files)
    path = tmp_path / "copy" / name
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)
    assert 1 == ask(library, copy).returncode


def test_another_key_opens_nothing(library: str, sheet: dict[int, Published]) -> None:
    """Even one of the same name."""
    key = SignerKey.generate("integers.example").verifier.format()
    assert 1 == ask(library, Published(sheet[1].tiles, (key,))).returncode
