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

from klingai_audit.tlog.checkpoint import open_checkpoint
from klingai_audit.tlog.keys import COSIGNATURE, SignerKey, VerifierKey
from klingai_audit.tlog.proof import parse_proof, verify_proof
from klingai_audit.tlog.submission import AddCheckpoint
from klingai_audit.trust.proofs import check_consistency
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
AICS_WRITES = """
import json, pathlib, sys
from aics_tlog import *
from aics_tlog.note import b64_encode
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

base, (size, olds) = sys.argv[1], json.loads(sys.argv[2])
log, witness = (Ed25519PrivateKey.from_private_bytes(bytes([n]) * 32) for n in (1, 2))
tiles = FileSystemTileReader(base)

def note(size, root):
    signed = sign_checkpoint(Checkpoint("other.example", size, root), log, "other.example")
    _, line = sign_cosignature(witness, "witness.example", 1767225600, "other.example", size, root)
    return Note(signed.text, (*signed.signatures, line)).serialise()

def lines(hashes):
    return "".join(b64_encode(one) + "\\n" for one in hashes)

root = tree_root_from_tiles(tiles, size)
heads = {old: note(old, tree_root_from_tiles(tiles, old, size)) for old in olds}
growths = {
    old: f"old {old}\\n{lines(consistency_proof_from_tiles(tiles, old, size))}\\n{note(size, root)}" for old in olds
}
proofs = {}
for index in {0, size // 2, size - 1}:
    entry = read_entry(tiles, index, size)
    head = f"c2sp.org/tlog-proof@v1\\nextra {b64_encode(entry)}\\nindex {index}\\n"
    proofs[index] = f"{head}{lines(inclusion_proof_from_tiles(tiles, index, size))}\\n{note(size, root)}"
keys = [vkey_from_ed25519("other.example", log.public_key()), cosignature_vkey("witness.example", witness.public_key())]
print(json.dumps({"keys": list(map(format_vkey, keys)), "heads": heads, "growths": growths, "proofs": proofs}))
"""
READERS = {"aics-tlog": AICS, "tlog-scales": SCALES}


@pytest.fixture(params=READERS)
def library(request: pytest.FixtureRequest) -> str:
    """Name one of the two; skips where they are not installed."""
    need_readers()
    return str(request.param)


def need_readers() -> None:
    """Skip where the libraries are not installed."""
    if not all((PACKAGES / name).is_dir() for name in ("aics_tlog", "tlog_scales")):
        pytest.skip("make test-slow installs the C2SP libraries of others")


def ask(library: str, what: Published, base: object = None) -> subprocess.CompletedProcess[str]:
    """Let a library check all that somebody outside has, in a process that has nothing of ours."""
    names = {name: list(map(str, getattr(what, name))) for name in ("keys", "olds", "growths", "proofs")}
    return script(READERS[library], what.tiles, json.dumps({"base": str(base or what.tiles), "token": TOKEN, **names}))


def script(text: str, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", text, *arguments],
        env={"PYTHONPATH": str(PACKAGES), "PATH": os.environ["PATH"]},
        cwd=folder,
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


def test_a_cosigned_log(library: str, cosigned: Published) -> None:
    """With the keys of two witnesses, who must both have signed what was published; and not with a third's."""
    assert 0 == ask(library, cosigned).returncode
    third = SignerKey("w3.example", bytes(32), COSIGNATURE).verifier.format()
    assert 1 == ask(library, Published(cosigned.tiles, (*cosigned.keys, third))).returncode


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


@pytest.mark.parametrize("size", SIZES[1:])
def test_what_a_library_makes_we_read(sheet: dict[int, Published], size: int) -> None:
    """Checkpoints that aics-tlog signs and cosigns, proofs that it makes at every size, in files of ours."""
    need_readers()
    olds = [old for old in SIZES[1:] if old < size]
    told = found(script(AICS_WRITES, sheet[size].tiles, str(sheet[size].tiles), json.dumps([size, olds])))
    keys = [VerifierKey.parse(key) for key in told["keys"]]
    assert 3 - (size == 1) * 2 == len(told["proofs"])
    for index, text in told["proofs"].items():
        proof = parse_proof(text.encode())
        checkpoint = verify_proof(proof, int(index).to_bytes(8, "big"), "other.example", keys)
        assert (size, ROOTS[size]) == (checkpoint.size, checkpoint.root.hex())
        assert tuple(keys) == open_checkpoint(proof.checkpoint, "other.example", keys)[2]
    for old in olds:
        proof = AddCheckpoint.parse(told["growths"][str(old)].encode())
        before, after = check_consistency(proof, told["heads"][str(old)].encode(), keys)
        assert (old, ROOTS[old], size) == (before.size, before.root.hex(), after.size)
