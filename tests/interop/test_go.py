"""Go's own trees and notes (golang.org/x/mod/sumdb) read our tiles, checkpoints and proofs, and refuse changed ones."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from klingai_audit.errors import InvalidProof
from klingai_audit.tlog.checkpoint import open_checkpoint
from klingai_audit.tlog.keys import SignerKey, VerifierKey
from klingai_audit.tlog.merkle import build_consistency, build_inclusion
from klingai_audit.tlog.note import sign_note
from klingai_audit.tlog.proof import parse_proof, verify_proof
from klingai_audit.tlog.submission import AddCheckpoint
from klingai_audit.tlog.tile import node_reader
from klingai_audit.trust.proofs import check_consistency
from tests.interop.conftest import TOKEN, Published
from tests.support.integers import ROOTS, SIGNER, SIZES, Integers

pytestmark = pytest.mark.slow

GO_KEY = VerifierKey.parse("PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW")
PACKAGES = Path("/usr/share/gocode")
"""Where Debian's golang-golang-x-mod-dev puts what the program imports."""


def build(name: str, folder: Path) -> Path:
    """Build one of the two programs without a network, from packages of the system."""
    if shutil.which("go") is None or not (PACKAGES / "src/golang.org/x/mod/sumdb/tlog").is_dir():
        pytest.skip("Go and golang.org/x/mod (golang-go, golang-golang-x-mod-dev) are not installed")
    settings = {"GO111MODULE": "off", "GOPATH": str(PACKAGES), "GOCACHE": str(folder / "cache"), "GOPROXY": "off"}
    subprocess.run(
        ["go", "build", "-o", folder / name, "main.go"],
        cwd=Path(__file__).parent / "go" / name,
        env={**os.environ, **settings, "GOFLAGS": "", "GOTOOLCHAIN": "local", "CGO_ENABLED": "0"},
        check=True,
        timeout=600,
    )
    return folder / name


@pytest.fixture(scope="session")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The reader."""
    return build("reader", tmp_path_factory.mktemp("go"))


@pytest.fixture(scope="session")
def written(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, str]]:
    """What the writer makes of the sheet's tree: notes by size, proofs by index and size, growths by old and new."""
    writer = build("writer", tmp_path_factory.mktemp("go"))
    done = subprocess.run([writer, *map(str, SIZES[1:])], capture_output=True, text=True, timeout=300, check=True)
    return dict(json.loads(done.stdout))


def ask(program: Path, what: Published, base: object = None, *more: str) -> subprocess.CompletedProcess[str]:
    """Let the reader check all that somebody outside has."""
    named = {"-key": what.keys, "-old": what.olds, "-growth": what.growths, "-proof": what.proofs}
    argv = [word for option, values in named.items() for value in values for word in (option, str(value))]
    return subprocess.run(
        [program, "-base", str(base or what.tiles), *argv, *more],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def told(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    assert ("", 0) == (done.stderr, done.returncode)
    return dict(json.loads(done.stdout))


@pytest.mark.parametrize("size", SIZES)
def test_the_trees_of_the_sheet(program: Path, sheet: dict[int, Published], size: int) -> None:
    """Known roots from our tiles, entries proven, all earlier sizes consistent by its proofs and by ours."""
    what = sheet[size]
    found = told(ask(program, what, None, "-step", "97"))
    assert (size, ROOTS[size]) == (found["size"], found["root"])
    counts = (len(what.olds), len(what.olds), len(what.proofs))
    assert counts == (found["older"], found["growths"], found["proofs"])
    assert -(-size // 97) <= found["proven"] <= -(-size // 97) + 1


def test_a_real_log_in_a_folder(program: Path, real: Published) -> None:
    """Every entry, older checkpoints and proofs that the commands wrote, with the log's key and nothing else."""
    found = told(ask(program, real))
    assert (3, 2, 2) == (found["proofs"], found["older"], found["growths"])
    assert found["size"] == found["proven"] > 300
    assert 60_000 < found["longest"] <= 65_535
    assert (1, True) == (len(found["signed"]), len(found["others"]) >= 1)


def test_a_real_log_over_http(program: Path, real: Published, server: str) -> None:
    """What the server gives is the same log; entries only with a token."""
    assert told(ask(program, real)) == told(ask(program, real, server, "-token", TOKEN))
    refused = ask(program, real, server)
    assert (1, True) == (refused.returncode, "401" in refused.stderr)


def test_a_log_of_many_realistic_entries(program: Path, grow: Callable[[int], Published]) -> None:
    """Exported again at each size of the sheet: one folder, whose every state extends the ones before."""
    for size in SIZES[1:]:
        what = grow(size)
        found = told(ask(program, what, None, "-step", "997"))
        assert (size, len(what.olds), len(what.proofs)) == (found["size"], found["older"], found["proofs"])


def changed(path: Path, at: int = 40) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def exchange(text: str, new: str) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        data = path.read_text()
        assert text in data
        path.write_text(data.replace(text, new, 1))

    return change


@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        ("tiles/tile/0/000", changed, "downloaded inconsistent tile"),
        ("tiles/tile/1/000.p/1", lambda path: changed(path, 4), "tiles: downloaded inconsistent tile"),
        ("tiles/tile/entries/000", lambda path: changed(path, 9), "entry 0 is not the one in the tree"),
        ("tiles/tile/entries/001.p/1", lambda path: changed(path, 9), "entry 256 is not the one in the tree"),
        ("tiles/checkpoint", exchange("\n257\n", "\n256\n"), "checkpoint: invalid signature"),
        ("256.tlog-proof", exchange("index 256", "index 255"), "invalid transparency proof"),
        ("0.tlog-proof", exchange("AAAAAAAAAAA=", "AAAAAAAAAAE="), "invalid transparency proof"),
        ("from-255", exchange("old 255", "old 254"), "begins elsewhere"),
        ("from-256", lambda path: changed(path, 12), "invalid transparency proof"),
    ],
)
def test_what_was_changed_is_refused(
    program: Path, sheet: dict[int, Published], tmp_path: Path, name: str, change: Callable[[Path], None], words: str
) -> None:
    """One bit or number anywhere, and Go says what does not hold: the test above could have failed."""
    whole = sheet[257]
    shutil.copytree(whole.tiles.parent, tmp_path / "copy")

    def moved(path: Path) -> Path:
        return tmp_path / "copy" / path.relative_to(whole.tiles.parent)

    copy = Published(moved(whole.tiles), whole.keys, whole.olds, tuple(map(moved, whole.growths)),
                     tuple(map(moved, whole.proofs)))  # fmt: skip
    assert 0 == ask(program, copy).returncode
    change(tmp_path / "copy" / name)
    done = ask(program, copy)
    assert (1, "") == (done.returncode, done.stdout)
    assert words in done.stderr


def test_another_key_opens_nothing(program: Path, sheet: dict[int, Published]) -> None:
    """Nor does one of the same name."""
    for name in ("integers.example", "other.example"):
        key = SignerKey.generate(name).verifier.format()
        done = ask(program, Published(sheet[1].tiles, (key,)))
        assert (1, True) == (done.returncode, "note has no verifiable signatures" in done.stderr)


def test_another_history_is_no_continuation(program: Path, sheet: dict[int, Published], tmp_path: Path) -> None:
    """An older checkpoint of the same key with another root is not the beginning of the tree."""
    other = tmp_path / "other"
    other.write_bytes(sign_note(f"integers.example\n255\n{'A' * 43}=\n", SIGNER))
    done = ask(program, Published(sheet[257].tiles, sheet[257].keys, (other,)))
    assert (1, True) == (done.returncode, "invalid transparency proof" in done.stderr)


# --- the other way round: what Go makes, we read ------------------------------------------------------


@pytest.mark.parametrize("size", SIZES[1:])
def test_what_go_signs_opens(written: dict[str, dict[str, str]], size: int) -> None:
    """Its checkpoint of the sheet's tree has the known root."""
    checkpoint, _, signed = open_checkpoint(written["notes"][str(size)].encode(), GO_KEY.name, [GO_KEY])
    assert (size, ROOTS[size], (GO_KEY,)) == (checkpoint.size, checkpoint.root.hex(), signed)


def test_what_go_proves_verifies(written: dict[str, dict[str, str]]) -> None:
    """Entries at the edges of every size, hash for hash what we make ourselves, and no other entry."""
    read = node_reader(Integers(SIZES[-1]).read_hashes)
    assert 1 + 4 * 7 == len(written["proofs"])
    for name, text in written["proofs"].items():
        index, size = map(int, name.split("/"))
        proof = parse_proof(text.encode())
        assert (index, text.encode()) == (proof.index, proof.format())
        assert size == verify_proof(proof, index.to_bytes(8, "big"), GO_KEY.name, [GO_KEY]).size
        assert build_inclusion(index, size, read) == proof.proof
        with pytest.raises(InvalidProof):
            verify_proof(proof, (index ^ 1).to_bytes(8, "big"), GO_KEY.name, [GO_KEY])


def test_what_go_grows_is_consistent(written: dict[str, dict[str, str]]) -> None:
    """From every size to every later one, and not from another."""
    read = node_reader(Integers(SIZES[-1]).read_hashes)
    for name, text in written["growths"].items():
        old, new = map(int, name.split("/"))
        proof = AddCheckpoint.parse(text.encode())
        before, after = check_consistency(proof, written["notes"][str(old)].encode(), [GO_KEY])
        assert (old, new) == (before.size, after.size)
        assert build_consistency(old, new, read) == proof.proof
        with pytest.raises(InvalidProof):
            check_consistency(proof, written["notes"][str(new)].encode(), [GO_KEY])
    assert 28 == len(written["growths"])
