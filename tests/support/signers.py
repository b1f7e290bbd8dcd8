"""A log key outside the log's process: a real program that signs, and that misbehaves when the test says so."""

from __future__ import annotations

import sys
from pathlib import Path

from klingai_audit.ledger.external import SignerSettings
from klingai_audit.ledger.keys import KeyFolder
from klingai_audit.tlog.keys import SignerKey
from tests.support.ledgers import ORIGIN

PROGRAM = """
import base64, os, pathlib, signal, subprocess, sys, time
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

folder = pathlib.Path(sys.argv[1])
mode = (folder / "mode").read_text()
text = sys.stdin.buffer.read()
with (folder / "asked").open("ab") as asked:
    asked.write(b"%d %s\\n" % (time.time_ns(), text.split(b"\\n")[1]))
if mode.startswith("only "):
    left = int(mode[5:])
    (folder / "mode").write_text(f"only {left - 1}" if left else "only 0")
    mode = "sign" if left else "exit"
if mode == "exit":
    sys.exit("no such slot: 17")
if mode == "hang":
    child = subprocess.Popen(["sleep", "600"])
    (folder / "child").write_text(str(child.pid))
    time.sleep(600)
if mode == "leave":  # the program ends, a child keeps the pipe open
    child = subprocess.Popen(["sleep", "600"])
    (folder / "child").write_text(str(child.pid))
    sys.exit(0)
if mode == "killed":
    os.kill(os.getpid(), signal.SIGKILL)
if mode == "garbage":
    sys.stdout.buffer.write(b"\\xff\\xfeSignature: yes\\n")
    sys.exit(0)
if mode == "nothing":
    sys.exit(0)
if mode == "short":
    print("AAAA")
    sys.exit(0)
if mode == "oversize":
    try:
        while True:
            sys.stdout.write("A" * 65536)
    except BrokenPipeError:
        os._exit(0)
if mode == "slow":
    time.sleep(0.4)
seed = bytes(32) if mode == "wrong key" else bytes.fromhex((folder / "seed").read_text())
if mode == "other text":
    text += b"more\\n"
signature = Ed25519PrivateKey.from_private_bytes(seed).sign(text)
if mode == "line":
    key_id, name = bytes.fromhex((folder / "id").read_text()), text.split(b"\\n")[0].decode()
    sys.stdout.buffer.write(f"\\u2014 {name} {base64.b64encode(key_id + signature).decode()}\\n".encode())
elif mode == "other line":
    sys.stdout.buffer.write(f"\\u2014 example {base64.b64encode(bytes(4) + signature).decode()}\\n".encode())
else:
    print(base64.b64encode(signature).decode())
"""


class Signer:
    """A program in `folder` that signs for `ORIGIN`; `mode` says how it behaves from its next start on."""

    def __init__(self, folder: Path, *, timeout_s: float = 60.0) -> None:
        self.folder = folder
        folder.mkdir()
        self.key = SignerKey.generate(ORIGIN)
        (folder / "seed").write_text(self.key.seed.hex())
        (folder / "id").write_text(self.key.verifier.key_id.hex())
        (folder / "program.py").write_text(PROGRAM)
        self.settings = SignerSettings([sys.executable, str(folder / "program.py"), str(folder)], timeout_s)
        self.mode = "sign"

    @property
    def mode(self) -> str:
        return (self.folder / "mode").read_text()

    @mode.setter
    def mode(self, mode: str) -> None:
        new = self.folder / "mode.new"
        new.write_text(mode)
        new.replace(self.folder / "mode")

    def plan(self, base: Path) -> None:
        """Begin the keys folder of a new log below `base`, whose log key is here."""
        keys = KeyFolder(base / "audit.keys")
        with keys.locked():
            keys.plan_external(self.key.verifier, self.settings)

    def asked(self) -> list[tuple[int, int]]:
        """Return (time in nanoseconds, tree size) of everything that was to be signed."""
        path = self.folder / "asked"
        lines = path.read_text().split("\n")[:-1] if path.exists() else []
        return [(int(line.split()[0]), int(line.split()[1])) for line in lines]

    @property
    def child(self) -> int:
        """The process that the program left behind."""
        return int((self.folder / "child").read_text())
