"""Logs for readers that other people wrote: the sheet's tree at its sizes, a real log, and one of 70,000 entries."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from klingai_audit.cli.run import run
from klingai_audit.event.own import own_event
from klingai_audit.log import AuditLog
from klingai_audit.publish.tiles import publish_tiles
from klingai_audit.tlog.cosignature import cosign
from klingai_audit.tlog.keys import COSIGNATURE, SignerKey
from klingai_audit.tlog.note import Note, format_note, parse_note
from klingai_audit.trust.proofs import prove_consistency, prove_entry
from klingai_audit.trust.witnessed import witnessed_metadata
from tests.support.integers import SIGNER, SIZES, Hasty, integers
from tests.support.logsmith import Smith

TOKEN = "a reader's token"


@dataclass(frozen=True)
class Published:
    """What somebody outside has of a log: tiles, its key, and files that were handed out.

    `growths` begin at the checkpoints `olds`, in the same order.
    """

    tiles: Path
    keys: tuple[str, ...]
    olds: tuple[Path, ...] = ()
    growths: tuple[Path, ...] = ()
    proofs: tuple[Path, ...] = ()


def command(*argv: object) -> None:
    """Run one command of the product, which has to succeed."""
    assert 0 == run([str(word) for word in argv])


@pytest.fixture(scope="session")
def sheet(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Published]:
    """By size: tiles of a folder that grew through the sizes before, with proofs from all of them."""
    folder = tmp_path_factory.mktemp("sheet")
    made: dict[int, Published] = {}
    olds: list[tuple[int, Path]] = []
    for size in SIZES:
        reader = integers(size)
        publish_tiles(reader, folder / "growing", ops=Hasty())
        place = folder / str(size)
        shutil.copytree(folder / "growing", place / "tiles")
        growths, proofs = [], []
        for old, _ in olds:
            growths.append(place / f"from-{old}")
            growths[-1].write_bytes(prove_consistency(reader, old).format())
        for index in sorted({0, 1, 254, 255, 256, 65_534, 65_535, 65_536, size // 2, size - 1}):
            if 0 <= index < size:
                proofs.append(place / f"{index}.tlog-proof")
                proofs[-1].write_bytes(prove_entry(reader, index).format())
        names = tuple(path for _, path in olds)
        made[size] = Published(place / "tiles", (SIGNER.verifier.format(),), names, tuple(growths), tuple(proofs))
        if size:
            olds.append((size, place / "tiles" / "checkpoint"))
    return made


@pytest.fixture(scope="session")
def real(tmp_path_factory: pytest.TempPathFactory) -> Published:
    """A log as it is written, exported and proven by commands: ML-DSA-44 lines, one entry as long as can be."""
    folder = tmp_path_factory.mktemp("real")
    audit = folder / "audit"
    olds = []
    with AuditLog.open(audit, post_quantum=True) as log:
        for number in range(300):
            log.log("x_note", "user@example.com", metadata={"number": number})
            if number in (3, 255):
                log.flush("published")
                olds.append(folder / f"old-{number}")
                olds[-1].write_bytes((audit / "checkpoint").read_bytes())
        log.log("x_note", "user@example.com", metadata={"long": ["x" * 200] * 315})
        keys = (log.vkey,)
    command("export", "--format", "tiles", "-o", folder / "tiles", "--log", audit)
    growths = [path.with_suffix(".growth") for path in olds]
    for old, growth in zip(olds, growths, strict=True):
        command("consistency", old, "-o", growth, "--log", audit)
    proofs = [folder / f"{seq}.tlog-proof" for seq in (0, 100, 301)]
    for proof in proofs:
        command("prove", proof.stem, "-o", proof, "--log", audit)
    return Published(folder / "tiles", keys, tuple(olds), tuple(growths), tuple(proofs))


@pytest.fixture(scope="session")
def cosigned(tmp_path_factory: pytest.TempPathFactory) -> Published:
    """A log published under its newest checkpoint that two witnesses cosigned; the log is longer by then."""
    folder = tmp_path_factory.mktemp("cosigned")
    witnesses = [SignerKey(f"w{number}.example", bytes([number]) * 32, COSIGNATURE) for number in (1, 2)]
    lines = [f"witness w{number} {key.verifier.format()}" for number, key in enumerate(witnesses)]
    (folder / "policy").write_text("\n".join((*lines, "group both all w0 w1", "quorum both", "")))
    with AuditLog.open(folder / "audit", post_quantum=True) as log:
        log.log("x_note", "user@example.com")
        log.flush("published")
        note = parse_note(log.reader.checkpoint_note())
        added = (cosign(note.text, key, 1_767_225_600) for key in witnesses)
        data = format_note(Note(note.text, (*note.signatures, *added)))
        log.append(own_event("checkpoint_witnessed", witnessed_metadata(data), time.time_ns())).wait("published")
        keys = (log.vkey, *(key.verifier.format() for key in witnesses))
    argv = ["export", "--format", "tiles", "-o", folder / "tiles", "--log", folder / "audit", "--cosigned"]
    command(*argv, "--witnesses", folder / "policy")
    assert data == (folder / "tiles" / "checkpoint").read_bytes()
    return Published(folder / "tiles", keys)


@pytest.fixture(scope="session")
def grow(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], Published]:
    """Give a function that publishes the first so many of 70,000 realistic entries, by the product's commands."""
    folder = tmp_path_factory.mktemp("grow")
    smith = Smith().create().work(69_997).closed()
    files = smith.files()
    audit = smith.write(folder / "audit")
    olds: list[Path] = []

    def publish(size: int) -> Published:
        (audit / "checkpoint").write_bytes(smith.checkpoint(size))
        command("export", "--format", "tiles", "-o", folder / "tiles", "--log", audit)
        proofs = [folder / f"{size}-{seq}.tlog-proof" for seq in {0, size // 3, size - 1}]
        for proof in proofs:
            command("prove", proof.stem.partition("-")[2], "-o", proof, "--log", audit)
        made = Published(folder / "tiles", (smith.log_key.vkey,), tuple(olds), (), tuple(proofs))
        olds.append(folder / f"old-{size}")
        olds[-1].write_bytes((audit / "checkpoint").read_bytes())
        return made

    assert 70_000 == len(smith.entries), len(files)
    return publish


@contextlib.contextmanager
def served(audit: Path) -> Iterator[str]:
    """Run `serve-log` in a process of its own; gives its address."""
    tokens = audit.parent / "tokens"
    tokens.write_text(hashlib.sha256(TOKEN.encode()).hexdigest() + "\n")
    argv = ["serve-log", "--log", str(audit), "--listen", "127.0.0.1:0", "--tokens", str(tokens), "--json"]
    child = subprocess.Popen([sys.executable, "-m", "klingai_audit.cli", *argv], stdout=subprocess.PIPE, env=os.environ)
    assert child.stdout is not None
    try:
        yield json.loads(child.stdout.readline())["url"]
    finally:
        child.send_signal(signal.SIGINT)
        assert child.wait(60) in (0, 130)
        child.stdout.close()


@pytest.fixture(scope="session")
def server(real: Published) -> Iterator[str]:
    """The address where the real log is served."""
    with served(real.tiles.parent / "audit") as url:
        yield url
