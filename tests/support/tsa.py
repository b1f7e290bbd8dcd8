"""Real time stamp authorities: OpenSSL's `ts` behind a small HTTP server, well-behaved or not."""

from __future__ import annotations

import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

HEAD = """
[req]
distinguished_name = dn
[dn]
[ca]
basicConstraints = critical,CA:true
keyUsage = critical,keyCertSign,cRLSign
[stamping]
basicConstraints = critical,CA:false
keyUsage = critical,digitalSignature
extendedKeyUsage = {usage}
[tsa]
default_tsa = conf
[conf]
serial = {folder}/serial
signer_cert = {folder}/tsa.pem
signer_key = {folder}/tsa.key
"""
"""What every configuration of an authority begins with."""

CONFIG = (
    HEAD
    + """\
{certs}
signer_digest = sha256
default_policy = 1.2.3.4.1
digests = sha256, sha512
accuracy = secs:1
ess_cert_id_alg = sha256
{more}
"""
)


def need_openssl() -> None:
    """Skip where there is no OpenSSL to play the authority."""
    if shutil.which("openssl") is None:
        pytest.skip("there is no openssl program here to play the time stamp authority")


def openssl(*arguments: str | Path, data: bytes = b"") -> bytes:
    """Run OpenSSL and return what it prints."""
    done = subprocess.run(["openssl", *map(str, arguments)], input=data, capture_output=True, check=False)
    assert 0 == done.returncode, done.stderr.decode()
    return done.stdout


@dataclass
class Tsa:
    """One authority in a folder: a root, a certificate for time stamps under it, and what it answers."""

    folder: Path
    name: str = "Example Time Stamps"
    usage: str = "critical,timeStamping"
    more: str = ""
    days: int = 3650
    requests: list[bytes] = field(default_factory=list)

    def __post_init__(self) -> None:
        need_openssl()
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "serial").write_text("01\n")
        self.config = self.folder / "openssl.cnf"
        certs = f"certs = {self.folder}/root.pem"
        self.config.write_text(CONFIG.format(folder=self.folder, usage=self.usage, certs=certs, more=self.more))
        key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-config", self.config)
        openssl(
            "req", "-x509", *key, "-keyout", self.folder / "root.key", "-out", self.root,
            "-subj", f"/CN={self.name} Root",
            "-days", str(self.days), "-extensions", "ca",
        )  # fmt: skip
        openssl(
            "req",
            *key,
            "-keyout",
            self.folder / "tsa.key",
            "-out",
            self.folder / "tsa.csr",
            "-subj",
            f"/CN={self.name}",
        )
        openssl(
            "x509", "-req", "-in", self.folder / "tsa.csr", "-CA", self.root, "-CAkey", self.folder / "root.key",
            "-set_serial", "7", "-out", self.folder / "tsa.pem", "-days", str(self.days), "-extfile", self.config,
            "-extensions", "stamping",
        )  # fmt: skip

    @property
    def root(self) -> Path:
        return self.folder / "root.pem"

    def reply(self, request: bytes) -> bytes:
        """Answer a TimeStampReq as OpenSSL does."""
        self.requests.append(request)
        query = self.folder / "query.tsq"
        query.write_bytes(request)
        openssl("ts", "-config", self.config, "-reply", "-queryfile", query, "-out", self.folder / "reply.tsr")
        return (self.folder / "reply.tsr").read_bytes()

    def stamp(self, data: bytes) -> bytes:
        """Return a reply over `data`, asked for by OpenSSL itself."""
        file = self.folder / "data"
        file.write_bytes(data)
        openssl("ts", "-query", "-data", file, "-sha256", "-cert", "-no_nonce", "-out", self.folder / "own.tsq")
        return self.reply((self.folder / "own.tsq").read_bytes())

    def accepts(self, reply: Path, data: Path) -> bool:
        """Tell whether `openssl ts -verify` accepts the reply for the file."""
        arguments = ("ts", "-verify", "-in", reply, "-data", data, "-CAfile", self.root)
        return 0 == subprocess.run(["openssl", *map(str, arguments)], capture_output=True, check=False).returncode


Answer = Callable[[BaseHTTPRequestHandler, bytes], None]


def send(
    handler: BaseHTTPRequestHandler, body: bytes, status: int = 200, kind: str = "application/timestamp-reply"
) -> None:
    """Send one answer."""
    handler.send_response(status)
    handler.send_header("Content-Type", kind)
    handler.send_header("Content-Length", str(len(body)))
    handler.end_headers()
    handler.wfile.write(body)


def honest(tsa: Tsa) -> Answer:
    return lambda handler, request: send(handler, tsa.reply(request))


def trickle(handler: BaseHTTPRequestHandler, _request: bytes) -> None:
    """One byte at a time, for two minutes."""
    handler.send_response(200)
    handler.send_header("Content-Type", "application/timestamp-reply")
    handler.end_headers()
    for _ in range(2400):
        handler.wfile.write(b"0")
        handler.wfile.flush()
        time.sleep(0.05)


@contextmanager
def serving(answer: Answer) -> Iterator[str]:
    """Serve on a loopback port; yields the URL."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            with suppress(BrokenPipeError, ConnectionResetError):
                answer(self, self.rfile.read(int(self.headers["Content-Length"])))

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/tsr"
    finally:
        server.shutdown()
        server.server_close()
