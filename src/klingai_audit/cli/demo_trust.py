"""The demo's evidence for those who trust nobody here: a witness in a process of its own, a proof, a bundle."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import select
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self
from urllib.parse import urlsplit

from klingai_audit.cli.session import Session, escaped
from klingai_audit.errors import StorageError
from klingai_audit.views.inert import inert

if TYPE_CHECKING:
    from klingai_audit.cli.demo_narration import Narration
    from klingai_audit.log import AuditLog
    from klingai_audit.tlog.keys import SignerKey

NAME: Final = "witness.example/demo"
SECONDS: Final = 30.0
"""How long the witness may take to come up, and to answer."""

_PROGRAM: Final = """\
import os, sys, threading
threading.Thread(target=lambda: (sys.stdin.buffer.read(), os._exit(0)), daemon=True).start()
from klingai_audit.cli.run import run
sys.exit(run(sys.argv[1:]))
"""
"""A command line that ends with whoever started it, even if that was killed."""


@dataclass(frozen=True)
class Seen:
    """What the witness cosigned: that many entries, at a time (POSIX seconds), kept in the entry `seq`."""

    size: int
    time: int
    seq: int


@dataclass(frozen=True)
class Handed:
    """What was handed out: the proof of entry `seq`, checked in `seconds`, and a bundle of `entries` entries."""

    seq: int
    event_type: str
    tree_size: int
    hashes: int
    seconds: float
    proof: Path
    entries: int
    bundle: Path
    page: Path
    fingerprint: str


class WitnessProcess:
    """`witness serve` for one log, in a process of its own, while the `with` block lasts. Its things lie in `folder`.

    Without the extra that serving needs there is no process.
    """

    def __init__(self, folder: Path, vkey: str) -> None:
        self._folder = folder
        self._vkey = vkey
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        if not all(importlib.util.find_spec(name) for name in ("starlette", "uvicorn")):
            return self
        from klingai_audit.durable import OPS, PRIVATE_MODE

        OPS.make_folder(self._folder, 0o700)
        if not (self._folder / "key").exists():
            OPS.replace(self._folder / "key", f"{_new_key().format()}\n".encode(), mode=PRIVATE_MODE)
        OPS.replace(self._folder / "logs.txt", f"{self._vkey}\n".encode())
        files = {"--key": "key", "--logs": "logs.txt", "--database": "memory.sqlite"}
        options = [word for option, name in files.items() for word in (option, str(self._folder / name))]
        argv = ["witness", "serve", *options, "--listen", "127.0.0.1:0", "--json"]
        self._process = subprocess.Popen(  # noqa: S603  our own interpreter, our own command
            [sys.executable, "-P", "-c", _PROGRAM, *argv],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        process = self._process
        if process is not None:
            process.kill()
            process.communicate()

    def address(self) -> tuple[str, str] | None:
        """Return its public key and where it listens, None without a process. Raises: StorageError: it is not up."""
        process = self._process
        if process is None:
            return None
        if process.stdout is None or not select.select([process.stdout], [], [], SECONDS)[0]:
            raise StorageError(f"The witness did not come up in {SECONDS:g} s.")
        line = process.stdout.readline()
        if not line:
            _, said = process.communicate(timeout=SECONDS)
            last = next(reversed(said.decode("utf-8", "replace").splitlines()), "")
            raise StorageError(f"The witness ended: {last}", do="Run the demo in an empty folder: --dir NEW.")
        told = json.loads(line)
        return told["vkey"], f"http://localhost:{urlsplit(told['url']).port}"


def be_witnessed(audit: AuditLog, process: WitnessProcess, show: Narration) -> Seen | None:
    """Name the witness in the log's keys folder, have the newest checkpoint cosigned and kept; None without one."""
    import httpx2

    from klingai_audit.durable import OPS
    from klingai_audit.tlog.policy import WitnessPolicy
    from klingai_audit.upkeep.witnessing import POLICY_FILE, witness_now
    from klingai_audit.witness.client import WitnessClient

    found = process.address()
    if found is None:
        show.line("Nobody: a witness server needs two more libraries; pip install 'klingai-audit[serve]'.")
        return None
    vkey, url = found
    text = f"log {audit.vkey}\nwitness demo {vkey} {url}\nquorum demo\n".encode()
    OPS.replace(audit.places.keys / POLICY_FILE, text)
    show.line(f"{NAME} at {url} knows the log's public key and nothing else of it.")
    client = WitnessClient(
        WitnessPolicy.parse(text),
        timeout=SECONDS,
        http=lambda: httpx2.Client(timeout=SECONDS, trust_env=False, follow_redirects=False),
    )
    done = witness_now(audit, client, always=True)
    if done.submission is None or done.seq is None:
        detail = "" if done.submission is None else done.submission.results[0].detail
        raise StorageError(f"The witness did not cosign: {detail}", do="Run the demo in an empty folder: --dir NEW.")
    (result,) = done.submission.results
    show.result(
        "success", f"it saw that the log only grew, and cosigned {done.size} entries; entry {done.seq} keeps it"
    )
    show.aside("This one is in your own hand and so proves nothing to others: have another run theirs elsewhere.")
    return Seen(done.size, result.time or 0, done.seq)


def hand_out(own: Session, task: str, folder: Path) -> Handed:
    """Prove the end of a generation, check the proof with the public key alone, bundle the whole story."""
    from klingai_audit.bundle import build_bundle, check_bundle, empty_page, gather
    from klingai_audit.config import open_reader, open_subjects
    from klingai_audit.durable import OPS
    from klingai_audit.ledger.keys import read_public_key
    from klingai_audit.trust.proofs import check_entry_proof, prove_entry
    from klingai_audit.upkeep.witnessing import read_policy
    from klingai_audit.views.story import tell_story

    reader = open_reader(own.places)
    size = reader.size
    story = tell_story(lambda: reader.entries(0, size), task, open_subjects(own.places))
    if story is None:
        raise StorageError(f"The log has no story of task {task}.")
    end = next(step.entry for step in story.steps if step.entry.event_type == "video_generation_completed")
    proof = prove_entry(reader, end.seq)
    proof_file, bundle_file, page_file = (folder / name for name in ("video.tlog-proof", "evidence.zip", "verify.html"))
    data = proof.format()
    OPS.replace(proof_file, data)
    key = read_public_key(own.places.keys / "log.pub")
    began = time.perf_counter()
    proven = check_entry_proof(data, [key])
    seconds = time.perf_counter() - began
    bundle = build_bundle(gather(reader, [step.entry.seq for step in story.steps]))
    found = check_bundle(bundle, key, read_policy(own.places.keys))
    OPS.replace(bundle_file, bundle)
    OPS.replace(page_file, empty_page())
    return Handed(
        end.seq,
        end.event_type,
        proven.checkpoint.size,
        len(proof.proof),
        seconds,
        proof_file,
        len(found.entries),
        bundle_file,
        page_file,
        hashlib.sha256(key.format().encode()).hexdigest(),
    )


def draw(session: Session, handed: Handed) -> None:
    """Say what was handed out, and how it is checked."""
    proof, bundle, page = (inert(escaped(str(path))) for path in (handed.proof, handed.bundle, handed.page))
    took = f"{handed.seconds * 1000:.1f} ms"
    session.tell(
        ("Proven: ", "green"),
        f"entry {handed.seq} ({inert(handed.event_type)}) is in the tree of {handed.tree_size} entries. "
        f"{handed.hashes} hashes show it, checked in {took} with the public key and nothing else.",
        hanging=2,
    )
    session.tell("The proof is ", (proof, "bold"), ", in the form of C2SP for other people's software, too.", indent=2)
    session.tell(
        ("Bundled: ", "green"),
        f"the whole story of that video, {handed.entries} entries with their proofs, key history and cosignatures: ",
        (bundle, "bold"),
        hanging=2,
    )
    session.tell("Open ", (page, "bold"), " in a browser, drop the bundle on it, and enter this fingerprint:", indent=2)
    session.say("  ", (handed.fingerprint, "bold"))


def told(seen: Seen | None, handed: Handed) -> dict[str, Any]:
    """Return both for programs."""
    return {
        "witness": None if seen is None else {"name": NAME, "size": seen.size, "time": seen.time, "seq": seen.seq},
        "proof": {"seq": handed.seq, "tree_size": handed.tree_size, "file": str(handed.proof)},
        "bundle": {
            "file": str(handed.bundle),
            "page": str(handed.page),
            "entries": handed.entries,
            "fingerprint": handed.fingerprint,
        },
    }


def next_commands(program: str, handed: Handed, key: str, policy: Path | None, memory: Path) -> list[tuple[str, str]]:
    """Return (what it does, command line) to check what was handed out; `policy` names the witness, if there is one."""
    from shlex import quote

    trusted = "" if policy is None else f" --witnesses {quote(str(policy))}"
    commands = [
        ("check the proof; this needs no log", f"{program} check {quote(str(handed.proof))} --key {key}"),
        ("check the bundle, too", f"{program} check {quote(str(handed.bundle))} --key {key}{trusted}"),
    ]
    if policy is not None:
        memory_file = quote(str(memory / "memory.sqlite"))
        commands.append(
            ("whether the witness was ever shown two histories", f"{program} witness evidence --database {memory_file}")
        )
    return commands


def _new_key() -> SignerKey:
    from klingai_audit.tlog.keys import COSIGNATURE, SignerKey

    return SignerKey.generate(NAME, COSIGNATURE)
