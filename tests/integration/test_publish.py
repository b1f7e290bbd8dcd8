"""The log's face to other software: tlog-tiles as a folder and over HTTP, byte for byte."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest
from starlette.testclient import TestClient

from klingai_audit.cli.run import run
from klingai_audit.errors import InconsistentCheckpoints, UsageError
from klingai_audit.ledger.purged import purged_line
from klingai_audit.ledger.reader import LogReader
from klingai_audit.log import AuditLog
from klingai_audit.publish.server import log_app, read_tokens
from klingai_audit.publish.tiles import Published, publish_tiles
from klingai_audit.tlog.checkpoint import parse_checkpoint
from klingai_audit.tlog.note import SignerKey, parse_note, sign_note
from klingai_audit.tlog.strict import format_base64
from klingai_audit.tlog.tile import decode_bundle, new_tiles, tile_path, tiles_of
from tests.support.integers import KNOWN, SIGNER, SIZES, Hasty, Integers, integers
from tests.support.logsmith import Smith

TOKEN = "a reader's token"


def files_in(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def names_of(size: int) -> set[str]:
    """Every file of a tree of this size, obvious and slow."""
    bundles = ((n, min(256, size - n * 256)) for n in range(-(-size // 256)))
    return {tile_path(*tile) for tile in tiles_of(size)} | {tile_path("entries", n, width) for n, width in bundles}


@pytest.mark.parametrize("old", [0, 1, 255, 256, 257, 600, 65_536])
@pytest.mark.parametrize("size", [0, 1, 255, 256, 257, 512, 65_535, 65_537])
def test_what_is_new_is_the_difference(old: int, size: int) -> None:
    """Against the obvious: all tiles of the one tree less all tiles of the other."""
    if old <= size:
        assert names_of(size) - names_of(old) == {tile_path(*tile) for tile in new_tiles(old, size)}


@pytest.mark.parametrize("size", [0, 1, 255, 256, 257])
def test_a_folder_holds_exactly_the_tree(tmp_path: Path, size: int) -> None:
    """Its checkpoint, its tiles, its bundles, nothing else."""
    publish_tiles(integers(size), tmp_path, ops=Hasty())
    found = files_in(tmp_path)
    assert {"checkpoint", *names_of(size)} == found.keys()
    entries = [entry for name in sorted(found) if "entries" in name for entry in decode_bundle(found[name])]
    assert [i.to_bytes(8, "big") for i in range(size)] == entries


@pytest.mark.slow
def test_growing_a_folder_gives_the_known_files(tmp_path: Path) -> None:
    """Through the sizes of the sheet to 70,000: known digests, no file renamed, superseded partial tiles gone."""
    for size in SIZES:
        publish_tiles(integers(size), tmp_path, ops=Hasty())
        assert size == parse_checkpoint(parse_note((tmp_path / "checkpoint").read_bytes()).text).size
    found = files_in(tmp_path)
    known = KNOWN["sha256"]
    assert known == {name: hashlib.sha256(found[name]).hexdigest() for name in known}
    superseded = {name for name in found.keys() - names_of(70_000) if name != "checkpoint"}
    assert {"tile/0/256.p/1", "tile/entries/256.p/1"} & found.keys() == set()
    assert {"tile/1/001.p/1"} >= superseded, superseded


def test_nothing_new_writes_nothing(tmp_path: Path) -> None:
    """A second run is free, and an interrupted one is gone on with."""
    publish_tiles(integers(257), tmp_path, ops=Hasty())
    (tmp_path / "tile/0/000").unlink()
    assert Published(257, 257, 0, 0) == publish_tiles(integers(257), tmp_path, ops=Hasty())


def test_an_interrupted_run_shows_the_old_checkpoint(tmp_path: Path) -> None:
    """The checkpoint follows its tiles, so a reader never misses one."""

    class Full(Hasty):
        left = 2

        def rename(self, source: Path, target: Path) -> None:
            self.left -= 1
            if self.left < 0:
                raise OSError(28, "No space left on device")
            super().rename(source, target)

    publish_tiles(integers(255), tmp_path, ops=Hasty())
    with pytest.raises(Exception, match="No space left"):
        publish_tiles(integers(257), tmp_path, ops=Full())
    assert 255 == parse_checkpoint(parse_note((tmp_path / "checkpoint").read_bytes()).text).size
    assert names_of(255) <= files_in(tmp_path).keys()
    publish_tiles(integers(257), tmp_path, ops=Hasty())
    assert names_of(257) <= files_in(tmp_path).keys()


def test_bundles_with_purged_entries_are_taken_away(tmp_path: Path) -> None:
    """What the log says is purged goes from the folder and is not published anew; hashes stay; the server says 410."""
    publish_tiles(integers(600), tmp_path, ops=Hasty())
    smith = Smith()
    smith.batch(smith.event("retention_applied", {"action": "purge", "ranges": [[3, 9], [590, 595]]}))
    told = smith.entries[-1]
    later = Integers(1000)
    later.line = lambda i: (  # type: ignore[method-assign]
        told if i == 700 else purged_line(bytes(32), 700) if i in (3, 9, 590, 595) else i.to_bytes(8, "big")
    )
    reader = LogReader(later)  # type: ignore[arg-type]
    publish_tiles(reader, tmp_path, ops=Hasty())
    entries = {name for name in files_in(tmp_path) if "entries" in name}
    assert {"tile/entries/001", "tile/entries/003.p/232"} == entries
    assert {name for name in names_of(1000) if "entries" not in name} <= files_in(tmp_path).keys()
    client = TestClient(log_app(reader, public=True))
    codes = [client.get(f"/tile/entries/{n:03}").status_code for n in range(3)]
    assert [410, 200, 410] == codes


def test_a_folder_of_another_history_is_refused(tmp_path: Path) -> None:
    """A shorter log, another root at the size, another origin: nothing is overwritten."""
    publish_tiles(integers(257), tmp_path, ops=Hasty())
    before = files_in(tmp_path)
    with pytest.raises(InconsistentCheckpoints):
        publish_tiles(integers(256), tmp_path, ops=Hasty())
    root = format_base64(b"\1" * 32)
    (tmp_path / "checkpoint").write_bytes(sign_note(f"integers.example\n1\n{root}\n", SIGNER))
    with pytest.raises(InconsistentCheckpoints):
        publish_tiles(integers(257), tmp_path, ops=Hasty())
    (tmp_path / "checkpoint").write_bytes(sign_note(f"other.example\n1\n{root}\n", SignerKey.generate("other.example")))
    with pytest.raises(UsageError, match="another log"):
        publish_tiles(integers(257), tmp_path, ops=Hasty())
    assert before.keys() == files_in(tmp_path).keys()


def test_the_command_fills_a_folder(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """And says what it did; run again, it has nothing to do. Without a folder it is exit 2."""
    log, folder = str(tmp_path / "audit"), str(tmp_path / "tiles")
    AuditLog.open(log).close()
    argv = ["export", "--format", "tiles", "-o", folder, "--log", log, "--json"]
    assert 0 == run(argv)
    told = json.loads(capfd.readouterr().out)
    assert (0, 3, 2, False) == (told["old_size"], told["tree_size"], told["written"], told["recorded"])
    assert 0 == run(argv)
    assert 0 == json.loads(capfd.readouterr().out)["written"]
    assert 0 == run([*argv, "--record"])
    told = json.loads(capfd.readouterr().out)
    assert (6, True) == (told["tree_size"], told["recorded"])
    assert 2 == run(["export", "--format", "tiles", "--log", log])


# --- over HTTP -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A log of over a tile of entries, one of them as long as can be."""
    folder = tmp_path_factory.mktemp("serve")
    with AuditLog.open(folder / "audit") as audit:
        for number in range(300):
            audit.log("x_note", "user@example.com", metadata={"number": number})
        audit.log("x_note", "user@example.com", metadata={"long": ["x" * 200] * 315})
    (folder / "tokens").write_text(f"# readers\n{hashlib.sha256(TOKEN.encode()).hexdigest()}  # one\n")
    return folder


@pytest.fixture(scope="module")
def server(place: Path) -> Iterator[str]:
    """`serve-log` in a process of its own; yields its address."""
    argv = ["serve-log", "--log", str(place / "audit"), "--listen", "127.0.0.1:0", "--tokens", str(place / "tokens")]
    child = subprocess.Popen(
        [sys.executable, "-m", "klingai_audit.cli", *argv, "--json"], stdout=subprocess.PIPE, env=os.environ
    )
    assert child.stdout is not None
    yield json.loads(child.stdout.readline())["url"]
    child.send_signal(signal.SIGINT)
    assert child.wait(60) in (0, 130)
    child.stdout.close()


BEARER = {"Authorization": f"Bearer {TOKEN}"}


def test_the_served_paths_are_the_published_files(server: str, place: Path, tmp_path: Path) -> None:
    """Every file of the static folder, byte for byte, with caching that suits it."""
    publish_tiles(LogReader(AuditLogStore(place)), tmp_path, ops=Hasty())
    for name, data in files_in(tmp_path).items():
        reply = httpx2.get(f"{server}/{name}", headers=BEARER)
        assert (200, data) == (reply.status_code, reply.content), name
        expected = "no-cache" if name == "checkpoint" else "max-age=31536000, immutable"
        assert expected in reply.headers["cache-control"]
    kinds = {name: httpx2.get(f"{server}/{name}").headers["content-type"] for name in ("checkpoint", "tile/0/000")}
    assert {"checkpoint": "text/plain; charset=utf-8", "tile/0/000": "application/octet-stream"} == kinds


def AuditLogStore(place: Path):  # noqa: N802  (reads as a constructor)
    from klingai_audit.config import Places, open_store

    return open_store(Places.resolve(place / "audit"))


@pytest.mark.parametrize("token", [None, "wrong", f"{TOKEN} {TOKEN}"])
def test_entries_need_a_token(server: str, token: str | None) -> None:
    """Hashes do not; the refusal is not cached."""
    head = {} if token is None else {"Authorization": f"Bearer {token}"}
    reply = httpx2.get(f"{server}/tile/entries/000", headers=head)
    assert (401, "no-store") == (reply.status_code, reply.headers["cache-control"])
    assert b"schema" not in reply.content
    assert 200 == httpx2.get(f"{server}/tile/0/000", headers=head).status_code


@pytest.mark.parametrize(
    "path",
    ["/tile/0/001", "/tile/0/001.p/60", "/tile/1/000", "/tile/2/000.p/1", "/tile/0/0", "/tile/0/000.p/256",
     "/tile/0/000.p/0", "/tile/00/000", "/tile/entries/000.p/01", "/tile/0/../checkpoint", "/", "/audit.keys/log.key",
     "/tile/%2e%2e/checkpoint"],
)  # fmt: skip
def test_what_is_not_there_is_404(server: str, path: str) -> None:
    """Beyond the checkpoint, in another spelling, or no part of the log."""
    assert 404 == httpx2.get(server + path, headers=BEARER).status_code


def test_partial_tiles_of_earlier_sizes_are_served(server: str) -> None:
    """A client asks for the width that its checkpoint needs."""
    full = httpx2.get(f"{server}/tile/0/000").content
    assert full[: 32 * 7] == httpx2.get(f"{server}/tile/0/000.p/7").content


def test_only_reading_is_allowed(server: str) -> None:
    """HEAD is, POST is not."""
    assert 200 == httpx2.head(f"{server}/checkpoint").status_code
    assert 405 == httpx2.post(f"{server}/checkpoint").status_code


def test_bad_token_files_are_refused(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """A token itself in the file is a mistake, and is not repeated in the message."""
    path = tmp_path / "tokens"
    for text, words in (("my secret token\n", "no SHA-256 digest"), ("# none\n", "names no token")):
        path.write_text(text)
        with pytest.raises(UsageError, match=words) as caught:
            read_tokens(path)
        assert "secret" not in str(caught.value)
    AuditLog.open(tmp_path / "audit").close()
    assert 2 == run(["serve-log", "--log", str(tmp_path / "audit"), "--tokens", str(tmp_path / "none")])
    assert 2 == run(["serve-log", "--log", str(tmp_path / "audit"), "--listen", "here"])
    assert 0 == capfd.readouterr().out.count("Serving")
